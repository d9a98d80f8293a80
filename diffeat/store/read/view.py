"""Features of a file, sliced as an array would be; nothing is read before."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

import h5py
import numpy as np

from diffeat.errors import brief


class FeatureView:
    """The features of one (block, t), with the manners of an h5py data set.

    Indexing reads only the rows (and channels) asked for. Each axis takes a number, a slice with
    a positive step, a mask, or a list, array or tensor of indices in any order, also negative
    or several times, which h5py itself refuses. Features in int8 are seen as the float32 that
    they stand for, q · scale. Whatever else a data set of floats has (`file`, `compression`,
    `read_direct`, …), the view of it has too.

    Args:
        stored: (N, C, …) floats, or int8 with scales.
        scales: (N, K) float32.
        group: channels that share a scale.

    Attributes:
        stored, scales, group: the data sets of the file; `scales` is None of floats.
    """

    def __init__(self, stored: h5py.Dataset, scales: h5py.Dataset | None = None, group: int = 1):
        self.stored, self.scales, self.group = stored, scales, group
        self.shape, self.ndim, self.chunks = stored.shape, stored.ndim, stored.chunks
        self.attrs, self.name = stored.attrs, stored.name
        self.dtype = stored.dtype if scales is None else np.dtype(np.float32)

    def __getattr__(self, name: str) -> Any:
        if name.startswith("_") or self.__dict__.get("scales") is not None:
            raise AttributeError(f"features of a file have no {name!r}")
        return getattr(self.stored, name)

    @property
    def size(self) -> int:
        return math.prod(self.shape)

    @property
    def nbytes(self) -> int:
        """Bytes of the values as they are given."""
        return self.size * self.dtype.itemsize

    def __len__(self) -> int:
        return self.shape[0]

    def __iter__(self) -> Iterator[np.ndarray]:
        return (self[row] for row in range(len(self)))

    def __repr__(self) -> str:
        if not self.stored:
            return "<features of a closed file>"
        form = "stored as int8" if self.scales is not None else str(self.dtype)
        return f'<features "{self.name}": shape {self.shape}, {form}>'

    def __array__(self, dtype=None, copy=None) -> np.ndarray:
        if copy is False:
            raise ValueError("the values have to be read; a copy cannot be avoided")
        return np.asarray(self[:], dtype)

    def __getitem__(self, key: Any) -> np.ndarray:
        if self.scales is None and isinstance(key, (int, slice)):
            return self.stored[key]
        parts = key if isinstance(key, tuple) else (key,)
        if self.scales is None and not any(map(_picks, parts)):
            return self.stored[key]
        full = self._full(parts)
        if sum(isinstance(part, np.ndarray) for part in full) > 1:
            raise IndexError("lists or masks for more than one axis; index by one, then the other")
        if 0 in (shape := _shape_of(full, self.shape)):  # HDF5 reads no nothing beside a list
            return np.empty(shape, self.dtype)
        parts, backs = zip(*(_ascending(part) for part in full), strict=True)
        values = self.stored[parts]
        if self.scales is not None:
            values = self._scaled(values, *parts)
        axis = 0
        for part, back in zip(parts, backs, strict=True):
            if back is not None:
                values = np.take(values, back, axis)
            axis += not isinstance(part, int)
        return values

    def _scaled(self, values: np.ndarray, rows: Any, channels: Any, *rest: Any) -> np.ndarray:
        """What int8 values of some rows and channels stand for."""
        steps = self.scales[rows]  # (…, K)
        steps = steps[..., np.arange(self.shape[1])[channels] // self.group]
        kept = sum(not isinstance(part, int) for part in rest)
        return values * np.reshape(steps, (*np.shape(steps), *[1] * kept))

    def _full(self, parts: tuple) -> tuple:
        """A key for every axis."""
        key = list(parts)
        dots = [k for k, part in enumerate(key) if part is ...]
        if len(dots) > 1:
            raise IndexError("only one ellipsis is allowed")
        at = dots[0] if dots else len(key)
        missing = self.ndim - (len(key) - len(dots))
        if missing < 0:
            raise IndexError(f"{len(key)} indices for {self.ndim} axes")
        key[at : at + len(dots)] = [slice(None)] * missing
        return tuple(_checked(part, side) for part, side in zip(key, self.shape, strict=True))


def _picks(part: Any) -> bool:
    """Whether a part of a key picks positions one by one; what else there is, h5py knows."""
    whole = getattr(part, "ndim", 1) > 1  # a mask over all axes
    array = hasattr(part, "__array__") and not isinstance(part, np.generic) and not whole
    return array or isinstance(part, (list, range))


def _checked(part: Any, side: int) -> Any:
    """One axis' part of a key: a number or slice as it is, lists and masks as positions."""
    if isinstance(part, slice):
        if part.step is not None and part.step < 1:
            raise ValueError("slices need a positive step")
        return part
    found = part if isinstance(part, (int, np.integer)) else np.asarray(part)
    if np.ndim(found) == 0 and np.asarray(found).dtype.kind in "iu":
        if not -side <= found < side:
            raise IndexError(f"index {found} of {side}")
        return int(found) % side
    found = np.asarray(found)
    if found.dtype == bool:
        if found.shape != (side,):
            raise IndexError(f"a mask of shape {found.shape} for an axis of {side}")
        return np.flatnonzero(found)
    if found.size == 0:
        found = found.astype(np.int64)
    if found.ndim != 1 or found.dtype.kind not in "iu":
        raise TypeError(f"{brief(part)} is no index; expected a number, slice, list or mask")
    if found.size and not (-side <= found.min() and found.max() < side):
        raise IndexError(f"indices from {found.min()} to {found.max()} of {side}")
    return found.astype(np.int64) % side


def _shape_of(parts: tuple, shape: tuple[int, ...]) -> tuple[int, ...]:
    """Of what the parts of a key choose."""
    pairs = [pair for pair in zip(parts, shape, strict=True) if not isinstance(pair[0], int)]
    return tuple(
        len(range(*part.indices(side))) if isinstance(part, slice) else len(part)
        for part, side in pairs
    )


def _ascending(part: Any) -> tuple[Any, np.ndarray | None]:
    """Positions without repetition in ascending order, as HDF5 wants them, and the way back."""
    if not isinstance(part, np.ndarray) or (np.diff(part) > 0).all():
        return part, None
    return np.unique(part, return_inverse=True)
