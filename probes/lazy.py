"""Arrays that are read when they are asked for: pieces of files, picked rows, joined parts."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
import torch

CHUNK_BYTES = 32 << 20
"""What is read of a file at a time."""


def as_numpy(values: Any) -> Any:
    """Torch tensors and h5py-like data sets as numpy; half precision becomes float32."""
    if isinstance(values, torch.Tensor):
        values = values.detach().cpu()
        values = (values.float() if values.dtype == torch.bfloat16 else values).numpy()
    elif is_lazy(values):
        values = values[:]
    if isinstance(values, np.ndarray) and values.dtype == np.float16:
        values = values.astype(np.float32)
    return values


def is_lazy(values: Any) -> bool:
    """Whether it is an array that lies in a file: no table, no sparse matrix, but sliced."""
    if isinstance(values, np.ndarray) or hasattr(values, "iloc") or hasattr(values, "tocsr"):
        return False
    return all(hasattr(values, name) for name in ("shape", "dtype", "__getitem__", "__len__"))


def as_tensor(values: np.ndarray) -> torch.Tensor:
    """The array's own memory as a tensor; a copy of it where that may not be written."""
    return torch.from_numpy(values if values.flags.writeable else values.copy())


class Rows:
    """(N, …) features as float32, read in pieces: numpy, torch, or data sets of a file.

    Args:
        values: the array; what lies in a file is read when it is asked for, and no more.
        name: for errors.
        dtype: that of the rows, if not float32.
        gaps: whether nan stands for what is missing, in real numbers as targets.

    Raises:
        ValueError: no numbers, or no rows.
    """

    def __init__(self, values: Any, name: str = "X", dtype: Any = np.float32, gaps: bool = False):
        if isinstance(values, torch.Tensor):
            values = values.detach()
        elif not is_lazy(values):
            values = np.asarray(values)
        self.values, self.name, self.dtype, self.gaps = values, name, dtype, gaps
        self.shape = tuple(int(side) for side in values.shape)
        kind = "f" if isinstance(values, torch.Tensor) else np.dtype(values.dtype).kind
        if kind not in "fiub" or not self.shape:
            raise ValueError(f"{name} has dtype {values.dtype} and shape {self.shape}; "
                             "expected numbers, one row per picture")  # fmt: skip

    def __len__(self) -> int:
        return self.shape[0]

    @property
    def nbytes(self) -> int:
        """Bytes of all rows in the dtype that they are given in."""
        return int(np.prod(self.shape, dtype=np.int64)) * np.dtype(self.dtype).itemsize

    def __getitem__(self, rows: slice | Sequence[int] | np.ndarray) -> np.ndarray:
        """float32 rows; indices in any order, also several times.

        Raises:
            ValueError: nan or inf among them.
        """
        found = self._read(rows)
        if isinstance(found, torch.Tensor):
            kept = found.dtype if found.dtype == torch.float64 else torch.float32
            found = found.to(kept).cpu().numpy()
        found = np.asarray(found, self.dtype)
        bad = np.isinf(found) if self.gaps else ~np.isfinite(found)
        if bad.any():
            kind = "nan" if np.isnan(found[bad]).any() else "inf"
            raise ValueError(f"{self.name} contains {kind}; expected finite features")
        return found

    def tensor(
        self, rows: slice | Sequence[int] | np.ndarray, device: torch.device | str
    ) -> torch.Tensor:
        """float32 rows on `device`; a tensor that lies there takes no way round by numpy.

        Raises:
            ValueError: nan or inf among them.
        """
        if not isinstance(self.values, torch.Tensor) or self.values.device.type == "cpu":
            return as_tensor(self[rows]).to(device)
        found = self._read(rows).to(device, torch.float32)
        if not torch.isfinite(found).all():
            raise ValueError(f"{self.name} contains nan or inf; expected finite features")
        return found

    def _read(self, rows: slice | Sequence[int] | np.ndarray) -> Any:
        if isinstance(rows, slice):
            return self.values[rows]
        rows = np.asarray(rows)
        rows = np.flatnonzero(rows) if rows.dtype == bool else rows.astype(np.int64)
        if isinstance(self.values, np.ndarray):
            return self.values[rows]
        if isinstance(self.values, torch.Tensor):
            return self.values[torch.from_numpy(rows).to(self.values.device)]
        if not len(rows):
            return np.empty((0, *self.shape[1:]), np.float32)
        ascending, place = np.unique(rows, return_inverse=True)  # all that h5py takes
        first, last = int(ascending[0]), int(ascending[-1])
        if last - first + 1 == len(ascending):  # a file gives slices fastest
            return self.values[first : last + 1][place]
        return self.values[ascending][place]

    def chunks(self, rows: int | None = None) -> Iterator[tuple[int, np.ndarray]]:
        """(first row, float32 rows) of pieces of about CHUNK_BYTES, or of `rows` rows."""
        step = rows or max(1, CHUNK_BYTES * len(self) // max(1, self.nbytes))
        for start in range(0, len(self), step):
            yield start, self[start : start + step]


class Picked:
    """Some rows of an array, in any order.

    Args:
        rows: the whole; rows of picked rows are one step.
        picked: (n,) int64 row numbers, also several times.
    """

    def __init__(self, rows: Rows, picked: np.ndarray):
        if isinstance(rows.values, Picked):
            rows, picked = rows.values.rows, rows.values.picked[picked]
        self.rows, self.picked = rows, picked
        self.shape, self.dtype = (len(picked), *rows.shape[1:]), np.dtype(np.float32)

    def __len__(self) -> int:
        return len(self.picked)

    def __getitem__(self, key: Any) -> np.ndarray:
        wanted = self.picked[key]
        first = int(wanted[0]) if len(wanted) else 0
        if np.array_equal(wanted, np.arange(first, first + len(wanted))):
            return self.rows[first : first + len(wanted)]  # a file gives slices fastest
        return self.rows[wanted]


class Stacked:
    """(N1 + N2 …, …) rows of several arrays, one after the other, each read by itself.

    Raises:
        ValueError: rows of different shapes.
    """

    def __init__(self, parts: Sequence[Any]):
        if len({tuple(part.shape[1:]) for part in parts}) != 1:
            raise ValueError(
                f"features of different shapes: {[tuple(part.shape) for part in parts]}; expected "
                "rows of one shape"
            )
        self.parts, self.dtype = parts, np.result_type(*(part.dtype for part in parts))
        self.shape = (sum(part.shape[0] for part in parts), *parts[0].shape[1:])

    def __len__(self) -> int:
        return self.shape[0]

    def __getitem__(self, rows: slice | np.ndarray) -> np.ndarray:
        """Runs of rows, or ascending row numbers."""
        if not isinstance(rows, slice):
            return self._at(np.asarray(rows, np.int64))
        start, stop, step = rows.indices(len(self))
        if step != 1:
            raise IndexError("only whole runs of rows can be read")
        found = []
        for part in self.parts:
            if start < part.shape[0] and stop > 0:
                found.append(part[max(start, 0) : min(stop, part.shape[0])])
            start, stop = start - part.shape[0], stop - part.shape[0]
        return np.concatenate(found) if found else self.parts[0][:0]

    def _at(self, rows: np.ndarray) -> np.ndarray:
        found, first = [self.parts[0][:0]], 0
        for part in self.parts:
            mine = rows[(rows >= first) & (rows < first + part.shape[0])] - first
            found += [part[mine]] if len(mine) else []
            first += part.shape[0]
        return np.concatenate(found)

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> np.ndarray:
        return np.asarray(self[:], dtype)


class Deferred:
    """Rows that are made when they are asked for; the shape is known before.

    Args:
        shape: of all rows.
        read: key of rows (slice, or ascending indices) → these rows.
        dtype: of what it gives.
    """

    def __init__(self, shape: tuple[int, ...], read: Callable[[Any], np.ndarray], dtype: Any):
        self.shape, self.read, self.dtype = tuple(shape), read, np.dtype(dtype)

    def __len__(self) -> int:
        return self.shape[0]

    def __getitem__(self, rows: Any) -> np.ndarray:
        return self.read(rows)

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> np.ndarray:
        return np.asarray(self[:], dtype)
