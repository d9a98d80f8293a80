"""What heads are given, checked: parameters, vectors, labels, devices."""

from __future__ import annotations

import numbers
from typing import Any

import numpy as np
import torch
from sklearn.metrics import accuracy_score
from sklearn.utils import check_array
from sklearn.utils.multiclass import check_classification_targets
from sklearn.utils.validation import check_consistent_length, column_or_1d, validate_data

from probes.lazy import Rows, as_numpy, is_lazy


def check_choice(name: str, value: Any, known: tuple[str, ...]) -> None:
    if value not in known:
        raise ValueError(f"{name}={value!r}; expected one of {', '.join(known)}")


def check_counts(head: Any, *names: str) -> None:
    """ValueError unless these parameters, or all their members, are whole numbers >= 1."""
    for name in names:
        value = getattr(head, name)
        for number in value if isinstance(value, (tuple, list)) else (value,):
            good = isinstance(number, numbers.Integral) and number >= 1
            check_number(name, value, good, "(or several) that is whole and >= 1")


def check_number(name: str, value: Any, good: bool, expected: str) -> None:
    """ValueError that says what was expected, unless the number is good."""
    if not good:
        raise ValueError(f"{name}={value!r}; expected a number {expected}")


def check_sides(rows: Rows, sides: tuple[int, ...]) -> None:
    """ValueError unless the array has one of these numbers of axes, and none is empty."""
    names = {2: "(N, D)", 3: "(N, L, D)", 4: "(N, C, H, W)"}
    if len(rows.shape) not in sides or not np.prod(rows.shape):
        expected = " or ".join(names[side] for side in sides)
        raise ValueError(f"{rows.name} has shape {rows.shape}; expected {expected}, none empty")


def named_classes(classes: Any) -> np.ndarray:
    """(K,) names of classes, as given; of a number K, 0 … K − 1.

    Raises:
        ValueError: none, or one name in place of several.
    """
    if isinstance(classes, numbers.Integral):
        found = np.arange(int(classes))
    elif isinstance(classes, str):
        raise ValueError(f"classes={classes!r} is one name; expected K, or K names")
    else:
        found = np.asarray(list(classes))
    if not len(found):
        raise ValueError("no classes; expected at least one")
    return found


def required(head: Any, y: Any) -> Any:
    """`y`, unless it is None."""
    if y is None:
        raise ValueError(f"{type(head).__name__} requires y to be passed, but the target y is None")
    return y


def check_both(X_validation: Any, y_validation: Any) -> None:
    """ValueError where validation rows have no targets, or targets no rows."""
    if (X_validation is None) != (y_validation is None):
        raise ValueError("expected X_validation and y_validation together, or neither")


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


def check_numbers(y: Any, name: str = "y") -> np.ndarray:
    """(N,) or (N, M) finite numbers, at least one.

    Raises:
        ValueError: other shapes, no numbers, nan or inf.
    """
    y = as_numpy(y)
    y = check_array(y, ensure_2d=False, input_name=name, dtype="numeric", allow_nd=True)
    if y.ndim not in (1, 2) or not y.size:
        raise ValueError(f"{name} has shape {y.shape}; expected (N,) or (N, M) numbers")
    return y


def check_several(y: Any, name: str = "y") -> np.ndarray:
    """(N, K) int64 of several labels per row, 1 where a row has one.

    Raises:
        ValueError: another shape, or other values than 0 and 1.
    """
    y = np.asarray(as_numpy(y))
    if y.ndim != 2 or not y.size:
        raise ValueError(f"{name} has shape {y.shape}; expected (N, K), a column of 0 and 1 for "
                         "each label")  # fmt: skip
    if not np.isin(y, (0, 1)).all():
        other = np.setdiff1d(y, (0, 1))[:5].tolist()
        raise ValueError(f"{name} has the values {other}; expected 0 and 1")
    return y.astype(np.int64)


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
    estimator: Any, X: Any, y: Any = None, reset: bool = True, outputs: bool = False
) -> tuple[Rows, np.ndarray | None]:
    """(N, D) features and their targets, checked as scikit-learn does; files are not read yet.

    Args:
        estimator: its `n_features_in_` is set (`reset`) or compared.
        X: float64 and wide integers, also of a file, are float64; all else is float32.
        y: (N,) labels, or None where there are none.
        outputs: y are finite numbers, (N,) or (N, M).

    Raises:
        ValueError: wrong shapes, lengths that differ, nan or inf in what is no file.
    """
    if not is_lazy(X) or isinstance(X, torch.Tensor):
        kinds = [np.float64, np.float32]
        if not reset:
            X = validate_data(estimator, as_numpy(X), reset=False, dtype=kinds)
        else:
            more = {"multi_output": True, "y_numeric": True} if outputs else {}
            X, y = validate_data(estimator, as_numpy(X), as_numpy(y), dtype=kinds, **more)
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
        y = check_numbers(y) if outputs else column_or_1d(as_numpy(y))
        check_consistent_length(X, y)
    elif X.shape[1] != estimator.n_features_in_:
        raise ValueError(f"X has {X.shape[1]} features, but {type(estimator).__name__} is "
                         f"expecting {estimator.n_features_in_} features as input")  # fmt: skip
    return Rows(X, dtype=np.float32 if np.can_cast(X.dtype, np.float32) else np.float64), y
