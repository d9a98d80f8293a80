"""How well scores rank: average precision of each label, and its mean."""

from __future__ import annotations

from typing import Any

import numpy as np

from probes.lazy import as_numpy


def average_precision_score(y_true: Any, y_score: Any) -> np.ndarray | float:
    """AP = sum_n (R_n - R_(n-1))·P_n over the thresholds, from high scores to low.

    P and R are precision and recall of all rows that score at least the threshold; rows of equal
    score share one. There is no interpolation.

    Args:
        y_true: (N,) or (N, K) 0/1.
        y_score: numbers of the same shape, the higher the surer.

    Returns:
        A float, or (K,); nan for a label that no row has.

    Raises:
        ValueError: no rows, different shapes, other truths than 0 and 1, scores not finite.

    Source: scikit-learn's of the same name (which has 0 and a warning where no row has it).
    """
    true, score = (np.asarray(as_numpy(y)) for y in (y_true, y_score))
    if true.shape != score.shape or true.ndim not in (1, 2):
        raise ValueError(f"y_true has shape {true.shape}, y_score {score.shape}; expected both "
                         "(N,) or (N, K)")  # fmt: skip
    if not true.size:
        raise ValueError("y_true and y_score are empty; expected at least one row")
    if not np.isin(true, (0, 1)).all():
        raise ValueError(f"y_true has {np.setdiff1d(true, (0, 1))[:5].tolist()}; expected 0 and 1")
    if not np.isfinite(score).all():
        raise ValueError("y_score has nan or inf; expected numbers")
    if true.ndim == 1:
        return _precision(true, score)
    return np.array([_precision(*pair) for pair in zip(true.T, score.T, strict=True)])


def mean_average_precision(y_true: Any, y_score: Any) -> float:
    """mAP: the mean of the labels' average precision, over labels that some row has.

    Args:
        y_true, y_score: (N, K), as `average_precision_score` takes them.

    Returns:
        A share in [0, 1].

    Raises:
        ValueError: as there; no row has any label.
    """
    values = np.atleast_1d(average_precision_score(y_true, y_score))
    if np.isnan(values).all():
        raise ValueError("no row has any label; expected at least one")
    return float(np.nanmean(values))


class MeanAveragePrecision:
    """`mean_average_precision` of batches; all scores are kept until `compute`, on the CPU."""

    def __init__(self) -> None:
        self.true: list[np.ndarray] = []
        self.score: list[np.ndarray] = []

    def update(self, y_score: Any, y_true: Any) -> MeanAveragePrecision:
        """Keep (n, K) scores and truths."""
        self.true.append(np.asarray(as_numpy(y_true)))
        self.score.append(np.asarray(as_numpy(y_score)))
        return self

    def compute(self) -> float:
        """In [0, 1].

        Raises:
            ValueError: see `mean_average_precision`.
        """
        if not self.true:
            raise ValueError("no scores were kept; expected at least one row")
        return mean_average_precision(np.concatenate(self.true), np.concatenate(self.score))


def _precision(true: np.ndarray, score: np.ndarray) -> float:
    order = np.argsort(-score.astype(np.float64), kind="stable")
    true, score = true[order].astype(np.float64), score[order]
    last = np.append(np.flatnonzero(np.diff(score)), len(score) - 1)  # of each threshold
    found = np.cumsum(true)[last]
    if not found[-1]:
        return float("nan")
    precision, recall = found / (last + 1), found / found[-1]
    return float(np.sum(np.diff(recall, prepend=0) * precision))
