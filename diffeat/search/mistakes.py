"""Which validation pictures a cell gets wrong: what to look at before a number is believed."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from diffeat.errors import SpecError
from diffeat.search.classification import Classification
from diffeat.search.finding import Cell
from diffeat.search.splits import TRAIN, VALIDATION


class Mistake(NamedTuple):
    """A validation picture: its row, the class that was said, with how much, and the true one."""

    row: int
    said: str
    value: float
    true: str


def mistakes_of(judge: Classification, cell: Cell, most: int) -> tuple[int, list[Mistake]]:
    """The validation pictures that a cell's probe gets wrong, surest first.

    The probe is fitted once more on training alone, with the setting that validation chose, so
    the count is that of the cell's score; test pictures play no part.

    Args:
        most: mistakes that are returned.

    Returns:
        How many there are, and the first of them.

    Raises:
        SpecError: no probe stands behind the score.
    """
    if not isinstance(judge, Classification) or not judge.score.is_accuracy:
        raise SpecError(f"{judge.name} is not of classes that pictures are given")
    train, held = judge.part == TRAIN, judge.part == VALIDATION
    head = judge.score.head(judge.task.matrix(cell.key, train), judge.labels[train], cell.setting)
    X = judge.task.matrix(cell.key, held)
    scores = head.predict_proba if hasattr(head, "predict_proba") else head.decision_function
    values = np.asarray(scores(X))
    if values.ndim == 1:  # of two classes, as scikit-learn has it: one number for the second
        values = np.stack([-values, values], 1)
    said, rows = np.asarray(head.predict(X)), np.flatnonzero(held)
    wrong = np.flatnonzero(said != judge.labels[rows])
    sure = values[wrong].max(1)
    first = np.argsort(-sure, kind="stable")[:most]
    names = judge.made.class_names if judge.made else ()

    def name(label: int) -> str:
        return names[label] if label < len(names) else str(label)

    found = [
        Mistake(int(rows[k]), name(int(said[k])), float(values[k].max()),
                name(int(judge.labels[rows[k]])))
        for k in wrong[first]
    ]  # fmt: skip
    return len(wrong), found
