"""What a benchmark file of words says."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from benchmarks.files import check_names
from benchmarks.tasks.matching.file import MeasuredBenchmark
from diffeat.errors import SpecError

WAYS = ("heat", "background", "mean-mask", "chance")
"""Heat of the words; background everywhere; the mean mask of training pictures, by position; a
class drawn for every pixel."""


@dataclass(frozen=True)
class System:
    """A row of the table.

    Attributes:
        name: of the row.
        by: one of `WAYS`.
        of: label of a model, or of its random twin; "" is the first model.
        told: whether a picture's prompt has only the words that are in it, by its true mask: the
            masks know what to look for, so the row is marked.
        heat: fields of `diffeat.zero_shot.heat.HeatOptions`.
        masks: background and normalise, as `diffeat segment --words` takes them.
    """

    name: str
    by: str
    of: str = ""
    told: bool = False
    heat: dict[str, Any] = field(default_factory=dict)
    masks: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class WordsBenchmark(MeasuredBenchmark):
    """A file whose task is words.

    Attributes:
        train: masks whose mean is a row: a named set, or "panoptic:FOLDER:SPLIT" in COCO's or
            ADE20K's panoptic layout.
        test: the same, of what is measured.
        words: a word or phrase for each class of the set but background, in its order; () takes
            their names. Of panoptic layouts these are the things; all else is background.
        systems: the rows; differences are to the first.
        train_limit, test_limit: pictures at most, by a hash of the ids.
        seed: of what is drawn.
    """

    train: str
    test: str
    systems: tuple[System, ...]
    words: tuple[str, ...] = ()
    train_limit: int | None = None
    test_limit: int | None = None
    seed: int = 0

    def __post_init__(self) -> None:
        super().__post_init__()
        where = f"benchmark {self.name}"
        check_names(where, [one.name for one in self.systems])
        known = [label for one in self.models
                 for label in (one.shown, f"{one.shown}@random")]  # fmt: skip
        for one in self.systems:
            if one.by not in WAYS:
                raise SpecError(f"{where}, {one.name}: by = {one.by!r}; expected "
                                f"{', '.join(WAYS)}")  # fmt: skip
            if one.of and one.of not in known:
                raise SpecError(f"{where}, {one.name}: of = {one.of!r}; expected "
                                f"{', '.join(known)}")  # fmt: skip
            if one.by != "heat" and (one.of or one.told or one.heat or one.masks):
                raise SpecError(f"{where}, {one.name}: of, told, heat and masks go with "
                                "by = 'heat'")  # fmt: skip
            if unknown := set(one.masks) - {"background", "normalise"}:
                raise SpecError(f"{where}, {one.name}: masks have {', '.join(sorted(unknown))}; "
                                "expected background, normalise")  # fmt: skip

    @property
    def beside(self) -> tuple[str, ...]:
        return (*super().beside, *(one.name for one in self.systems))
