"""Measure: parts of test pictures by every way, matched to classes; floors beside them."""

from __future__ import annotations

import csv
import itertools
import time
from collections.abc import Iterator, Mapping
from contextlib import ExitStack
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.searching import BoundDense, Journal, few_classes
from benchmarks.tasks.base import Place
from benchmarks.tasks.dense.floors import floor_cells
from benchmarks.tasks.dense.sets import Sets, limited
from benchmarks.tasks.matching.models import about_features, models_of, stores_of
from benchmarks.tasks.parts.file import PIXELS, POSITION, SHARED, PartsBenchmark, System
from benchmarks.tasks.parts.tables import write_dots
from diffeat.errors import SpecError
from diffeat.hashing import fingerprint
from diffeat.progress import say
from probes import Cells
from probes.dense import MeanMask
from probes.metrics.matched import MatchedNumbers, PictureMatching, SharedMatching
from probes.parts import DiffCut, DiffSeg, KMeansParts, PictureKMeans

CLASSES = {"diffseg": DiffSeg, "diffcut": DiffCut, "kmeans": KMeansParts,
           "picture-kmeans": PictureKMeans, "mean-mask": MeanMask}  # fmt: skip
NUMBERS = ("set, one-to-one", "set, many-to-one", "set, matched on train", "picture, one-to-one",
           "picture, many-to-one")  # fmt: skip
"""What is scored; those of the set only where parts are shared."""
DRAWS = 1000


def measure(benchmark: PartsBenchmark, place: Place) -> dict[str, Any]:
    """Everything that a file of parts asks for.

    Features and finished rows stay on disk and are used again by the next run. Writes <name>.csv
    (everything that was tried on training pictures) and <name>.png.

    Returns:
        What the JSON holds.
    """
    one = benchmark
    found = Sets.named(f"benchmark {one.name}", "segmentation", one.train, one.test, one.frame)
    sets = Sets(limited(found.train, one.train_limit), limited(found.test, one.test_limit),
                found.frame, found.apart)  # fmt: skip
    with ExitStack() as stack:
        run = Run(benchmark, place, sets, Journal(place.features / "finished"), stack)
        result = run.everything()
    _write_csv(result["rows"], place.out / f"{one.name}.csv")
    write_dots({**result, "benchmark": asdict(one)}, place.out / f"{one.name}.png", one.title)
    return result


