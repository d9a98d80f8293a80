"""Measure: every system with few and many labelled pictures, beside rows that need no model."""

from __future__ import annotations

import time
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.searching import (
    DENSE_JUDGES,
    BoundDense,
    Journal,
    Surface,
    validated,
    write_surfaces,
)
from benchmarks.tasks.base import Place
from benchmarks.tasks.dense.counted import MASKS, Counted, codes_of
from benchmarks.tasks.dense.file import ALL, PIXELS, POSITION, DenseBenchmark, System
from benchmarks.tasks.dense.floors import floor_cells
from benchmarks.tasks.dense.scored import ERRORS, counted, uncertainty_of
from benchmarks.tasks.dense.sets import Draws, Sets
from benchmarks.tasks.dense.shown import places_shown, write_sheet
from benchmarks.tasks.dense.systems import Given, head_of, learnt
from benchmarks.tasks.dense.through import HEAD, predictions, trained
from benchmarks.tasks.matching.models import Row, about_features, models_of, stores_of
from benchmarks.tasks.mixing.systems import chosen_cells
from diffeat.errors import SpecError
from diffeat.hashing import fingerprint
from diffeat.progress import say
from probes import Cells

PARTS = frozenset(("values", "boundary", "chosen", "seconds", "uncertainty"))


def measure(benchmark: DenseBenchmark, place: Place) -> dict[str, Any]:
    """Everything that a file of segmentation or depth asks for.

    Features, cells that were judged and finished fits stay on disk and are used again by the next
    run. Writes <name>.csv (every single cell) and <name>.png (heat maps), and a sheet of pictures,
    <name>-maps.png, where the file asks for one.

    Returns:
        What the JSON holds.
    """
    sets = Sets.open(benchmark)
    with ExitStack() as stack:
        run = Run(benchmark, place, sets, Journal(place.features / "finished"), stack)
        result = run.everything()
        if benchmark.shown:
            write_sheet(benchmark, sets, run.kept, place.out / f"{benchmark.name}-maps.png")
    write_surfaces(run.surfaces, place.out / benchmark.name, benchmark.title)
    return result


@dataclass(frozen=True, eq=False)
class Features:
    """Features of one kind: cells of all pictures, training first, and what names them."""

    cells: Cells
    identity: str


