"""What a benchmark file of parts says."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from benchmarks.files import check_names
from benchmarks.tasks.matching.file import MeasuredBenchmark
from diffeat.errors import SpecError

WAYS = ("diffseg", "diffcut", "kmeans", "picture-kmeans", "mean-mask")
SHARED = ("kmeans", "mean-mask")
"""Ways whose parts are the same in all pictures."""
PIXELS, POSITION = "pixels", "position"


@dataclass(frozen=True)
class System:
    """One row: which way, on which features.

    Attributes:
        name: for the table.
        way: one of `WAYS`.
        of: label of a model, random twin or vision model, "pixels" (which have their position
            too), or "position".
        blocks: among these one is chosen; "a + b" takes both together.
        timesteps: likewise.
        choose: at most one argument with the values to try.
        arguments: of the way.
    """

    name: str
    way: str
    of: str = ""
    blocks: tuple[str, ...] = ()
    timesteps: tuple[float, ...] = ()
    choose: dict[str, Any] = field(default_factory=dict)
    arguments: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        where = f"system {self.name!r}"
        if self.way not in WAYS:
            raise SpecError(f"{where}: way {self.way!r}; expected one of {', '.join(WAYS)}")
        if len(self.choose) > 1:
            raise SpecError(f"{where}: choose has {', '.join(self.choose)}; expected one argument")
        floor = self.of in (PIXELS, POSITION)
        if floor == bool(self.blocks) or (floor and self.timesteps):
            raise SpecError(f"{where}: blocks = {list(self.blocks)} of {self.of!r}; expected "
                            "blocks and timesteps of a model, and none of pixels")  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class PartsBenchmark(MeasuredBenchmark):
    """A file whose task is parts.

    Attributes:
        train, test: named sets, such as "horses:train" and "horses:val".
        systems: the rows.
        frame: (H, W) that pictures are scored at, labels moved by nearest; () is their own size.
        train_limit, test_limit: pictures at most, drawn once by a hash of their ids.
        select: training pictures whose labels choose block, t and argument.
        pixels: (H, W) of the inputs whose raw pixels are features.
        lead: systems that every other row is compared with; () is the first.
    """

    train: str
    test: str
    systems: tuple[System, ...] = ()
    frame: tuple[int, ...] = ()
    train_limit: int | None = None
    test_limit: int | None = None
    select: int = 40
    pixels: tuple[int, ...] = (48, 48)
    lead: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        super().__post_init__()
        where, names = f"benchmark {self.name}", [one.name for one in self.systems]
        check_names(where, names)
        if self.train == self.test:
            raise SpecError(f"{where}: train and test are both {self.train!r}; expected two sets")
        known = self.sources | {PIXELS, POSITION}
        for one in self.systems:
            if one.of not in known:
                raise SpecError(f"{where}: system {one.name!r} is of {one.of!r}; expected "
                                f"{', '.join(sorted(known))}")  # fmt: skip
        if lost := [name for name in self.lead if name not in names]:
            raise SpecError(f"{where}: lead names {lost[0]!r}; expected one of {', '.join(names)}")

    @property
    def beside(self) -> tuple[str, ...]:
        return (*super().beside, *(one.name for one in self.systems))

    @property
    def leading(self) -> tuple[str, ...]:
        """The systems that others are compared with."""
        return self.lead or (self.systems[0].name,)
