"""Clusters of pixels as parts: of a set of pictures, which share them, or of one picture."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from probes.cells import Cells, cells_of
from probes.checks import check_counts
from probes.dense.base import DenseHead, Strips
from probes.dense.centres import clustered, pixels_of
from probes.dense.column import Column
from probes.maps import Maps
from probes.parts.base import PictureParts, largest

FLAT = 1e-6
"""Deviation, beside the largest number, below which a channel is constant."""


@dataclass(eq=False, repr=False, kw_only=True)
class KMeansParts(DenseHead):
    """K-means of sampled pixels of a set of pictures: part 3 is the same concept in all of them.

        part(x) = argmin_c |z(x) − m_c|²,        z = (f − mean)/deviation, by channel

    with f read bilinearly between sites. No label is looked at.

    Args:
        clusters: M, how many parts.
        pixels: sampled over all pictures, equally many of each; fewer where 256 MiB do not hold
            their features.
        standardise: whether channels are brought to mean 0 and deviation 1 first.
        seed: of the sample and of k-means.

    Attributes:
        weight_: (M, C) float32, bias_: (M,) float32: of the parts' scores.
        cells_, shapes_: those of `OnMaps`.
    """

    clusters: int = 8
    pixels: int = 20_000
    standardise: bool = True
    seed: int = 0

    def fit(self, cells: Any, targets: Any = None, validation: Any = None):
        """Sample pixels and find clusters.

        Args:
            cells: `probes.Cells` of (N, C, h, w) maps.
            targets, validation: not looked at.

        Returns:
            self.

        Raises:
            ValueError: cells that are no maps; fewer pixels than clusters.
        """
        cells = cells_of(cells)
        return self.fit_pieces((cells[row : row + 1] for row in range(len(cells))), len(cells))

    def fit_pieces(self, pieces: Iterable[Cells], pictures: int):
        """The same of pictures that come piece by piece, of which none is kept.

        Args:
            pieces: `probes.Cells` of some pictures each.
            pictures: how many there are in all.
        """
        check_counts(self, "clusters", "pixels")
        rng, found, noted = np.random.default_rng(self.seed), [], False
        for cells in pieces:
            if not noted:
                self._note(cells)
                noted = True
            for row in range(len(cells)):
                maps = cells.maps(row)
                found.append(pixels_of(maps, self.cells_, self.pixels, pictures, rng)[0])
        if not found:
            raise ValueError("no picture to find clusters in; expected one at least")
        fitted = clustered(np.concatenate(found), self.clusters, self.standardise, self.seed)
        self.weight_, self.bias_, _ = fitted
        return self

    def _strips(self, maps: Maps) -> Strips:
        weight, bias = torch.from_numpy(self.weight_), torch.from_numpy(self.bias_)
        return Column(maps, self.cells_).linear(weight, bias)

    def _say(self, strip: torch.Tensor) -> torch.Tensor:
        return strip.argmax(0)


@dataclass(eq=False, repr=False, kw_only=True)
class PictureKMeans(PictureParts):
    """K-means of the pixels of each picture on its own.

    Args:
        clusters: M, how many parts at most.
        pixels: sampled of the picture.
        standardise: as `KMeansParts`.
        seed: of the sample and of k-means.
    """

    clusters: int = 5
    pixels: int = 4096
    standardise: bool = True
    seed: int = 0

    def _check(self) -> None:
        check_counts(self, "clusters", "pixels")

    def _parts(self, maps: Maps) -> np.ndarray:
        rng = np.random.default_rng(self.seed)
        features, _ = pixels_of(maps, self.cells_, self.pixels, 1, rng)
        spread, level = features.std(0), np.abs(features).max(0)
        if (spread <= FLAT * level).all():  # k-means would cluster rounding errors
            return np.zeros(maps.size, np.int64)
        kinds = len(np.unique(features, axis=0))  # k-means warns of more clusters than these
        found = clustered(features, min(self.clusters, kinds), self.standardise, self.seed)
        return largest(maps, self.cells_, *found[:2])
