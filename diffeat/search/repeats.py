"""The surface over repeated random splits: how sure is the choice?"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from diffeat.errors import SpecError
from diffeat.hashing import unit_interval
from diffeat.search.grid import MEMORY, Progress, score_cells, score_on_test
from diffeat.search.journal import Journal
from diffeat.search.scores import Function, Score, score_of
from diffeat.search.surface import Cell, Surface
from diffeat.search.tasks import TEST, TRAIN, VALIDATION, CellKey, Task, check_parts


@dataclass
class Repeats:
    """Scores of every cell over R splits.

    The splits share pictures, so the R scores of a cell are not independent and the intervals
    are too narrow as statements about new pictures; they say how far the choice of the split
    moves a score.

    Attributes:
        cells: the cells.
        scores: (cells, R) validation scores.
        settings: (cells, R) chosen settings; nan where a score has none.
        counts: training, validation and test pictures of the first split.
        best: the cell with the highest mean, its middle setting, and its score on test.
    """

    cells: list[CellKey]
    scores: np.ndarray
    settings: np.ndarray
    counts: tuple[int, int, int]
    best: Cell | None = None

    @property
    def mean(self) -> np.ndarray:
        """(cells,) mean over splits."""
        return self.scores.mean(1)

    @property
    def half_width(self) -> np.ndarray:
        """(cells,) half of the 95 % confidence interval of the mean: t(0.975, R - 1)·s/√R."""
        from scipy.stats import t

        repeats = self.scores.shape[1]
        spread = self.scores.std(1, ddof=1) / np.sqrt(repeats)
        return t.ppf(0.975, repeats - 1) * spread

    @property
    def wins(self) -> np.ndarray:
        """(cells,) in how many splits a cell was the best; the first of equals."""
        return np.bincount(self.scores.argmax(0), minlength=len(self.cells))

    def surface(self, name: str, classes: int, score: str) -> Surface:
        """The means as a surface."""
        cells = [
            Cell(*key, float(mean), _middle(row))
            for key, mean, row in zip(self.cells, self.mean, self.settings, strict=True)
        ]
        if self.best is not None:
            cells[self.cells.index(self.best.key)].test = self.best.test
        return Surface(name, cells, self.counts, classes, score)

    def to_dict(self) -> dict[str, Any]:
        columns = zip(self.cells, self.mean, self.half_width, self.wins, self.scores, strict=True)
        return {
            "repeats": self.scores.shape[1],
            "cells": [
                {"block": block, "t": t, "mean": float(mean), "half_width_95": float(half),
                 "wins": int(wins), "scores": row.tolist()}
                for (block, t), mean, half, wins, row in columns
            ],
            "best": None if self.best is None else vars(self.best),
        }  # fmt: skip


def random_part(task: Task, seed: int, repeat: int) -> np.ndarray:
    """(N,) the same test part, and another hash-seeded split of the rest in equal shares.

    Class by class where the task is (`Task.how`); what belongs together counts for the class of
    its first picture.
    """
    rest = (task.part == TRAIN) | (task.part == VALIDATION)
    share = (task.part == VALIDATION).sum() / rest.sum()
    names = task.owners or task.ids or tuple(map(str, range(len(task.labels))))
    place = np.array([unit_interval("repeat", seed, repeat, name) for name in names])
    held = _held_of_each_class(task, names, place, rest, share) if task.how else place < share
    part = np.where(held, VALIDATION, TRAIN)
    return np.where(rest, part, task.part)


def _held_of_each_class(
    task: Task, names: Sequence[str], place: np.ndarray, rest: np.ndarray, share: float
) -> np.ndarray:
    """(N,) which rows are for validation: of each class those whose owners come first."""
    first = {}
    for row in np.flatnonzero(rest):
        first.setdefault(names[row], (int(task.labels[row]), place[row]))
    held = set()
    for label in sorted({label for label, _ in first.values()}):
        owners = sorted((at, name) for name, (k, at) in first.items() if k == label)
        count = max(1, round(share * len(owners))) if len(owners) > 1 else 0
        held.update(name for _, name in owners[:count])
    return np.array([name in held for name in names])


def repeat_surface(
    task: Task,
    repeats: int,
    score: str | Score | Function = "logistic",
    seed: int = 0,
    memory: int = MEMORY,
    journal: Journal | None = None,
    progress: Progress = iter,
) -> Repeats:
    """Score every cell over R splits of the training and validation pictures.

    The test part stays as it is, and only the cell with the best mean is scored on it: refitted
    on all other pictures, with the middle of the settings that were chosen.

    Args:
        repeats: R, at least 2; every cell is read once for all of them.

    Raises:
        SpecError: fewer than 2 repeats, or a split that cannot be fitted.
    """
    if repeats < 2:
        raise SpecError(f"repeats={repeats}; expected at least 2 for a spread")
    score, journal = score_of(score), journal or Journal()
    parts = [random_part(task, seed, repeat) for repeat in range(repeats)]
    for number, part in enumerate(parts):
        check_parts(f"{task.name}, repeat {number}", task.labels, part)
    steps, found = iter(progress(list(task.cells))), {}
    for group in task.groups or (task.cells,):
        for cell, outcomes in score_cells(task, score, group, parts, memory, journal):
            found[cell] = outcomes
            next(steps, None)
    next(steps, None)
    rows = [found[cell] for cell in task.cells]
    scores = np.array([[one.validation for one in row] for row in rows])
    settings = np.array([[_number(one.setting) for one in row] for row in rows])
    counts = tuple(int((parts[0] == part).sum()) for part in (TRAIN, VALIDATION, TEST))
    result = Repeats(list(task.cells), scores, settings, counts)
    index = int(result.mean.argmax())
    key, setting = task.cells[index], _middle(settings[index])
    test = score_on_test(task, score, key, setting, memory, journal)
    result.best = Cell(*key, float(result.mean[index]), setting, test)
    return result


def _number(setting: float | None) -> float:
    return np.nan if setting is None else setting


def _middle(settings: np.ndarray) -> float | None:
    """The middle of the settings, one of them; None if there are none."""
    return None if np.isnan(settings).any() else float(np.sort(settings)[(len(settings) - 1) // 2])
