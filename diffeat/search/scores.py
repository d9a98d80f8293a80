"""What a cell is judged by: a probe that is fitted on training and scored on validation."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from diffeat.errors import NumericsError, SpecError
from diffeat.search.judge import Outcome
from probes.standardise import standardised

PENALTIES = (1e-4, 1e-3, 1e-2, 1e-1, 1.0)
ALPHAS = (1.0, 10.0, 100.0, 1e3, 1e4)
NEIGHBOURS = (1, 5, 10, 20)
SCORES = ("logistic", "ridge", "knn")
MAX_ITER, TOL = 200, 1e-4
"""When the logistic solver ends: iterations per penalty, largest entry of the gradient."""
GRAM_BYTES = 16 << 20
"""Of the pictures that ridge adds to its sums at a time, as float64."""
Function = Callable[[np.ndarray, np.ndarray, np.ndarray, np.ndarray], float]
"""(X_train, y_train, X_validation, y_validation) → a score, the higher the better."""


class Score(ABC):
    """How cells are judged; all choices inside are made on the validation part.

    Attributes:
        name: for tables.
        copies: arrays as large as the features of all fitted and scored pictures (float32)
            that are alive at once while a group of cells is fitted.
        device: where it is fitted.
        is_accuracy: whether the score is an accuracy, as that of a head is.
    """

    name: str
    copies: float = 4.0
    device: str = "cpu"
    is_accuracy: bool = True

    def bytes_of(self, pictures: int, width: int, classes: int, shared: int = 0) -> float:
        """Host memory that fitting one cell of a group takes, its features and work space.

        Args:
            pictures, width, classes: N, D and K.
            shared: further arrays as large as the features.
        """
        return 4 * (self.copies + shared) * pictures * width

    @abstractmethod
    def fit(self, X: np.ndarray, y: np.ndarray, Xv: np.ndarray, yv: np.ndarray) -> list[Outcome]:
        """Judge G cells that share D.

        Args:
            X: (G, N, D) float32 training features; y: (N,) labels.
            Xv: (G, M, D) validation features; yv: (M,) labels.

        Returns:
            G outcomes.
        """

    @abstractmethod
    def test(
        self, X: np.ndarray, y: np.ndarray, Xt: np.ndarray, yt: np.ndarray, setting: float | None
    ) -> float:
        """Score on (M, D) test features of a probe refitted on (N, D) with a chosen setting."""

    def head(self, X: np.ndarray, y: np.ndarray, setting: float | None) -> Any:
        """The estimator that `test` scores: fitted on (N, D) features as they come, unscaled.

        Raises:
            SpecError: as here, where there is none.
        """
        raise SpecError(f"score {self.name!r} fits no head that could be kept; expected "
                        f"{', '.join(SCORES)}")  # fmt: skip

    def describe(self) -> dict[str, Any]:
        """What finished work depends on."""
        return {"score": self.name}


class ManyAtOnce(Score):
    """Accuracy of a linear map per cell, all cells of a group fitted together.

    The penalty is chosen on validation, of equals the stronger one. A validation picture of a
    class that training lacks counts as wrong.

    Args:
        penalties: values to choose from.
        device: where it is fitted.
    """

    defaults: tuple[float, ...]

    def __init__(self, penalties: Sequence[float] | None = None, device: str = "cpu"):
        values = self.defaults if penalties is None else penalties
        self.penalties, self.device = tuple(sorted(float(value) for value in values)), device
        if not self.penalties or self.penalties[0] <= 0:
            raise SpecError(f"penalties {self.penalties}; expected positive numbers")

    @abstractmethod
    def many(self, penalties: Sequence[float], X, y, Xv, yv) -> Any:
        """The fitted estimator of G cells."""

    def fit(self, X, y, Xv, yv) -> list[Outcome]:
        known = np.isin(yv, y)
        if not known.any():
            raise SpecError("no validation picture is of a class that training has; give more")
        if not known.all():
            Xv, yv = Xv[:, known], yv[known]
        many = self.many(self.penalties, X, y, Xv, yv)
        pairs = zip(np.asarray(many.validation_), np.asarray(many.penalty_), strict=True)
        share = float(known.mean())
        return [Outcome(share * float(value), float(penalty)) for value, penalty in pairs]

    def test(self, X, y, Xt, yt, setting) -> float:
        # the one penalty is settled, so what it is "chosen" on does not matter
        many = self.many((setting,), X[None], y, X[None, :1], y[:1])
        return float(many.score(Xt[None], yt)[0])

    def head(self, X, y, setting) -> Any:
        return self.many((setting,), X[None], y, X[None, :1], y[:1]).probe(0)

    def describe(self) -> dict[str, Any]:
        return {"score": self.name, "penalties": list(self.penalties)}


class Logistic(ManyAtOnce):
    """Multinomial logistic regression; the objective of `probes.LinearProbe`.

    C runs from strong to weak, until the accuracy falls by more than one standard error.
    """

    name, defaults = "logistic", PENALTIES

    def bytes_of(self, pictures, width, classes, shared=0):
        """With six (N, K) arrays of logits and their kin."""
        return super().bytes_of(pictures, width, classes, shared) + 24 * pictures * classes

    def many(self, penalties, X, y, Xv, yv):
        from probes.many import ManyLogistic

        return ManyLogistic(penalties, MAX_ITER, TOL, self.device).fit(X, y, Xv, yv)

    def describe(self) -> dict[str, Any]:
        return {**super().describe(), "max_iter": MAX_ITER, "tol": TOL}


class Ridge(ManyAtOnce):
    """Ridge regression on the classes' indicators, in closed form."""

    name, defaults = "ridge", ALPHAS

    def bytes_of(self, pictures, width, classes, shared=0):
        """With six (S, S) matrices and one (S, D) of float64, S the smaller one of N and D."""
        side = min(pictures, width)
        work = 48 * side**2 + 8 * side * width
        return super().bytes_of(pictures, width, classes, shared) + work

    def many(self, penalties, X, y, Xv, yv):
        from probes.ridge import ManyRidge

        many, classes = ManyRidge(penalties, device=self.device), np.unique(y)
        if X.shape[2] > len(y):
            return many.fit(X, y, Xv, yv)
        step = max(1, GRAM_BYTES // (8 * X.shape[2]))  # its sums are float64
        for start in range(0, len(y), step):
            part = slice(start, start + step)
            many.partial_fit(X[:, part], y[part], classes)
        return many.solve(Xv, yv)


class Neighbours(Score):
    """Accuracy of the vote of the k nearest by cosine, of standardised features.

    Of equal counts the first class wins, of equal k the smaller.
    """

    name = "knn"

    def __init__(self, neighbours: Sequence[int] = NEIGHBOURS, device: str = "cpu"):
        self.device = device
        self.neighbours = tuple(sorted({int(k) for k in neighbours}))
        if not self.neighbours or self.neighbours[0] < 1:
            raise SpecError(f"neighbours {neighbours}; expected numbers of at least 1")

    def fit(self, X, y, Xv, yv) -> list[Outcome]:
        return [self._best(one, y, held, yv) for one, held in zip(X, Xv, strict=True)]

    def _best(self, X, y, Xv, yv) -> Outcome:
        usable = [k for k in self.neighbours if k <= len(X)] or [len(X)]
        scores = _votes(X, y, Xv, yv, usable, self.device)
        best = int(np.argmax(scores))
        return Outcome(scores[best], float(usable[best]))

    def test(self, X, y, Xt, yt, setting) -> float:
        return _votes(X, y, Xt, yt, [int(setting)], self.device)[0]

    def head(self, X, y, setting) -> Any:
        from probes.knn import KNNProbe

        return KNNProbe(int(setting), weights="uniform", standardise=True, device=self.device).fit(
            X, y
        )

    def describe(self) -> dict[str, Any]:
        return {"score": self.name, "neighbours": list(self.neighbours)}


class Custom(Score):
    """Any function (X_train, y_train, X_validation, y_validation) → float.

    The test score is the same function on training and validation together against test. Its
    name stands for it in finished work that is kept: another function needs another name.
    """

    is_accuracy = False

    def __init__(self, function: Function, name: str | None = None):
        self.function = function
        self.name = name or getattr(function, "__name__", type(function).__name__)

    def fit(self, X, y, Xv, yv) -> list[Outcome]:
        return [
            Outcome(self._call(one, y, held, yv), None) for one, held in zip(X, Xv, strict=True)
        ]

    def test(self, X, y, Xt, yt, setting) -> float:
        return self._call(X, y, Xt, yt)

    def _call(self, *arrays: np.ndarray) -> float:
        value = float(self.function(*arrays))
        if not math.isfinite(value):
            raise NumericsError(f"score {self.name!r} returned {value}; expected a finite number")
        return value

    def describe(self) -> dict[str, Any]:
        return {"score": self.name, "custom": True}


def score_of(
    score: str | Score | Function,
    penalties: Sequence[float] | None = None,
    device: str = "cpu",
) -> Score:
    """A `Score` from its name ("logistic", "ridge", "knn"), a function, or one ready made.

    Args:
        penalties: values to choose from: C, alpha or k; None means the default of each.

    Raises:
        SpecError: an unknown name.
    """
    if isinstance(score, Score):
        return score
    if callable(score):
        return Custom(score)
    if score == "logistic":
        return Logistic(penalties, device)
    if score == "ridge":
        return Ridge(penalties, device)
    if score == "knn":
        return Neighbours(penalties or NEIGHBOURS, device)
    raise SpecError(f"score {score!r}; expected {', '.join(SCORES)} or a function")


def _votes(
    X: np.ndarray, y: np.ndarray, Xt: np.ndarray, yt: np.ndarray, ks: Sequence[int], device: str
) -> list[float]:
    """Accuracies of k-NN for several ascending k, from one pass over the similarities."""
    from probes.lazy import Rows
    from probes.neighbours import nearest

    X, Xt = standardised(X, Xt)
    classes, targets = np.unique(y, return_inverse=True)
    votes = targets[nearest(Rows(Xt), Rows(X), max(ks), device=device)[1].numpy()]
    counts, scores, rows = np.zeros((len(Xt), len(classes)), np.int32), [], np.arange(len(Xt))
    for place in range(max(ks)):
        counts[rows, votes[:, place]] += 1
        if place + 1 in ks:
            scores.append(float((classes[counts.argmax(1)] == yt).mean()))
    return scores
