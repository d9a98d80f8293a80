"""Real numbers of pictures (an age, an angle, a count) that are read off a cell by ridge."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from diffeat.search.by_ridge import ByRidge
from diffeat.search.judge import Candidate


class Regression(ByRidge):
    """R² of numbers that ridge regression reads off a cell.

        R² = 1 - sum (y - ŷ)² / sum (y - mean y)²

    It is 1 where all is found and 0 for a constant, the mean of what is scored; below 0 for what
    is worse than that.

    Args: see `ByRidge`; `task.labels` are (N,) float64.
    """

    name, unit, needs, task_name = "R²", "", ("numbers",), "regression"
    takes = "number"

    def probe(self, penalties: Sequence[float], standardise: bool = True) -> Any:
        from probes import RidgeRegressionProbe

        return RidgeRegressionProbe(penalties, standardise, self.device)

    def foretold(self, probe: Any, X: np.ndarray) -> np.ndarray:
        return np.asarray(probe.predict(X)).reshape(-1, 1)

    def score(self, truth: np.ndarray, found: np.ndarray) -> float:
        from probes.metrics import r2_score

        return r2_score(truth, found[:, 0])

    def scores_of_draws(
        self, truth: np.ndarray, found: np.ndarray, times: np.ndarray
    ) -> np.ndarray:
        y = truth - truth.mean()
        count, first, second = times.sum(1), times @ y, times @ y**2
        spread = second - first**2 / count
        missed = times @ (truth - found[:, 0]) ** 2
        return np.where(spread > 0, 1 - missed / np.where(spread > 0, spread, 1), np.nan)

    @property
    def headline(self) -> str:
        target = "".join(self.made.class_names) if self.made else ""
        low, high = self.learnt.min(), self.learnt.max()
        return f"{super().headline}; {target or 'numbers'} from {low:g} to {high:g} in training"

    @property
    def floor(self) -> tuple[float, str]:
        return self.score(self.tested, self._mean), "the mean of training"

    def aside(self, cell: Candidate, setting: float | None) -> dict[str, float]:
        found = self.test(cell, setting)
        return {
            "mean absolute error": _error(self.tested, found),
            "mean absolute error of a constant": _error(self.tested, self._mean),
        }

    @property
    def _mean(self) -> np.ndarray:
        """(n, 1) what a constant says of test."""
        return np.full((len(self.tested), 1), self.learnt.mean())


def _error(truth: np.ndarray, found: np.ndarray) -> float:
    from probes.metrics import mean_absolute_error

    return mean_absolute_error(truth, found[:, 0])
