"""Successive halving over pictures: bad cells are given up early."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from diffeat.errors import SpecError
from diffeat.search.grid import MEMORY, Progress, score_cells, score_on_test
from diffeat.search.journal import Journal
from diffeat.search.scores import Function, Score, score_of
from diffeat.search.surface import Cell
from diffeat.search.tasks import TRAIN, CellKey, Task

LEFT_OUT = -1


@dataclass(frozen=True)
class Round:
    """Training pictures, and the validation score of every cell that was still there."""

    pictures: int
    scores: dict[CellKey, float]


@dataclass
class Halving:
    """What successive halving found.

    Attributes:
        rounds: from few pictures and all cells to all pictures and few cells.
        best: the best cell of the last round, scored on test.
        cost: fits, counted in fits on all training pictures (a fit on a quarter is 1/4).
        full_cost: the same for the whole grid: its number of cells.
    """

    rounds: list[Round]
    best: Cell
    cost: float
    full_cost: int

    @property
    def fits(self) -> int:
        """Fits of any size."""
        return sum(len(one.scores) for one in self.rounds)

    @property
    def large_fits_saved(self) -> int:
        """Cells that were never fitted on all training pictures."""
        return self.full_cost - len(self.rounds[-1].scores)

    def to_dict(self) -> dict[str, Any]:
        rounds = [
            {
                "pictures": one.pictures,
                "cells": [
                    {"block": b, "t": t, "validation": v} for (b, t), v in one.scores.items()
                ],
            }
            for one in self.rounds
        ]
        return {
            "rounds": rounds, "best": asdict(self.best), "fits": self.fits, "cost": self.cost,
            "full_cost": self.full_cost, "large_fits_saved": self.large_fits_saved,
        }  # fmt: skip


def successive_halving(
    task: Task,
    score: str | Score | Function = "logistic",
    least: int | None = None,
    seed: int = 0,
    memory: int = MEMORY,
    journal: Journal | None = None,
    progress: Progress = iter,
) -> Halving:
    """All cells on few training pictures, the better half on twice as many, until one is left.

    The last round fits on all training pictures. Subsets are class-balanced as far as the
    classes go, and each contains the one before. Every round is scored on the whole validation
    part. The features of all pictures must be at hand: fits are saved, not forwards.

    Args:
        least: training pictures of the first round at least; None means four per class.
        seed: of the subsets.

    Raises:
        SpecError: fewer than two cells, or `least` below one per class.

    Source: Jamieson & Talwalkar 2016, "Non-stochastic best arm identification and
        hyperparameter optimization", algorithm 1 (with pictures as the resource).
    """
    score, journal = score_of(score), journal or Journal()
    total, classes = int((task.part == TRAIN).sum()), task.classes
    least = 4 * classes if least is None else least
    if len(task.cells) < 2 or least < classes:
        raise SpecError(
            f"halving of {len(task.cells)} cells from {least} pictures; expected at least 2 "
            f"cells and {classes} pictures, one per class"
        )
    order = balanced_order(task.labels, task.part == TRAIN, seed)
    sizes = _sizes(len(task.cells), total, least)
    cells, rounds = list(task.cells), []
    for size in progress(sizes):
        part = task.part.copy()
        part[order[size:]] = LEFT_OUT
        found = dict(score_cells(task, score, cells, [part], memory, journal))
        scores = {cell: found[cell][0] for cell in cells}
        rounds.append(Round(size, {cell: one.validation for cell, one in scores.items()}))
        ranked = sorted(cells, key=lambda cell: -scores[cell].validation)  # stable
        kept = set(ranked[: math.ceil(len(cells) / 2)])
        cells = [cell for cell in cells if cell in kept]
    best = ranked[0]
    setting = scores[best].setting
    test = score_on_test(task, score, best, setting, memory, journal)
    cell = Cell(*best, scores[best].validation, setting, test)
    cost = sum(len(one.scores) * one.pictures for one in rounds) / total
    return Halving(rounds, cell, cost, len(task.cells))


def _sizes(cells: int, total: int, least: int) -> list[int]:
    """Pictures of each round, doubling up to all; no more rounds than it takes to halve."""
    rounds = max(1, math.ceil(math.log2(cells)))
    sizes = [total]
    while len(sizes) < rounds and sizes[-1] // 2 >= least:
        sizes.append(sizes[-1] // 2)
    return sizes[::-1]


def balanced_order(labels: np.ndarray, chosen: np.ndarray, seed: int) -> np.ndarray:
    """Row numbers of the chosen pictures, so that every prefix has its classes in balance."""
    rng = np.random.default_rng(seed)
    rows = rng.permutation(np.flatnonzero(chosen))
    rank = np.empty(len(rows), np.int64)  # of a picture within its class
    for label in np.unique(labels[rows]):
        same = labels[rows] == label
        rank[same] = np.arange(same.sum())
    return rows[np.argsort(rank, kind="stable")]
