"""What was found for every (block, t), as text, CSV and JSON."""

from __future__ import annotations

import csv
import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from diffeat.noise import shown_t


@dataclass
class AlignedCell:
    """One (block, t) with its metrics by name; `log_snr` is nan where the file does not say."""

    block: str
    t: int | float
    log_snr: float
    values: dict[str, float]


@dataclass
class AlignmentTable:
    """The cells of one file.

    Attributes:
        name: the model of the file.
        other: what it was compared with, or "".
        again: the file with other noise, or "".
        pictures: how many were compared.
        k: neighbours.
        cells: blocks in the order of execution.
        titles: metric → heading.
        lower: metrics of which lower is better.
    """

    name: str
    other: str
    again: str
    pictures: int
    k: int
    cells: list[AlignedCell]
    titles: dict[str, str]
    lower: list[str] = field(default_factory=list)

    @property
    def metrics(self) -> list[str]:
        return list(self.titles)

    @property
    def blocks(self) -> list[str]:
        return list(dict.fromkeys(cell.block for cell in self.cells))

    @property
    def timesteps(self) -> list[int | float]:
        return list(dict.fromkeys(cell.t for cell in self.cells))

    def grid(self, metric: str) -> np.ndarray:
        """(blocks, timesteps) of one metric."""
        values = {(cell.block, cell.t): cell.values[metric] for cell in self.cells}
        return np.array([[values[b, t] for t in self.timesteps] for b in self.blocks])

    def best(self, metric: str) -> AlignedCell:
        """The cell with the best value; the first of equals."""
        choose = min if metric in self.lower else max
        return choose(self.cells, key=lambda cell: cell.values[metric])

    def to_dict(self) -> dict[str, Any]:
        """Plain values; log_snr is None where it is not finite."""
        rows = [
            {
                "block": cell.block,
                "t": cell.t,
                "log_snr": cell.log_snr if np.isfinite(cell.log_snr) else None,
                **cell.values,
            }
            for cell in self.cells
        ]
        best = {m: {"block": self.best(m).block, "t": self.best(m).t} for m in self.metrics}
        facts = {name: getattr(self, name) for name in ("name", "other", "again", "pictures", "k")}
        return {**facts, "lower_is_better": self.lower, "best": best, "cells": rows}

    def write_json(self, path: str | Path) -> None:
        Path(path).write_text(json.dumps(self.to_dict(), indent=1) + "\n", encoding="utf-8")

    def write_csv(self, path: str | Path) -> None:
        """One row per cell: features, other, block, t, log_snr and the metrics."""
        with open(path, "w", newline="", encoding="utf-8") as file:
            writer = csv.writer(file)
            writer.writerow(["features", "other", "block", "t", "log_snr", *self.metrics])
            for cell in self.cells:
                numbers = [f"{cell.values[metric]:.9g}" for metric in self.metrics]
                level = [shown_t(cell.t), f"{cell.log_snr:.4f}"]
                writer.writerow([self.name, self.other, cell.block, *level, *numbers])

    def table(self) -> str:
        """A line per cell and a column per metric; the best of each is starred."""
        best = {metric: self.best(metric) for metric in self.metrics}
        first = max(len("block"), *(len(block) for block in self.blocks))
        second = max(5, *(len(shown_t(t)) for t in self.timesteps))
        columns = {metric: max(9, len(metric) + 2) for metric in self.metrics}
        head = "block".ljust(first) + "t".rjust(second + 1)
        head += "".join(f"{metric:>{width}} " for metric, width in columns.items())
        lines = [head.rstrip(), "-" * len(head)]
        for cell in self.cells:
            line = cell.block.ljust(first) + shown_t(cell.t).rjust(second + 1)
            for metric, width in columns.items():
                star = "*" if cell is best[metric] else " "
                line += f"{short(cell.values[metric]):>{width}}{star}"
            lines.append(line.rstrip())
        return "\n".join(lines)


def short(value: float, digits: int = 4) -> str:
    """A number as tables show it: 0.1234, but 1.23e-05 where that would be zeros."""
    if 0 < abs(value) < 0.01:
        return f"{value:.{digits - 2}e}"
    return f"{value:.{digits}f}"
