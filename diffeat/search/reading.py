"""Features of cells as arrays: read in pieces, checked, and several side by side."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from diffeat.errors import NumericsError, SpecError
from probes.standardise import standardised

SLAB_BYTES = 4 << 20
"""What is read of a cell at a time, as float32."""


def numel(shape: Sequence[int]) -> int:
    """How many numbers an array of this shape holds."""
    return int(np.prod(shape, dtype=np.int64))


class Sliced:
    """(N, …) array that is read in slices, as one that also gives rows by ascending numbers."""

    def __init__(self, values: Any):
        self.values, self.shape = values, tuple(values.shape)
        self.dtype = getattr(values, "dtype", np.dtype(np.float32))

    def __len__(self) -> int:
        return self.shape[0]

    def __getitem__(self, rows: slice | np.ndarray) -> np.ndarray:
        if isinstance(rows, slice):
            return np.asarray(self.values[rows])
        first = int(rows[0])
        return np.asarray(self.values[first : int(rows[-1]) + 1])[np.asarray(rows) - first]


def read_rows(values: Any, rows: np.ndarray, where: str) -> np.ndarray:
    """(n, …) float32 rows of an array that may lie in a file.

    Slabs of 4 MiB are read one after the other, so no more than those is held beside the answer.

    Args:
        values: (N, …) array, or what reads like one in slices.
        rows: (N,) bool.
        where: for errors: whose features of what.

    Raises:
        NumericsError: nan or inf among them.
    """
    shape = tuple(values.shape)
    out = np.empty((int(rows.sum()), *shape[1:]), np.float32)
    step, filled = max(1, SLAB_BYTES // max(4 * numel(shape[1:]), 1)), 0
    for start in range(0, len(rows), step):
        chosen = rows[start : start + step]
        if not chosen.any():
            continue
        slab = np.asarray(values[start : start + step])[chosen]
        out[filled : filled + len(slab)] = slab
        filled += len(slab)
    _check_finite(out, rows, where)
    return out


def _check_finite(values: np.ndarray, rows: np.ndarray, where: str) -> None:
    with np.errstate(invalid="ignore"):  # inf - inf
        if np.isfinite(values.sum(dtype=np.float64)):  # one pass, and it hides neither
            return
    bad = ~np.isfinite(values.reshape(len(values), -1)).all(1)
    if not bad.any():
        return
    what = "nan" if np.isnan(values).any() else "inf"
    first = int(np.flatnonzero(rows)[bad][0])
    raise NumericsError(
        f"{where} contain {what} in {int(bad.sum())} "
        f"pictures, the first in row {first}; expected finite numbers: extract them again, "
        "with --dtype float32 if float16 was too narrow, or leave this cell out"
    )


def side_by_side(
    arrays: Sequence[np.ndarray], fitted: np.ndarray, weights: Sequence[float] | None = None
) -> np.ndarray:
    """(N, sum of C, …): every array standardised per channel on some rows, times its weight.

    Args:
        arrays: (N, C) vectors, or (N, C, H, W) maps, which are brought to the largest grid
            among them (bilinear, half-pixel rule).
        fitted: (N,) bool: the rows whose mean and variance are taken.

    Raises:
        SpecError: vectors and maps together.
    """
    if len({array.ndim for array in arrays}) > 1:
        raise SpecError("vectors and maps cannot stand side by side; pool all cells, or none")
    size = tuple(max(array.shape[k] for array in arrays) for k in range(2, arrays[0].ndim))
    weights = [1.0] * len(arrays) if weights is None else weights
    found = [
        np.float32(weight) * _resized(_per_channel(array, fitted), size)
        for array, weight in zip(arrays, weights, strict=True)
    ]
    return np.concatenate(found, axis=1)


def _per_channel(array: np.ndarray, fitted: np.ndarray) -> np.ndarray:
    """Standardised over rows and places."""
    channels = np.moveaxis(array, 1, -1)  # (N, …, C)
    flat = channels.reshape(-1, array.shape[1])
    known = channels[fitted].reshape(-1, array.shape[1])
    return np.moveaxis(standardised(known, flat)[1].reshape(channels.shape), -1, 1)


def _resized(array: np.ndarray, size: tuple[int, ...]) -> np.ndarray:
    if array.shape[2:] == size:
        return array
    import torch
    from torch.nn import functional as F

    maps = torch.from_numpy(np.ascontiguousarray(array))
    return F.interpolate(maps, size=size, mode="bilinear", align_corners=False).numpy()
