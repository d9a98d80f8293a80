"""How well classes were found: everything follows from the confusion matrix.

With C the (K, K) counts, truth in rows: TP = diag C, TP + FN = row sums, TP + FP = column sums.

    accuracy = sum TP / sum C     precision = TP/(TP + FP)     recall = TP/(TP + FN)
    F1 = 2·TP/(2·TP + FP + FN)    IoU = TP/(TP + FP + FN)

0/0 is 0, as scikit-learn has it. Averages over classes are "macro" (plain), "weighted" (by the
rows of truth), "micro" (of the summed counts), or None: one number per class. Classes that
neither truth nor prediction has are left out of averages, as scikit-learn does, unless their
`labels` are named.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch

from probes.lazy import as_numpy

AVERAGES = ("macro", "micro", "weighted", None)


def confusion_matrix(
    y_true: Any, y_pred: Any, labels: Any = None, ignore_index: int | None = None
) -> np.ndarray:
    """(K, K) int64 counts of rows with a true class (row) and a predicted one (column).

    Args:
        y_true, y_pred: labels of one shape: (N,), or maps (N, H, W).
        labels: (K,) classes in the order of rows; None: all that occur, sorted.
        ignore_index: true label whose entries do not count, such as 255 in maps.

    Returns:
        (K, K) int64; row: the true class, column: the predicted one.

    Raises:
        ValueError: nothing to count, different shapes, or labels that are not among `labels`.

    Source: scikit-learn's of the same name.
    """
    y_true, y_pred = _pair(y_true, y_pred, ignore_index)
    found = np.union1d(y_true, y_pred)
    labels = found if labels is None else np.asarray(as_numpy(labels))
    if len(new := np.setdiff1d(found, labels)):
        raise ValueError(f"labels {new[:5].tolist()} occur; expected among "
                         f"{labels[:20].tolist()}")  # fmt: skip
    order = np.argsort(labels, kind="stable")
    rows, columns = (order[np.searchsorted(labels, y, sorter=order)] for y in (y_true, y_pred))
    return count_pairs(rows, columns, len(labels))


def count_pairs(rows: np.ndarray, columns: np.ndarray, classes: int) -> np.ndarray:
    """(K, K) int64 counts of index pairs."""
    return np.bincount(rows * classes + columns, minlength=classes**2).reshape(classes, classes)


def accuracy_score(y_true: Any, y_pred: Any) -> float:
    """Share in [0, 1] of predictions that are right; of rows (N, K) of labels, wholly right ones.

    Args:
        y_true, y_pred: labels of one shape: (N,), or (N, K) 0/1 of several labels.

    Returns:
        A share in [0, 1].

    Raises:
        ValueError: nothing to count, or different shapes.
    """
    y_true, y_pred = (np.asarray(as_numpy(y)) for y in (y_true, y_pred))
    _same_shape(y_true, y_pred)
    right = y_true == y_pred
    return float(right.reshape(len(right), -1).all(1).mean())


def precision_score(y_true: Any, y_pred: Any, labels=None, average: str | None = "macro"):
    """TP/(TP + FP): how many of those predicted are right; arguments as `f1_score`'s.

    Args:
        y_true, y_pred, labels, average: as `f1_score` takes them.

    Returns:
        A float, or (K,) float64.
    """
    return precision_of(_counts(y_true, y_pred, labels), average)


def recall_score(y_true: Any, y_pred: Any, labels=None, average: str | None = "macro"):
    """TP/(TP + FN): how many of those that are there were found; arguments as `f1_score`'s.

    Args:
        y_true, y_pred, labels, average: as `f1_score` takes them.

    Returns:
        A float, or (K,) float64.
    """
    return recall_of(_counts(y_true, y_pred, labels), average)


def f1_score(y_true: Any, y_pred: Any, labels=None, average: str | None = "macro"):
    """2·TP/(2·TP + FP + FN), the harmonic mean of precision and recall.

    Args:
        y_true, y_pred: labels of one shape; or (N, K) 0/1 of several labels.
        labels: classes that count, also where they do not occur; None: all that occur.
        average: "macro", "micro", "weighted", or None for one number per class.

    Returns:
        A float, or (K,) float64.

    Raises:
        ValueError: nothing to count, different shapes, an unknown average.
    """
    return f1_of(_counts(y_true, y_pred, labels), average)


def jaccard_score(y_true: Any, y_pred: Any, labels=None, average: str | None = "macro"):
    """TP/(TP + FP + FN), the intersection over the union; arguments as `f1_score`'s.

    Args:
        y_true, y_pred, labels, average: as `f1_score` takes them.

    Returns:
        A float, or (K,) float64.
    """
    return jaccard_of(_counts(y_true, y_pred, labels), average)


Counts = tuple[np.ndarray, np.ndarray, np.ndarray]
"""TP, TP + FN and TP + FP per class, (K,) each."""


def counts_of(matrix: np.ndarray) -> Counts:
    """What the averages need of a confusion matrix."""
    return np.diagonal(matrix), matrix.sum(1), matrix.sum(0)


def precision_of(counts: Counts, average: str | None = "macro"):
    """Precision of counts."""
    return _averaged(lambda tp, true, found: (tp, found), counts, average)


def recall_of(counts: Counts, average: str | None = "macro"):
    """Recall of counts."""
    return _averaged(lambda tp, true, found: (tp, true), counts, average)


def f1_of(counts: Counts, average: str | None = "macro"):
    """F1 of counts."""
    return _averaged(lambda tp, true, found: (2 * tp, true + found), counts, average)


def jaccard_of(counts: Counts, average: str | None = "macro"):
    """Intersection over union of counts."""
    return _averaged(lambda tp, true, found: (tp, true + found - tp), counts, average)


class ConfusionMatrix:
    """A confusion matrix that grows batch by batch; memory is K² numbers.

    Args:
        classes: K; labels are 0 … K - 1.
        ignore_index: true label whose entries do not count.

    Attributes:
        matrix: (K, K) int64, truth in rows.
    """

    def __init__(self, classes: int, ignore_index: int | None = None):
        self.classes, self.ignore_index = classes, ignore_index
        self.matrix = np.zeros((classes, classes), np.int64)

    def update(self, y_pred: Any, y_true: Any) -> ConfusionMatrix:
        """Count predictions and truths of one shape.

        Raises:
            ValueError: different shapes, or labels outside 0 … K - 1.
        """
        y_true, y_pred = _pair(y_true, y_pred, self.ignore_index, empty=True)
        for y in (y_true, y_pred):
            if len(y) and not 0 <= y.min() <= y.max() < self.classes:
                raise ValueError(f"labels {y.min()} to {y.max()}; expected 0 to {self.classes - 1}"
                                 f"{self._or_ignored()}")  # fmt: skip
        self.matrix += count_pairs(y_true.astype(np.int64), y_pred, self.classes)
        return self

    def _or_ignored(self) -> str:
        return "" if self.ignore_index is None else f", or {self.ignore_index} to be ignored"

    def compute(self) -> np.ndarray:
        """(K, K) counts.

        Raises:
            ValueError: nothing was counted.
        """
        if not self.matrix.any():
            raise ValueError("no labels were counted; expected at least one")
        return self.matrix

    def accuracy(self) -> float:
        """Share of all entries that are right."""
        matrix = self.compute()
        return float(np.trace(matrix) / matrix.sum())

    def precision(self, average: str | None = "macro"):
        """See `precision_score`; of classes that occur."""
        return precision_of(self._counts(average), average)

    def recall(self, average: str | None = "macro"):
        """See `recall_score`."""
        return recall_of(self._counts(average), average)

    def f1(self, average: str | None = "macro"):
        """See `f1_score`."""
        return f1_of(self._counts(average), average)

    def jaccard(self, average: str | None = "macro"):
        """See `jaccard_score`: intersection over union."""
        return jaccard_of(self._counts(average), average)

    def _counts(self, average: str | None) -> Counts:
        counts = counts_of(self.compute())
        occur = (counts[1] + counts[2] > 0) | (average is None)
        return tuple(part[occur] for part in counts)


class MeanIoU:
    """The mean intersection over union of the classes that occur, batch by batch.

    Args:
        classes, ignore_index: as `ConfusionMatrix`'s.
    """

    def __init__(self, classes: int, ignore_index: int | None = None):
        self.confusion = ConfusionMatrix(classes, ignore_index)

    def update(self, y_pred: Any, y_true: Any) -> MeanIoU:
        """Count predictions and truths of one shape."""
        self.confusion.update(y_pred, y_true)
        return self

    def compute(self) -> float:
        """In [0, 1].

        Raises:
            ValueError: nothing was counted.
        """
        return self.confusion.jaccard("macro")


class Accuracy:
    """The share of right predictions, batch by batch."""

    def __init__(self) -> None:
        self.right, self.count = 0, 0

    def update(self, y_pred: torch.Tensor, y_true: torch.Tensor) -> Accuracy:
        """Count (n,) predictions and truths."""
        _same_shape(y_true, y_pred, empty=True)
        self.right += int((y_pred == y_true).sum())
        self.count += len(y_true)
        return self

    def compute(self) -> float:
        """In [0, 1].

        Raises:
            ValueError: nothing was counted.
        """
        if not self.count:
            raise ValueError("no labels were counted; expected at least one")
        return self.right / self.count


def _counts(y_true: Any, y_pred: Any, labels: Any) -> Counts:
    y_true, y_pred = (np.asarray(as_numpy(y)) for y in (y_true, y_pred))
    if y_true.ndim == 2 and y_true.shape == y_pred.shape and labels is None:
        _same_shape(y_true, y_pred)
        y_true, y_pred = y_true.astype(bool), y_pred.astype(bool)
        return (y_true & y_pred).sum(0), y_true.sum(0), y_pred.sum(0)
    if labels is None:
        return counts_of(confusion_matrix(y_true, y_pred))
    every = np.concatenate([labels, np.setdiff1d(np.union1d(y_true, y_pred), labels)])
    counts = counts_of(confusion_matrix(y_true, y_pred, every))
    return tuple(part[: len(labels)] for part in counts)


def _averaged(parts, counts: Counts, average: str | None):
    if average not in AVERAGES:
        raise ValueError(f"average={average!r}; expected one of {AVERAGES}")
    if average == "micro":
        return float(_ratio(*parts(*(part.sum() for part in counts))))
    values = _ratio(*parts(*counts))
    if average is None:
        return values
    weights = counts[1] if average == "weighted" else np.ones(len(values))
    return float(values @ weights / weights.sum()) if weights.any() else 0.0


def _ratio(above: Any, below: Any) -> np.ndarray:
    """0 where both are 0."""
    above, below = np.asarray(above, np.float64), np.asarray(below, np.float64)
    return np.divide(above, below, out=np.zeros_like(above), where=below > 0)


def _pair(y_true, y_pred, ignore_index, empty: bool = False) -> tuple[np.ndarray, np.ndarray]:
    y_true, y_pred = (np.asarray(as_numpy(y)) for y in (y_true, y_pred))
    _same_shape(y_true, y_pred, empty)
    y_true, y_pred = y_true.reshape(-1), y_pred.reshape(-1)
    if ignore_index is None:
        return y_true, y_pred
    keep = y_true != ignore_index
    return y_true[keep], y_pred[keep]


def _same_shape(y_true: Any, y_pred: Any, empty: bool = False) -> None:
    if tuple(y_true.shape) != tuple(y_pred.shape):
        raise ValueError(
            f"y_true has shape {tuple(y_true.shape)}, y_pred {tuple(y_pred.shape)}; "
            "expected the same"
        )
    if not empty and 0 in (*y_true.shape, len(y_true.shape)):
        raise ValueError("y_true and y_pred are empty; expected at least one row")
