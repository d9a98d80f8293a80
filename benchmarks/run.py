"""Run a recipe: the (t, block) surface of a model, its baselines, and heads beside them."""

from __future__ import annotations

import csv
import json
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from tqdm import tqdm

import diffeat
from benchmarks.adapted import ADAPTED
from benchmarks.bench import Bench
from benchmarks.features import (
    Pictures,
    averaged_task,
    feature_files,
    pixel_task,
    square_side,
    vision_task,
)
from benchmarks.machine import Stages, environment, say
from benchmarks.recipes import Recipe
from benchmarks.report import has_t
from benchmarks.systems import check_system, run_systems
from diffeat.backbones.devices import pick_device
from diffeat.conditioned import EMBEDDING_ROWS, check_targets, conditioned
from diffeat.errors import ModelError, SpecError
from diffeat.extraction import Plan
from diffeat.extraction.conditions import embedding_rows
from diffeat.images import fit_picture
from diffeat.noise import format_t
from diffeat.search import (
    MEMORY,
    TEST,
    Classification,
    Journal,
    Surface,
    Task,
    search_surface,
    split_by_hash,
    task_from_store,
)
from diffeat.search.scores import Logistic
from diffeat.search.tasks import readable
from diffeat.store import FeatureStore
from diffeat.store.format.atomic import write_synced
from diffeat.viz import feature_sheet, heat_map

WIDE = 8 << 30
"""Bytes for pixels while they are fitted: those of 60,000 pictures need 3 GiB."""


