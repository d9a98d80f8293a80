"""Measure: masks of several makers, named by several namers, merged, and compared with truth."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch

import diffeat
from benchmarks.tasks.base import Place
from benchmarks.tasks.matching.models import located
from benchmarks.tasks.open_vocabulary.file import OpenVocabularyBenchmark, System
from diffeat.errors import ModelError, SourceError, SpecError
from diffeat.hashing import unit_interval
from diffeat.progress import say, track
from diffeat.targets.panoptic import PanopticTargets, open_segments
from diffeat.targets.panoptic.opened import MASKS
from diffeat.vision.clip import ClipNamer
from diffeat.vision.proposals import Mask2Former, Proposals
from diffeat.words.vocabulary import Vocabulary
from probes.metrics import Confusion, MaskAveragePrecision, PanopticQuality
from probes.open_vocabulary import merging

SURE = 20.0
"""Logit of a mask that is known."""
Namer = Callable[[int, np.ndarray, Proposals], np.ndarray]
"""Row, picture, masks → (Q, K) probabilities of the classes, given that a mask is something."""


def opened(name: str, smallest: int = 1) -> PanopticTargets:
    """Segments of a file: of a panoptic layout, or pieces of a named set's masks."""
    folder, _, split = name.rpartition(":")
    if not name.startswith(MASKS):
        name = f"{located(folder)}:{split}"
    return open_segments(name, smallest=smallest)


def vocabulary_of(words: str, classes: Sequence[str]) -> Vocabulary:
    """The words of a set's classes: their names, or a vocabulary in their order.

    Raises:
        SpecError: it has another number of classes.
    """
    found = Vocabulary.of(words or list(classes))
    if len(found) != len(classes):
        raise SpecError(f"{found.source}: {len(found)} classes, the set has {len(classes)}; "
                        "expected the same, in its order")  # fmt: skip
    return found


def measure(benchmark: OpenVocabularyBenchmark, place: Place) -> dict[str, Any]:
    """Everything that a file of open vocabularies asks for; what the JSON holds."""
    train, test = (opened(one, benchmark.smallest) for one in (benchmark.train, benchmark.test))
    if train.classes != test.classes:
        raise SourceError(f"{train.name} and {test.name} have different classes; expected the same")
    limit = benchmark.test_limit
    if limit is not None and limit < len(test):
        order = sorted(range(len(test)), key=lambda row: unit_interval("open", test.ids[row]))
        test = test.take(sorted(order[:limit]))
    return Run(benchmark, place, train, test).everything()


