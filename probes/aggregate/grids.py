"""Maps of several grids brought to one, and what may be done before that with the same result.

A bilinear resize takes means of sites with weights that sum to 1, the same for all channels. So a
1×1 convolution, subtracting a mean and a projection on principal axes may come before it, where
the map is smaller.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from scipy.linalg import eigh

from probes.aggregate.base import Aggregator
from probes.aggregate.hyperfeature_net import resized
from probes.axes import Axis
from probes.checks import check_number, pick_device
from probes.lazy import CHUNK_BYTES, Rows, as_tensor

TINY = 1e-12
"""Length at and below which a vector counts as zero, and stays as it is."""
Grid = tuple[int, int]


@dataclass(eq=False, repr=False, kw_only=True)
class GridAggregator(Aggregator):
    """What those share that resize all cells to one grid, bilinear (align_corners off).

    Args:
        normalise: scale the vector of every site of every cell to length 1, on the cell's own
            grid, before the resize.
        size: (h, w) of what comes out; None is the grid of the cells that has the most sites.
        device: "auto" is the CPU.
    """

    normalise: bool = False
    size: Grid | None = None
    device: str = "auto"

    def _grid(self, shapes: Sequence[tuple[int, ...]]) -> Grid:
        """(h, w) of what comes out of cells of these (C, h, w)."""
        return grid_of(self.size, shapes)

    def _ready(self, values: np.ndarray) -> torch.Tensor:
        """(n, C, h, w) float32 on the device, of length 1 where that is wanted."""
        found = as_tensor(values).to(pick_device(self.device, None))
        return normalised(found) if self.normalise else found


def grid_of(size: Grid | None, shapes: Sequence[tuple[int, ...]]) -> Grid:
    """The (h, w) asked for, or that of the (…, h, w) which has the most sites; the first of equals.

    Raises:
        ValueError: a size that is none.
    """
    if size is None:
        return max((tuple(shape[-2:]) for shape in shapes), key=lambda grid: grid[0] * grid[1])
    good = len(tuple(size)) == 2 and all(int(side) == side and side >= 1 for side in size)
    check_number("size", size, good, "of rows and one of columns, whole and >= 1, or None")
    return int(size[0]), int(size[1])


def chained(arrays: Sequence[torch.Tensor]) -> torch.Tensor:
    """(n, C_s, h_s, w_s) of several grids → (n, ΣC_s, H, W) on the finest, grid by grid.

    The coarsest is resized to the next grid and joined with what lies there, that to the next, and
    so on; channels stand in order of the grids, the finest first, and of the arrays within one.
    """
    grids = sorted({tuple(a.shape[2:]) for a in arrays}, key=lambda grid: (grid[0] * grid[1], grid))
    total: list[torch.Tensor] = []
    for grid in grids:
        here = [a for a in arrays if tuple(a.shape[2:]) == grid]
        total = [torch.cat([*here, *(resized(one, grid) for one in total)], 1)]
    return total[0]


def normalised(values: torch.Tensor) -> torch.Tensor:
    """(n, C, …) with vectors of length 1 along C; those of length 0 stay 0."""
    length = torch.linalg.vector_norm(values, dim=1, keepdim=True)
    return torch.where(length > TINY, values / length.clamp_min(TINY), values)


def check_weights(weights: Sequence[float] | None, count: int, what: str) -> np.ndarray:
    """(count,) float64 weights; 1 each where there are none.

    Raises:
        ValueError: another number of weights, some below 0 or not finite, or all of them 0.
    """
    if weights is None:
        return np.ones(count)
    found = np.asarray(weights, np.float64)
    good = found.shape == (count,) and np.isfinite(found).all() and (found >= 0).all()
    if not good or not found.any():
        raise ValueError(
            f"weights={weights!r}; expected {count} numbers >= 0, one a {what}, not all of them 0"
        )
    return found


def check_axes(fitted: Aggregator) -> None:
    """ValueError where axes that were read from a file are not those of as many channels."""
    channels = fitted.channels
    there = hasattr(fitted, "components_") and hasattr(fitted, "mean_")
    if not there or fitted.components_.shape[1] != channels:
        raise ValueError(f"the axes are not those of {channels} channels, which the cells have")


@dataclass
class Principal:
    """Mean and covariance of the sites of several cells, resized to one grid and joined.

    Attributes:
        mean: (C,) float64.
        covariance: (C, C) float64, over n.
        sites: n.
    """

    mean: torch.Tensor
    covariance: torch.Tensor
    sites: int

    def axes(self, components: int) -> tuple[np.ndarray, np.ndarray]:
        """The principal axes of the largest variance, at most `components` and C of them.

        Returns:
            (k, C) float64 axes of length 1, the largest number of each positive; and (k,) float64
            variances, descending.
        """
        values, vectors = leading(self.covariance, components)
        return signed(vectors.T).cpu().numpy(), values.clamp_min(0).cpu().numpy()


def leading(matrix: torch.Tensor, count: int) -> tuple[torch.Tensor, torch.Tensor]:
    """The largest eigenvalues of a symmetric (C, C), descending, and their vectors (C, k).

    On CPUs no more than these are computed, which takes a half to a third of the time of all.
    """
    kept = min(count, len(matrix))
    if matrix.device.type != "cpu":
        values, vectors = torch.linalg.eigh(matrix)
    else:
        which = (len(matrix) - kept, len(matrix) - 1)
        values, vectors = map(torch.from_numpy, eigh(matrix.numpy(), subset_by_index=which))
    return values.flip(0)[:kept], vectors.flip(1)[:, :kept]


def signed(axes: torch.Tensor) -> torch.Tensor:
    """(k, C) rows whose number of the largest size is positive."""
    largest = axes.gather(1, axes.abs().argmax(1, keepdim=True))
    return axes * torch.where(largest < 0, -1.0, 1.0)


def project(values: torch.Tensor, mean: np.ndarray, axes: np.ndarray) -> torch.Tensor:
    """(n, C, h, w), (C,) and (k, C) → (n, k, h, w): V·(f − m) of every site, in float32."""
    mean, axes = (torch.from_numpy(np.ascontiguousarray(one)).to(values) for one in (mean, axes))
    return torch.einsum("kc,nchw->nkhw", axes, values - mean[:, None, None])


def principal(parts: Sequence[Rows], grid: Grid, ready) -> Principal:
    """Sums of f and f·fᵀ over all sites of all pictures, in one pass, in float64.

    f is the joined vector of a site of the common grid, which is never made: with A_s the matrix
    that resizes cell s, F_s its map (sites, C_s) and a the finer of the two,

        Σ f_a·f_bᵀ = ((A_bᵀ·A_a)·F_a)ᵀ·F_b

    is a product over the sites of the coarser grid, and A_bᵀ·A_a acts on rows and columns one
    after the other. Memory is C×C numbers and a few pictures.

    Args:
        parts: (N, C_s, h_s, w_s) of each cell.
        grid: (h, w) of the common grid.
        ready: (n, C, h, w) numpy → tensor, such as with vectors of length 1.
    """
    order = sorted(range(len(parts)), key=lambda s: -np.prod(parts[s].shape[2:]))  # finest first
    ends = np.cumsum([0, *(part.shape[1] for part in parts)])
    place = [slice(ends[s], ends[s + 1]) for s in range(len(parts))]
    each = sum(8 * int(np.prod(part.shape[1:])) for part in parts)
    step = max(1, CHUNK_BYTES // (2 * each))
    shift, total, square, read = None, None, None, {}
    for start in range(0, len(parts[0]), step):
        rows = slice(start, start + step)
        maps = [ready(part[rows]).double() for part in parts]
        if total is None:
            like = maps[0].new_zeros(0)
            total, square = like.new_zeros(ends[-1]), like.new_zeros(ends[-1], ends[-1])
            shift = [one.mean((0, 2, 3), keepdim=True) for one in maps]  # little is left to cancel
            read = {part.shape[2:]: _readers(part.shape[2:], grid, like) for part in parts}
        maps = [one - by for one, by in zip(maps, shift, strict=True)]
        for at, a in enumerate(order):
            for b in order[at:]:
                fine, coarse = (read[parts[s].shape[2:]] for s in (a, b))
                moved = _carried(maps[a], fine, coarse).transpose(0, 1).flatten(1)
                block = moved @ maps[b].transpose(0, 1).flatten(1).T  # (C_a, C_b)
                square[place[a], place[b]] += block
                if a != b:
                    square[place[b], place[a]] += block.T
            down, across = (one.sum(0) for one in read[parts[a].shape[2:]])
            total[place[a]] += torch.einsum("nchw,h,w->c", maps[a], down, across)
    sites = len(parts[0]) * grid[0] * grid[1]
    mean = total / sites
    covariance = square / sites - mean[:, None] * mean
    moved = torch.cat([by.flatten() for by in shift])
    return Principal(mean + moved, (covariance + covariance.T) / 2, sites)


def _readers(cells: Grid, grid: Grid, like: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """(H, h) and (W, w) float64: what resizes rows and columns."""
    return tuple(
        Axis((np.arange(to) + 0.5) * own / to - 0.5, own, like).matrix
        for own, to in zip(cells, grid, strict=True)
    )


def _carried(values: torch.Tensor, fine, coarse) -> torch.Tensor:
    """(n, C, h_a, w_a) → (n, C, h_b, w_b): times A_bᵀ·A_a."""
    down, across = (to.T @ own for own, to in zip(fine, coarse, strict=True))
    if values.shape[2:] == (len(fine[0]), len(fine[1])) and fine[0] is coarse[0]:
        return values  # its own grid is the common one
    return down @ values @ across.T
