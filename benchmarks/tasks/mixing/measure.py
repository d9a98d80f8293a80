"""Measure: what matching measures, then every system, trained on pairs of other groups."""

from __future__ import annotations

import shutil
import time
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass, field, replace
from typing import Any

import numpy as np

from benchmarks.machine import peak_memory_mb, reset_peak_memory
from benchmarks.searching import (
    BoundPairs,
    Journal,
    Mix,
    bind,
    described,
    write_surfaces,
    write_weights,
)
from benchmarks.tasks.base import Place
from benchmarks.tasks.matching.file import AGGREGATES
from benchmarks.tasks.matching.floors import count_points
from benchmarks.tasks.matching.measure import Run, difference, numbers
from benchmarks.tasks.matching.models import Row, rows_of, stores_of
from benchmarks.tasks.matching.sets import Sets, names_in, opened
from benchmarks.tasks.mixing.file import MixingBenchmark, System
from benchmarks.tasks.mixing.systems import (
    METHODS,
    Given,
    about_fit,
    aggregator,
    chosen_cells,
    count,
    fitted,
    matcher_of,
    method_of,
    with_boxes,
)
from benchmarks.tasks.mixing.through import found_by_prompts, learned_prompt
from benchmarks.tasks.rows import patch_cells, sizes_of
from diffeat.errors import SpecError
from diffeat.hashing import fingerprint
from diffeat.progress import say
from diffeat.targets.pairs import PairTargets
from probes import Cells
from probes.aggregate import with_mirrored
from probes.lazy import Stacked
from probes.metrics.pck import PCK

PIXELS = "pixels"
PARTS = frozenset(("seed", "states", "selected", "fit", "seconds"))


def measure(benchmark: MixingBenchmark, place: Place) -> dict[str, Any]:
    """Everything that a file of mixing asks for.

    Features, finished cells, finished systems and trainings under way stay on disk and are used
    again by the next run. Writes <name>.csv (every single cell) and <name>.png (heat
    maps); <name>-weights.png of mixers.

    Returns:
        What the JSON holds.
    """
    sets = Sets.open(benchmark)
    trains = _trains(benchmark, sets)
    pictures = Sets.pictures_of((trains, sets.chooses, *sets.reported))
    run = MixingRun(benchmark, place, sets, pictures, Journal(place.features / "finished"),
                    trains=trains)  # fmt: skip
    result = run.everything()
    write_surfaces(run.surfaces, place.out / benchmark.name, benchmark.title)
    write_weights(run.rows, place.out / f"{benchmark.name}-weights.png", benchmark.title)
    return result


def _trains(benchmark: MixingBenchmark, sets: Sets) -> PairTargets | None:
    """The pairs that are trained on; SpecError where a group is chosen by or reported on too."""
    if not any(method_of(one).learns == "pairs" for one in benchmark.systems):
        return None
    trains = opened(benchmark.train) if benchmark.train else sets.others
    if trains is None or not len(trains):
        return None
    for other in (sets.chooses, *sets.reported):
        if other is not None and (both := names_in(trains) & names_in(other)):
            raise SpecError(
                f"benchmark {benchmark.name}: {len(both)} groups, such as {min(both)!r}, are in "
                f"the pairs that are trained on and in {other.name}; expected other ones"
            )
    return trains


@dataclass(frozen=True, eq=False)
class _Features:
    """Features of one of a system's parts: cells of all pictures, and what names them."""

    cells: Cells
    keys: tuple[Any, ...]
    identity: str
    bound: BoundPairs | None = None


