"""What was found for every (block, t), as text, CSV and JSON."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from diffeat.noise import shown_t
from diffeat.search.grid import Grid, columns_table, write_rows
from diffeat.search.measure import Measure
from diffeat.search.tasks import CellKey


@dataclass
class AlignedCell:
    """One (block, t) with its metrics by name; `log_snr` is nan where the file does not say."""

    block: str
    t: int | float
    log_snr: float
    values: dict[str, float]

    @property
    def key(self) -> CellKey:
        return self.block, self.t


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

    def grid(self, metric: str) -> Grid:
        """The numbers of one metric."""
        values = {cell.key: cell.values[metric] for cell in self.cells}
        measure = Measure(metric, "", metric not in self.lower)
        return Grid(self.titles[metric], values, measure)

    @property
    def grids(self) -> list[Grid]:
        """One per metric."""
        return [self.grid(metric) for metric in self.metrics]

    def best(self, metric: str) -> AlignedCell:
        """The cell with the best value; the first of equals."""
        key = self.grid(metric).best
        return next(cell for cell in self.cells if cell.key == key)

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
        rows = [
            {
                "features": self.name, "other": self.other, "block": cell.block,
                "t": shown_t(cell.t), "log_snr": f"{cell.log_snr:.4f}",
                **{metric: f"{cell.values[metric]:.9g}" for metric in self.metrics},
            }
            for cell in self.cells
        ]  # fmt: skip
        write_rows(path, rows)

    def table(self) -> str:
        """A line per cell and a column per metric; the best of each is starred."""
        return columns_table(self.grids, self.metrics)