@dataclass
class Run:
    """One run and what it has found so far.

    Attributes:
        train, test: segments.
        rows: the table, as the JSON has it.
        missing: what could not be measured, each with the reason.
    """

    benchmark: OpenVocabularyBenchmark
    place: Place
    train: PanopticTargets
    test: PanopticTargets
    rows: list[dict[str, Any]] = field(default_factory=list)
    missing: dict[str, str] = field(default_factory=dict)
    _models: dict[str, Mask2Former] = field(init=False, default_factory=dict)

    def everything(self) -> dict[str, Any]:
        """All rows, one after the other."""
        first: PanopticQuality | None = None
        for system in self.benchmark.systems:
            try:
                with self.place.stages(system.name):
                    found = self._measured(system)
            except (ModelError, ImportError) as error:
                say(f"left out: {system.name}: {error}")
                self.missing[system.name] = str(error)
                continue
            first = first or found[0]
            self.rows.append({"label": system.name, "kind": system.names, "masks": system.masks,
                              "scores": _scores(*found, first)})  # fmt: skip
        if not self.rows:
            raise ModelError(f"benchmark {self.benchmark.name}: no system could be measured: "
                             f"{'; '.join(self.missing.values())}")  # fmt: skip
        return {
            "rows": self.rows, "missing": self.missing, "classes": list(self.test.classes),
            "things": sorted(self.test.things), "pictures": [len(self.train), len(self.test)],
            "groups": len(set(self.test.groups)), "left_out": dict(self.test.left_out),
            "targets": self.test.fingerprint, "commonest": self.test.classes[self._commonest],
        }  # fmt: skip

    def _measured(self, system: System) -> tuple[PanopticQuality, MaskAveragePrecision, Confusion]:
        masks, name = self._masks(system.masks), self._namer(system)
        classes, things = self.test.classes, self.test.things
        quality = PanopticQuality(classes, things)
        precision = MaskAveragePrecision(len(classes))
        confusion = Confusion(classes, self.test.ignore)
        source = self.test.pictures()
        for row in track(range(len(self.test)), desc=system.name, unit="pictures"):
            picture = np.asarray(source.load(row).convert("RGB"))
            group, truth = self.test.groups[row], self.test.segmented(row)
            found = masks(row, picture)
            (scores, nothing), shares = name(row, picture, found), _shares(found)
            merged = merging.panoptic(scores, shares, things, void=nothing,
                                      **merging.THRESHOLDS[system.thresholds])  # fmt: skip
            quality.update(merged, truth, group)
            labels = merging.semantic(scores, shares).argmax(0)
            confusion.update(labels, self.test.labels(row), group)
            if things:
                own = merging.instances(scores, shares, things=things)
                precision.update(own, self.test.instances(row), group)
        return quality, precision, confusion

    # masks

    def _masks(self, kind: str) -> Callable[[int, np.ndarray], Proposals]:
        if kind in ("proposals", "random"):
            model = self._model(kind)
            return lambda row, picture: model.propose(picture)
        return self._true if kind == "truth" else _whole

    def _model(self, kind: str) -> Mask2Former:
        """Each is loaded once: it gives masks, and names by its own classes."""
        name = located(self.benchmark.proposals)
        more = f"@random:{self.benchmark.seed}" if kind == "random" else ""
        if kind not in self._models:
            self._models[kind] = Mask2Former(name + more, self.place.device)
        return self._models[kind]

    def _true(self, row: int, picture: np.ndarray) -> Proposals:
        ids, segments = self.test.segmented(row)
        masks = np.array([ids == one["id"] for one in segments], bool).reshape(-1, *ids.shape)
        return Proposals(SURE * (2.0 * torch.from_numpy(masks).float() - 1), torch.ones(len(masks)))

    # names

    def _namer(self, system: System) -> Callable[..., tuple[np.ndarray, np.ndarray]]:
        """Row, picture, masks → (Q, K) scores and (Q,) chances of nothing."""
        if system.names == "odise":
            return self._by_odise(system)
        name = {
            "clip": self._by_clip, "own": self._by_own, "chance": self._by_chance,
            "frequent": self._by_frequency,
        }[system.names](system)  # fmt: skip

        def named(row: int, picture: np.ndarray, found: Proposals) -> tuple:
            # what the model takes for nothing is nothing of the words either
            something = found.scores.double().numpy()
            return name(row, picture, found) * something[:, None], 1 - something

        return named

    def _by_clip(self, system: System) -> Namer:
        one = self._clip
        return lambda row, picture, found: one.scores(picture, found.masks.numpy() > 0)

    @cached_property
    def _clip(self) -> ClipNamer:
        words = vocabulary_of(self.benchmark.words, self.test.classes)
        name = located(self.benchmark.clip)
        return ClipNamer(name, words, self.benchmark.templates, self.place.device)

    def _by_own(self, system: System) -> Namer:
        """Its class probabilities, given that a mask is something; 0 of classes it lacks."""
        names = {one.casefold(): k for k, one in enumerate(self._model(system.masks).classes)}
        where = [names.get(one.casefold(), -1) for one in self.test.classes]
        if max(where) < 0:
            raise ModelError(f"{self.benchmark.proposals}: none of its classes is called as one of "
                             f"{self.test.name}")  # fmt: skip

        def named(row: int, picture: np.ndarray, found: Proposals) -> np.ndarray:
            own = found.class_scores / found.scores[:, None].clamp_min(1e-12)
            own = torch.cat([own, torch.zeros(len(own), 1)], 1).numpy()
            return own[:, where]  # -1 is the column of zeros

        return named

    def _by_odise(self, system: System) -> Callable[..., tuple[np.ndarray, np.ndarray]]:
        from diffeat.adapt.odise_proposals import load_odise, named_proposals

        head, benchmark = located(system.head), self.benchmark
        if not Path(head).is_file():
            raise ModelError(f"{system.head}: no such head; train one (diffeat.adapt.ODISE)")
        backbone = diffeat.load(located(benchmark.model), self.place.device)
        odise = load_odise(head, backbone, located(benchmark.clip), self.place.device)
        words = vocabulary_of(benchmark.words, self.test.classes)
        return lambda row, picture, found: named_proposals(odise, picture, found, words)

    def _by_chance(self, system: System) -> Namer:
        def named(row: int, picture: np.ndarray, found: Proposals) -> np.ndarray:
            rng = np.random.default_rng([self.benchmark.seed, row])
            drawn = rng.integers(0, len(self.test.classes), len(found))
            return np.eye(len(self.test.classes))[drawn]

        return named

    def _by_frequency(self, system: System) -> Namer:
        one = np.eye(len(self.test.classes))[self._commonest]
        return lambda row, picture, found: np.repeat(one[None], len(found), 0)

    @cached_property
    def _commonest(self) -> int:
        """The class of most training pixels."""
        return int(self.train.pixels().argmax())


def _shares(found: Proposals) -> np.ndarray:
    return merging.probabilities(found.masks)


def _whole(row: int, picture: np.ndarray) -> Proposals:
    return Proposals(torch.full((1, *picture.shape[:2]), SURE), torch.ones(1))


def _scores(
    quality: PanopticQuality, precision: MaskAveragePrecision, confusion: Confusion,
    first: PanopticQuality,
) -> list[dict[str, Any]]:  # fmt: skip
    """PQ with its parts, mask AP and mean IoU, as the JSON has them; what cannot be said is left
    out."""
    found = [{"name": "PQ", **_interval(quality)}]
    if quality is not first and len(quality.groups.names) > 1:
        one = quality.interval(other=first)
        found[0]["beside"] = {"value": one.value, "low": one.low, "high": one.high}
    parts = (("SQ", "sq", "all"), ("RQ", "rq", "all"), ("PQ of things", "pq", "things"),
             ("PQ of stuff", "pq", "stuff"))  # fmt: skip
    values = [(label, quality.quality(*which)) for label, *which in parts]
    if any(precision._known):
        values.append(("AP", precision.compute()["AP"]))
    values.append(("mIoU", confusion.mean_iou()))
    return found + [{"name": label, "value": value} for label, value in values
                    if np.isfinite(value)]  # fmt: skip


def _interval(quality: PanopticQuality) -> dict[str, float]:
    if len(quality.groups.names) < 2:
        return {"value": quality.quality()}
    one = quality.interval()
    return {"value": one.value, "low": one.low, "high": one.high}
