"""What is known of pixels, brought to a grid over the inputs, so that pictures make batches."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import torch

from probes.batches import Batches
from probes.dense.truth import Masks
from probes.lazy import Deferred, Rows
from probes.maps import EDGE, Maps


def over_input(values: np.ndarray, frame: Maps, grid: tuple[int, int], unknown: Any) -> np.ndarray:
    """A picture's labels or depths on a grid over its input: nearest, never mixed.

    Every site takes what is known of the picture pixel in which its centre lies, and `unknown`
    where that lies outside of the picture, such as in padding.

    Args:
        values: (H, W) of the upright picture.
        frame: where the input lies in the picture.
        grid: (h, w) that covers the input.

    Returns:
        (h, w) in the dtype of `values`.
    """
    sx, tx, sy, ty = frame.numbers
    height, width = frame.input_size
    row, column = (
        _pixels(*side)
        for side in ((grid[0], height, sy, ty, values.shape[0]),
                     (grid[1], width, sx, tx, values.shape[1]))
    )  # fmt: skip
    moved = np.full(grid, unknown, values.dtype)
    moved[np.ix_(row >= 0, column >= 0)] = values[row[row >= 0]][:, column[column >= 0]]
    return moved


def _pixels(sites: int, pixels: int, s: float, t: float, length: int) -> np.ndarray:
    """(sites,) pixels of one side of the picture in which the centres of sites lie; −1 outside."""
    x = ((np.arange(sites) + 0.5) * pixels / sites - t) / s  # pixel i: i … i + 1
    inside = (x >= -EDGE) & (x <= length + EDGE)
    return np.where(inside, np.clip(np.floor(x + EDGE), 0, length - 1), -1).astype(np.int64)


@dataclass(frozen=True)
class Framing:
    """How pictures and what is known of their pixels become batches.

    Attributes:
        keys: the cells, in their order.
        grid: (h, w) of labels over the inputs.
        size: pictures of a batch.
        memory: bytes held at a time, see `Batches`.
        device: where batches are wanted.
    """

    keys: Sequence[Any]
    grid: tuple[int, int]
    size: int
    memory: int
    device: torch.device

    def targets(self, truth: Any, name: str = "targets") -> Rows:
        """(N, h, w) of `Masks` or `DepthMaps`, `over_input`; each is read when it is asked for."""
        labels, shape = isinstance(truth, Masks), (len(truth), *self.grid)
        unknown, dtype = (truth.ignore, "int64") if labels else (np.nan, "float32")
        read = partial(_read, truth, shape, unknown, np.dtype(dtype))
        return Rows(Deferred(shape, read, dtype), name, np.dtype(dtype), gaps=not labels)

    def batches(self, cells: Any, targets: Rows, rows: Any = None, share: int = 1) -> Batches:
        """Of some rows, or all; `share`: of the memory."""
        parts, rows = (
            [cells.rows(key) for key in self.keys],
            np.arange(len(cells)) if rows is None else rows,
        )
        return Batches(parts, targets, rows, self.size, self.memory // share, self.device)


def _read(truth: Any, shape: tuple[int, ...], unknown: Any, dtype: np.dtype, key: Any):
    rows = np.arange(shape[0])[key]
    found = np.empty((len(rows), *shape[1:]), dtype)
    for k, row in enumerate(rows.tolist()):
        found[k] = over_input(truth[row], truth.cells.frame(row), shape[1:], unknown)
    return found


def label_size(cells: Any, finest: tuple[int, int], times: int = 4) -> tuple[int, int]:
    """(h, w) of labels in training where nobody says it: so many times the finest grid, as
    published, but no more than the largest input has pixels."""
    inputs = np.array([cells.frame(row).input_size for row in range(len(cells))])
    most = inputs.max(0)
    return tuple(int(max(min(times * side, limit), side)) for side, limit in
                 zip(finest, most, strict=True))  # fmt: skip
