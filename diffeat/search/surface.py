"""The scored (block, t) cells of one task, as a grid, a table and files."""

from __future__ import annotations

import csv
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from diffeat.conditioned import marked
from diffeat.noise import shown_t
from diffeat.search.intervals import accuracy_interval
from diffeat.search.tasks import CellKey


@dataclass
class Cell:
    """One (block, t): accuracies in [0, 1]; `test` only where the cell was chosen.

    `C` is the setting that validation chose: C of the logistic probe, alpha of ridge, k of
    k-NN; None for a score that has none.
    """

    block: str
    t: int | float
    validation: float
    C: float | None
    test: float | None = None

    @property
    def key(self) -> tuple[str, float]:
        return self.block, self.t


@dataclass
class Surface:
    """The fitted cells of one task.

    Attributes:
        name: what the features are of.
        cells: all cells, blocks in the order of execution.
        counts: pictures in training, validation and test.
        classes: number of classes.
        score: what was fitted.
        conditioned: by what the features were told their targets, "" if they were not; marks
            every table (see `diffeat.conditioned`).
        how: why the parts were made class by class; "" for parts by a hash.
    """

    name: str
    cells: list[Cell]
    counts: tuple[int, int, int]
    classes: int
    score: str = "logistic"
    conditioned: str = ""
    how: str = ""

    @property
    def best(self) -> Cell:
        """The cell with the highest validation accuracy; the first of equals."""
        return max(self.cells, key=lambda cell: cell.validation)

    @property
    def interval(self) -> tuple[float, float] | None:
        """95 % Wilson interval of the best cell's test accuracy; None where it has none."""
        if self.best.test is None:
            return None
        return accuracy_interval(self.best.test, self.counts[2])

    @property
    def timesteps(self) -> list[int | float]:
        return list(dict.fromkeys(cell.t for cell in self.cells))

    @property
    def blocks(self) -> list[str]:
        return list(dict.fromkeys(cell.block for cell in self.cells))

    def best_at(self, t: float) -> Cell:
        """The block with the highest validation accuracy at one t."""
        return max((c for c in self.cells if c.t == t), key=lambda cell: cell.validation)

    def grid(self) -> np.ndarray:
        """(blocks, timesteps) validation accuracies; nan where there is no cell."""
        values = {cell.key: cell.validation for cell in self.cells}
        return np.array([[values.get((b, t), np.nan) for t in self.timesteps] for b in self.blocks])

    def to_dict(self) -> dict[str, Any]:
        plain = {**asdict(self), "best": asdict(self.best), "test_interval_95": self.interval}
        if self.conditioned:
            return {**plain, "conditioned": marked(self.conditioned)}
        del plain["conditioned"]
        return plain

    def write_json(self, path: str | Path) -> None:
        Path(path).write_text(json.dumps(self.to_dict(), indent=1) + "\n", encoding="utf-8")

    def write_csv(self, path: str | Path) -> None:
        """One row per cell: features, block, t, validation, test (empty if not chosen), setting,
        and the ends of the 95 % interval of test."""
        with open(path, "w", newline="", encoding="utf-8") as file:
            writer = csv.writer(file)
            mark = [marked(self.conditioned)] if self.conditioned else []
            heading = ["features", "block", "t", "validation", "test", "setting", "test_low"]
            writer.writerow([*heading, "test_high", *["conditioned"] * bool(mark)])
            for c in self.cells:
                test = "" if c.test is None else round(c.test, 4)
                ends = "", ""
                if c.test is not None:
                    ends = (round(end, 4) for end in accuracy_interval(c.test, self.counts[2]))
                scores = round(c.validation, 4), test, c.C, *ends
                writer.writerow([self.name, c.block, shown_t(c.t), *scores, *mark])

    def table(self) -> str:
        """Validation accuracy in per cent, blocks down and t across; the best is starred."""
        table = grid_table({c.key: 100 * c.validation for c in self.cells}, self.best.key)
        return f"{marked(self.conditioned)}\n{table}" if self.conditioned else table


def grid_table(values: Mapping[CellKey, float], best: CellKey) -> str:
    """Numbers with one digit, blocks down and t across; the best is starred."""
    blocks = list(dict.fromkeys(block for block, _ in values))
    timesteps = list(dict.fromkeys(t for _, t in values))
    width = max(len("block"), *(len(block) for block in blocks))
    head = "block".ljust(width) + "".join(f"{shown_t(t, 't='):>9}" for t in timesteps)
    lines = [head, "-" * len(head)]
    for block in blocks:
        row = [
            f"{values[block, t]:8.1f}{'*' if (block, t) == best else ' '}"
            if (block, t) in values
            else " " * 9
            for t in timesteps
        ]
        lines.append(block.ljust(width) + "".join(row))
    return "\n".join(lines)
