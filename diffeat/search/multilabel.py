"""Several labels per picture, or none, that are read off a cell by ridge."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from diffeat.search.by_ridge import ByRidge
from diffeat.search.measure import SHARE


class Multilabel(ByRidge):
    """Mean average precision of labels that ridge on ±1 ranks the pictures by.

    The mean is over the labels that some scored picture has. What ranks at random, or not at all,
    has the labels' shares among these pictures.

    Args: see `ByRidge`; `task.labels` are (N, K), 0 or 1.
    """

    name, unit, needs = "mean average precision", SHARE, ("several labels",)
    task_name, bounds = "multilabel", (0.0, 1.0)
    takes, draws = "labels", 1000

    def probe(self, penalties: Sequence[float], standardise: bool = True) -> Any:
        from probes import RidgeMultilabelProbe

        return RidgeMultilabelProbe(penalties, standardise, self.device)

    def foretold(self, probe: Any, X: np.ndarray) -> np.ndarray:
        return probe.decision_function(X)

    def score(self, truth: np.ndarray, found: np.ndarray) -> float:
        from probes.metrics import mean_average_precision

        return mean_average_precision(truth, found)

    def scores_of_draws(
        self, truth: np.ndarray, found: np.ndarray, times: np.ndarray
    ) -> np.ndarray:
        columns = zip(truth.T, found.T, strict=True)
        each = np.stack([_precision_of_draws(*column, times) for column in columns])
        some = ~np.isnan(each)
        counts = some.sum(0)
        sums = np.where(some, each, 0).sum(0)
        return np.where(counts > 0, sums / np.maximum(counts, 1), np.nan)

    @property
    def headline(self) -> str:
        truth = self.learnt
        each = truth.sum(1).mean()
        return f"{super().headline}; {truth.shape[1]} labels, {each:.2f} of them per picture"

    @property
    def floor(self) -> tuple[float, str]:
        constant = np.zeros(self.tested.shape)
        return self.score(self.tested, constant), "no order at all, the labels' shares"


def _precision_of_draws(true: np.ndarray, score: np.ndarray, times: np.ndarray) -> np.ndarray:
    """(B,) average precision of one label in draws; nan where none has it.

    Args:
        true, score: (n,) 0 or 1, and what ranks.
        times: (B, n) how often each picture is there.
    """
    order = np.argsort(-score.astype(np.float64), kind="stable")
    true, score, times = true[order], score[order], times[:, order]
    last = np.append(np.flatnonzero(np.diff(score)), len(score) - 1)  # of each threshold
    ranked = np.cumsum(times, 1)[:, last]
    found = np.cumsum(times * true, 1)[:, last]
    total = found[:, -1]
    gained = np.diff(found, prepend=0, axis=1)
    values = (gained * found / np.maximum(ranked, 1)).sum(1)
    return np.where(total > 0, values / np.maximum(total, 1), np.nan)
