"""Measure: masks by the heat of words, and by nothing that looks, compared with truth."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from benchmarks.tasks.base import Place
from benchmarks.tasks.matching.models import Row, located, models_of
from benchmarks.tasks.words.file import System, WordsBenchmark
from diffeat.backbones import Backbone
from diffeat.conditioned import marked
from diffeat.errors import SpecError
from diffeat.hashing import unit_interval
from diffeat.images import Source
from diffeat.progress import counted, track
from diffeat.specs import ExtractSpec
from diffeat.targets.dense import open_dense
from diffeat.targets.panoptic import open_segments
from diffeat.words.vocabulary import Vocabulary
from diffeat.zero_shot.heat import ALL_MAPS, HeatOptions, WordHeat
from diffeat.zero_shot.pictures import pieces_of_heat
from diffeat.zero_shot.prompts import DEFAULT_PROMPT, WordRun, runs_of
from diffeat.zero_shot.word_masks import BACKGROUND, Background, WordMasks
from probes.metrics import Confusion

PANOPTIC = "panoptic:"
GRID = 64
"""Sides of the mean mask."""


@dataclass(frozen=True, eq=False)
class Truth:
    """True masks of words: 0 is background, k the k-th word.

    Attributes:
        targets: whose masks; those of a panoptic layout have `labels`.
        places: (K + 1,) what each of their classes is.
        words: of the classes that are no background.
    """

    targets: Any
    places: np.ndarray
    words: tuple[str, ...]

    IGNORE = 255

    @classmethod
    def open(cls, name: str, words: Sequence[str], limit: int | None) -> Truth:
        """By a name of the file.

        Raises:
            SpecError: another number of words than of classes.
        """
        if name.startswith(PANOPTIC):
            folder, _, split = name.removeprefix(PANOPTIC).rpartition(":")
            targets = open_segments(f"{located(folder)}:{split}")
            behind = [k for k in range(len(targets.classes)) if k not in targets.things]
        else:
            targets = open_dense(name, missing="leave-out")
            behind = [k for k, one in enumerate(targets.classes) if str(one) == BACKGROUND]
        kept = [k for k in range(len(targets.classes)) if k not in behind]
        words = tuple(words or (str(targets.classes[k]) for k in kept))
        if len(words) != len(kept):
            raise SpecError(f"{name}: {len(words)} words, and {len(kept)} classes but background; "
                            "expected a word for each, in its order")  # fmt: skip
        places = np.zeros(len(targets.classes), np.int64)
        places[kept] = np.arange(1, len(kept) + 1)
        if limit is not None and limit < len(targets):
            order = sorted(range(len(targets)), key=lambda k: unit_interval("w", targets.ids[k]))
            targets = targets.take(sorted(order[:limit]))
        return cls(targets, places, words)

    def __len__(self) -> int:
        return len(self.targets.ids)

    def mask(self, row: int) -> np.ndarray:
        """(H, W) int64: 0 … K, or IGNORE."""
        read = getattr(self.targets, "labels", None) or self.targets.target
        labels = np.asarray(read(row)).astype(np.int64)
        known = labels != self.targets.ignore
        return np.where(known, self.places[np.where(known, labels, 0)], self.IGNORE)

    def there(self, row: int) -> list[int]:
        """Which words, from 0, a picture has."""
        found = np.unique(self.mask(row))
        return [int(k) - 1 for k in found if 0 < k < self.IGNORE]

    def group(self, row: int) -> Any:
        """What a picture belongs to."""
        groups = getattr(self.targets, "groups", None)
        return groups[row] if groups else None


def measure(benchmark: WordsBenchmark, place: Place) -> dict[str, Any]:
    """Everything that a file of words asks for; what the JSON holds."""
    train, test = (
        Truth.open(name, benchmark.words, limit) for name, limit in
        ((benchmark.train, benchmark.train_limit), (benchmark.test, benchmark.test_limit))
    )  # fmt: skip
    if train.words != test.words:
        raise SpecError(f"{benchmark.train} and {benchmark.test} have different classes; expected "
                        "the same")  # fmt: skip
    return Run(benchmark, place, train, test).everything()


@dataclass
class Run:
    """One run and what it has found so far.

    Attributes:
        train, test: true masks.
        found: system → what was counted.
        missing: what could not be measured, each with the reason.
        about: model → its spec.
    """

    benchmark: WordsBenchmark
    place: Place
    train: Truth
    test: Truth
    found: dict[str, Confusion] = field(default_factory=dict)
    missing: dict[str, str] = field(default_factory=dict)
    about: dict[str, Any] = field(default_factory=dict)

    def everything(self) -> dict[str, Any]:
        """All rows, one after the other."""
        first = self.benchmark.models[0].shown
        for row, backbone in models_of(self.benchmark, self.place, self.missing):
            for system in self.benchmark.systems:
                if system.by == "heat" and (system.of or first) == row.label:
                    with self.place.stages(system.name):
                        self.found[system.name] = self._by_heat(system, row, backbone)
        for system in self.benchmark.systems:
            if system.by != "heat":
                with self.place.stages(system.name):
                    self.found[system.name] = self._counted(self._without_looking(system.by))
        rows = [self._row(one) for one in self.benchmark.systems if one.name in self.found]
        lacking = [one.name for one in self.benchmark.systems if one.name not in self.found]
        of = {one.name: (one.of or first).removesuffix("@random") for one in self.benchmark.systems}
        missing = {name: self.missing.get(of[name], "not measured") for name in lacking}
        return {
            "rows": rows, "missing": {**self.missing, **missing}, "words": list(self.test.words),
            "pictures": [len(self.train), len(self.test)], "about": self.about,
            "groups": len({self.test.group(k) or k for k in range(len(self.test))}),
        }  # fmt: skip

    def _row(self, system: System) -> dict[str, Any]:
        confusion = self.found[system.name]
        lead = next(one.name for one in self.benchmark.systems if one.name in self.found)
        iou = confusion.iou().tolist()
        names = (BACKGROUND, *self.test.words)
        row = {
            "label": system.name, "kind": system.by, "value": confusion.mean_iou(),
            "told": marked("words of the true mask in the prompt") if system.told else "",
            "pixel accuracy": confusion.pixel_accuracy(), "policy": confusion.convention,
            "IoU": {n: v for n, v in zip(names, iou, strict=True) if np.isfinite(v)},
        }  # fmt: skip
        if len(confusion.groups.names) > 1:
            one = confusion.interval()
            row |= {"low": one.low, "high": one.high}
            if system.name != lead:
                gain = confusion.interval(other=self.found[lead])
                row["beside"] = {"value": gain.value, "low": gain.low, "high": gain.high}
        return row

    def _counted(self, masks: Iterator[tuple[int, np.ndarray]]) -> Confusion:
        found = Confusion((BACKGROUND, *self.test.words), Truth.IGNORE)
        with counted(len(self.test), desc="masks", unit="pictures") as bar:
            for row, mask in masks:
                found.update(mask, self.test.mask(row), self.test.group(row))
                bar.update(1)
        return found

    # by heat

    def _by_heat(self, system: System, row: Row, backbone: Backbone) -> Confusion:
        classes = Vocabulary.of(list(self.test.words))
        background = Background.of(system.masks.get("background", "0.4"))
        masks = WordMasks(classes, background, system.masks.get("normalise", "word"))
        spec = ExtractSpec.from_dict({"blocks": list(ALL_MAPS), **row.fields})
        heat = WordHeat(backbone, spec, options_of(system.heat))
        runs = self._runs(system, backbone, masks, spec.prompt or DEFAULT_PROMPT)
        masks.input_size = heat.forward(runs(0)[0]).plan.size
        self.about[system.name] = {"model": row.label, "spec": spec.to_dict()}
        return self._counted(self._masks(masks, pieces_of_heat(heat, self._pictures(), runs)))

    def _masks(self, masks: WordMasks, pieces: Any) -> Iterator[tuple[int, np.ndarray]]:
        shift = 0 if masks.background.there else 1  # the truth always has a background
        for piece in pieces:
            for seen in masks.predict(piece):  # of none of the words all is background
                values = seen.values.astype(np.int64)
                yield seen.row, np.where(values == masks.ignore, 0, values + shift)

    def _pictures(self) -> Source:
        found = self.test.targets.pictures()
        where = {one: k for k, one in enumerate(found.ids)}
        return found.take([where[one] for one in self.test.targets.ids])

    def _runs(self, system: System, backbone: Backbone, masks: WordMasks, prompt: str) -> Any:
        """Row → prompts: one for all, or of those words that the picture has."""
        every = masks.classes
        if not system.told:
            runs = runs_of(backbone, every, prompt)
            return lambda row: runs
        behind = list(range(len(self.test.words), len(every)))
        known: dict[tuple[int, ...], tuple[WordRun, ...]] = {}

        def of(row: int) -> tuple[WordRun, ...]:
            some = (*self.test.there(row), *behind)
            if some not in known:
                asked = [every[k] for k in some] or every[:1]  # of none of the words: no key
                known[some] = tuple(
                    among(run, some, len(every)) for run in runs_of(backbone, asked, prompt)
                )
            return known[some]

        return of

    # without looking

    def _without_looking(self, by: str) -> Iterator[tuple[int, np.ndarray]]:
        mean = self._mean_mask() if by == "mean-mask" else None
        for row in range(len(self.test)):
            size = self.test.mask(row).shape
            if by == "chance":
                rng = np.random.default_rng([self.benchmark.seed, row])
                yield row, rng.integers(0, len(self.test.words) + 1, size)
            elif by == "background":
                yield row, np.zeros(size, np.int64)
            else:
                down, across = (np.arange(side) * GRID // side for side in size)
                yield row, mean[down[:, None], across]

    def _mean_mask(self) -> np.ndarray:
        """(GRID, GRID) the commonest class at each place of the training pictures."""
        count = np.zeros((len(self.train.words) + 1, GRID, GRID), np.int64)
        for row in track(range(len(self.train)), desc="mean mask", unit="pictures"):
            mask = self.train.mask(row)
            down, across = ((2 * np.arange(GRID) + 1) * side // (2 * GRID) for side in mask.shape)
            small = mask[down[:, None], across]
            for k in np.unique(small[small != Truth.IGNORE]):
                count[k] += small == k
        return count.argmax(0)


def among(run: WordRun, some: Sequence[int], count: int) -> WordRun:
    """A run of some of the classes as one of all of them."""
    keys: list[tuple[int, ...]] = [()] * count
    for place, k in enumerate(some):
        keys[k] = run.keys[place]
    return WordRun(run.prompt, tuple(keys), run.content)


def options_of(values: dict[str, Any]) -> HeatOptions:
    """Heat options from a table; SpecError for fields that there are not."""
    known = HeatOptions.__dataclass_fields__
    if unknown := set(values) - set(known):
        raise SpecError(f"heat has {', '.join(sorted(unknown))}; expected {', '.join(known)}")
    plain = {name: tuple(v) if isinstance(v, list) else v for name, v in values.items()}
    return HeatOptions(**plain)
