"""Clusters of pixels' features, named afterwards: a row of tables that labels only name."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from probes.checks import check_choice, check_counts
from probes.dense.base import Segmenter, Strips
from probes.dense.centres import clustered, pixels_of
from probes.dense.column import Column
from probes.maps import Maps

NAMINGS = ("majority", "one-to-one")


@dataclass(eq=False, repr=False, kw_only=True)
class KMeansSegmenter(Segmenter):
    """K-means of sampled pixels' features; clusters then get the names of classes.

        cluster(x) = argmin_c |z(x) − m_c|²,        z = (f − mean)/deviation, by channel

    which is linear in f but for |z|², so it is read off the maps' own grids. The clusters see no
    label; what they are called does.

    Args:
        clusters: how many; None: as many as classes.
        naming: "majority", a cluster is the class that most of its sampled pixels have (several
            may be one class, a class may have none); "one-to-one", the assignment of clusters to
            classes that most sampled pixels agree with (Hungarian), for which there must be as
            many of the one as of the other.
        pixels: sampled over all pictures, equally many of each; fewer where 256 MiB do not hold
            their features.
        standardise: whether channels are brought to mean 0 and deviation 1 first.
        seed: of the sample and of k-means.

    Attributes:
        weight_: (clusters, C) float32, bias_: (clusters,) float32: of the clusters' scores.
        names_: (clusters,) int64 class of each; −1 where no sampled pixel of it has a label.
        those of `Segmenter`; `seen_` is also False of classes that no cluster is called by.
    """

    clusters: int | None = None
    naming: str = "majority"
    pixels: int = 20_000
    standardise: bool = True
    seed: int = 0
    device: str = "auto"

    def fit(
        self,
        cells: Any,
        masks: Any,
        validation: Any = None,
        *,
        classes: int | Sequence[str] | None = None,
        ignore: int = 255,
    ):
        """Sample pixels, find clusters, and name them.

        Args:
            cells: `probes.Cells` of (N, C, h, w) maps.
            masks: N (H, W) label maps of the pictures' size; ignored pixels are clustered, too,
                and name nothing.
            validation: not looked at.
            classes: K or K names; None: as many as the labels say.
            ignore: label of pixels that do not count.

        Returns:
            self.

        Raises:
            ValueError: see `probes.dense.truth.Masks`; cells that are no maps; fewer pixels than
                clusters; "one-to-one" with another number of clusters than of classes; no sampled
                pixel has a label.
        """
        check_choice("naming", self.naming, NAMINGS)
        check_counts(self, "pixels", *(() if self.clusters is None else ("clusters",)))
        cells, truth = self._opened(cells, masks, classes, ignore)
        count = truth.classes if self.clusters is None else self.clusters
        if self.naming == "one-to-one" and count != truth.classes:
            raise ValueError(
                f"{count} clusters and {truth.classes} classes; expected equally many for "
                "naming='one-to-one'"
            )
        features, labels, counts = self._sampled(cells, truth)
        found = clustered(features, count, self.standardise, self.seed)
        self.weight_, self.bias_, places = found
        self._name(places, labels, count, counts)
        return self

    def _sampled(self, cells: Any, truth: Any) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """(n, C) float32 features and (n,) labels of pixels that the inputs show, and (K,) pixels
        of each class in all."""
        rng, parts, labels = np.random.default_rng(self.seed), [], []
        counts = np.zeros(truth.classes, np.int64)
        for row in range(len(cells)):
            found, kept = pixels_of(cells.maps(row), self.cells_, self.pixels, len(cells), rng)
            parts.append(found)
            mask = truth[row]
            labels.append(mask[kept[:, 0], kept[:, 1]])
            counts += np.bincount(mask[mask != truth.ignore], minlength=truth.classes)
        return np.concatenate(parts), np.concatenate(labels), counts

    def _name(
        self, places: np.ndarray, labels: np.ndarray, clusters: int, counts: np.ndarray
    ) -> None:
        """Set `names_` and `seen_` from the sampled pixels."""
        count = len(self.classes_)
        told = (labels >= 0) & (labels < count)
        votes = np.zeros((clusters, count), np.int64)
        np.add.at(votes, (places[told], labels[told]), 1)
        self._note_seen(counts)
        if not votes.any():
            raise ValueError(
                f"none of {len(labels)} sampled pixels has a label; sample more pixels"
            )
        if self.naming == "one-to-one":
            from scipy.optimize import linear_sum_assignment

            names = linear_sum_assignment(votes, maximize=True)[1]
        else:
            names = np.where(votes.any(1), votes.argmax(1), -1)
        self.names_ = names.astype(np.int64)
        self.seen_ &= np.isin(np.arange(count), self.names_)

    def _strips(self, maps: Maps) -> Strips:
        weight, bias = torch.from_numpy(self.weight_), torch.from_numpy(self.bias_)
        for first, strip in Column(maps, self.cells_).linear(weight, bias):
            scores = strip.new_full((len(self.classes_), *strip.shape[1:]), float("-inf"))
            for cluster, name in enumerate(self.names_.tolist()):
                if name >= 0:
                    torch.maximum(scores[name], strip[cluster], out=scores[name])
            yield first, scores
