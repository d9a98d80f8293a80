"""One number per (block, t): as text, CSV and JSON; `diffeat.viz` draws it."""

from __future__ import annotations

import csv
import json
from collections.abc import Container, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from diffeat.noise import shown_t
from diffeat.search.measure import Measure
from diffeat.search.tasks import CellKey

ACCURACY = Measure()


@dataclass(frozen=True)
class Grid:
    """Numbers of cells, blocks down (in the order of execution) and t across.

    Attributes:
        title: of what.
        values: (block, t) → number; cells may be missing.
        measure: what kind of number; with its unit and direction.
        what: the number's name in headings, such as "validation accuracy".
        mark: a warning that goes with every view, or "".
    """

    title: str
    values: Mapping[CellKey, float]
    measure: Measure = field(default=ACCURACY)
    what: str = ""
    mark: str = ""

    @cached_property
    def blocks(self) -> list[str]:
        return list(dict.fromkeys(block for block, _ in self.values))

    @cached_property
    def timesteps(self) -> list[float]:
        return list(dict.fromkeys(t for _, t in self.values))

    @property
    def best(self) -> CellKey:
        """The cell with the best number; the first of equals."""
        cells = list(self.values)
        return cells[self.measure.best([self.values[cell] for cell in cells])]

    @property
    def heading(self) -> str:
        """What the numbers are, for a colour scale: "validation accuracy, %"."""
        what = self.what or self.measure.name
        return what + (f", {self.measure.unit}" if self.measure.unit else "")

    def array(self) -> np.ndarray:
        """(blocks, timesteps) numbers; nan where there is no cell."""
        rows = [[self.values.get((b, t), np.nan) for t in self.timesteps] for b in self.blocks]
        return np.array(rows, np.float64)

    def table(self) -> str:
        """Text in which the best is starred."""
        shown = {cell: self.measure.show(value) for cell, value in self.values.items()}
        heads = [shown_t(t, "t=") for t in self.timesteps]
        wide = max(9, *(len(text) + 2 for text in (*shown.values(), *heads)))
        first = max(len("block"), *(len(block) for block in self.blocks))
        head = "block".ljust(first) + "".join(f"{head:>{wide}}" for head in heads)
        lines, best = [head, "-" * len(head)], self.best
        for block in self.blocks:
            row = [
                f"{shown[block, t]:>{wide - 1}}{'*' if (block, t) == best else ' '}"
                if (block, t) in shown
                else " " * wide
                for t in self.timesteps
            ]
            lines.append(block.ljust(first) + "".join(row))
        return "\n".join([self.mark, *lines] if self.mark else lines)

    def to_dict(self) -> dict[str, Any]:
        block, t = self.best
        return {
            "title": self.title,
            "name": self.measure.name,
            "unit": self.measure.unit,
            "higher_is_better": self.measure.higher_is_better,
            "best": {"block": block, "t": t},
            "cells": [{"block": b, "t": t, "value": v} for (b, t), v in self.values.items()],
        }

    def write_json(self, path: str | Path) -> None:
        Path(path).write_text(json.dumps(self.to_dict(), indent=1) + "\n", encoding="utf-8")

    def write_csv(self, path: str | Path) -> None:
        """One row per cell: block, t, value."""
        rows = [
            {"block": b, "t": shown_t(t), "value": f"{v:.9g}"} for (b, t), v in self.values.items()
        ]
        write_rows(path, rows)


def columns_table(grids: Sequence[Grid], names: Sequence[str]) -> str:
    """Several grids of the same cells: a line per cell and a column each, its best starred.

    Args:
        names: heading of each column.
    """
    grid, best = grids[0], [grid.best for grid in grids]
    first = max(len("block"), *(len(block) for block in grid.blocks))
    second = max(5, *(len(shown_t(t)) for t in grid.timesteps))
    widths = [max(9, len(name) + 2) for name in names]
    head = "block".ljust(first) + "t".rjust(second + 1)
    head += "".join(f"{name:>{width}} " for name, width in zip(names, widths, strict=True))
    lines = [head.rstrip(), "-" * len(head)]
    for cell in grid.values:
        line = cell[0].ljust(first) + shown_t(cell[1]).rjust(second + 1)
        for one, width, star in zip(grids, widths, best, strict=True):
            shown = one.measure.show(one.values[cell])
            line += f"{shown:>{width}}{'*' if cell == star else ' '}"
        lines.append(line.rstrip())
    return "\n".join(lines)


def aligned(rows: Sequence[Sequence[str]], numbers: Container[int]) -> list[str]:
    """Rows as lines of one width a column: `numbers` to the right, other columns to the left."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return [
        "  ".join(
            text.rjust(width) if k in numbers else text.ljust(width)
            for k, (text, width) in enumerate(zip(row, widths, strict=True))
        ).rstrip()
        for row in rows
    ]


def write_rows(path: str | Path, rows: Iterable[Mapping[str, Any]]) -> None:
    """A CSV file with a row each, one at least; the columns are those of the first."""
    rows = iter(rows)
    first = next(rows)
    with open(path, "w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, list(first))
        writer.writeheader()
        writer.writerow(first)
        writer.writerows(rows)
