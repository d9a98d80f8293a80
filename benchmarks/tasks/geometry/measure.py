"""Measure: models and their twins, vision models, raw pixels, SIFT, and what sees nothing."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np

from benchmarks.searching import (
    Journal,
    Surface,
    bind,
    matching_surface,
    write_surfaces,
)
from benchmarks.tasks.base import Place
from benchmarks.tasks.geometry.file import GeometryBenchmark
from benchmarks.tasks.geometry.flows import Flows
from benchmarks.tasks.geometry.kinds import Kind, Planes, Scores, Surfaces
from benchmarks.tasks.geometry.sets import Chosen
from benchmarks.tasks.matching.models import Row, models_of, stores_of
from benchmarks.tasks.matching.sets import names_in
from diffeat.errors import SpecError
from diffeat.targets.pairs import PairTargets

KINDS: dict[str, type[Kind]] = {"homography": Planes, "depth": Surfaces, "flow": Flows}
"""Of pairs → what is counted."""


def measure(benchmark: GeometryBenchmark, place: Place) -> dict[str, Any]:
    """Everything that a file of geometry asks for.

    Features and finished cells stay on disk and are used again by the next run. Writes
    <name>.csv (every cell) and <name>.png (heat maps) where there are surfaces.

    Returns:
        What the JSON holds.
    """
    chosen = Chosen.open(benchmark)
    kind = KINDS[chosen.targets.kind](benchmark, chosen.report)
    run = Run(benchmark, place, chosen, kind, Journal(place.features / "finished"))
    result = run.everything()
    write_surfaces(run.surfaces, place.out / benchmark.name, benchmark.title)
    return result


@dataclass
class Run:
    """One run and what it has found so far.

    Attributes:
        benchmark, place, chosen, kind: what is measured, where, on what, and how it is counted.
        journal: finished cells.
        surfaces: of rows with several cells, on the pairs that choose.
        rows: the table, as the JSON has it.
        missing: what could not be measured, each with the reason.
    """

    benchmark: GeometryBenchmark
    place: Place
    chosen: Chosen
    kind: Kind
    journal: Journal
    surfaces: list[Surface] = field(default_factory=list)
    rows: list[dict[str, Any]] = field(default_factory=list)
    missing: dict[str, str] = field(default_factory=dict)

    def everything(self) -> dict[str, Any]:
        """All rows, one after the other; what the JSON holds."""
        pictures = self.chosen.pictures()
        for row, backbone in models_of(self.benchmark, self.place, self.missing):
            with (
                stores_of(row, backbone, pictures, self.place) as stores,
                self.place.stages(f"matching with {row.label}"),
            ):
                self._features(row, stores)
        with self.place.stages("rows without a model"):
            self._without_models()
        chooses = self.chosen.chooses
        return {
            "kind": self.chosen.targets.kind,
            "rows": self.rows,
            "surfaces": [surface.to_dict() for surface in self.surfaces],
            "pairs": _about(self.chosen.report),
            "chosen_on": None if chooses is None else _about(chooses),
            "pictures": pictures.keys,
            "missing": self.missing,
            "finished": {"found": self.journal.found, "computed": self.journal.computed,
                         "versions": sorted(self.journal.versions)},
        }  # fmt: skip

    def _features(self, row: Row, stores: Any) -> None:
        """The cell that is best on the pairs that choose, on the pairs of the report, once."""
        bound = bind(self.chosen.targets, stores)
        judge = self.kind.judge(bound, self.chosen.part, row.label)
        if self.chosen.chooses is None:
            if len(bound.keys) != 1:
                raise SpecError(
                    f"benchmark {self.benchmark.name}: {row.label} has {len(bound.keys)} cells and "
                    "no pairs choose among them; give choose or select, or one block and one t"
                )
            cell, selected = bound.keys[0], None
        else:
            surface = matching_surface(judge, self.place.memory, self.journal)
            self.surfaces.append(surface)
            cell, selected = surface.best.key, surface.best.validation
        self._add(
            row.label, row.kind, self.kind.of_cell(judge, cell), cell, selected,
            published=row.published, model={**stores[0].model, "name": row.label},
            spec=stores[0].spec.to_dict(), told=bound.conditioned,
        )  # fmt: skip

    def _without_models(self) -> None:
        if self.benchmark.sift:
            for label, scores in self.kind.sift():
                self._add(label, "sift", scores)
        for side in self.benchmark.patches:
            label = f"raw pixels, 7×7 patches at {side}×{side}"
            self._add(label, "pixels", self.kind.patches(side))
        for label, scores in self.kind.floors():
            self._add(label, "floor", scores)

    def _add(self, label: str, kind: str, scores: Scores, cell: Any = None,
             selected: float | None = None, **others: Any) -> None:  # fmt: skip
        self.rows.append({"label": label, "kind": kind, "cell": cell and list(cell),
                          "selected": selected, "scores": scores, **others})  # fmt: skip


def _about(targets: PairTargets) -> dict[str, Any]:
    """How many there are, and of what."""
    found = {"name": targets.name, "pairs": len(targets), "groups": len(names_in(targets)),
             "left_out": dict(targets.left_out), "fingerprint": targets.fingerprint}  # fmt: skip
    if targets.kind == "depth":
        found["angles"] = [float(edge) for edge in np.percentile(targets.angles, [0, 50, 100])]
    return found
