"""Measure: features, their surface and systems, the random twin, pixels, vision models."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from typing import Any

import diffeat
from benchmarks.features import Pictures, averaged_task, feature_files, show_maps
from benchmarks.searching import (
    CellTask,
    Journal,
    Logistic,
    Surface,
    chance,
    surface_of,
    task_of,
    write_csv,
    write_curves,
    write_png,
)
from benchmarks.tasks.base import Place
from benchmarks.tasks.classification.baselines import pixel_task, vision_task
from benchmarks.tasks.classification.bench import Bench
from benchmarks.tasks.classification.checks import check_cells, check_memory
from benchmarks.tasks.classification.file import ClassificationBenchmark
from benchmarks.tasks.classification.systems import run_systems
from diffeat.errors import ModelError, SpecError
from diffeat.extraction import Plan
from diffeat.progress import say
from diffeat.store import FeatureStore

WIDE = 8 << 30
"""Bytes for pixels while they are fitted: those of 60,000 pictures need 3 GiB."""


def measure(benchmark: ClassificationBenchmark, place: Place) -> dict[str, Any]:
    """Everything that a file of classification asks for.

    Features, finished cells and finished systems stay on disk and are used again by the next
    run. Writes <name>.csv (every cell), <name>.png (heat maps) and, where the file asks for it,
    <name>-maps.png; <name>-curves.png of heads that are trained.

    Returns:
        What the JSON holds.
    """
    journal = Journal(place.features / "finished")
    run = Run(benchmark, place, Pictures.open(benchmark), journal)
    result = run.everything()
    write_csv(run.surfaces, place.out / f"{benchmark.name}.csv")
    write_png(run.surfaces[:2], place.out / f"{benchmark.name}.png", benchmark.title)
    write_curves(result["systems"], place.out / f"{benchmark.name}-curves.png", benchmark.title)
    return result


@dataclass
class Run:
    """One run and what it has found so far.

    Attributes:
        benchmark, place, pictures: what is measured, where, on what.
        journal: finished cells and systems.
        surfaces: the model's, its twin's, pixels', other vision models'.
        models: what the feature files say of the first two.
        missing: baselines that could not be had, each with the reason.
    """

    benchmark: ClassificationBenchmark
    place: Place
    pictures: Pictures
    journal: Journal
    surfaces: list[Surface] = field(default_factory=list)
    models: list[dict[str, Any]] = field(default_factory=list)
    missing: dict[str, str] = field(default_factory=dict)

    def everything(self) -> dict[str, Any]:
        """All parts, one after the other; what the JSON holds."""
        task, spec, systems = self._model()
        self._twin()
        self._pixels(task, spec)
        for name in self.benchmark.vision:
            self._vision(name, task)
        return {
            "spec": spec,
            "models": self.models,
            "pictures": self.pictures.keys,
            "surfaces": [surface.to_dict() for surface in self.surfaces],
            "chance": chance(task),
            "systems": systems,
            "missing": self.missing,
            "finished": {
                "found": self.journal.found,
                "computed": self.journal.computed,
                "versions": sorted(self.journal.versions),
            },
        }

    def _model(self) -> tuple[CellTask, dict[str, Any], list[dict[str, Any]]]:
        """Surface and systems of the model itself."""
        benchmark, place = self.benchmark, self.place
        with self._opened(benchmark.model, benchmark.extract) as stores:
            stored, task = self._tasks(stores)
            spec = stores[0].spec.to_dict()
            if task.ids != tuple(self.pictures.ids):  # else the baselines would be void
                raise SpecError(
                    f"{stores[0].path} and {benchmark.train} hold different pictures; remove the "
                    "file and run again"
                )
            surface = self._probe(task)
            bench = Bench(
                benchmark, self.pictures, task, stored, stores[0], surface, self.journal,
                place.device,
            )  # fmt: skip
            with place.stages("systems") as peaks:
                systems = run_systems(bench, say)
                peaks += [run["peak_memory_mb"] for system in systems for run in system["runs"]]
        return task, spec, systems

    def _twin(self) -> None:
        """The same network with random weights."""
        fields = {**self.benchmark.extract, **self.benchmark.twin}
        with self._opened(f"{self.benchmark.model}@random", fields) as stores:
            self._probe(self._tasks(stores)[1])

    def _pixels(self, like: CellTask, spec: dict[str, Any]) -> None:
        with self.place.stages("pixels"):
            pixels = pixel_task(self.pictures, like, spec)
        try:
            self._probe(pixels, max(self.place.memory, WIDE))
        except SpecError as error:  # more than fits, which only a baseline may be
            self.missing[pixels.name] = str(error)

    def _vision(self, name: str, like: CellTask) -> None:
        """A vision model's linear probe; what cannot be loaded is said in the report."""
        from diffeat.vision import load_vision

        with self.place.stages(f"features of {name}"):
            try:
                model = load_vision(name, self.place.device)
            except ModelError as error:
                say(f"left out: {error}")
                self.missing[name] = str(error)
                return
            task = vision_task(model, self.pictures, like, self.place.features)
        self._probe(task)

    def _tasks(self, stores: list[FeatureStore]) -> tuple[CellTask, CellTask]:
        """The cells of feature files as they are stored, and as the surface sees them."""
        one = self.benchmark
        stored = task_of(
            stores, one.split, one.allow_conditioned, one.duplicates, self.pictures.groups
        )
        return stored, averaged_task(stored, stores[0], one.probe_pool)

    @contextmanager
    def _opened(self, name: str, fields: dict[str, Any]) -> Iterator[list[FeatureStore]]:
        """The feature files of a model; extracts what is missing."""
        benchmark, place = self.benchmark, self.place
        with ExitStack() as stack:
            with place.stages(f"features of {name}"):
                backbone = diffeat.load(name, place.device, benchmark.model_dtype)
                plan = Plan(backbone, diffeat.ExtractSpec.from_dict(fields))
                if name == benchmark.model:
                    check_cells(benchmark, plan)
                check_memory(benchmark, plan, self.pictures, place.memory)
                stores = stack.enter_context(
                    feature_files(backbone, self.pictures, fields, place.features, place.processes)
                )
                if name == benchmark.model and benchmark.view:
                    show_maps(backbone, benchmark.view, place.out / f"{benchmark.name}-maps.png")
            self.models.append(stores[0].model)
            yield stores

    def _probe(self, task: CellTask, memory: int | None = None) -> Surface:
        with self.place.stages(f"surface of {task.name}"):
            score = Logistic(self.benchmark.penalties, self.place.device)
            surface = surface_of(task, score, memory or self.place.memory, self.journal)
        self.surfaces.append(surface)
        return surface
