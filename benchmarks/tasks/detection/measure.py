"""Measure: a detector on models' maps, on those of their twins and of vision models, on pixels."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from benchmarks.features import Pictures
from benchmarks.searching import clip_cells
from benchmarks.tasks.base import Place
from benchmarks.tasks.detection.file import DetectionBenchmark
from benchmarks.tasks.matching.models import located, models_of, stores_of
from benchmarks.tasks.rows import PATCH, patch_cells, sizes_of
from diffeat.progress import track
from diffeat.targets.boxes import BoxTargets, boxes_of_masks, open_coco
from diffeat.targets.dense import open_dense
from probes.cells import Cells
from probes.detection import BoxDetector, Boxes
from probes.metrics import AveragePrecision

NUMBERS = ("AP50", "AP75", "AP")
FLOOR = "the mean box of training, wherever"


def opened(name: str) -> BoxTargets:
    """Boxes of a file: COCO's, or round the masks of a named set."""
    if name.startswith("coco:"):
        return open_coco(located(name.removeprefix("coco:")))
    return boxes_of_masks(open_dense(name))


def measure(benchmark: DetectionBenchmark, place: Place) -> dict[str, Any]:
    """Everything that a file of detection asks for; what the JSON holds."""
    train, test = opened(benchmark.train), opened(benchmark.test)
    pictures = Pictures((train.pictures(), test.pictures()))
    known = [one.of(source.ids) for one, source in zip((train, test), pictures.sources,
                                                       strict=True)]  # fmt: skip
    return Run(benchmark, place, *known, pictures).everything()


@dataclass
class Run:
    """One run and what it has found so far.

    Attributes:
        benchmark, place, pictures: what is measured, where, on what.
        train, test: boxes, in the order of the pictures.
        rows: the table, as the JSON has it.
        missing: what could not be measured, each with the reason.
    """

    benchmark: DetectionBenchmark
    place: Place
    train: BoxTargets
    test: BoxTargets
    pictures: Pictures
    rows: list[dict[str, Any]] = field(default_factory=list)
    missing: dict[str, str] = field(default_factory=dict)

    def everything(self) -> dict[str, Any]:
        """All rows, one after the other."""
        for row, backbone in models_of(self.benchmark, self.place, self.missing):
            with stores_of(row, backbone, self.pictures, self.place) as stores:
                cells = [clip_cells(store, np.arange(len(store.ids))) for store in stores]
                about = {"model": {**stores[0].model, "name": row.label},
                         "spec": stores[0].spec.to_dict()}  # fmt: skip
                self._trained(row.label, row.kind, cells, row.published, about)
        with self.place.stages("rows without a model"):
            if self.benchmark.pixels:
                size = tuple(self.benchmark.pixels)
                cells = [patch_cells(one, size, "bilinear") for one in self.pictures.sources]
                label = f"raw pixels ({PATCH}×{PATCH} patches at {size[0]}×{size[1]})"
                self._trained(label, "pixels", cells)
            self._add(FLOOR, "floor", [self._scored(self._mean_boxes())])
        boxes = [int(sum(map(len, one.boxes))) for one in (self.train, self.test)]
        return {
            "rows": self.rows, "missing": self.missing, "classes": list(self.train.classes),
            "pictures": [len(self.train), len(self.test)], "boxes": boxes,
            "groups": len(set(self.test.groups)), "keys": self.pictures.keys,
            "left_out": [self.train.left_out, self.test.left_out],
            "targets": [self.train.fingerprint, self.test.fingerprint],
        }  # fmt: skip

    def _trained(self, label: str, kind: str, cells: Sequence[Cells], published: str = "",
                 about: dict[str, Any] | None = None) -> None:  # fmt: skip
        """A detector for each seed, on the cells of training and test pictures."""
        scores, epochs = [], []
        with self.place.stages(f"detectors on {label}"):
            for seed in track(self.benchmark.seeds, desc=label, unit="trainings"):
                head = BoxDetector(random_state=seed, progress=False, **self.benchmark.head)
                head.fit(cells[0], _as_boxes(self.train), self.benchmark.validation,
                         classes=self.train.classes, groups=self.train.groups)  # fmt: skip
                scores.append(self._scored(list(head.predict(cells[1]))))
                epochs.append(head.best_epoch_)
        self._add(label, kind, scores, published=published, epochs=epochs, **(about or {}))

    def _scored(self, found: Sequence[Boxes]) -> AveragePrecision:
        measure = AveragePrecision(len(self.test.classes))
        for one, known, group in zip(found, _as_boxes(self.test), self.test.groups, strict=True):
            measure.update(one, known, group)
        return measure

    def _mean_boxes(self) -> list[Boxes]:
        """Of every test picture the median box of each class, as shares of the picture's sides."""
        sizes = [sizes_of(source) for source in self.pictures.sources]
        shares = np.concatenate([
            boxes / np.tile(size[::-1], 2)
            for boxes, size in zip(self.train.boxes, sizes[0], strict=True)
        ])  # fmt: skip
        labels = np.concatenate(self.train.labels)
        there = np.unique(labels)
        mean = np.stack([np.median(shares[labels == label], 0) for label in there])
        often = np.array([(labels == label).mean() for label in there])
        return [Boxes(mean * np.tile(size[::-1], 2), there, often) for size in sizes[1]]

    def _add(self, label: str, kind: str, measures: Sequence[AveragePrecision],
             **others: Any) -> None:  # fmt: skip
        numbers = [one.compute() for one in measures]
        scores = [{"name": name, "value": float(np.mean([one[name] for one in numbers])),
                   "seeds": [one[name] for one in numbers]} for name in NUMBERS]  # fmt: skip
        if len(set(self.test.groups)) > 1:
            one = measures[0].interval(NUMBERS[0])
            scores[0] |= {"low": one.low, "high": one.high}
        self.rows.append({"label": label, "kind": kind, "scores": scores, **others})


def _as_boxes(targets: BoxTargets) -> list[Boxes]:
    rows = zip(targets.boxes, targets.labels, targets.crowd, strict=True)
    return [Boxes(boxes, labels, crowd=crowd) for boxes, labels, crowd in rows]
