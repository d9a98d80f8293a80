"""Measure: trained clean, tested clean and corrupted, by t."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from typing import Any

import numpy as np

import diffeat
from benchmarks.features import Pictures
from benchmarks.searching import (
    TEST,
    CellTask,
    Classification,
    Journal,
    Logistic,
    Surface,
    one_cell,
    task_of,
    validated,
    write_surfaces,
)
from benchmarks.tasks.base import Place
from benchmarks.tasks.matching.models import Row, models_of, stores_of
from benchmarks.tasks.robustness.file import RobustnessBenchmark
from diffeat.hashing import fingerprint
from diffeat.images import Source, fit_picture
from diffeat.images.corrupt import Corruption
from probes.metrics.intervals import DRAWS, drawn_groups, interval_of

CLEAN = "clean"
PIXELS = "raw pixels"
SEED = 0
"""Of what is random in a corruption, as an ExtractSpec has it."""


def measure(benchmark: RobustnessBenchmark, place: Place) -> dict[str, Any]:
    """Everything that a file of robustness asks for.

    Features and judged cells stay on disk. Writes <name>.csv (every cell) and <name>.png.

    Returns:
        What the JSON holds.
    """
    limits = (benchmark.train_limit, benchmark.test_limit)
    found = [diffeat.open_source(name) for name in (benchmark.train, benchmark.test)]
    sources = tuple(one.limit(limit) if limit else one
                    for one, limit in zip(found, limits, strict=True))  # fmt: skip
    run = Run(benchmark, place, Pictures(sources), Journal(place.features / "finished"))
    result = run.everything()
    write_surfaces(run.surfaces, place.out / benchmark.name, benchmark.title)
    return result


@dataclass
class Run:
    """One run and what it has found so far.

    Attributes:
        benchmark, place, pictures, journal: as elsewhere.
        surfaces: of every row, on clean validation pictures.
        rows: the table, as the JSON has it.
        right: (row, test set) → (n,) which test pictures are right.
        missing: what could not be measured, each with the reason.
    """

    benchmark: RobustnessBenchmark
    place: Place
    pictures: Pictures
    journal: Journal
    surfaces: list[Surface] = field(default_factory=list)
    rows: list[dict[str, Any]] = field(default_factory=list)
    right: dict[tuple[str, str], np.ndarray] = field(default_factory=dict)
    missing: dict[str, str] = field(default_factory=dict)

    def everything(self) -> dict[str, Any]:
        """All rows, one after the other; what the JSON holds."""
        like: CellTask | None = None
        for row, backbone in models_of(self.benchmark, self.place, self.missing):
            with stores_of(row, backbone, self.pictures, self.place) as stores:
                task = task_of(stores, self._shares, False, "drop")
                like = like or task
                self._row(row, backbone, task)
        with self.place.stages(PIXELS):
            self._pixels(like)
        lead = self.rows[0]["label"]
        for one in self.rows:
            for score in one["scores"]:
                mine, theirs = (self.right[label, score["test"]] for label in (lead, one["label"]))
                score["lead_gains"] = _ends(mine - theirs)
        return {
            "rows": self.rows, "lead": lead, "missing": self.missing,
            "counts": list(Classification(like, Logistic()).counts),
            "surfaces": [one.to_dict() for one in self.surfaces], "pictures": self.pictures.keys,
            "finished": {"found": self.journal.found, "computed": self.journal.computed,
                         "versions": sorted(self.journal.versions)},
        }  # fmt: skip

    @property
    def _shares(self) -> tuple[float, float, float]:
        return 1 - self.benchmark.held, self.benchmark.held, 0.0

    @property
    def _tests(self) -> list[str]:
        return [CLEAN, *self.benchmark.corruptions]

    def _row(self, row: Row, backbone: Any, task: CellTask) -> None:
        """A model: at each t the block that is best on clean validation pictures."""
        judge = Classification(task, Logistic())
        with self.place.stages(f"probes of {row.label}"):
            surface = validated(judge, self.place.memory, self.journal, row.label)
        surface.name = row.label
        self.surfaces.append(surface)
        steps = list(dict.fromkeys(cell.t for cell in surface.cells))
        best = [surface.best_at(t) for t in steps]
        heads = {cell.key: judge.head(cell.key, cell.setting) for cell in best}
        labels, test = task.labels[task.part == TEST], Pictures((self.pictures.sources[1],))
        found: dict[tuple[Any, str], np.ndarray] = {}
        for name in self._tests:
            with ExitStack() as stack:
                fields = row.fields if name == CLEAN else {**row.fields, "corrupt": name}
                worse = Row(row.label, row.kind, row.name, fields, row.denoiser)
                (store,) = stack.enter_context(stores_of(worse, backbone, test, self.place))
                for key, head in heads.items():
                    values = np.asarray(store[key][:], np.float32)
                    said = head.predict(values.reshape(len(values), -1))
                    found[key, name] = said == labels
        for cell in best:
            label = f"{row.label}, t = {cell.t:g}" if len(best) > 1 else row.label
            self._add(label, row.kind, cell, {name: found[cell.key, name] for name in self._tests})
        chosen = surface.best.key
        if len(best) > 1:
            for name in self._tests:  # the row's own, by clean validation
                self.right[row.label, name] = found[chosen, name].astype(np.float64)

    def _pixels(self, like: CellTask) -> None:
        """Raw pixels, corrupted as the models' pictures are."""
        size = (self.benchmark.side,) * 2
        train, test = self.pictures.sources
        clean = [_pixels_of(one, size, None) for one in (train, test)]
        values = np.concatenate(clean)
        identity = fingerprint(PIXELS, size, self.pictures.keys)
        task = one_cell(like, PIXELS, "pixels", values, identity)
        judge = Classification(task, Logistic())
        surface = validated(judge, 8 << 30, self.journal, PIXELS)
        cell = surface.best
        head, labels = judge.head(cell.key, cell.setting), task.labels[task.part == TEST]
        found = {}
        for name in self._tests:
            worse = clean[1] if name == CLEAN else _pixels_of(test, size, Corruption.read(name))
            said = head.predict(worse.reshape(len(worse), -1).astype(np.float32))
            found[name] = said == labels
        self._add(PIXELS, "pixels", cell, found)

    def _add(self, label: str, kind: str, cell: Any, found: dict[str, np.ndarray]) -> None:
        scores = []
        for name, right in found.items():
            self.right[label, name] = right.astype(np.float64)
            scores.append({"test": name, **_ends(self.right[label, name])})
        worse = np.mean([found[name] for name in self.benchmark.corruptions], 0)
        self.right[label, "mean"] = worse
        scores.append({"test": "mean", **_ends(worse)})
        self.rows.append({"label": label, "kind": kind, "cell": [cell.block, cell.t],
                          "validation": cell.validation, "scores": scores})  # fmt: skip


def _pixels_of(source: Source, size: Sequence[int], corruption: Corruption | None) -> np.ndarray:
    """(N, 3, H, W) uint8."""
    found = np.empty((len(source), 3, *size), np.uint8)
    for row in range(len(source)):
        picture = source.load(row)
        if corruption is not None:
            picture = corruption.apply(picture.convert("RGB"), SEED, source.ids[row])
        found[row] = fit_picture(picture, tuple(size), "squash", "bicubic")
    return found


def _ends(values: np.ndarray) -> dict[str, float]:
    """Mean of the test pictures' numbers, and its interval, pictures drawn anew."""
    weights = next(drawn_groups(len(values), 0, DRAWS, DRAWS)).astype(np.float64)
    one = interval_of(float(values.mean()), weights @ values / weights.sum(1))
    return {"value": one.value, "low": one.low, "high": one.high}
