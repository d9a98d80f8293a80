"""Measure: models and their twins, vision models, pixels, and places that see nothing."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from benchmarks.features import Pictures
from benchmarks.searching import (
    TEST,
    VALIDATION,
    BoundPairs,
    Journal,
    Matching,
    Mix,
    Surface,
    bind,
    cells_in,
    matching_sets,
    matching_surface,
    score_pairs,
    write_surfaces,
)
from benchmarks.tasks.base import Place
from benchmarks.tasks.matching.file import AGGREGATES, MatchingBenchmark
from benchmarks.tasks.matching.floors import mean_place_row, patch_row, same_place_row
from benchmarks.tasks.matching.models import Row, models_of, stores_of
from benchmarks.tasks.matching.sets import Sets, joined, names_in
from diffeat.backbones import Backbone
from diffeat.errors import SpecError
from diffeat.targets.pairs import PairTargets
from probes.matching import NearestMatcher
from probes.metrics.pck import PCK

FLOOR = "the same place"
"""The untrained method that rows have to be above."""


def measure(benchmark: MatchingBenchmark, place: Place) -> dict[str, Any]:
    """Everything that a file of matching asks for.

    Features and finished cells stay on disk and are used again by the next run. Writes
    <name>.csv (every cell) and <name>.png (heat maps) where there are surfaces.

    Returns:
        What the JSON holds.
    """
    sets = Sets.open(benchmark)
    run = Run(benchmark, place, sets, sets.pictures(), Journal(place.features / "finished"))
    result = run.everything()
    write_surfaces(run.surfaces, place.out / benchmark.name, benchmark.title)
    return result


@dataclass
class Run:
    """One run and what it has found so far.

    Attributes:
        benchmark, place, sets, pictures: what is measured, where, on what.
        journal: finished cells and pairs.
        surfaces: PCK of every cell on the pairs that choose, of rows with several cells.
        rows: the table, as the JSON has it.
        counted: what each row found of each set of pairs.
        missing: what could not be measured, each with the reason.
    """

    benchmark: MatchingBenchmark
    place: Place
    sets: Sets
    pictures: Pictures
    journal: Journal
    surfaces: list[Surface] = field(default_factory=list)
    rows: list[dict[str, Any]] = field(default_factory=list)
    counted: dict[str, dict[str, PCK]] = field(default_factory=dict)
    missing: dict[str, str] = field(default_factory=dict)

    def everything(self) -> dict[str, Any]:
        """All rows, one after the other; what the JSON holds."""
        for row, backbone in models_of(self.benchmark, self.place, self.missing):
            self._matched(row, backbone)
        self._more()
        with self.place.stages("rows without a model"):
            self._without_models()
        floor = self.counted[FLOOR]
        for one in self.rows:
            one["above"] = {name: difference(found, floor[name], self.benchmark)
                            for name, found in self.counted[one["label"]].items()}  # fmt: skip
        chooses, report = self.sets.chooses, self.sets.report
        return {
            "rows": self.rows,
            "surfaces": [surface.to_dict() for surface in self.surfaces],
            "pairs": {one.name: _about(one) for one in self.sets.reported},
            "chosen_on": None if chooses is None else {**_about(chooses), "apart": self.sets.apart},
            "report": report.name,
            "conventions": [way.line() for way in self.benchmark.conventions],
            "floor": FLOOR,
            "pictures": self.pictures.keys,
            "missing": self.missing,
            "finished": {"found": self.journal.found, "computed": self.journal.computed,
                         "versions": sorted(self.journal.versions)},
        }  # fmt: skip

    def _more(self) -> None:
        """Rows that other tasks put behind those of the models."""

    def _matched(self, row: Row, backbone: Backbone) -> None:
        """The cell that is best on the pairs that choose, and the best set, on all other pairs."""
        one, stage = self.benchmark, self.place.stages
        with stores_of(row, backbone, self.pictures, self.place) as stores:
            bounds = [bind(targets, stores) for targets in self.sets.reported]
            about = {"model": {**stores[0].model, "name": row.label},  # not where it lay
                     "spec": stores[0].spec.to_dict(), "told": bounds[0].conditioned}  # fmt: skip
            with stage(f"matching with {row.label}"):
                for candidate, selected in self._chosen(row, stores, bounds[0]).items():
                    found = {
                        bound.name: score_pairs(NearestMatcher(), bound, candidate,
                                                one.conventions, one.alphas, self.journal).pck
                        for bound in bounds
                    }  # fmt: skip
                    cells, label, beside = cells_in(candidate), row.label, row.published
                    if isinstance(candidate, Mix):
                        label, beside = f"{label} ({len(cells)} cells)", ""
                    self._add(label, row.kind, found, cells, selected, published=beside, **about)

    def _chosen(
        self, row: Row, stores: Sequence[Any], report: BoundPairs
    ) -> dict[Any, float | None]:
        """Candidates that are reported → what each scored on the pairs that chose it."""
        if self.sets.chooses is None:
            if len(report.keys) != 1:
                raise SpecError(f"benchmark {self.benchmark.name}: {row.label} has "
                                f"{len(report.keys)} cells and no pairs choose among them; give "
                                "select, or one block and one t")  # fmt: skip
            return {report.keys[0]: None}
        groups = names_in(self.sets.chooses)
        both = bind(joined(self.sets.chooses, report.targets), stores)
        part = np.array([VALIDATION if one in groups else TEST for one, _ in both.groups])
        judge = Matching(both, part, self.benchmark.conventions[0], self.benchmark.alphas,
                         source=row.label)  # fmt: skip
        surface = matching_surface(judge, self.place.memory, self.journal)
        self.surfaces.append(surface)
        chosen = {surface.best.key: surface.best.validation}
        if self.benchmark.sets and row.kind == "model":
            step = matching_sets(judge, surface, self.place.memory, self.journal,
                                 self.benchmark.sets).best  # fmt: skip
            if len(step.cells) > 1:
                chosen[Mix(step.cells)] = step.validation
        return chosen

    def _without_models(self) -> None:
        """Pixels, and places that see no picture."""
        one, reported = self.benchmark, self.sets.reported
        counted = {"alphas": one.alphas, "conventions": one.conventions}
        for side in one.patches:
            found = {targets.name: patch_row(targets, self.pictures, side, **counted)
                     for targets in reported}  # fmt: skip
            self._add(f"raw pixels (7×7 patches at {side}×{side})", "pixels", found)
        self._add(FLOOR, "floor", {targets.name: same_place_row(targets, **counted)
                                   for targets in reported})  # fmt: skip
        if name := one.places or one.select:
            found = mean_place_row(name, reported, **counted)
            self._add(f"mean place of the key point in {name}", "floor", found)

    def _add(self, label: str, kind: str, found: dict[str, PCK], cells: Any = (),
             selected: float | None = None, **others: Any) -> None:  # fmt: skip
        self.counted[label] = found
        scores = {name: numbers(one, self.benchmark) for name, one in found.items()}
        self.rows.append({"label": label, "kind": kind, "cells": [list(cell) for cell in cells],
                          "selected": selected, "scores": scores, **others})  # fmt: skip


def numbers(found: PCK, benchmark: MatchingBenchmark) -> list[dict[str, Any]]:
    """PCK by every convention and alpha, with intervals: groups of both pictures drawn anew."""
    numbers = []
    for way in benchmark.conventions:
        ends = found.interval(convention=way) if _groups(found) > 1 else {}
        for alpha, value in found.compute(convention=way).items():
            one = {"reference": way.reference, "aggregate": way.aggregate, "alpha": alpha}
            if alpha in ends:
                one |= {"low": ends[alpha].low, "high": ends[alpha].high}
            numbers.append({**one, "value": value})
    return numbers


def difference(mine: PCK, theirs: PCK, benchmark: MatchingBenchmark) -> list[dict[str, Any]]:
    """How many more of all points are found, on the same draws of groups.

    Where one has counted the pairs several times, such as for several seeds, so does the other.
    """
    times = len(mine) // len(theirs)
    if _groups(mine) < 2 or len(mine) != times * len(theirs):
        return []
    other = theirs
    if times > 1:
        other = PCK(theirs.alphas, theirs.conventions)
        for _ in range(times):
            other.load(theirs.state)
    ends = mine.interval(AGGREGATES[0], benchmark.conventions[0], other=other)
    return [{"alpha": alpha, "difference": one.value, "low": one.low, "high": one.high}
            for alpha, one in ends.items()]  # fmt: skip


def _groups(found: PCK) -> int:
    return len(set(found.names("groups").ravel().tolist()))


def _about(targets: PairTargets) -> dict[str, Any]:
    """How many there are, and of what."""
    points = sum(len(targets.truth(pair).source_points) for pair in range(len(targets)))
    groups = {name for both in targets.groups for name in both}
    return {"name": targets.name, "pairs": len(targets), "points": points, "groups": len(groups),
            "left_out": dict(targets.left_out), "fingerprint": targets.fingerprint}  # fmt: skip
