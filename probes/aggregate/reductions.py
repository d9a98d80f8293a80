"""Plain ways to make one map of several: sums, means, joined channels, principal components."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import torch

from probes.aggregate.grids import (
    GridAggregator,
    check_axes,
    check_weights,
    principal,
    project,
)
from probes.aggregate.hyperfeature_net import resized
from probes.cells import cells_of
from probes.checks import check_counts


@dataclass(eq=False, repr=False, kw_only=True)
class SumCells(GridAggregator):
    """The mean or the sum of cells that have equally many channels, on one grid.

        f = Σ_s w_s·up(f_s),    divided by Σ_s w_s for the mean

    Args:
        mean: the mean, not the sum; to a cosine both are the same.
        weights: >= 0, one a cell; None: 1 each.

    All others are those of `GridAggregator`.
    """

    block: ClassVar[str] = "sum"

    mean: bool = True
    weights: Sequence[float] | None = None

    def fit(self, cells: Any, y: Any = None):
        """Note the cells; ValueError where their channels differ, or weights do not fit."""
        super().fit(cells)
        check_weights(self.weights, len(self.cells_), "cell")
        self.shape_of(self.shapes_)
        return self

    def shape_of(self, shapes: Sequence[tuple[int, ...]]) -> tuple[int, int, int]:
        if len(channels := {shape[0] for shape in shapes}) > 1:
            blocks = {
                block: shape[0] for (block, _), shape in zip(self.cells_, shapes, strict=True)
            }
            counts = ", ".join(f"{block} {count}" for block, count in blocks.items())
            raise ValueError(
                f"cells have {len(channels)} numbers of channels ({counts}); expected equally "
                "many, since they are added: join them (concat) or project them (pca) instead, or "
                "choose some"
            )
        return shapes[0][0], *self._grid(shapes)

    def _apply(self, arrays: list[np.ndarray]) -> np.ndarray:
        grid = self._grid([array.shape for array in arrays])
        weights = check_weights(self.weights, len(arrays), "cell")
        weights = weights / weights.sum() if self.mean else weights
        total = 0.0
        for weight, array in zip(weights.tolist(), arrays, strict=True):
            total = total + weight * resized(self._ready(array), grid)
        return total.cpu().numpy()


@dataclass(eq=False, repr=False, kw_only=True)
class ConcatCells(GridAggregator):
    """The channels of all cells, one after the other, on one grid.

    All parameters are those of `GridAggregator`.
    """

    block: ClassVar[str] = "concat"

    def shape_of(self, shapes: Sequence[tuple[int, ...]]) -> tuple[int, int, int]:
        return sum(shape[0] for shape in shapes), *self._grid(shapes)

    def _apply(self, arrays: list[np.ndarray]) -> np.ndarray:
        grid = self._grid([array.shape for array in arrays])
        return torch.cat([resized(self._ready(one), grid) for one in arrays], 1).cpu().numpy()


@dataclass(eq=False, repr=False, kw_only=True)
class PCACells(GridAggregator):
    """The joined channels of all cells on one grid, projected on their principal axes.

        y = V·(concat_s up(f_s) − m) = Σ_s up(V_s·(f_s − m_s))

    m and V are the mean and the first eigenvectors of the covariance of the sites of all pictures
    of `fit`, resized: sums of f and f·fᵀ in one pass, in float64, so that memory is that of C×C
    numbers, however many pictures there are. Projecting before the resize is the same, and cheaper.

    Args:
        components: channels of what comes out; at most C.

    All others are those of `GridAggregator`.

    Attributes:
        mean_: (C,) float64.
        components_: (k, C) float64 axes of length 1, whose number of the largest size is positive.
        explained_variance_: (k,) float64, over the number of sites.
        explained_variance_ratio_: (k,) float64, shares of the variance of all channels.
    """

    block: ClassVar[str] = "pca"

    components: int = 256

    def fit(self, cells: Any, y: Any = None):
        """Find the principal axes; every picture is read once.

        Args:
            cells: `probes.Cells`, or a mapping from (block, t) to (N, C, h, w) maps.

        Returns:
            self.

        Raises:
            ValueError: cells that are no maps, or hold nan or inf; parameters out of range.
        """
        check_counts(self, "components")
        cells = cells_of(cells)
        self._note(cells)
        found = principal(
            [cells.rows(key) for key in cells.keys], self._grid(self.shapes_), self._ready
        )
        self.mean_ = found.mean.cpu().numpy()
        self.components_, self.explained_variance_ = found.axes(self.components)
        whole = max(float(found.covariance.trace()), np.finfo(float).tiny)
        self.explained_variance_ratio_ = self.explained_variance_ / whole
        return self

    def shape_of(self, shapes: Sequence[tuple[int, ...]]) -> tuple[int, int, int]:
        return len(self.components_), *self._grid(shapes)

    def _restore(self) -> None:
        check_axes(self)
        super()._restore()

    def _apply(self, arrays: list[np.ndarray]) -> np.ndarray:
        grid = self._grid([array.shape for array in arrays])
        total, first = 0.0, 0
        for array in arrays:
            maps = self._ready(array)
            own = slice(first, first + maps.shape[1])
            projected = project(maps, self.mean_[own], self.components_[:, own])
            total, first = total + resized(projected, grid), own.stop
        return total.cpu().numpy()