@dataclass
class Run:
    """One run and what it has found so far.

    Attributes:
        benchmark, place, sets: what is measured, where, on what.
        journal: finished cells and fits.
        stack: closes feature files.
        bounds: label → pictures in its feature files.
        kinds: label → "model", "twin" or "vision".
        models: label → what loads it.
        about: label → model, spec and what it was told, for the JSON.
        surfaces: of rows with several cells, on the pictures that choose.
        rows: the table, as the JSON has it.
        counted: (row, labels) → what each draw counted.
        missing: what could not be measured, each with the reason.
        kept: heading → maps of the test pictures of the sheet.
    """

    benchmark: DenseBenchmark
    place: Place
    sets: Sets
    journal: Journal
    stack: ExitStack
    bounds: dict[str, BoundDense] = field(default_factory=dict)
    kinds: dict[str, str] = field(default_factory=dict)
    models: dict[str, Row] = field(default_factory=dict)
    about: dict[str, dict[str, Any]] = field(default_factory=dict)
    surfaces: list[Surface] = field(default_factory=list)
    best: dict[str, Any] = field(default_factory=dict)
    rows: list[dict[str, Any]] = field(default_factory=list)
    counted: dict[tuple[str, int], Counted] = field(default_factory=dict)
    missing: dict[str, str] = field(default_factory=dict)
    kept: dict[str, list[np.ndarray]] = field(default_factory=dict)

    def everything(self) -> dict[str, Any]:
        """All rows, one after the other; what the JSON holds."""
        pictures = self.sets.pictures
        for row, backbone in models_of(self.benchmark, self.place, self.missing):
            stores = self.stack.enter_context(stores_of(row, backbone, pictures, self.place))
            self.bounds[row.label], self.kinds[row.label] = self.sets.bound(stores), row.kind
            self.models[row.label] = row
            self.about[row.label] = about_features(row, stores[0])
        self.any = next(iter(self.bounds.values()))
        self.draws = Draws.of(self.any, len(self.sets.train), self.benchmark.draws)
        self.codes, drawn = codes_of(self.sets.test.groups)
        for label in self.bounds:
            self._choose(label)
        for system in self.benchmark.systems:
            if lost := [name for name in self._of(system) if self._lacks(name)]:
                self.missing[system.name] = self.missing[lost[0].removesuffix("@random")]
                continue
            with self.place.stages(f"system {system.name}"):
                self._system(system)
        self._compared()
        return {
            "kind": self.any.kind, "rows": self.rows, "drawn": drawn,
            "measures": list(MASKS if self.any.kind == "masks" else ERRORS),
            "surfaces": [one.to_dict() for one in self.surfaces], "about": self.about,
            "sets": self._about_sets(), "missing": self.missing, "pictures": pictures.keys,
            "finished": {"found": self.journal.found, "computed": self.journal.computed,
                         "versions": sorted(self.journal.versions)},
        }  # fmt: skip

    def _of(self, system: System) -> tuple[str, ...]:
        return system.of or (self.benchmark.models[0].shown,)

    def _lacks(self, label: str) -> bool:
        return label.removesuffix("@random") in self.missing

    def _about_sets(self) -> dict[str, Any]:
        one, bound = self.sets, self.any
        said = {name: {"name": targets.name, "pictures": len(targets.ids),
                       "groups": len(set(targets.groups)), "left_out": dict(targets.left_out),
                       "noted": dict(targets.noted), "fingerprint": targets.fingerprint}
                for name, targets in (("train", one.train), ("test", one.test))}  # fmt: skip
        return {**said, "classes": list(bound.classes), "frame": self.benchmark.frame,
                "apart": dict(one.apart)}  # fmt: skip

    # which cell

    def _choose(self, label: str) -> None:
        """The best cell by a simple head on a part of the training pictures."""
        bound = self.bounds[label]
        if len(bound.keys) == 1:
            self.best[label] = bound.keys[0]
            return
        part = self.sets.part(self.draws, self.benchmark.select, self.benchmark.held)
        judge = DENSE_JUDGES[bound.kind](bound, part, self.benchmark.chooser, source=label)
        with self.place.stages(f"cells of {label}"):
            surface = validated(judge, self.place.memory, self.journal, f"cells of {label}")
        self.surfaces.append(surface)
        self.best[label] = surface.best.key

    def _features(self, label: str, spec: Any) -> Features:
        """The cells of one model that `spec` means, or pixels, or positions alone."""
        if label in (PIXELS, POSITION):
            size = tuple(self.benchmark.pixels)
            sources = self.sets.pictures.sources
            cells = floor_cells(sources, self.any.sizes, size, label == PIXELS)
            return Features(cells, fingerprint(label, size, self.sets.pictures.keys))
        bound = self.bounds[label]
        keys = chosen_cells(spec, bound.keys, self.best[label], ())
        return Features(bound.cells(keys), fingerprint(bound.identity, [list(k) for k in keys]))

    # systems

    def _system(self, system: System) -> None:
        """All counts of labels, each with all its draws; what is finished is read."""
        labels, specs = self._of(system), system.cells
        specs = specs if isinstance(specs, (list, tuple)) else [specs] * len(labels)
        parts = [self._features(label, spec) for label, spec in zip(labels, specs, strict=True)]
        cells = parts[0].cells if len(parts) == 1 else side_by_side(labels, parts)
        one = self.any
        given = Given(cells, one.masks, one.groups, one.classes, one.ignore, one.kind)
        scores = []
        wanted = list(dict.fromkeys(system.labels or self.benchmark.labels))
        for count in sorted(wanted, key=lambda n: n or len(self.sets.train)):
            if count > len(self.sets.train):
                continue
            runs = [self._run(system, given, parts, count, draw)
                    for draw in range(self._draws(system, count))]  # fmt: skip
            scores.append(self._scores(system, count, runs))
        self.rows.append({
            "label": system.name, "kind": self._kind(system), "head": system.head,
            "of": list(labels), "cells": [[*key] for key in cells.keys], "scores": scores,
            "published": system.name,
        })  # fmt: skip

    def _kind(self, system: System) -> str:
        of = self._of(system)
        if system.head in ("mean-mask", "mean-depth") or of == (POSITION,):
            return "floor"
        if of == (PIXELS,):
            return "pixels"
        kinds = {self.kinds[label] for label in of if label in self.kinds}
        return kinds.pop() if len(kinds) == 1 else "model"

    def _draws(self, system: System, count: int) -> int:
        """Of all pictures there is one draw, of heads that draw themselves several."""
        draws = system.draws or self.benchmark.draws
        if count in (ALL, len(self.sets.train)):
            return draws if system.draws > 1 else 1
        return draws

    def _run(
        self, system: System, given: Given, parts: Sequence[Features], count: int, draw: int
    ) -> dict[str, Any]:  # fmt: skip
        """One fit, scored on test once."""
        rows = self.draws.rows(count, draw)
        last = draw == 0 and count == self._most(system)
        asks = {"boundary": last and bool({"all", system.name} & {*self.benchmark.boundary}),
                "uncertainty": last and system.name in self.benchmark.uncertainty}  # fmt: skip
        says = {name: value for name, value in asdict(system).items()
                if name in ("head", "arguments", "choose")}  # fmt: skip
        counts = {name: getattr(self.benchmark, name)
                  for name in ("cap", "min_depth", "crop", "align")}  # fmt: skip
        key = fingerprint("dense", says, [one.identity for one in parts], self.any.fingerprint,
                          rows.tolist(), draw, asks, counts, self.place.device)  # fmt: skip
        path = self.place.features / f"maps-{key}.npz"
        run = self.journal.read("dense", key, PARTS.issubset)
        shows = last and system.name in self._drawn
        if run is None or (shows and not self._has_maps(path)):
            say(f"{system.name}: {len(rows)} labelled pictures, draw {draw + 1}")
            found, maps = self._fitted(system, given, rows, draw, asks, shows)
            run = run or self.journal.write("dense", key, found)
            if shows:
                np.savez_compressed(path, **maps, places=self._places)
        if shows:
            self._keep(system, path)
        return run

    @property
    def _drawn(self) -> set[str]:
        """Names of the systems in the sheet: the one that leads, and those with uncertainty."""
        if not len(self._places):
            return set()
        return {self.benchmark.leading, *self.benchmark.uncertainty}

    @property
    def _places(self) -> np.ndarray:
        return places_shown(self.benchmark, len(self.sets.test.ids))

    def _has_maps(self, path: Path) -> bool:
        """Whether maps of the pictures that are shown now are there."""
        if not path.exists():
            return False
        with np.load(path) as file:
            return np.array_equal(file["places"], self._places)

    def _most(self, system: System) -> int:
        labels = system.labels or self.benchmark.labels
        return ALL if ALL in labels else max(labels)

    def _fitted(
        self, system: System, given: Given, rows: np.ndarray, draw: int, asks: dict[str, bool],
        shows: bool,
    ) -> tuple[dict[str, Any], dict[str, np.ndarray]]:  # fmt: skip
        began, tested = time.monotonic(), self.sets.tested
        if system.head == HEAD:
            row = self.models[self._of(system)[0]]
            head = trained(system, row, self.sets, rows, draw, self.place.device)
            chosen, found = {"epoch": head.best_epoch_}, predictions(head, self.sets)
        else:
            head, chosen = learnt(system, given, rows, draw, self.place.device)
            found = head.predict(given.cells[tested])
        fitting = time.monotonic() - began
        shown = self._places if shows else self._places[:0]
        said = counted(self.benchmark, given, found, tested, shown, asks["boundary"])
        maps = {f"prediction {k}": one for k, one in enumerate(said.pop("shown"))}
        told: dict[str, Any] = {}
        if asks["uncertainty"]:
            single = None
            if "members" in head.get_params(deep=False):
                alone = head_of(system, given.kind, draw, self.place.device, {"members": 1})
                single = given.fit(alone, rows)
            told, unsure = uncertainty_of(given, head, single, tested, shown)
            maps |= {f"uncertainty {k}": one for k, one in enumerate(unsure)}
        seconds = time.monotonic() - began
        return {**said, "chosen": chosen, "seconds": [round(fitting, 2), round(seconds, 2)],
                "uncertainty": told}, maps  # fmt: skip

    def _keep(self, system: System, path: Path) -> None:
        """The maps of a system, and of its uncertainty, for the sheet."""
        with np.load(path) as file:
            for name in file.files:
                if name == "places":
                    continue
                what, k = name.rsplit(" ", 1)
                heading = system.name if what == "prediction" else f"{what}, {system.name}"
                self.kept.setdefault(heading, []).insert(int(k), file[name])

    def _scores(self, system: System, count: int, runs: list[dict[str, Any]]) -> dict[str, Any]:
        """Numbers of one count of labels, over all draws."""
        policy = self.benchmark.policy if self.any.kind == "masks" else ""
        found = Counted(tuple(np.array(run["values"]) for run in runs), self.codes, policy)
        shown = count or len(self.sets.train)
        self.counted[system.name, shown] = found
        spread = found.spread()
        said = {
            "labels": shown, "draws": len(runs), "numbers": found.interval(),
            "spread": None if spread is None else spread.tolist(),
            "chosen": [run["chosen"] for run in runs], "seconds": [run["seconds"] for run in runs],
            "boundary": runs[0]["boundary"], "uncertainty": runs[0]["uncertainty"],
        }  # fmt: skip
        if policy:
            other = "ddpm-seg" if policy == "standard" else "standard"
            both = Counted(found.draws, self.codes, other)
            said["other_policy"] = float(both.means()[0])
        return said

    def _compared(self) -> None:
        """By how much the leading system is above every other row, on the same draws."""
        lead = self.benchmark.leading
        for row in self.rows:
            for score in row["scores"]:
                mine = self.counted.get((lead, score["labels"]))
                theirs = self.counted[row["label"], score["labels"]]
                if mine is not None and row["label"] != lead:
                    score["lead_gains"] = mine.interval(theirs)[0]


