"""How far real numbers are off: squared and absolute errors, and the variance explained."""

from __future__ import annotations

from typing import Any

import numpy as np

from probes.lazy import as_numpy


def mean_squared_error(y_true: Any, y_pred: Any) -> float:
    """mean (y - ŷ)², over rows and outputs.

    Args:
        y_true, y_pred: numbers of one shape, (N,), (N, M) or more; nan in `y_true` is missing.

    Returns:
        At least 0; 0 is best.

    Raises:
        ValueError: no rows, different shapes, nan or inf elsewhere.
    """
    return _Errors().update(y_pred, y_true).mean("square")


def mean_absolute_error(y_true: Any, y_pred: Any) -> float:
    """mean |y - ŷ|, over rows and outputs; arguments as `mean_squared_error`'s.

    Args:
        y_true, y_pred: as `mean_squared_error` takes them.

    Returns:
        At least 0; 0 is best.
    """
    return _Errors().update(y_pred, y_true).mean("absolute")


def r2_score(y_true: Any, y_pred: Any, multioutput: str = "uniform_average"):
    """1 - sum (y - ŷ)² / sum (y - mean y)² per output.

    An output that is constant has 1 if all of it was found, else 0, as in scikit-learn.

    Args:
        y_true, y_pred: as `mean_squared_error`'s; at least two rows.
        multioutput: "uniform_average": the mean of the outputs; "raw_values": (M,) of each.

    Raises:
        ValueError: as `mean_squared_error`; fewer than two rows; an unknown `multioutput`.

    Source: scikit-learn's of the same name.
    """
    return R2Score(multioutput).update(y_pred, y_true).compute()


class _Errors:
    """Sums per output, in float64, batch by batch; entries whose truth is nan do not count."""

    def __init__(self) -> None:
        self.count = 0

    def update(self, y_pred: Any, y_true: Any):
        """Add predictions and truths of one shape.

        Raises:
            ValueError: different shapes, predictions that are not finite, infinite truths.
        """
        true, found = (np.asarray(as_numpy(y), np.float64) for y in (y_true, y_pred))
        if true.shape != found.shape:
            raise ValueError(
                f"y_true has shape {true.shape}, y_pred {found.shape}; expected the same"
            )
        if np.isinf(true).any() or not np.isfinite(found).all():
            raise ValueError("nan or inf among predictions, or inf among truths; expected numbers")
        true, found = (y.reshape(len(y), -1) if y.ndim == 2 else y.reshape(-1, 1)
                       for y in (true, found))  # fmt: skip
        known = ~np.isnan(true)
        error = np.where(known, true - found, 0)
        added = {
            "count": known.sum(0), "square": np.square(error).sum(0), "absolute": abs(error).sum(0)
        }  # fmt: skip
        self._spread(np.where(known, true, 0), known)
        for name, values in added.items():
            setattr(self, name, getattr(self, name, 0) + values)
        return self

    def _spread(self, true: np.ndarray, known: np.ndarray) -> None:
        """Sums about the mean of truths, joined by the formulas of Chan et al. 1979."""
        here = known.sum(0)
        mean = true.sum(0) / np.maximum(here, 1)
        square = (np.square(true - mean) * known).sum(0)
        if not np.any(self.count):
            self.centre, self.variation = mean, square
            return
        total = np.maximum(self.count + here, 1)
        step = mean - self.centre
        self.variation = self.variation + square + step**2 * self.count * here / total
        self.centre = self.centre + step * here / total

    def mean(self, name: str) -> float:
        """Of all entries.

        Raises:
            ValueError: nothing was added.
        """
        if not np.any(self.count):
            raise ValueError("no numbers were compared; expected at least one row")
        return float(getattr(self, name).sum() / self.count.sum())


class MeanSquaredError(_Errors):
    """`mean_squared_error`, batch by batch."""

    def compute(self) -> float:
        """The mean over all entries."""
        return self.mean("square")


class MeanAbsoluteError(_Errors):
    """`mean_absolute_error`, batch by batch."""

    def compute(self) -> float:
        """The mean over all entries."""
        return self.mean("absolute")


class R2Score(_Errors):
    """`r2_score`, batch by batch; maps (n, H, W) are one output."""

    def __init__(self, multioutput: str = "uniform_average"):
        super().__init__()
        if multioutput not in ("uniform_average", "raw_values"):
            raise ValueError(
                f"multioutput={multioutput!r}; expected 'uniform_average' or 'raw_values'"
            )
        self.multioutput = multioutput

    def compute(self) -> float | np.ndarray:
        """A float, or (M,).

        Raises:
            ValueError: fewer than two numbers of an output.
        """
        if np.min(self.count) < 2:
            raise ValueError(f"R² of {int(np.min(self.count))} rows; expected at least two")
        varies = self.variation > 0
        missed = np.divide(self.square, self.variation, out=np.ones_like(self.square), where=varies)
        values = np.where(varies | (self.square > 0), 1 - missed, 1.0)
        return float(values.mean()) if self.multioutput == "uniform_average" else values