@dataclass
class MixingRun(Run):
    """A run of matching with systems behind it.

    Attributes:
        trains: pairs to train on, or None.
        chosen: label → (best single cell, greedy set), of models with single cells.
        stores: label → feature files, open while systems are measured.
        files: closes them.
    """

    trains: PairTargets | None = None
    chosen: dict[str, tuple[Any, Sequence[Any]]] = field(default_factory=dict)
    stores: dict[str, Sequence[Any]] = field(default_factory=dict)
    files: ExitStack = field(default_factory=ExitStack, repr=False)

    def everything(self) -> dict[str, Any]:
        found = super().everything()
        found["trained_on"] = None if self.trains is None else {
            "name": self.trains.name, "pairs": len(self.trains),
            "groups": len(names_in(self.trains)),
        }  # fmt: skip
        for row in self.rows:
            row["against"] = self._against(row["label"])
        return found

    def _matched(self, row: Row, backbone: Any) -> None:
        if self.benchmark.single:
            super()._matched(row, backbone)

    def _chosen(self, row: Row, stores: Any, report: BoundPairs) -> dict[Any, float | None]:
        found = super()._chosen(row, stores, report)
        candidates = list(found)
        cells = [one.cells for one in candidates if isinstance(one, Mix)]
        self.chosen[row.label] = candidates[0], cells[0] if cells else [candidates[0]]
        return found

    def _more(self) -> None:
        with self.files as stack:  # they stay open from system to system
            self._systems(stack)

    def _systems(self, stack: ExitStack) -> None:
        for system in self.benchmark.systems:
            labels = system.of or (self.benchmark.models[0].shown,)
            lost = [name for name in labels if name.removesuffix("@random") in self.missing]
            if lost:
                self.missing[system.name] = self.missing[lost[0].removesuffix("@random")]
                continue
            with self.place.stages(f"system {system.name}"):
                if method_of(system).through == "points":
                    self._by_points(system, labels[0])
                    continue
                specs = system.cells if isinstance(system.cells, (list, tuple)) else [system.cells]
                specs = list(specs) * (len(labels) if len(specs) == 1 else 1)
                mirrors = method_of(system).mirrors
                parts = [self._features(stack, label, spec, mirrors)
                         for label, spec in zip(labels, specs, strict=True)]  # fmt: skip
                self._system(system, labels, parts)

    def _features(
        self, stack: ExitStack, label: str, spec: Any, mirrors: bool = False
    ) -> _Features:
        """The cells of one model that `spec` means; `mirrors`: also of its mirrored pictures."""
        if label == PIXELS:
            if not self.stores:  # whose rows the pairs are told by
                self._features(stack, self.benchmark.models[0].shown, "all")
            return self._pixels()
        bound = bind(self.sets.report, self._opened(stack, label))
        keys = tuple(chosen_cells(spec, bound.keys, *self.chosen.get(label, (None, ()))))
        cells, identity = bound.cells(keys), bound.identity
        if mirrors:
            other = bind(self.sets.report, self._opened(stack, label, mirrored=True))
            cells = with_mirrored(cells, other.cells(keys))
            identity = fingerprint(identity, other.identity)
        return _Features(cells, keys, identity, bound)

    def _opened(self, stack: ExitStack, label: str, mirrored: bool = False) -> Any:
        """The feature files of a row, which stay open."""
        key = f"{label}, mirrored" if mirrored else label
        if key not in self.stores:
            row = self._row(label)
            if mirrored:
                row = replace(row, fields={**row.fields, "mirror": True})
            opened = stores_of(row, row.load(self.place.device), self.pictures, self.place)
            self.stores[key] = stack.enter_context(opened)
        return self.stores[key]

    def _row(self, label: str) -> Row:
        return next(one for one in rows_of(self.benchmark) if one.label == label)

    def _pixels(self) -> _Features:
        """Patches of raw pixels, as one cell of maps."""
        side = self.benchmark.patches[0]
        parts = [patch_cells(source, (side, side)) for source in self.pictures.sources]
        (key,) = parts[0].keys
        sizes = np.concatenate([one.sizes for one in parts])
        stacked = Stacked([one[key] for one in parts])
        cells = Cells({key: stacked}, sizes=sizes, input_size=(side, side))
        return _Features(cells, (key,), fingerprint(PIXELS, side, self.pictures.keys))

    def _bound(self, targets: PairTargets, parts: Sequence[_Features]) -> BoundPairs:
        """Pairs by rows of all pictures; with pixels alone by a model's files, whose rows are the
        same."""
        known = [one.bound.stores for one in parts if one.bound is not None]
        return bind(targets, known[0] if known else next(iter(self.stores.values())))

    def _system(
        self, system: System, labels: Sequence[str], parts: Sequence[_Features]
    ) -> None:  # fmt: skip
        """All seeds of a system, counted together; what is finished is read."""
        one = self.benchmark
        bounds = {targets.name: self._bound(targets, parts) for targets in self.sets.reported}
        learnt = [None if targets is None else self._bound(targets, parts)
                  for targets in (self.trains, self.sets.chooses)]  # fmt: skip
        pairs = [None if bound is None else with_boxes(bound) for bound in learnt]
        given = Given(tuple(part.cells for part in parts), *pairs)
        runs = []
        for seed in system.seeds:
            key = self._key(system, parts, [*bounds.values(), *learnt], seed)
            run = self.journal.read("mixing", key, PARTS.issubset)
            if run is None:
                say(f"{system.name}, seed {seed}")
                run = self._trained(system, given, bounds, learnt[1], seed, key)
                run = self.journal.write("mixing", key, run)
            runs.append(run)
        found = {name: self._pck([run["states"][name] for run in runs]) for name in bounds}
        alone = [numbers(self._pck([run["states"][one.pairs]]), one) for run in runs]
        selected = [run["selected"] for run in runs]
        cells = [list(key) for part in parts for key in part.keys]
        self._add(
            system.name, "mixed", found, cells,
            None if selected[0] is None else float(np.mean(selected)), of=list(labels),
            method=system.method, seeds=list(system.seeds), alone=alone,
            learns=method_of(system).learns, fits=[run["fit"] for run in runs],
            chosen=[run.get("chosen", {}) for run in runs],
            seconds=[run["seconds"] for run in runs], matcher=described(matcher_of(system)),
            published=system.name,
        )  # fmt: skip

    def _key(
        self, system: System, parts: Sequence[_Features], bounds: Sequence[BoundPairs | None],
        seed: int,
    ) -> str:  # fmt: skip
        """Hash of all that a system's run depends on, but for the versions of packages."""
        one = self.benchmark
        says = {name: value for name, value in asdict(system).items()
                if name in ("method", "arguments", "choose", "matcher")}  # fmt: skip
        named = [None if bound is None else bound.targets.fingerprint for bound in bounds]
        cells = [[part.identity, list(part.keys)] for part in parts]
        return fingerprint("mixing", says, seed, cells, named, list(one.alphas),
                           [asdict(way) for way in one.conventions])  # fmt: skip

    def _trained(
        self, system: System, given: Given, bounds: dict[str, BoundPairs],
        chooses: BoundPairs | None, seed: int, key: str,
    ) -> dict[str, Any]:  # fmt: skip
        """One run: chosen, trained, and matched with."""
        reset_peak_memory()
        began, method, said = time.monotonic(), method_of(system), {}
        if method.through:
            given, said = self._with_prompt(system, seed, key, given)
            method = METHODS["cells"]
        folder = self.place.features / f"training-{key}"

        def ready(chosen: dict[str, Any]) -> Any:
            known = replace(system, arguments={}, method="cells") if said else system
            made = aggregator(known, chosen, seed, self.place.device)
            return None if made is None else fitted(made, method, given, folder)

        def share(made: Any, chosen: dict[str, Any]) -> float | None:
            if chooses is None:
                return None
            matcher = matcher_of(system, chosen)
            pck = count(made, method, given, matcher, chooses, self._empty())
            return pck.compute(AGGREGATES[0])[self.benchmark.alphas[0]]

        tried = [({name: value}, ready({name: value}))
                 for name, values in system.choose.items() for value in values]  # fmt: skip
        if tried:
            scores = [share(made, chosen) for chosen, made in tried]
            (chosen, made), selected = tried[int(np.argmax(scores))], max(scores)
        else:
            chosen, made = {}, ready({})
            selected = share(made, chosen)
        matcher = matcher_of(system, chosen)
        seconds = round(time.monotonic() - began, 1)
        states = {
            name: {what: value.tolist() for what, value in
                   count(made, method, given, matcher, bound, self._empty()).state.items()}
            for name, bound in bounds.items()
        }  # fmt: skip
        shutil.rmtree(folder, ignore_errors=True)
        fit = {**about_fit(made), **said}
        return {
            "seed": seed, "states": states, "selected": selected, "fit": fit, "chosen": chosen,
            "seconds": seconds, "peak_memory_mb": peak_memory_mb(),
        }  # fmt: skip

    def _with_prompt(
        self, system: System, seed: int, key: str, given: Given
    ) -> tuple[Given, dict[str, Any]]:
        """The same pairs with the features that a learned prompt gives."""
        if self.trains is None:
            raise SpecError(f"system {system.name!r} is trained, but there are no pairs to train "
                            "on; give train, or a select_share below 1")  # fmt: skip
        row, said = learned_prompt(
            self._row((system.of or (self.benchmark.models[0].shown,))[0]), self.place.device,
            system.arguments, seed, self.place.features / f"prompt-{key}.safetensors",
            self.trains, self.sets.chooses,
        )  # fmt: skip
        opened = stores_of(row, row.load(self.place.device), self.pictures, self.place)
        cells = bind(self.sets.report, self.files.enter_context(opened)).cells()
        return replace(given, groups=(cells,)), said

    def _by_points(self, system: System, label: str) -> None:
        """A system that needs no features: each point by a prompt of its own."""
        found, row, began = {}, self._row(label), time.monotonic()
        for targets in self.sets.reported:
            pck, pictures = self._empty(), targets.pictures()
            sizes = dict(zip(pictures.ids, sizes_of(pictures), strict=True))
            for seed in system.seeds:
                key = fingerprint("point-prompts", row.name, row.fields, system.arguments, seed,
                                  targets.fingerprint)  # fmt: skip
                points = found_by_prompts(row, self.place.device, system.arguments, seed, targets,
                                          self.journal, key)  # fmt: skip
                count_points(pck, targets, points, sizes)
            found[targets.name] = pck
        self._add(
            system.name, "mixed", found, of=[label], method=system.method,
            seeds=list(system.seeds), alone=[], learns="nothing", fits=[{}], chosen=[{}],
            seconds=[round(time.monotonic() - began, 1)], matcher={}, published=system.name,
        )  # fmt: skip

    def _empty(self) -> PCK:
        return PCK(self.benchmark.alphas, self.benchmark.conventions)

    def _pck(self, states: Sequence[dict[str, Any]]) -> PCK:
        """Several runs counted together."""
        found = self._empty()
        for state in states:
            found.load(state)
        return found

    def _against(self, label: str) -> dict[str, dict[str, list[dict[str, Any]]]]:
        """Set of pairs → other row → by how much more of all points are found, on the same draws.

        The others are the best single cell and the greedy set of the row's first features, and
        the last floor: the mean place, where there is one.
        """
        found: dict[str, dict[str, list[dict[str, Any]]]] = {}
        row = next(one for one in self.rows if one["label"] == label)
        model = (row.get("of") or [label])[0]
        floors = [one["label"] for one in self.rows if one["kind"] == "floor"]
        sets = [name for name in self.counted if name.startswith(f"{model} (")]
        others = dict.fromkeys([model, *sets, *floors[-1:], *row.get("of", ())])
        for name, mine in self.counted[label].items():
            for other in others:
                theirs = self.counted.get(other, {}).get(name)
                if other != label and theirs is not None:
                    found.setdefault(name, {})[other] = difference(mine, theirs, self.benchmark)
        return found
