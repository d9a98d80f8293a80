"""What heads are given: arrays of any kind, taken in pieces, and labels of any kind."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import torch
from sklearn.utils.multiclass import check_classification_targets

CHUNK_BYTES = 32 << 20
"""What is read of a file at a time."""


def as_numpy(values: Any) -> Any:
    """Torch tensors and h5py-like data sets as numpy; half precision becomes float32."""
    if isinstance(values, torch.Tensor):
        values = values.detach().cpu()
        values = (values.float() if values.dtype == torch.bfloat16 else values).numpy()
    elif _is_lazy(values):
        values = values[:]
    if isinstance(values, np.ndarray) and values.dtype == np.float16:
        values = values.astype(np.float32)
    return values


def _is_lazy(values: Any) -> bool:
    """Whether it is an array that lies in a file: no table, no sparse matrix, but sliced."""
    if isinstance(values, np.ndarray) or hasattr(values, "iloc") or hasattr(values, "tocsr"):
        return False
    return all(hasattr(values, name) for name in ("shape", "dtype", "__getitem__", "__len__"))


class Rows:
    """(N, …) features as float32, read in pieces: numpy, torch, or data sets of a file.

    Args:
        values: the array; what lies in a file is read when it is asked for, and no more.
        name: for errors.

    Raises:
        ValueError: no numbers, or no rows.
    """

    def __init__(self, values: Any, name: str = "X"):
        if isinstance(values, torch.Tensor):
            values = values.detach()
        elif not _is_lazy(values):
            values = np.asarray(values)
        self.values, self.name = values, name
        self.shape = tuple(int(side) for side in values.shape)
        kind = "f" if isinstance(values, torch.Tensor) else np.dtype(values.dtype).kind
        if kind not in "fiub" or not self.shape:
            raise ValueError(f"{name} has dtype {values.dtype} and shape {self.shape}; "
                             "expected numbers, one row per picture")  # fmt: skip

    def __len__(self) -> int:
        return self.shape[0]

    def __getitem__(self, rows: slice | Sequence[int] | np.ndarray) -> np.ndarray:
        """float32 rows; indices in any order, also several times.

        Raises:
            ValueError: nan or inf among them.
        """
        found = self._read(rows)
        if isinstance(found, torch.Tensor):
            found = found.float().cpu().numpy()
        found = np.asarray(found, np.float32)
        if not np.isfinite(found).all():
            bad = "nan" if np.isnan(found).any() else "inf"
            raise ValueError(f"{self.name} contains {bad}; expected finite features")
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
        return self.values[ascending][place]

    def chunks(self, rows: int | None = None) -> Iterator[tuple[int, np.ndarray]]:
        """(first row, float32 rows) of pieces of about CHUNK_BYTES, or of `rows` rows."""
        size = 4 * int(np.prod(self.shape[1:], dtype=np.int64))
        step = rows or max(1, CHUNK_BYTES // max(1, size))
        for start in range(0, len(self), step):
            yield start, self[start : start + step]


def encode_labels(y: Any) -> tuple[np.ndarray, np.ndarray]:
    """(K,) sorted classes, and (N,) int64 indices into them.

    Raises:
        ValueError: no class labels, or fewer than two classes.
    """
    y = np.asarray(as_numpy(y))
    check_classification_targets(y)
    classes, targets = np.unique(y, return_inverse=True)
    if len(classes) < 2:
        seen = f" ({classes[0]!r})" if len(classes) else ""
        raise ValueError(f"y has one class only{seen}; expected at least two classes")
    return classes, targets.reshape(-1).astype(np.int64)


def pick_device(device: str, X: Any) -> torch.device:
    """`device`; "auto" is where X lies, if it is a torch tensor, else the CPU."""
    if device != "auto":
        return torch.device(device)
    return X.device if isinstance(X, torch.Tensor) else torch.device("cpu")
