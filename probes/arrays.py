"""What heads are given: arrays of any kind, taken in pieces, and labels of any kind."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import numpy as np
import torch
from sklearn.metrics import accuracy_score
from sklearn.utils.multiclass import check_classification_targets
from sklearn.utils.validation import check_consistent_length, column_or_1d, validate_data

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

    Raises:
        ValueError: no numbers, or no rows.
    """

    def __init__(self, values: Any, name: str = "X", dtype: Any = np.float32):
        if isinstance(values, torch.Tensor):
            values = values.detach()
        elif not is_lazy(values):
            values = np.asarray(values)
        self.values, self.name, self.dtype = values, name, dtype
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
        if not np.isfinite(found).all():
            bad = "nan" if np.isnan(found).any() else "inf"
            raise ValueError(f"{self.name} contains {bad}; expected finite features")
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
        return self.values[ascending][place]

    def chunks(self, rows: int | None = None) -> Iterator[tuple[int, np.ndarray]]:
        """(first row, float32 rows) of pieces of about CHUNK_BYTES, or of `rows` rows."""
        step = rows or max(1, CHUNK_BYTES * len(self) // max(1, self.nbytes))
        for start in range(0, len(self), step):
            yield start, self[start : start + step]


def running_moments(pieces: Iterable[torch.Tensor]) -> tuple[torch.Tensor, torch.Tensor]:
    """(C,) mean and variance in float64 of rows (n, C) that come in pieces, in one pass.

    Groups of rows are joined by the formulas of Chan et al. 1979.
    """
    count, mean, square = 0, None, None
    for piece in pieces:
        x = piece.double()
        here = x.mean(0)
        spread = (x - here).square().sum(0)
        if mean is None:
            count, mean, square = len(x), here, spread
            continue
        total = count + len(x)
        step = here - mean
        mean = mean + step * (len(x) / total)
        square = square + spread + step.square() * (count * len(x) / total)
        count = total
    return mean, square / count


def encode_labels(y: Any) -> tuple[np.ndarray, np.ndarray]:
    """(K,) sorted classes, and (N,) int64 indices into them.

    Raises:
        ValueError: no class labels, or fewer than two classes.
    """
    y = np.asarray(as_numpy(y))
    check_classification_targets(y)
    classes, targets = np.unique(y, return_inverse=True)
    if len(classes) < 2:
        seen = f" ({classes[:1].tolist()[0]!r})" if len(classes) else ""
        raise ValueError(f"y has one class only{seen}; expected at least two classes")
    return classes, targets.reshape(-1).astype(np.int64)


def labels_for(y: Any, n: int, name: str = "y") -> np.ndarray:
    """(n,) labels of n pictures.

    Raises:
        ValueError: another number of labels.
    """
    y = np.asarray(as_numpy(y)).reshape(-1)
    if len(y) != n:
        raise ValueError(f"{name} has {len(y)} labels for {n} pictures; expected one per picture")
    return y


def known_labels(y: Any, classes: np.ndarray, n: int, name: str) -> np.ndarray:
    """(n,) int64 indices of y into the training part's classes (sorted).

    Raises:
        ValueError: another number of labels, none at all, or classes that training lacks.
    """
    y = labels_for(y, n, name)
    if not n:
        raise ValueError(f"{name} has no labels; expected at least one picture")
    new = np.setdiff1d(y, classes)
    if len(new):
        raise ValueError(f"{name} has classes that training lacks: {new[:5].tolist()}; expected "
                         f"among {classes[:20].tolist()}")  # fmt: skip
    return np.searchsorted(classes, y).astype(np.int64)


def accuracy(found: np.ndarray, y: Any, sample_weight: Any = None) -> float:
    """Share in [0, 1] of (N,) predictions that are y, weighted if there are (N,) weights.

    Raises:
        ValueError: not one label per prediction, labels of another kind, or weights that do not
            fit.
    """
    y = labels_for(y, len(found))
    return float(accuracy_score(y, found, sample_weight=as_numpy(sample_weight)))


def pick_device(device: str, X: Any) -> torch.device:
    """`device`; "auto" is where X lies, if it is a torch tensor, else the CPU."""
    if device != "auto":
        return torch.device(device)
    return X.device if isinstance(X, torch.Tensor) else torch.device("cpu")


def open_vectors(
    estimator: Any, X: Any, y: Any = None, reset: bool = True
) -> tuple[Rows, np.ndarray | None]:
    """(N, D) features and their labels, checked as scikit-learn does; files are not read yet.

    Args:
        estimator: its `n_features_in_` is set (`reset`) or compared.
        X: float64 and wide integers, also of a file, are float64; all else is float32.
        y: (N,) labels, or None where there are none.

    Raises:
        ValueError: wrong shapes, lengths that differ, nan or inf in what is no file.
    """
    if not is_lazy(X) or isinstance(X, torch.Tensor):
        kinds = [np.float64, np.float32]
        if not reset:
            X = validate_data(estimator, as_numpy(X), reset=False, dtype=kinds)
        else:
            X, y = validate_data(estimator, as_numpy(X), as_numpy(y), dtype=kinds)
        return Rows(X, dtype=X.dtype), y
    if len(X.shape) != 2 or 0 in X.shape:
        raise ValueError(
            f"X has shape {tuple(X.shape)}; expected (pictures, features), at least one of each"
        )
    if reset:
        if y is None:
            raise ValueError(f"{type(estimator).__name__} requires y to be passed, but it is None")
        estimator.n_features_in_ = int(X.shape[1])
        if hasattr(estimator, "feature_names_in_"):  # of a table of an earlier fit
            del estimator.feature_names_in_
        y = column_or_1d(as_numpy(y))
        check_consistent_length(X, y)
    elif X.shape[1] != estimator.n_features_in_:
        raise ValueError(f"X has {X.shape[1]} features, but {type(estimator).__name__} is "
                         f"expecting {estimator.n_features_in_} features as input")  # fmt: skip
    return Rows(X, dtype=np.float32 if np.can_cast(X.dtype, np.float32) else np.float64), y
