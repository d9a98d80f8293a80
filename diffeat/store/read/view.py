"""Features in eight bits, seen as the float32 that they stand for; nothing is read before."""

from __future__ import annotations

import math
from typing import Any

import h5py
import numpy as np


class QuantizedView:
    """A data set of int8 and its scales, with the manners of an h5py data set of float32.

    Indexing reads only the rows (and channels) asked for, and gives what they stand for:
    q · scale. Each axis takes a number, a slice with a positive step, a list or a mask.

    Args:
        data: (N, C, …) int8.
        scales: (N, K) float32.
        group: channels that share a scale.
    """

    dtype = np.dtype(np.float32)

    def __init__(self, data: h5py.Dataset, scales: h5py.Dataset, group: int):
        self.quantized, self.scales, self.group = data, scales, group
        self.shape, self.ndim, self.chunks = data.shape, data.ndim, data.chunks
        self.attrs, self.name = data.attrs, data.name

    @property
    def size(self) -> int:
        return math.prod(self.shape)

    @property
    def nbytes(self) -> int:
        """Bytes of the float32 values."""
        return self.size * self.dtype.itemsize

    def __len__(self) -> int:
        return self.shape[0]

    def __repr__(self) -> str:
        return f'<features "{self.name}": shape {self.shape}, stored as int8>'

    def __array__(self, dtype=None, copy=None) -> np.ndarray:
        if copy is False:
            raise ValueError("the values have to be made; a copy cannot be avoided")
        return np.asarray(self[:], dtype)

    def __getitem__(self, key: Any) -> np.ndarray:
        rows, channels, *rest = self._full(key)
        rows, back = _ascending(rows)
        steps = self.scales[rows]  # (…, K)
        picked = np.arange(self.shape[1])[channels]
        steps = steps[..., picked // self.group]
        channels, order = _ascending(channels)
        values = self.quantized[(rows, channels, *rest)]
        kept = sum(not isinstance(part, (int, np.integer)) for part in rest)
        if order is not None:
            values = np.take(values, order, axis=values.ndim - kept - 1)
        found = values * np.reshape(steps, (*np.shape(steps), *[1] * kept))
        return found if back is None else found[back]

    def _full(self, key: Any) -> tuple:
        """A key for every axis."""
        key = list(key) if isinstance(key, tuple) else [key]
        dots = [k for k, part in enumerate(key) if part is ...]
        if len(dots) > 1:
            raise IndexError("only one ellipsis is allowed")
        at = dots[0] if dots else len(key)
        missing = self.ndim - (len(key) - len(dots))
        if missing < 0:
            raise IndexError(f"{len(key)} indices for {self.ndim} axes")
        key[at : at + len(dots)] = [slice(None)] * missing
        return tuple(_checked(part, side) for part, side in zip(key, self.shape, strict=True))


def _checked(part: Any, side: int) -> Any:
    """One axis' part of a key: a number or slice as it is, lists and masks as positions."""
    if isinstance(part, slice):
        if part.step is not None and part.step < 1:
            raise ValueError("slices need a positive step")
        return part
    if isinstance(part, (int, np.integer)) and not isinstance(part, bool):
        if not -side <= part < side:
            raise IndexError(f"index {part} of {side}")
        return int(part) % side
    found = np.asarray(part)
    if found.dtype == bool:
        if found.shape != (side,):
            raise IndexError(f"a mask of shape {found.shape} for an axis of {side}")
        return np.flatnonzero(found)
    if found.size == 0:
        found = found.astype(np.int64)
    if found.ndim != 1 or found.dtype.kind not in "iu":
        raise TypeError(f"{part!r:.60} is no index; expected a number, slice, list or mask")
    if found.size and not (-side <= found.min() and found.max() < side):
        raise IndexError(f"indices from {found.min()} to {found.max()} of {side}")
    return found % side


def _ascending(part: Any) -> tuple[Any, np.ndarray | None]:
    """Positions without repetition in ascending order, as HDF5 wants them, and the way back."""
    if not isinstance(part, np.ndarray):
        return part, None
    return np.unique(part, return_inverse=True)
