"""What a kept head predicted, counted and compared with what is known, batch by batch."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from diffeat.search.applied import Applied, Predicted
from diffeat.search.targeted import TargetChoice, own_if_any, targets_of
from diffeat.search.tasks import kind_of, known_targets
from diffeat.targets import Labelled
from diffeat.targets.tables import read_any

KIND_OF = {"classes": "class", "labels": "labels", "numbers": "number"}
"""What a head predicts → kind of the targets that it is compared with."""


class Tally(ABC):
    """Predictions of all pictures, and how good they are where that can be known.

    Args:
        names: of the head's classes, labels or numbers.
        truth: of all pictures; None where there is none.

    Attributes:
        compared: whether there is a truth that can be compared.
        known: pictures so far whose truth is known.
    """

    def __init__(self, names: Sequence[str], truth: Labelled | None = None):
        self.names, self.known = list(names), 0
        self.truth = None if truth is None else self._in_terms_of_head(truth)
        self.compared = self.truth is not None

    def update(self, found: Predicted, rows: np.ndarray) -> None:
        """Take note of predictions of some pictures.

        Args:
            rows: (n,) which these are.
        """
        self._count(found)
        if self.truth is None:
            return
        truth = self.truth[rows]
        known = known_targets(truth)
        self.known += int(known.sum())
        if known.any():
            self._compare(found, truth, known)

    @property
    def scores(self) -> dict[str, float]:
        """By name; {} where nothing was compared."""
        return self._scores() if self.known else {}

    @property
    def counts(self) -> dict[str, int] | None:
        """Pictures by predicted class or label; None of numbers."""
        return None

    @abstractmethod
    def text(self) -> str:
        """The scores for people."""

    @abstractmethod
    def _in_terms_of_head(self, truth: Labelled) -> np.ndarray | None:
        """The truth by the head's names; None where it cannot be compared."""

    @abstractmethod
    def _compare(self, found: Predicted, truth: np.ndarray, known: np.ndarray) -> None: ...

    @abstractmethod
    def _scores(self) -> dict[str, float]: ...

    def _count(self, found: Predicted) -> None:  # noqa: B027
        """What is counted of all predictions."""


class ClassTally(Tally):
    """Accuracy, where every class that occurs is one of the head's, by name."""

    def __init__(self, names: Sequence[str], truth: Labelled | None = None):
        super().__init__(names, truth)
        self._counts, self.right = np.zeros(len(self.names), np.int64), 0

    def _in_terms_of_head(self, truth: Labelled) -> np.ndarray | None:
        place = {name: k for k, name in enumerate(self.names)}
        wanted = [place.get(name, -1) for name in truth.class_names]
        used = [label for label in np.unique(truth.labels) if label >= 0]
        if not used or any(wanted[label] < 0 for label in used):
            return None
        return np.array([*wanted, -1])[truth.labels]

    def _count(self, found: Predicted) -> None:
        self._counts += np.bincount(found.classes, minlength=len(self._counts))

    def _compare(self, found: Predicted, truth: np.ndarray, known: np.ndarray) -> None:
        self.right += int((truth == found.classes)[known].sum())

    def _scores(self) -> dict[str, float]:
        return {"accuracy": self.right / self.known}

    @property
    def counts(self) -> dict[str, int]:
        return {n: int(c) for n, c in zip(self.names, self._counts, strict=True) if c}

    def text(self) -> str:
        return f"accuracy {100 * self.scores['accuracy']:.2f} %"


class NumberTally(Tally):
    """R² and mean absolute error of a head of one number."""

    def __init__(self, names: Sequence[str], truth: Labelled | None = None):
        from probes.metrics import MeanAbsoluteError, R2Score

        super().__init__(names, truth)
        self._r2, self._error = R2Score(), MeanAbsoluteError()

    def _in_terms_of_head(self, truth: Labelled) -> np.ndarray | None:
        return truth.labels if len(self.names) == 1 and kind_of(truth.labels) == "number" else None

    def _compare(self, found: Predicted, truth: np.ndarray, known: np.ndarray) -> None:
        for metric in (self._r2, self._error):
            metric.update(found.values[known, 0], truth[known])

    def _scores(self) -> dict[str, float]:
        r2 = {"R²": self._r2.compute()} if self.known > 1 else {}
        return {**r2, "mean absolute error": self._error.compute()}

    def text(self) -> str:
        return ", ".join(f"{name} {value:.4g}" for name, value in self.scores.items())


class LabelTally(Tally):
    """Mean average precision over the head's labels that some picture has, by name.

    A label that the truth does not name has no picture there; one that the head does not know
    plays no part.
    """

    def __init__(self, names: Sequence[str], truth: Labelled | None = None):
        from probes.metrics import MeanAveragePrecision

        super().__init__(names, truth)
        self._precision, self._some = MeanAveragePrecision(), False
        self._counts = np.zeros(len(self.names), np.int64)

    def _in_terms_of_head(self, truth: Labelled) -> np.ndarray | None:
        place = {name: k for k, name in enumerate(truth.class_names)}
        shared = [name for name in self.names if name in place]
        if kind_of(truth.labels) != "labels" or not shared:
            return None
        found = np.zeros((len(truth.labels), len(self.names)), np.int64)
        for column, name in enumerate(self.names):
            if name in place:
                found[:, column] = truth.labels[:, place[name]]
        found[~known_targets(truth.labels)] = -1
        return found

    def _compare(self, found: Predicted, truth: np.ndarray, known: np.ndarray) -> None:
        self._precision.update(found.values[known], truth[known])
        self._some = self._some or bool(truth[known].any())

    def _scores(self) -> dict[str, float]:
        return {"mean average precision": self._precision.compute()} if self._some else {}

    def text(self) -> str:
        return f"mean average precision {100 * self.scores['mean average precision']:.2f} %"


TALLIES: dict[str, type[Tally]] = {
    "classes": ClassTally,
    "labels": LabelTally,
    "numbers": NumberTally,
}


def tally_of(applied: Applied, truth: Labelled | None) -> Tally:
    """The tally of what a head predicts."""
    return TALLIES[applied.kind](applied.names, truth)


def not_compared(tally: Tally, truth: Labelled | None, choice: TargetChoice) -> str:
    """Why what was asked to be compared is not; "" where it is, or nothing was asked."""
    if tally.compared or truth is None or not (choice.labels or choice.columns):
        return ""
    there, known = (", ".join(names[:3]) + ", …" * (len(names) > 3) or "numbers"
                    for names in (tuple(truth.class_names), tally.names))  # fmt: skip
    return (f"the labels ({there}) are not those of the head ({known}), so nothing is compared; "
            "expected the same names, or another --column")  # fmt: skip


def truth_of(applied: Applied, what: Any, choice: TargetChoice) -> Labelled | None:
    """What is known of the pictures of a source or a feature file, of the head's kind.

    Args:
        what: its own labels count where `choice` names no others.
        choice: a table, or columns.

    Returns:
        None where nothing is known.
    """
    kind, names = KIND_OF[applied.kind], tuple(applied.note.class_names)
    if names and kind != "class" and not choice.columns:  # by the columns that it was fitted on
        table = choice.labels and read_any(choice.labels, names, None).columns
        if set(names) <= set(table or getattr(what, "targets", None) or ()):
            choice = replace(choice, columns=names)
        elif choice.labels is None and kind == "number":  # their classes are no such numbers
            return None
    if choice.labels is None and not choice.columns:
        return own_if_any(what, kind)
    return targets_of([what], kind, choice)[0]
