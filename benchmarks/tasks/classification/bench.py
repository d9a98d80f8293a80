"""What heads are trained on: cells, labels and parts."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from benchmarks.features import Pictures, as_maps
from benchmarks.searching import CellKey, CellTask, Journal, Logistic, Surface
from benchmarks.tasks.classification.file import ClassificationBenchmark, System
from diffeat.errors import SpecError
from diffeat.store import FeatureStore

Trained = dict[str, Any]
"""validation and test, and whatever else is known: setting, parameters, epochs, history …"""


@dataclass(frozen=True)
class Bench:
    """What systems are trained on.

    Attributes:
        benchmark, pictures: what is measured, on what.
        task: the cells as the surface has them, labels and parts.
        stored: the same cells as they are stored, not averaged.
        store: any of the feature files, for the channels.
        surface: with the best cell.
        journal: of finished work.
        device: where heads are trained.
    """

    benchmark: ClassificationBenchmark
    pictures: Pictures
    task: CellTask
    stored: CellTask
    store: FeatureStore
    surface: Surface
    journal: Journal
    device: str = "cpu"

    @property
    def score(self) -> Logistic:
        """The linear probe of all tables."""
        return Logistic(self.benchmark.penalties, self.device)

    def cells_of(self, system: System) -> tuple[CellKey, ...]:
        """The cells that a system sees."""
        best = self.surface.best
        if system.cells == "best":
            return (best.key,)
        if system.cells == "all":
            return self.task.cells
        if system.cells == "best block":
            return self.task.choose(blocks=[best.block])
        return self.task.choose(system.cells.get("blocks"), system.cells.get("timesteps"))

    def labels(self, part: int) -> np.ndarray:
        return self.task.labels[self.task.part == part]

    def maps(self, cell: CellKey, part: int) -> np.ndarray:
        """(n, C, h, w) of a cell in its stored precision, or (n, C) where h = w = 1."""
        rows = self.task.part == part
        values = as_maps(self.stored.read(*cell), self.store, cell)
        ends = range(0, len(rows), 4096)
        found = [values[start : start + 4096][rows[start : start + 4096]] for start in ends]
        maps = np.concatenate(found)
        return maps[:, :, 0, 0] if maps.shape[2:] == (1, 1) else maps


def only(cells: Sequence[CellKey]) -> CellKey:
    """The cell of a head that takes one."""
    if len(cells) != 1:
        raise SpecError(f"{len(cells)} cells for a head that takes one; expected cells = 'best'")
    return cells[0]