def side_by_side(labels: Sequence[str], parts: Sequence[Features]) -> Cells:
    """Maps of several kinds of features of the same pictures, each on its own grid.

    Raises:
        SpecError: inputs of another size that do not show the whole picture.
    """
    first = parts[0].cells
    arrays, sizes = {}, {part.cells.input_size for part in parts}
    whole = all(part.cells.placements is None or _squashed(part.cells) for part in parts)
    if len(sizes) > 1 and not whole:
        raise SpecError("features of inputs that are cropped or padded stand beside others; "
                        "expected squashed ones")  # fmt: skip
    for label, part in zip(labels, parts, strict=True):
        arrays |= {(f"{label}: {block}", t): part.cells[block, t] for block, t in part.cells.keys}
    return Cells(arrays, sizes=first.sizes, placements=None if whole else first.placements,
                 input_size=None if whole else first.input_size)  # fmt: skip


def _squashed(cells: Cells) -> bool:
    """Whether every input shows its whole picture and nothing else."""
    if cells.input_size is None:
        return False
    wide = np.array(cells.input_size[::-1]) / cells.sizes[:, ::-1]
    wanted = np.stack([wide[:, 0], np.zeros(len(cells)), wide[:, 1], np.zeros(len(cells))], 1)
    return bool(np.allclose(cells.placements, wanted, atol=1e-6))
