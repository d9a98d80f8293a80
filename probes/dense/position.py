"""What position alone says: rows of tables that see no feature."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from probes.cells import Cells
from probes.checks import check_counts
from probes.dense.base import Segmenter, Strips
from probes.maps import Maps


@dataclass(eq=False, repr=False, kw_only=True)
class MeanMask(Segmenter):
    """The mean mask: how often each class lies at each relative position of a picture.

    Pictures are laid over one grid, each pixel by the area that it has in a place of it; each
    picture counts alike. Between the centres of places shares are read bilinearly. Places of which
    no mask says anything have the shares of the whole.

    Args:
        grid: places along each side.

    Attributes:
        shares_: (K, g, g) float32, which sum to 1 over classes; those of `Segmenter`.
    """

    grid: int = 32
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
        """Count the classes of every place; no feature is read.

        Args:
            cells: `probes.Cells` of (N, C, h, w) maps, of which sizes and placements are taken.
            masks: N (H, W) label maps of the pictures' size.
            validation: not looked at.
            classes: K or K names; None: as many as the labels say.
            ignore: label of pixels that do not count.

        Returns:
            self.

        Raises:
            ValueError: see `probes.dense.truth.Masks`; no pixel counts.
        """
        check_counts(self, "grid")
        cells, truth = self._opened(cells, masks, classes, ignore)
        total, pixels = np.zeros((truth.classes, self.grid, self.grid)), 0
        for row in range(len(cells)):
            which = truth[row] == np.arange(truth.classes)[:, None, None]
            total += on_grid(which, self.grid)
            pixels = pixels + which.sum((1, 2))
        self._note_seen(pixels)
        self.shares_ = filled(total, total.sum(0)).astype(np.float32)
        self.shares_ /= self.shares_.sum(0)
        return self

    def _maps(self, cells: Cells, row: int) -> Maps:
        return cells.frame(row)

    def _strips(self, maps: Maps) -> Strips:
        yield 0, over_picture(self.shares_, maps.size)

    def _share(self, strip: torch.Tensor) -> torch.Tensor:
        return strip / strip.sum(0)


def on_grid(values: np.ndarray, grid: int) -> np.ndarray:
    """(D, H, W) of a picture → (D, g, g) means over each place, pixels by area, which a pixel on
    an edge shares."""
    down, across = (overlaps(side, grid) for side in values.shape[1:])
    return down @ values.astype(np.float64) @ across.T


def overlaps(side: int, grid: int) -> np.ndarray:
    """(g, side): the share of each place of one side that each pixel has; rows sum to 1."""
    places, pixels = np.arange(grid + 1) / grid, np.arange(side + 1) / side
    first = np.maximum(places[:-1, None], pixels[:-1])
    last = np.minimum(places[1:, None], pixels[1:])
    return grid * np.maximum(last - first, 0)


def filled(sums: np.ndarray, known: np.ndarray) -> np.ndarray:
    """(D, g, g) sums over what is known, by (g, g) how much that is; the whole's mean where it is
    nothing."""
    least = 1e-9
    whole = sums.sum((1, 2), keepdims=True) / known.sum()
    return np.where(known > least, sums / np.maximum(known, least), whole)


def over_picture(values: np.ndarray, size: tuple[int, int]) -> torch.Tensor:
    """(D, g, g) → (D, H, W) float32: bilinear between the centres of places."""
    return torch.from_numpy(Maps({"grid": values}, size, size).resize("grid")[0])
