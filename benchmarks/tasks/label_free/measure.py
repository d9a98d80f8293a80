"""Measure: every cell's score on validation, its label-free numbers, and how these go together."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, field
from typing import Any

from benchmarks.searching import (
    FreeOptions,
    Journal,
    Surface,
    free_numbers,
    trust,
    validated,
    write_table,
)
from benchmarks.tasks.base import Place
from benchmarks.tasks.label_free.drawn import draw
from benchmarks.tasks.label_free.file import FreeBenchmark
from benchmarks.tasks.label_free.judged import Asked
from benchmarks.tasks.matching.models import Row, located, stores_of
from diffeat.errors import ModelError
from diffeat.extraction import Plan
from diffeat.hashing import fingerprint
from diffeat.progress import say
from diffeat.specs import ExtractSpec

NUMBERS = ("frequency", "lds", "rank", "massive", "largest_channel", "agreement")
"""Label-free numbers, in the order of tables."""
FLOORS = ("t", "depth", "channels", "sites")
"""What is known of a cell without any picture: a number that goes with a task no better than
these has learnt nothing from the features."""
LESS = ("massive", "largest_channel", "t")
"""Numbers that choose their smallest cell."""
Cell = dict[str, float]


def measure(benchmark: FreeBenchmark, place: Place) -> dict[str, Any]:
    """Everything that a file of label-free numbers asks for.

    Features, judged cells and numbers stay on disk and are used again by the next run. Writes
    <name>.csv (every cell of every task) and <name>.png (the correlations).

    Returns:
        What the JSON holds.
    """
    run = Run(benchmark, place, Journal(place.features / "finished"))
    for task in benchmark.tasks:
        run.task(Asked.open(task, benchmark.alpha))
    if not run.rows:
        raise ModelError(f"benchmark {benchmark.name}: none of its models is on this machine: "
                         f"{'; '.join(run.missing.values())}")  # fmt: skip
    cells = [cell for row in run.rows for cell in _plain(row)]
    write_table(place.out / f"{benchmark.name}.csv", cells)
    draw(run.rows, place.out / f"{benchmark.name}.png", benchmark.title)
    return {
        "rows": run.rows, "missing": run.missing,
        "finished": {"found": run.journal.found, "computed": run.journal.computed,
                     "versions": sorted(run.journal.versions)},
    }  # fmt: skip


@dataclass
class Run:
    """One run and what it has found so far.

    Attributes:
        benchmark, place: what is measured, where.
        journal: finished cells.
        rows: a task and a model, or its random twin, each.
        missing: models that are not there, each with the reason.
    """

    benchmark: FreeBenchmark
    place: Place
    journal: Journal
    rows: list[dict[str, Any]] = field(default_factory=list)
    missing: dict[str, str] = field(default_factory=dict)

    def task(self, asked: Asked) -> None:
        """A task with its model, and with random weights."""
        task, name = asked.task, located(asked.task.model)
        fields = {**self.benchmark.extract, **task.extract}
        rows = [Row(task.label, "model", name, fields)]
        if self.benchmark.twin:
            rows.append(Row(f"{task.label}@random", "twin", f"{name}@random", fields))
        for row in rows:
            try:
                backbone = row.load(self.place.device)
            except ModelError as error:
                say(f"left out: {error}")
                self.missing[row.label] = str(error)
                return  # the twin of what is not there says nothing
            self.rows.append(self._row(row, backbone, asked))

    def _row(self, row: Row, backbone: Any, asked: Asked) -> dict[str, Any]:
        """Scores, numbers and how they go together."""
        label = f"{row.label}: {asked.task.name}"
        there = Row(label, row.kind, row.name, row.fields)
        with stores_of(there, backbone, asked.pictures, self.place) as stores:
            judge = asked.judge(stores, label)
            with self.place.stages(f"cells of {label}"):
                surface = validated(judge, self.place.memory, self.journal, label)
        with self.place.stages(f"numbers of {label}"):
            numbers = self._numbers(backbone, asked, row.fields)
        floors = floors_of(backbone, row.fields)
        cells = {cell.key: {**numbers[cell.key], **floors[cell.key]} for cell in surface.cells}
        return {
            "task": asked.task.name, "kind": asked.task.kind, "label": row.label,
            "random": row.kind == "twin", "measure": judge.number.to_dict(),
            "counts": list(judge.counts), "best": list(surface.best.key),
            "validation": surface.best.validation,
            "cells": [{"block": c.block, "t": c.t, "validation": c.validation, **cells[c.key]}
                      for c in surface.cells],
            "trust": trusted(asked.task.name, surface, cells),
        }  # fmt: skip

    def _numbers(self, backbone: Any, asked: Asked, fields: dict[str, Any]) -> dict[Any, Cell]:
        """The numbers of every cell, kept beside the features."""
        spec = ExtractSpec.from_dict({**fields, "pool": "none", "dtype": "float32"})
        options = FreeOptions(ratio=self.benchmark.ratio)
        count = self.benchmark.pictures
        key = fingerprint(spec.to_dict(), backbone.fingerprint, asked.source.fingerprint(), count,
                          asdict(options), "numbers 1")  # fmt: skip
        file = self.place.features / f"numbers-{key[:16]}.json"
        if file.is_file():
            return {(block, t): cell for block, t, cell in json.loads(file.read_text())}
        found = free_numbers(backbone, asked.source, spec, options, count)
        stored = [[block, t, cell] for (block, t), cell in found.items()]
        file.write_text(json.dumps(stored) + "\n", encoding="utf-8")
        return found


def floors_of(backbone: Any, fields: dict[str, Any]) -> dict[Any, Cell]:
    """t, depth (the block's place), channels and sites of every cell."""
    plan = Plan(backbone, ExtractSpec.from_dict({**fields, "pool": "none"}))
    found = {}
    for depth, block in enumerate(plan.blocks):
        channels, *grid = plan.shape(block)
        for level in plan.levels:
            found[block.name, level.t] = {
                "depth": depth, "channels": channels, "sites": grid[0] * grid[1],
            }  # fmt: skip
    return found


def trusted(task: str, surface: Surface, cells: dict[Any, Cell]) -> list[dict[str, Any]]:
    """How every number goes with the scores of a surface."""
    validation = {cell.key: cell.validation for cell in surface.cells}
    shapes = {key: (cell["channels"], cell["sites"]) for key, cell in cells.items()}
    found = []
    for name in (*NUMBERS, *FLOORS):
        values = {key: key[1] if name == "t" else cell[name] for key, cell in cells.items()}
        more = name not in LESS
        one = trust(name, values, task, validation, surface.measure, more, shapes)
        found.append(one.to_dict())
    return found


def _plain(row: dict[str, Any]) -> list[dict[str, Any]]:
    """Rows of the CSV."""
    about = {"features": row["label"], "task": row["task"], "measure": row["measure"]["name"]}
    return [{**about, **cell} for cell in row["cells"]]
