"""Measure: models and their twins, vision models, pixels, and labels that do not move."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.features import Pictures
from benchmarks.searching import CellKey, Journal, clip_cells, draw_cells, frame_rows
from benchmarks.tasks.base import Place
from benchmarks.tasks.matching.models import Row, about_features, models_of, stores_of
from benchmarks.tasks.rows import PATCH, patch_cells
from benchmarks.tasks.video.counted import Counted, Measures, stacked
from benchmarks.tasks.video.file import VideoBenchmark
from benchmarks.tasks.video.scored import Counts, by_features, measures_of, unmoved
from diffeat.backbones import Backbone
from diffeat.errors import SpecError
from diffeat.extraction import Plan
from diffeat.hashing import fingerprint
from diffeat.progress import track
from diffeat.specs import ExtractSpec
from diffeat.store.format.atomic import write_synced
from diffeat.targets.video import Clip, VideoTargets, open_video
from probes.cells import Cells

FLOOR = "the first mask stays where it is"
FLOOR_OF_JOINTS = "the first joints stay where they are"
RULE = ("last", "radius", "top_k", "temperature", "fewer", "alphas")
"""Fields of a file that finished work depends on."""


def measure(benchmark: VideoBenchmark, place: Place) -> dict[str, Any]:
    """Everything that a file of videos asks for.

    Features and finished clips stay on disk and are used again by the next run. Writes <name>.csv
    (every cell and clip) and <name>.png (heat maps) where there are several cells.

    Returns:
        What the JSON holds.
    """
    targets = open_video(benchmark.clips)
    pictures = Pictures((targets.pictures(),))
    run = Run(benchmark, place, targets, pictures, measures_of(targets, benchmark),
              Journal(place.features / "finished"))  # fmt: skip
    result = run.everything()
    run.write()
    return result


@dataclass
class Run:
    """One run and what it has found so far.

    Attributes:
        benchmark, place, targets, pictures: what is measured, where, on what.
        measures: which numbers there are.
        journal: finished clips.
        cells: row → cell → what it counted of every clip.
        rows: the table, as the JSON has it.
        counted: what each row of the table counted.
        missing: what could not be measured, each with the reason.
    """

    benchmark: VideoBenchmark
    place: Place
    targets: VideoTargets
    pictures: Pictures
    measures: Measures
    journal: Journal
    cells: dict[str, dict[CellKey, Counted]] = field(default_factory=dict)
    rows: list[dict[str, Any]] = field(default_factory=list)
    counted: dict[str, Counted] = field(default_factory=dict)
    missing: dict[str, str] = field(default_factory=dict)

    def everything(self) -> dict[str, Any]:
        """All rows, one after the other; what the JSON holds."""
        for row, backbone in models_of(self.benchmark, self.place, self.missing):
            self._measured(row, backbone)
        with self.place.stages("rows without a model"):
            self._without_models()
        floor = self.counted[self.floor]
        for one in self.rows:
            one["above"] = self._intervals(self.counted[one["label"]], floor)
        objects = [len(self.targets.objects(clip)) for clip in self.targets.clips]
        clips = [{"name": clip.name, "frames": len(clip), "objects": count}
                 for clip, count in zip(self.targets.clips, objects, strict=True)]  # fmt: skip
        return {
            "kind": self.targets.kind, "measures": list(self.measures.names), "rows": self.rows,
            "surfaces": [surface for label in self.cells if (surface := self._surface(label))],
            "clips": clips, "clips_name": self.targets.name, "floor": self.floor,
            "fingerprint": self.targets.fingerprint, "pictures": self.pictures.keys,
            "missing": self.missing,
            "finished": {"found": self.journal.found, "computed": self.journal.computed,
                         "versions": sorted(self.journal.versions)},
        }  # fmt: skip

    @property
    def floor(self) -> str:
        """The untrained method that rows have to be above."""
        return FLOOR if self.targets.kind == "masks" else FLOOR_OF_JOINTS

    def _measured(self, row: Row, backbone: Backbone) -> None:
        self._check_choice(row, backbone)
        with stores_of(row, backbone, self.pictures, self.place) as (store,):
            rows = {clip.name: frame_rows(store, clip.frames) for clip in self.targets.clips}
            whole = clip_cells(store, np.arange(len(store.ids)))
            about = about_features(row, store)
            with self.place.stages(f"labels carried by {row.label}"):
                made_of = Path(store.path).name  # which hashes model, spec and pictures
                self.cells[row.label] = {
                    key: self._of_cell((made_of, *key), only(whole, key), rows)
                    for key in track(whole.keys, desc=row.label, unit="cells")
                }
            self._choose(row, about)

    def _check_choice(self, row: Row, backbone: Backbone) -> None:
        """SpecError, before any work, where one clip would choose among cells for itself."""
        if len(self.targets.clips) > 1:
            return
        plan = Plan(backbone, ExtractSpec.from_dict(row.fields))
        if (cells := len(plan.blocks) * len(plan.levels)) > 1:
            raise SpecError(f"benchmark {self.benchmark.name}: {row.label} has {cells} cells, and "
                            "one clip cannot choose among them for itself; give one block and one "
                            "t")  # fmt: skip

    def _of_cell(self, made_of: tuple, cells: Cells, rows: Mapping[str, np.ndarray]) -> Counted:
        """What features count of every clip."""

        def score(clip: Clip) -> Counts:
            return by_features(self.benchmark, self.targets, clip, cells[rows[clip.name]])

        return self._counted(made_of, score)

    def _counted(self, made_of: Any, score: Callable[[Clip], Counts]) -> Counted:
        """Of every clip, what is kept already or is counted now."""
        rule, each = {name: getattr(self.benchmark, name) for name in RULE}, []
        for clip in self.targets.clips:
            key = fingerprint([made_of, rule, clip.name, clip.frames, self.targets.fingerprint])
            kept = self.journal.read(clip.name, key, lambda one: {"above", "below"} <= set(one))
            if kept is None:
                above, below = score(clip)
                kept = self.journal.write(clip.name, key, {"above": above.tolist(),
                                                           "below": below.tolist()})  # fmt: skip
            each.append((np.array(kept["above"]), np.array(kept["below"])))
        return stacked(each, self.measures)

    def _choose(self, row: Row, about: dict[str, Any]) -> None:
        """Every clip is reported with the cell that is best on all other clips."""
        found = self.cells[row.label]
        keys, count = list(found), len(self.targets.clips)
        above, below, cells, chosen = [], [], {}, []
        for place, clip in enumerate(self.targets.clips):
            others = np.ones((1, count))
            others[0, place] = len(keys) == 1
            scores = [found[key].numbers(others)[0, 0] for key in keys]
            best = keys[int(np.argmax(scores))]
            cells[clip.name] = list(best)
            chosen.append(max(scores))
            above.append(found[best].above[place])
            below.append(found[best].below[place])
        counted = Counted(np.stack(above), np.stack(below), self.measures)
        selected = float(np.mean(chosen)) if len(keys) > 1 else None
        self._add(row.label, row.kind, counted, cells, selected, published=row.published, **about)

    def _without_models(self) -> None:
        """Pixels, and labels that stay."""
        if self.benchmark.pixels:
            (source,) = self.pictures.sources
            cells = patch_cells(source, self.benchmark.pixels, "bilinear")
            index = {name: row for row, name in enumerate(source.ids)}
            rows = {clip.name: np.array([index[one] for one in clip.frames])
                    for clip in self.targets.clips}  # fmt: skip
            made_of = "pixels", *self.benchmark.pixels, PATCH, self.pictures.keys
            height, width = self.benchmark.pixels
            self._add(f"raw pixels ({PATCH}×{PATCH} patches at {height}×{width})", "pixels",
                      self._of_cell(made_of, cells, rows))  # fmt: skip
        stays = self._counted("unmoved", lambda clip: unmoved(self.benchmark, self.targets, clip))
        self._add(self.floor, "floor", stays)

    def _add(self, label: str, kind: str, counted: Counted, cells: Any = None,
             selected: float | None = None, **others: Any) -> None:  # fmt: skip
        self.counted[label] = counted
        clips = zip(self.targets.clips, counted.of_clips().tolist(), strict=True)
        values = counted.numbers()[0].tolist()
        scores = [{"name": name, "value": value}
                  for name, value in zip(self.measures.names, values, strict=True)]  # fmt: skip
        for one, ends in zip(scores, self._intervals(counted), strict=False):
            one |= {"low": ends["low"], "high": ends["high"]}
        self.rows.append({"label": label, "kind": kind, "cells": cells or {}, "selected": selected,
                          "scores": scores, "clips": {clip.name: one for clip, one in clips},
                          **others})  # fmt: skip

    def _intervals(self, counted: Counted, other: Counted | None = None) -> list[dict[str, Any]]:
        """Of every number; none where there is one clip."""
        if len(self.targets.clips) < 2:
            return []
        found = zip(self.measures.names, counted.intervals(other), strict=True)
        return [{"name": name, "value": one.value, "low": one.low, "high": one.high}
                for name, one in found]  # fmt: skip

    def _surface(self, label: str) -> dict[str, Any] | None:
        """The first number of every cell over all clips; None of rows with one cell."""
        found = self.cells[label]
        if len(found) < 2:
            return None
        cells = [{"block": block, "t": t, "validation": float(one.numbers()[0, 0])}
                 for (block, t), one in found.items()]  # fmt: skip
        return {"name": label, "cells": cells, "best": max(cells, key=lambda c: c["validation"])}

    def write(self) -> None:
        """Every cell of every clip as <name>.csv, heat maps as <name>.png."""
        stem = self.place.out / self.benchmark.name
        names = self.measures.names
        lines = [",".join(("features", "block", "t", "clip", *names))]
        for label, found in self.cells.items():
            for (block, t), one in found.items():
                for clip, values in zip(self.targets.clips, one.of_clips(), strict=True):
                    numbers = (f"{value:.6f}" for value in values)
                    lines.append(",".join((label, block, f"{t:g}", clip.name, *numbers)))
        write_synced(stem.with_name(f"{stem.name}.csv"), ("\n".join(lines) + "\n").encode())
        surfaces = [one for label in self.cells if (one := self._surface(label))]
        if surfaces:
            what = f"{names[0]}, mean of all clips"
            draw_cells(surfaces, what, stem.with_name(f"{stem.name}.png"), self.benchmark.title)


def only(cells: Cells, key: CellKey) -> Cells:
    """One of several cells."""
    return Cells({key: cells[key]}, sizes=cells.sizes, placements=cells.placements,
                 input_size=cells.input_size)  # fmt: skip
