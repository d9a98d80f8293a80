"""Measure: each task's best cell on validation, and what every task has on test at each of them."""

from __future__ import annotations

from contextlib import ExitStack
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from benchmarks.searching import Journal, Judge, Surface, tested, validated, write_csv
from benchmarks.tasks.base import Place
from benchmarks.tasks.matching.models import Row, located, stores_of
from benchmarks.tasks.regret.drawn import draw
from benchmarks.tasks.regret.file import RegretBenchmark
from benchmarks.tasks.regret.judged import Asked
from diffeat.errors import ModelError
from diffeat.noise import format_t
from diffeat.progress import say

TOGETHER = "all tasks"
"""Who chooses the cell with the smallest mean loss on validation."""


def measure(benchmark: RegretBenchmark, place: Place) -> dict[str, Any]:
    """Everything that a file of regret asks for.

    Features and judged cells stay on disk and are used again by the next run. Writes <name>.csv
    (every cell of every task) and <name>.png (the matrices).

    Returns:
        What the JSON holds.
    """
    asked = [Asked.open(task, benchmark.alpha) for task in benchmark.tasks]
    run = Run(benchmark, place, asked, Journal(place.features / "finished"))
    result = run.everything()
    write_csv(run.surfaces, place.out / f"{benchmark.name}.csv")
    draw(result["matrices"], place.out / f"{benchmark.name}.png", benchmark.title)
    return result


@dataclass
class Run:
    """One run and what it has found so far.

    Attributes:
        benchmark, place, asked: what is measured, where, on what.
        journal: finished cells.
        surfaces: of every model and task.
        missing: models that are not there, each with the reason.
    """

    benchmark: RegretBenchmark
    place: Place
    asked: list[Asked]
    journal: Journal
    surfaces: list[Surface] = field(default_factory=list)
    missing: dict[str, str] = field(default_factory=dict)

    def everything(self) -> dict[str, Any]:
        """A matrix for each model; what the JSON holds."""
        matrices = []
        for one in self.benchmark.models:
            row = Row(one.shown, "model", located(one.name), one.extract,
                      located(one.denoiser) or None)  # fmt: skip
            try:
                backbone = row.load(self.place.device)
            except ModelError as error:
                say(f"left out: {error}")
                self.missing[row.label] = str(error)
                continue
            with ExitStack() as stack:
                matrices.append(self._matrix(row, backbone, stack))
        if not matrices:
            raise ModelError(f"benchmark {self.benchmark.name}: none of its models is on this "
                             f"machine: {'; '.join(self.missing.values())}")  # fmt: skip
        return {
            "matrices": matrices, "missing": self.missing,
            "surfaces": [one.to_dict() for one in self.surfaces],
            "finished": {"found": self.journal.found, "computed": self.journal.computed,
                         "versions": sorted(self.journal.versions)},
        }  # fmt: skip

    def _matrix(self, row: Row, backbone: Any, stack: ExitStack) -> dict[str, Any]:
        """One model: who chose what, and what everybody has there."""
        judges, surfaces = [], []
        for asked in self.asked:
            fields = {**self.benchmark.extract, **asked.task.extract, **row.fields}
            there = Row(f"{row.label}, {asked.task.name}", row.kind, row.name, fields, row.denoiser)
            stores = stack.enter_context(stores_of(there, backbone, asked.pictures, self.place))
            judge = asked.judge(stores, f"{row.label}: {asked.task.name}")
            with self.place.stages(f"cells of {there.label}"):
                surface = validated(judge, self.place.memory, self.journal, there.label)
            surface.name = judge.source if asked.task.kind != "classification" else (
                f"{row.label}: {asked.task.name}")  # fmt: skip
            judges.append(judge)
            surfaces.append(surface)
        self.surfaces += surfaces
        names = [asked.task.name for asked in self.asked]
        chosen = {name: surface.best.key for name, surface in zip(names, surfaces, strict=True)}
        chosen[TOGETHER] = together(surfaces)
        with self.place.stages(f"test of {row.label}"):
            scores = [self._tested(judge, surface, chosen) for judge, surface in
                      zip(judges, surfaces, strict=True)]  # fmt: skip
        return {
            "label": row.label, "chosen": {name: list(key) for name, key in chosen.items()},
            "tasks": [self._about(*one) for one in
                      zip(names, judges, surfaces, scores, strict=True)],
        }  # fmt: skip

    def _tested(
        self, judge: Judge, surface: Surface, chosen: dict[str, Any]
    ) -> list[dict[str, Any]]:  # fmt: skip
        """What one task has on test at every chosen cell, each cell with its own setting."""
        settings = {cell.key: cell.setting for cell in surface.cells}
        found = []
        for name, key in chosen.items():
            value, ends = tested(judge, key, settings[key], self.place.memory, self.journal)
            low, high = ends or (None, None)
            found.append({"by": name, "cell": list(key), "value": value, "low": low, "high": high})
        return found

    @staticmethod
    def _about(
        name: str, judge: Judge, surface: Surface, scores: list[dict[str, Any]]
    ) -> dict[str, Any]:
        own = next(one["value"] for one in scores if one["by"] == name)
        for one in scores:
            one["lost"] = judge.number.gain(own, one["value"])
            one["share"] = one["lost"] / own if own else None
        best = surface.best
        return {"name": name, "measure": judge.number.to_dict(), "counts": list(judge.counts),
                "best": [best.block, best.t], "validation": best.validation,
                "text": f"{best.block}, t = {format_t(best.t)}", "scores": scores}  # fmt: skip


def together(surfaces: list[Surface]) -> tuple[str, float]:
    """The cell whose mean loss on validation, each a share of the task's best, is smallest."""
    keys = [cell.key for cell in surfaces[0].cells]
    losses = np.zeros(len(keys))
    for surface in surfaces:
        of = {cell.key: cell.validation for cell in surface.cells}
        best = surface.best.validation
        losses += [surface.measure.gain(best, of[key]) / best for key in keys]
    return keys[int(losses.argmin())]
