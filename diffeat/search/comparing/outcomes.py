"""What a system did on each test row, kept so that differences between systems are paired."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import numpy as np

from diffeat.errors import SpecError
from diffeat.search.by_ridge import ByRidge
from diffeat.search.classification import Classification
from diffeat.search.dense.judge import DenseJudge
from diffeat.search.judge import Candidate, Judge, cells_in
from diffeat.search.matching.judge import Matching
from diffeat.search.multilabel import Multilabel
from diffeat.search.splits import TEST
from probes.metrics.pck import PCK, shares

Scorer = Callable[[np.ndarray, np.ndarray], np.ndarray]
"""((n, …) outcomes, (B, n) how often each row is there) → (B,) scores; nan where none is."""


@dataclass(frozen=True, eq=False)
class Outcomes:
    """Outcomes of n test rows, and how they make a score.

    Attributes:
        values: (n, …), such as 1 for right and 0 for wrong, or what was foretold.
        score: gives the score of draws in which each row stands so many times.
    """

    values: np.ndarray
    score: Scorer

    @property
    def value(self) -> float:
        """The score of all rows, each once."""
        return float(self.of_draws(np.ones((1, len(self.values)), np.int64))[0])

    def of_draws(self, times: np.ndarray) -> np.ndarray:
        """(B,) scores of draws in which each row stands (B, n) times."""
        return np.asarray(self.score(self.values, times), np.float64)


def mean_of_draws(values: np.ndarray, times: np.ndarray) -> np.ndarray:
    """(B,) means of (n,) numbers of rows."""
    return times @ values / times.sum(1)


def outcomes_of(judge: Judge, candidate: Candidate, setting: float | None) -> Outcomes:
    """What was chosen, on each test row, learnt from training and validation together.

    Of classes it is the head's prediction, right (1) or wrong (0). Its mean is the accuracy that
    `Classification.test` gives, but for pictures whose two best classes differ by rounding alone
    (see `Classification.head`). Of pairs it is how many points are right, of how many. Other
    judges' `test` speaks of each row itself.

    Raises:
        SpecError: a judge that gives one number of all rows.
    """
    if isinstance(judge, Classification):
        return Outcomes(_right(judge, candidate, setting), mean_of_draws)
    if isinstance(judge, Matching):
        return pair_outcomes(judge, judge.test(candidate, setting))
    found = np.asarray(judge.test(candidate, setting), np.float64)
    if isinstance(judge, (ByRidge, DenseJudge)):
        return Outcomes(found, scorer_of(judge))
    if found.shape != ((count := int((judge.part == TEST).sum())),):
        raise SpecError(
            f"{judge.source}: {judge.name} on test has shape {found.shape}; differences are paired "
            f"over what is tested, so one number for each of the {count} test rows is needed"
        )
    return Outcomes(found, mean_of_draws)


def scorer_of(judge: Judge) -> Scorer:
    """How the outcomes of a judge's test rows make its score."""
    if isinstance(judge, ByRidge):
        return partial(judge.scores_of_draws, judge.tested)
    if isinstance(judge, DenseJudge):
        return judge.scores_of_draws
    if isinstance(judge, Matching):
        rows, targets = np.flatnonzero(judge.part == TEST), judge.bound.targets
        aggregate = judge.convention.aggregate
        named = targets.target if aggregate == "picture" else targets.categories
        return partial(_share_of_points, aggregate, np.asarray(named)[rows])
    return mean_of_draws


def pair_outcomes(judge: Matching, found: PCK) -> Outcomes:
    """(n, 2) points of each test pair that are right, and all of them."""
    right, points = found.counts()
    return Outcomes(np.stack([right[:, 0], points], 1).astype(np.float64), scorer_of(judge))


def _share_of_points(
    aggregate: str, names: np.ndarray, values: np.ndarray, times: np.ndarray
) -> np.ndarray:
    return shares(aggregate, values[:, :1], values[:, 1], names, times)[:, 0]


def _right(judge: Classification, candidate: Candidate, setting: float | None) -> np.ndarray:
    """(n,) 1.0 where the head of a candidate is right, else 0.0."""
    tested = judge.part == TEST
    X = [judge.task.matrix(key, tested) for key in cells_in(candidate)]
    said = judge.head(candidate, setting).predict(np.concatenate(X, axis=1))
    return (np.asarray(said) == judge.labels[tested]).astype(np.float64)


def floor_of(judge: Judge) -> tuple[str, Outcomes] | None:
    """What a constant does on each test row, and which constant; None where nothing is known.

    For classes the most frequent one of training and validation, for numbers their mean there,
    for several labels no order at all; at pixels what needs no features.
    """
    if isinstance(judge, Classification):
        guess = np.bincount(judge.labels[judge.task.seen]).argmax()
        right = (judge.labels[judge.part == TEST] == guess).astype(np.float64)
        return "most frequent class", Outcomes(right, mean_of_draws)
    if isinstance(judge, DenseJudge):
        values, what = judge.constant
        return what, Outcomes(values, scorer_of(judge))
    if isinstance(judge, Multilabel):
        return "labels' shares", Outcomes(np.zeros(judge.tested.shape), scorer_of(judge))
    if isinstance(judge, ByRidge):
        mean = np.full((len(judge.tested), 1), judge.learnt.mean())
        return "mean of training", Outcomes(mean, scorer_of(judge))
    return None
