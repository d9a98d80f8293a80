"""Maps of several cells, standardised by channel, each cell times its weight."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Any

import numpy as np

from probes.cells import Cells
from probes.lazy import Deferred, Rows
from probes.standardise import varies


def weighed(cells: Cells, rows: np.ndarray, weights: Sequence[float]) -> Cells:
    """Cells whose channels are standardised over the sites of some rows, times a weight each.

    Args:
        rows: of the pictures whose mean and variance are taken.
        weights: one per cell, in their order.
    """
    arrays = {}
    for key, weight in zip(cells.keys, weights, strict=True):
        values = cells.rows(key)
        mean, factor = _moments(values, rows)
        read = partial(_standardised, values, mean, factor * weight)
        arrays[key] = Deferred(values.shape, read, np.float32)
    return Cells(arrays, sizes=cells.sizes, placements=cells.placements,
                 input_size=cells.input_size)  # fmt: skip


def _standardised(values: Rows, mean: np.ndarray, factor: np.ndarray, key: Any) -> np.ndarray:
    return ((values[key] - mean[:, None, None]) * factor[:, None, None]).astype(np.float32)


def _moments(values: Rows, rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """(C,) means and 1/deviations over the sites of some rows; 0 where a channel is constant."""
    total = squares = 0.0
    shift = None
    for row in rows:
        found = values[int(row) : int(row) + 1][0].reshape(values.shape[1], -1).astype(np.float64)
        if shift is None:
            shift = found.mean(1, keepdims=True)
        total = total + (found - shift).sum(1)
        squares = squares + ((found - shift) ** 2).sum(1)
    count = len(rows) * int(np.prod(values.shape[2:]))
    about = total / count
    spread = np.sqrt(np.maximum(squares / count - about**2, 0))
    mean = shift[:, 0] + about
    kept = varies(spread, mean)
    return mean, np.divide(1, spread, out=np.zeros_like(spread), where=kept)
