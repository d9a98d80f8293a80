"""Successive halving over pictures: bad cells are given up early."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, ClassVar

from diffeat.conditioned import marked
from diffeat.errors import SpecError
from diffeat.noise import shown_t
from diffeat.search.asking import MEMORY, Progress, ask, ask_test
from diffeat.search.finding import Cell, Finding, Selection
from diffeat.search.journal import Journal
from diffeat.search.judge import Judge
from diffeat.search.splits import LEFT_OUT, balanced_order
from diffeat.search.tasks import CellKey


@dataclass(frozen=True)
class Round:
    """Training pictures, and the validation score of every cell that was still there."""

    pictures: int
    scores: dict[CellKey, float]


@dataclass
class Halving(Finding):
    """What successive halving found.

    Attributes:
        rounds: from few pictures and all cells to all pictures and few cells.
        chosen: the best cell of the last round, scored on test.
        cost: fits, counted in fits on all training pictures (a fit on a quarter is 1/4).
        full_cost: the same for the whole grid: its number of cells.
        interval: of the best cell's test score, where it is not that of counts.
    """

    key: ClassVar[str] = "halving"

    rounds: list[Round]
    chosen: Cell
    cost: float
    full_cost: int
    interval: tuple[float, float] | None = None

    @property
    def best(self) -> Cell:
        return self.chosen

    @property
    def fits(self) -> int:
        """Fits of any size."""
        return sum(len(one.scores) for one in self.rounds)

    @property
    def large_fits_saved(self) -> int:
        """Cells that were never fitted on all training pictures."""
        return self.full_cost - len(self.rounds[-1].scores)

    def lines(self) -> list[str]:
        rounds = ", ".join(f"{len(one.scores)} cells on {one.pictures}" for one in self.rounds)
        rows = self.measure.rows
        mark = [marked(self.conditioned)] if self.conditioned else []
        return [
            *mark,
            f"successive halving: {rounds} {rows}; {self.fits} fits that cost as much as "
            f"{self.cost:.1f} on all {rows} instead of {self.full_cost}, "
            f"{self.large_fits_saved} cells never fitted on all",
        ]

    @property
    def cell_scores(self) -> dict[CellKey, float]:
        """Those of the first round, which has all cells."""
        return self.rounds[0].scores

    def rows(self) -> list[tuple[CellKey, dict[str, Any]]]:
        return [
            ((b, t), {"block": b, "t": shown_t(t), "pictures": one.pictures,
                      "validation": round(v, 4)})
            for one in self.rounds
            for (b, t), v in one.scores.items()
        ]  # fmt: skip

    def selection(self) -> Selection:
        best, interval = self.best, self.measure.interval(self.best.test) or self.interval
        return Selection(
            "successive halving", str(best), best.validation, best.test, self.cost,
            f"{self.fits} fits in {len(self.rounds)} rounds", interval,
        )  # fmt: skip

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
            "rounds": rounds, "best": self.best.to_dict(), "fits": self.fits, "cost": self.cost,
            "full_cost": self.full_cost, "large_fits_saved": self.large_fits_saved,
        }  # fmt: skip


def successive_halving(
    judge: Judge,
    journal: Journal | None = None,
    memory: int = MEMORY,
    progress: Progress = iter,
    *,
    least: int | None = None,
    seed: int = 0,
) -> Halving:
    """All cells on few training pictures, the better half on twice as many, until one is left.

    The last round learns from all training pictures. Subsets are class-balanced as far as the
    classes go, and each contains the one before. Every round is scored on the whole validation
    part; where the judge learns nothing, it is the validation pictures that are few at first. The
    features of all pictures must be at hand: fits are saved, not forwards.

    Args:
        least: pictures of the first round at least; None is what the judge calls fewest (four
            per class).
        seed: of the subsets.

    Raises:
        SpecError: fewer than two cells, or `least` below one per class.

    Source: Jamieson & Talwalkar 2016, "Non-stochastic best arm identification and
        hyperparameter optimization", algorithm 1 (with pictures as the resource).
    """
    journal, number = journal or Journal(), judge.number
    drawn = judge.part == judge.resource
    total, least = int(drawn.sum()), judge.fewest if least is None else least
    if len(judge.cells) < 2 or least < judge.classes:
        raise SpecError(
            f"halving of {len(judge.cells)} cells from {least} pictures; expected at least 2 "
            f"cells and {judge.classes} pictures, one per class"
        )
    order = balanced_order(drawn, seed, judge.labels)
    cells, rounds = list(judge.cells), []
    for size in progress(_sizes(len(cells), total, least)):
        part = judge.part.copy()
        part[order[size:]] = LEFT_OUT
        found = dict(ask(judge, cells, [part], memory, journal))
        scores = {cell: found[cell][0] for cell in cells}
        rounds.append(Round(size, {cell: one.validation for cell, one in scores.items()}))
        ranked = [cells[k] for k in number.order([scores[c].validation for c in cells])]
        kept = set(ranked[: math.ceil(len(cells) / 2)])
        cells = [cell for cell in cells if cell in kept]
    best = ranked[0]
    setting = scores[best].setting
    test, interval = ask_test(judge, best, setting, memory, journal)
    return Halving(
        rounds,
        Cell(*best, scores[best].validation, setting, test),
        cost=sum(len(one.scores) * one.pictures for one in rounds) / total,
        full_cost=len(judge.cells),
        interval=interval,
        measure=number,
        conditioned=judge.conditioned,
    )


def _sizes(cells: int, total: int, least: int) -> list[int]:
    """Pictures of each round, doubling up to all; no more rounds than it takes to halve."""
    rounds = max(1, math.ceil(math.log2(cells)))
    sizes = [total]
    while len(sizes) < rounds and sizes[-1] // 2 >= least:
        sizes.append(sizes[-1] // 2)
    return sizes[::-1]