@dataclass
class Run:
    """One run of a recipe and what it has found so far.

    Attributes:
        recipe: what is measured.
        out: folder of tables and pictures.
        features: folder of feature files and finished cells, which recipes may share.
        device: of the models and the heads.
        processes: copies of the model while features are extracted.
        memory: bytes for features while they are fitted.
        pictures: of the recipe.
        journal: finished cells and systems.
        stages: seconds and peak memory of each part, over all runs.
        surfaces: the model's, its twin's, pixels', other vision models'.
        missing: baselines that could not be had, each with the reason.
    """

    recipe: Recipe
    out: Path
    features: Path
    device: str = "auto"
    processes: int | None = None
    memory: int = MEMORY
    surfaces: list[Surface] = field(default_factory=list)
    models: list[dict[str, Any]] = field(default_factory=list)
    missing: dict[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for system in self.recipe.systems:
            check_system(system)
        if self.recipe.probe_pool:
            square_side(self.recipe.probe_pool)
        split_by_hash((), self.recipe.split)
        self._check_targets()
        self.device = str(pick_device(self.device))
        self.out.mkdir(parents=True, exist_ok=True)
        self.features.mkdir(parents=True, exist_ok=True)
        self.pictures = Pictures(self.recipe)
        self.stages = Stages(self.out / "stages.json")
        self.journal = Journal(self.features / "finished")

    def _check_targets(self) -> None:
        """SpecError, before anything is computed, for features that are told their targets."""
        recipe = self.recipe
        for fields in (recipe.extract, {**recipe.extract, **recipe.twin}):
            spec = diffeat.ExtractSpec.from_dict(fields)
            rows = spec.embeddings and {EMBEDDING_ROWS: embedding_rows(spec.embeddings)}
            why = conditioned(spec, rows)
            check_targets(f"recipe {recipe.name}", why, recipe.allow_conditioned)
            trained = [system.name for system in recipe.systems if system.head in ADAPTED]
            if why and trained:
                raise SpecError(
                    f"recipe {recipe.name}: {', '.join(trained)} are trained on pictures, which "
                    f"are told nothing of their targets there ({why}); leave them out"
                )

    def measure(self) -> dict[str, Any]:
        """All parts, one after the other; what the JSON holds."""
        recipe = self.recipe
        task, spec, systems = self._model()
        twin = {**recipe.extract, **recipe.twin}
        with self._opened(f"{recipe.model}@random", twin) as stores:
            self._probe(self._tasks(stores)[1])
        with self.stages("pixels"):
            pixels = pixel_task(self.pictures, task, spec)
        try:
            self._probe(pixels, max(self.memory, WIDE))
        except SpecError as error:  # more than fits, which only a baseline may be
            self.missing[pixels.name] = str(error)
        for name in recipe.vision:
            self._vision(name, task)
        return {
            "recipe": asdict(recipe),
            "spec": spec,
            "models": self.models,
            "pictures": self.pictures.keys,
            "surfaces": [surface.to_dict() for surface in self.surfaces],
            "chance": _chance(task),
            "systems": systems,
            "missing": self.missing,
            "finished": {
                "found": self.journal.found,
                "computed": self.journal.computed,
                "versions": sorted(self.journal.versions),
            },
            "device": self.device,
            "stages": self.stages.done,
            "seconds": round(sum(stage["seconds"] for stage in self.stages.done), 1),
            "peak_memory_mb": max(stage["peak_memory_mb"] for stage in self.stages.done),
            "environment": environment(),
        }

    def _model(self) -> tuple[Task, dict[str, Any], list[dict[str, Any]]]:
        """Surface and systems of the model itself."""
        recipe = self.recipe
        with self._opened(recipe.model, recipe.extract) as stores:
            stored, task = self._tasks(stores)
            spec = stores[0].spec.to_dict()
            if task.ids != tuple(self.pictures.ids):  # else the baselines would be void
                raise SpecError(
                    f"{stores[0].path} and {self.recipe.train} hold different pictures; remove the "
                    "file and run again"
                )
            surface = self._probe(task)
            bench = Bench(
                recipe, self.pictures, task, stored, stores[0], surface, self.journal, self.device
            )
            with self.stages("systems") as peaks:
                systems = run_systems(bench, say)
                peaks += [run["peak_memory_mb"] for system in systems for run in system["runs"]]
        return task, spec, systems

    def _tasks(self, stores: list[FeatureStore]) -> tuple[Task, Task]:
        """The cells of feature files as they are stored, and as the surface sees them."""
        stored = task_from_store(
            stores[0], self.recipe.split, test=(stores[1:] or [None])[0],
            allow_conditioned=self.recipe.allow_conditioned,
        )  # fmt: skip
        return stored, averaged_task(stored, stores[0], self.recipe.probe_pool)

    @contextmanager
    def _opened(self, name: str, fields: dict[str, Any]) -> Iterator[list[FeatureStore]]:
        """The feature files of a model; extracts what is missing."""
        with ExitStack() as stack:
            with self.stages(f"features of {name}"):
                backbone = diffeat.load(name, self.device, self.recipe.model_dtype)
                self._check_plan(Plan(backbone, diffeat.ExtractSpec.from_dict(fields)))
                stores = stack.enter_context(
                    feature_files(backbone, self.pictures, fields, self.features, self.processes)
                )
                if name == self.recipe.model and self.recipe.view:
                    _show_maps(backbone, self.recipe, self.out / f"{self.recipe.name}-maps.png")
            self.models.append(stores[0].model)
            yield stores

    def _check_plan(self, plan: Plan) -> None:
        """SpecError, before an extraction, for cells that no system finds or no memory holds."""
        blocks, steps = {block.name for block in plan.blocks}, {level.t for level in plan.levels}
        for system in self.recipe.systems if plan.backbone.random_seed is None else ():
            for field_, have in (("blocks", blocks), ("timesteps", steps)):
                wanted = system.cells.get(field_, ()) if isinstance(system.cells, dict) else ()
                if lacking := [one for one in wanted if one not in have]:
                    raise SpecError(
                        f"system {system.name!r}: {field_} {', '.join(map(str, lacking))} are not "
                        f"extracted; expected among {', '.join(map(str, sorted(have)))}"
                    )
        pool = self.recipe.probe_pool or plan.spec.pool
        if pool == "none":
            return
        width = max(block.channels for block in plan.blocks) * square_side(pool) ** 2
        classes = len(self.pictures.sources[0].class_names)
        needed = Logistic().bytes_of(len(self.pictures), width, classes)
        if needed > self.memory:
            raise SpecError(
                f"{width:,} numbers for each of {len(self.pictures):,} pictures of {classes:,} "
                f"classes take {readable(needed)} while a cell is fitted; {readable(self.memory)} "
                "are allowed: allow more (--memory), or let the recipe pool more or take fewer "
                "pictures"
            )

    def _probe(self, task: Task, memory: int | None = None) -> Surface:
        with self.stages(f"surface of {task.name}"):
            judge = Classification(task, Logistic(self.recipe.penalties, self.device))
            surface = search_surface(
                judge, self.journal, memory or self.memory,
                lambda cells: tqdm(cells, desc="probe", disable=None),
            )  # fmt: skip
        self.surfaces.append(surface)
        return surface

    def _vision(self, name: str, like: Task) -> None:
        """A vision model's linear probe; what cannot be loaded is said in the report."""
        from diffeat.vision import load_vision

        with self.stages(f"features of {name}"):
            try:
                model = load_vision(name, self.device)
            except ModelError as error:
                say(f"left out: {error}")
                self.missing[name] = str(error)
                return
            task = vision_task(model, self.pictures, like, self.features)
        self._probe(task)


def run_recipe(
    recipe: Recipe,
    out: Path,
    device: str = "auto",
    features: Path | None = None,
    processes: int | None = None,
    memory: int = MEMORY,
) -> dict[str, Any]:
    """Measure a recipe and write its table, heat map and pictures.

    Features, finished cells and finished systems stay on disk and are used again by the next
    run. Writes <name>.json (everything), <name>.csv (every cell), <name>.png (heat maps) and,
    where the recipe asks for it, <name>-maps.png.

    Args:
        device: of the models and the heads.
        features: folder for feature files and finished cells; None is `out`.
        processes: copies of the model while features are extracted.
        memory: bytes for features while they are fitted; pixels may take 8 GiB.

    Returns:
        What the JSON holds.
    """
    run = Run(recipe, out, features or out, device, processes, memory)
    result = run.measure()
    write_synced(out / f"{recipe.name}.json", (json.dumps(result, indent=1) + "\n").encode())
    _write_csv(run.surfaces, out / f"{recipe.name}.csv")
    grids = [surface.grid for surface in run.surfaces[:2]]
    heat_map(grids, out / f"{recipe.name}.png", title=recipe.title)
    return result


def _chance(task: Task) -> float:
    """Accuracy on test of always saying the class that is most frequent in training."""
    guess = np.bincount(task.labels[task.seen]).argmax()
    return float((task.labels[task.part == TEST] == guess).mean())


def _write_csv(surfaces: list[Surface], path: Path) -> None:
    rows: list[dict[str, str]] = []
    for surface in surfaces:
        surface.write_csv(path)
        with open(path, newline="", encoding="utf-8") as file:
            rows += csv.DictReader(file)
    names = list(dict.fromkeys(name for row in rows for name in row))
    with open(path, "w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, names, restval="", lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)


def _show_maps(backbone, recipe: Recipe, path: Path) -> None:
    source = diffeat.open_source(recipe.view["pictures"])
    spec = diffeat.ExtractSpec(
        timesteps=recipe.view["timesteps"], blocks=recipe.view["blocks"], size=recipe.view["size"]
    )
    pictures = [source.load(index) for index in range(len(source))]
    features = diffeat.extract(backbone, pictures, spec, ids=source.ids)
    columns = {
        f"{block.name}, t={format_t(level.t)}": features[block.name, level.t].float().numpy()
        for level in features.levels
        for block in features.blocks
    }
    shown = [fit_picture(picture, spec.size).transpose(1, 2, 0) for picture in pictures]
    feature_sheet(shown, columns, source.ids, path, title=f"feature maps of {backbone.name}")


def summary(result: dict[str, Any]) -> str:
    """The closing tables: each kind of features at its best cell, and the systems."""
    marks = [s["conditioned"] for s in result["surfaces"] if s.get("conditioned")]
    width = max(13, *(len(surface["best"]["block"]) for surface in result["surfaces"]))
    lines = list(dict.fromkeys(marks))
    lines += [f"{'features':<24} {'block':<{width}} {'t':>5} {'validation':>11} {'test':>7}"]
    lines.append("-" * len(lines[-1]))
    for surface in result["surfaces"]:
        best = surface["best"]
        t = format_t(best["t"]) if has_t(surface) else ""
        lines.append(
            f"{surface['name']:<24} {best['block']:<{width}} {t:>5} "
            f"{100 * best['validation']:10.1f}% {100 * best['test']:6.1f}%"
        )
    lines.append(f"{'chance':<24} {'':<{width}} {'':>5} {'':>11} {100 * result['chance']:6.1f}%")
    if result["systems"]:
        wide = max(len(system["name"]) for system in result["systems"])
        lines += ["", f"{'system':<{wide}} {'cells':>5} {'validation':>11} {'test':>7}"]
        lines.append("-" * len(lines[-1]))
    for system in result["systems"]:
        cells = system["runs"][0].get("set", system["cells"])
        lines.append(
            f"{system['name']:<{wide}} {len(cells):>5} "
            f"{100 * system['validation']:10.1f}% {100 * system['test']:6.1f}%"
        )
    return "\n".join(lines)
