"""The surface over repeated random splits: how sure is the choice?"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar

import numpy as np

from diffeat.errors import SpecError
from diffeat.search.asking import MEMORY, Progress, ask, ask_test
from diffeat.search.finding import Cell, Finding, cell_text
from diffeat.search.journal import Journal
from diffeat.search.judge import Judge
from diffeat.search.splits import TEST, TRAIN, VALIDATION
from diffeat.search.surface import Surface
from diffeat.search.tasks import CellKey


@dataclass
class Repeats(Finding):
    """Scores of every cell over R splits.

    The splits share pictures, so the R scores of a cell are not independent and the intervals
    are too narrow as statements about new pictures; they show how far the choice of the split
    moves a score.

    Attributes:
        surface: the means, with the middle of the settings; the best one is scored on test.
        scores: (cells, R) validation scores.
        settings: (cells, R) chosen settings; nan where there is none.
    """

    key: ClassVar[str] = "repeats"

    surface: Surface
    scores: np.ndarray = field(repr=False)
    settings: np.ndarray = field(repr=False)

    @property
    def cells(self) -> list[CellKey]:
        return [cell.key for cell in self.surface.cells]

    @property
    def best(self) -> Cell:
        """The cell with the best mean."""
        return self.surface.best

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
        winners = [self.measure.best(column) for column in self.scores.T]
        return np.bincount(winners, minlength=len(self.cells))

    @property
    def grid(self):
        return self.surface.grid

    def parts(self) -> dict[str, Finding]:
        return {Surface.key: self.surface, self.key: self}

    def columns(self) -> dict[str, Mapping[CellKey, Any]]:
        half = [round(float(value), 4) for value in self.half_width]
        return {
            "half_width_95": dict(zip(self.cells, half, strict=True)),
            "wins": dict(zip(self.cells, map(int, self.wins), strict=True)),
        }

    def lines(self) -> list[str]:
        lines = [
            f"{self.scores.shape[1]} splits, mean ± half of the 95 % interval (they share "
            "pictures), and in how many splits a cell was the best:"
        ]
        for index in self.measure.order(self.mean)[:5]:
            lines.append(
                f"  {cell_text(self.cells[index])}: {self.measure.show(self.mean[index])} ± "
                f"{self.measure.say(self.half_width[index])}, {self.wins[index]}"
            )
        return lines

    def to_dict(self) -> dict[str, Any]:
        columns = zip(self.cells, self.mean, self.half_width, self.wins, self.scores, strict=True)
        return {
            "repeats": self.scores.shape[1],
            "cells": [
                {"block": block, "t": t, "mean": float(mean), "half_width_95": float(half),
                 "wins": int(wins), "scores": row.tolist()}
                for (block, t), mean, half, wins, row in columns
            ],
            "best": self.best.to_dict(),
        }  # fmt: skip


def repeat_surface(
    judge: Judge,
    journal: Journal | None = None,
    memory: int = MEMORY,
    progress: Progress = iter,
    *,
    repeats: int,
    seed: int = 0,
) -> Repeats:
    """Judge every cell over R splits of the training and validation pictures.

    The test part stays as it is, and only the cell with the best mean is judged on it, learnt
    from all other pictures, with the middle of the settings that were chosen.

    Args:
        repeats: R, at least 2; every cell is read once for all of them.

    Raises:
        SpecError: fewer than 2 repeats, or a split that cannot be fitted.
    """
    if repeats < 2:
        raise SpecError(f"repeats={repeats}; expected at least 2 for a spread")
    journal, labels = journal or Journal(), judge.labels if judge.how else None
    parts = [judge.another_part(seed, k, labels) for k in range(repeats)]
    for part in parts:
        judge.check(part)
    steps, found = iter(progress(list(judge.cells))), {}
    next(steps, None)  # from here on the next one says that a cell is done
    for group in judge.together or (judge.cells,):
        for cell, outcomes in ask(judge, group, parts, memory, journal):
            found[cell] = outcomes
            next(steps, None)
    rows = [found[cell] for cell in judge.cells]
    scores = np.array([[one.validation for one in row] for row in rows])
    settings = np.array([[_number(one.setting) for one in row] for row in rows])
    means = zip(judge.cells, scores.mean(1), settings, strict=True)
    surface = Surface.of(judge, [Cell(*key, float(m), _middle(row)) for key, m, row in means])
    surface.counts = tuple(int((parts[0] == part).sum()) for part in (TRAIN, VALIDATION, TEST))
    best = surface.best
    best.test, interval = ask_test(judge, best.key, best.setting, memory, journal)
    if interval is not None:
        surface.intervals[best.key] = interval
    return Repeats(surface, scores, settings, measure=judge.number)


def _number(setting: float | None) -> float:
    return np.nan if setting is None else setting


def _middle(settings: np.ndarray) -> float | None:
    """The middle of the settings, one of them; None if there are none."""
    return None if np.isnan(settings).any() else float(np.sort(settings)[(len(settings) - 1) // 2])