@dataclass
class Run:
    """One run and what it has found so far.

    Attributes:
        benchmark, place, sets: what is measured, where, on what.
        journal: finished rows.
        stack: closes feature files.
        bounds: label → pictures in its feature files. kinds: label → "model", "twin", "vision".
        about: label → model and spec, for the JSON.
        counted: (row, number) → what was counted of test pictures.
        missing: what could not be measured, each with the reason.
    """

    benchmark: PartsBenchmark
    place: Place
    sets: Sets
    journal: Journal
    stack: ExitStack
    bounds: dict[str, BoundDense] = field(default_factory=dict)
    kinds: dict[str, str] = field(default_factory=dict)
    about: dict[str, dict[str, Any]] = field(default_factory=dict)
    counted: dict[tuple[str, str], MatchedNumbers] = field(default_factory=dict)
    missing: dict[str, str] = field(default_factory=dict)

    def everything(self) -> dict[str, Any]:
        """All rows, one after the other; what the JSON holds."""
        pictures = self.sets.pictures
        for row, backbone in models_of(self.benchmark, self.place, self.missing):
            stores = self.stack.enter_context(stores_of(row, backbone, pictures, self.place))
            self.bounds[row.label], self.kinds[row.label] = self.sets.bound(stores), row.kind
            self.about[row.label] = about_features(row, stores[0])
        self.any = next(iter(self.bounds.values()))
        rows = []
        for system in self.benchmark.systems:
            label = system.of.removesuffix("@random")
            if label in self.missing:
                self.missing[system.name] = self.missing[label]
                continue
            with self.place.stages(f"system {system.name}"):
                rows.append(self._row(system))
        self._compared(rows)
        return {"rows": rows, "about": self.about, "sets": self._about_sets(),
                "missing": self.missing, "pictures": pictures.keys}  # fmt: skip

    def _about_sets(self) -> dict[str, Any]:
        one = self.sets
        said = {name: {"name": targets.name, "pictures": len(targets.ids),
                       "groups": len(set(targets.groups)), "fingerprint": targets.fingerprint}
                for name, targets in (("train", one.train), ("test", one.test))}  # fmt: skip
        return {**said, "classes": list(self.any.classes), "frame": self.benchmark.frame,
                "apart": dict(one.apart)}  # fmt: skip

    # one row

    def _row(self, system: System) -> dict[str, Any]:
        """A system: its setting chosen on training pictures, scored on test once."""
        key = fingerprint("parts", asdict(system), self._identity(system), self.benchmark.select,
                          self.any.fingerprint)  # fmt: skip
        run = self.journal.read("parts", key, {"counts", "tried"}.issubset)
        if run is None:
            say(system.name)
            run = self.journal.write("parts", key, self._measured(system))
        return self._scored(system, run)

    def _identity(self, system: System) -> str:
        if system.of in (PIXELS, POSITION):
            return fingerprint(system.of, self.benchmark.pixels, self.sets.pictures.keys)
        return self.bounds[system.of].identity

    def _measured(self, system: System) -> dict[str, Any]:
        """Plain values of a run: what was tried, what was chosen, what test pictures counted."""
        began, select = time.monotonic(), np.arange(len(self.sets.train))[: self.benchmark.select]
        tried = []
        options = list(self._options(system))
        for option in options:
            head, cells = self._fitted(system, option)
            value = None
            if len(options) > 1:
                value = self._counted(system, head, cells, select)[self._first(system)].mean_iou()
            tried.append({**option, "validation": value})
        best = max(tried, key=lambda one: one["validation"] or 0)
        option = {name: value for name, value in best.items() if name != "validation"}
        head, cells = self._fitted(system, option)
        found = self._counted(system, head, cells, self.sets.tested, names=self._names(system, head,
                              cells, select))  # fmt: skip
        counts = {name: one.counts.tolist() for name, one in found.items()}
        return {"tried": tried, "chosen": best, "counts": counts, "parts": self.parts,
                "seconds": round(time.monotonic() - began, 1)}  # fmt: skip

    def _first(self, system: System) -> str:
        """The number that chooses, and that the row is known by."""
        return NUMBERS[0] if system.way in SHARED else NUMBERS[3]

    def _options(self, system: System) -> Iterator[dict[str, Any]]:
        ((name, values),) = system.choose.items() or (("", (None,)),)
        for block, t, value in itertools.product(
            system.blocks or ("",), system.timesteps or (0,), values
        ):
            yield {"block": block, "t": t, "arguments": {name: value} if name else {}}

    def _fitted(self, system: System, option: Mapping[str, Any]) -> tuple[Any, Cells]:
        """The way, fitted on training pictures where it has anything to learn; and all cells."""
        cells = self._cells(system, option)
        made = CLASSES[system.way](**{**system.arguments, **option["arguments"]})
        train = np.arange(len(self.sets.train))
        try:
            if system.way == "mean-mask":
                with few_classes():
                    made.fit(cells[train], self.any.masks[train], classes=self.any.classes,
                             ignore=self.any.ignore)  # fmt: skip
                return made, cells
            return made.fit(cells[train]), cells
        except ValueError as error:
            raise SpecError(f"system {system.name!r}: {error}") from error

    def _cells(self, system: System, option: Mapping[str, Any]) -> Cells:
        if system.of in (PIXELS, POSITION):
            return floor_cells(self.sets.pictures.sources, self.any.sizes,
                               tuple(self.benchmark.pixels), system.of == PIXELS)  # fmt: skip
        blocks = [name.strip() for name in option["block"].split(" + ")]
        return self.bounds[system.of].cells([(name, option["t"]) for name in blocks])

    def _counted(
        self, system: System, head: Any, cells: Cells, rows: np.ndarray, names: Any = None
    ) -> dict[str, MatchedNumbers]:  # fmt: skip
        """By name of a number, what some pictures count."""
        one, shared = self.any, None
        single = PictureMatching(one.classes, one.ignore)
        if system.way in SHARED:
            many = len(one.classes) if system.way == "mean-mask" else head.clusters
            shared = SharedMatching(many, one.classes, one.ignore)
        for row, found in zip(rows.tolist(), head.predict(cells[rows]), strict=True):
            truth, group = one.masks[row], one.groups[row]
            single.update(found, truth, group)
            if shared is not None:
                shared.update(found, truth, group)
        self.parts = float(np.mean(single.parts))
        said = {}
        if shared is not None:
            said = {NUMBERS[0]: shared.numbers(), NUMBERS[1]: shared.numbers("many-to-one")}
            if names is not None:
                said[NUMBERS[2]] = shared.numbers(names=names)
        return {**said, NUMBERS[3]: single.numbers(), NUMBERS[4]: single.numbers("many-to-one")}

    def _names(self, system: System, head: Any, cells: Cells, rows: np.ndarray) -> Any:
        """(M,) classes of shared parts by the labels of training pictures; None of others."""
        if system.way == "mean-mask":
            return np.arange(len(self.any.classes))
        if system.way not in SHARED:
            return None
        return self._counted(system, head, cells, rows)[NUMBERS[0]].names

    # numbers

    def _scored(self, system: System, run: Mapping[str, Any]) -> dict[str, Any]:
        scores = {}
        for name, counts in run["counts"].items():
            single = PictureMatching(self.any.classes, self.any.ignore)
            for group in self.sets.test.groups:
                single.groups.add(group)
            found = MatchedNumbers(np.array(counts), single.groups, self.any.classes)
            self.counted[system.name, name] = found
            ends = found.interval(draws=DRAWS)
            scores[name] = {
                "value": ends.value, "low": ends.low, "high": ends.high,
                "pixel accuracy": found.pixel_accuracy(), "iou": _plain(found.iou()),
            }  # fmt: skip
        return {"label": system.name, "kind": self._kind(system), "way": system.way,
                "of": system.of, "first": self._first(system), "chosen": run["chosen"],
                "tried": run["tried"], "parts": run["parts"], "seconds": run["seconds"],
                "scores": scores, "published": system.name}  # fmt: skip

    def _kind(self, system: System) -> str:
        if system.of in (PIXELS, POSITION):
            return "pixels" if system.of == PIXELS else "floor"
        return self.kinds[system.of]

    def _compared(self, rows: list[dict[str, Any]]) -> None:
        """By how much each leading system is above every other row, on the same draws."""
        first = {row["label"]: row["first"] for row in rows}
        for row in rows:
            row["lead_gains"] = {}
            for lead in self.benchmark.leading:
                theirs = self.counted.get((row["label"], first.get(lead, "")))
                if theirs is not None and lead != row["label"]:
                    mine = self.counted[lead, first[lead]]
                    ends = mine.interval(other=theirs, draws=DRAWS)
                    row["lead_gains"][lead] = {"value": ends.value, "low": ends.low,
                                               "high": ends.high}  # fmt: skip


def _plain(values: np.ndarray) -> list[float | None]:
    return [None if np.isnan(value) else float(value) for value in values]


def _write_csv(rows: list[dict[str, Any]], path: Path) -> None:
    """Everything that was tried, a row each."""
    with open(path, "w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(["system", "block", "t", "argument", "validation mIoU", "chosen"])
        for row in rows:
            for one in row["tried"]:
                value = one["validation"]
                said = " ".join(f"{name}={value}" for name, value in one["arguments"].items())
                writer.writerow([row["label"], one["block"], one["t"], said,
                                 "" if value is None else f"{value:.6g}",
                                 int(one == row["chosen"])])  # fmt: skip
