"""The scored (block, t) cells of one judge: the whole grid."""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, ClassVar

from diffeat.conditioned import marked
from diffeat.noise import shown_t
from diffeat.search.asking import MEMORY, Progress, ask, ask_test
from diffeat.search.classification import Classification
from diffeat.search.finding import Cell, Finding, Selection
from diffeat.search.grid import ACCURACY, Grid, write_rows
from diffeat.search.journal import Journal
from diffeat.search.judge import Judge
from diffeat.search.scores import PENALTIES, Logistic
from diffeat.search.tasks import CellKey, Task


@dataclass
class Surface(Finding):
    """The judged cells.

    Attributes:
        name: what the features are of.
        cells: all cells, blocks in the order of execution.
        counts: pictures in training, validation and test.
        classes: number of classes or labels; 1 where there are none.
        score: what was fitted.
        how: why the parts were made class by class; "" for parts by a hash.
        intervals: 95 % interval of a cell's test score, where it is not that of counts.
    """

    key: ClassVar[str] = "surface"

    name: str
    cells: list[Cell]
    counts: tuple[int, int, int]
    classes: int
    score: str = "logistic"
    how: str = ""
    intervals: dict[CellKey, tuple[float, float]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if self.measure is ACCURACY:  # with the test pictures that intervals count
            tested = self.counts[2]
            self.measure = replace(ACCURACY, pictures=tested, groups=tested, counted=True)

    @classmethod
    def of(cls, judge: Judge, cells: list[Cell]) -> Surface:
        """The cells of a judge."""
        score = judge.describe().get("score", judge.name)
        return cls(
            judge.source, cells, judge.counts, judge.told_apart, score, judge.how,
            measure=judge.number, conditioned=judge.conditioned,
        )  # fmt: skip

    @property
    def best(self) -> Cell:
        """The cell with the best validation score; the first of equals."""
        return self._best(self.cells)

    def best_at(self, t: float) -> Cell:
        """The block with the best validation score at one t."""
        return self._best([cell for cell in self.cells if cell.t == t])

    def _best(self, cells: list[Cell]) -> Cell:
        return cells[self.measure.best([cell.validation for cell in cells])]

    def interval_of(self, cell: Cell) -> tuple[float, float] | None:
        """95 % interval of a cell's test score; None where it has none."""
        counted = self.measure.interval(cell.test)
        return counted or self.intervals.get(cell.key)

    @property
    def interval(self) -> tuple[float, float] | None:
        """That of the best cell."""
        return self.interval_of(self.best)

    @property
    def timesteps(self) -> list[int | float]:
        return self.grid.timesteps

    @property
    def blocks(self) -> list[str]:
        return self.grid.blocks

    @property
    def grid(self) -> Grid:
        """The validation scores."""
        return Grid(
            self.name, self.cell_scores, self.measure,
            f"validation {self.measure.name}", self._mark,
        )  # fmt: skip

    @property
    def _mark(self) -> str:
        return marked(self.conditioned) if self.conditioned else ""

    def table(self) -> str:
        """Validation scores, blocks down and t across; the best is starred."""
        return self.grid.table()

    def lines(self) -> list[str]:
        return self.table().splitlines()

    def to_dict(self) -> dict[str, Any]:
        names = ("counts", "classes", "score", "how")
        plain = {
            "name": self.name,
            "cells": [cell.to_dict() for cell in self.cells],
            **{name: getattr(self, name) for name in names},
            "best": self.best.to_dict(),
            "test_interval_95": self.interval,
            "measure": self.measure.to_dict(),
        }
        return {**plain, "conditioned": self._mark} if self._mark else plain

    def write_json(self, path: str | Path) -> None:
        Path(path).write_text(json.dumps(self.to_dict(), indent=1) + "\n", encoding="utf-8")

    def write_csv(self, path: str | Path) -> None:
        """One row per cell: features, block, t, validation, test (empty if not chosen), setting,
        and the ends of the 95 % interval of test."""
        rows = [row for _, row in self.rows()]
        for row, cell in zip(rows, self.cells, strict=True):
            ends = self.interval_of(cell) if cell.test is not None else None
            row["test_low"], row["test_high"] = (
                (round(end, 4) for end in ends) if ends else ("", "")
            )
            if self._mark:
                row["conditioned"] = self._mark
        write_rows(path, rows)

    @property
    def cell_scores(self) -> dict[CellKey, float]:
        return {cell.key: cell.validation for cell in self.cells}

    def rows(self) -> list[tuple[CellKey, dict[str, Any]]]:
        return [(cell.key, self._row(cell)) for cell in self.cells]

    def _row(self, cell: Cell) -> dict[str, Any]:
        return {
            "features": self.name,
            "block": cell.block,
            "t": shown_t(cell.t),
            "validation": round(cell.validation, 4),
            "test": "" if cell.test is None else round(cell.test, 4),
            "setting": cell.setting,
        }

    def selection(self) -> Selection:
        best, count = self.best, len(self.cells)
        return Selection(
            "grid search", str(best), best.validation, best.test, count, f"{count} cells judged",
            self.interval,
        )  # fmt: skip


def search_surface(
    judge: Judge,
    journal: Journal | None = None,
    memory: int = MEMORY,
    progress: Progress = iter,
) -> Surface:
    """Judge every cell; choose on validation; touch test once per choice.

    The best cell, and the best block at each t, are judged on test with the setting that
    validation chose, learnt from training and validation together. Features are read from where
    they lie, as many cells at a time as fit in `memory` (see the judge).

    Args:
        judge: of the task.
        journal: where finished cells are kept.
        memory: in bytes.
        progress: wraps the list of cells, such as a progress bar.

    Raises:
        SpecError: one cell alone needs more than `memory`.
        NumericsError: nan or inf in a cell.
    """
    journal = journal or Journal()
    surface = Surface.of(judge, [])
    steps = iter(progress(list(judge.cells)))
    next(steps, None)  # from here on the next one says that a cell is done
    place = {cell: index for index, cell in enumerate(judge.cells)}
    for group in judge.together or (judge.cells,):
        cells = []
        for key, [outcome] in ask(judge, group, None, memory, journal):
            cells.append(Cell(*key, outcome.validation, outcome.setting))
            next(steps, None)
        surface.cells = sorted([*surface.cells, *cells], key=lambda cell: place[cell.key])
        done = {cell.key for cell in surface.cells}
        for t in {cell.t: None for cell in cells}:  # while their features are at hand
            if all(key in done for key in judge.cells if key[1] == t):
                chosen = surface.best_at(t)
                chosen.test, interval = ask_test(judge, chosen.key, chosen.setting, memory, journal)
                if interval is not None:
                    surface.intervals[chosen.key] = interval
    return surface


def probe_surface(
    task: Task,
    penalties: Iterable[float] = PENALTIES,
    progress: Progress = iter,
    device: str = "cpu",
) -> Surface:
    """`search_surface` by linear probes.

    Args:
        task: features and parts.
        penalties: values of C to choose from.
        progress: wraps the list of cells, such as a progress bar.
        device: where the probes are fitted.
    """
    judge = Classification(task, Logistic(tuple(penalties), device))
    return search_surface(judge, progress=progress)
