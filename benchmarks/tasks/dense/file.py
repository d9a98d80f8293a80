"""What a benchmark file of segmentation or depth says."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from benchmarks.files import check_names
from benchmarks.tasks.matching.file import MeasuredBenchmark
from diffeat.errors import SpecError

CELLS = ("all", "best", "best block", "best t")
ALL = 0
"""Among label counts: all that there are."""
PIXELS, POSITION = "pixels", "position"
POLICIES = ("standard", "ddpm-seg")
ALIGN = ("", "median", "scale-shift")


@dataclass(frozen=True)
class System:
    """One row: which head, on which cells of which features.

    Attributes:
        name: for the table.
        head: a name of `benchmarks.tasks.dense.systems`' tables; or "vpd", which is trained through
            the model (`arguments` of `diffeat.adapt.VPD`, and `words` of depth), and for which
            `cells` mean nothing.
        of: labels of models, random twins or vision models, "pixels" (which have their position
            too), or "position", where nothing is looked at; () is the first model. Of several, the
            maps stand side by side, each on its own grid.
        cells: "all", "best" (chosen by single cells), "best block" (at every t), "best t" (every
            block), or a table of blocks and timesteps; or a list with one of these for each of
            `of`.
        arguments: of the head; `mixer` is a table of its own, whose `kind` is a class of
            `probes.aggregate`.
        choose: one argument with the values to try, chosen within the labelled pictures.
        labels, draws: in place of the benchmark's.
    """

    name: str
    head: str
    of: tuple[str, ...] = ()
    cells: Any = "best"
    arguments: dict[str, Any] = field(default_factory=dict)
    choose: dict[str, Any] = field(default_factory=dict)
    labels: tuple[int, ...] = ()
    draws: int = 0

    def __post_init__(self) -> None:
        where = f"system {self.name!r}"
        several = isinstance(self.cells, (list, tuple))
        for one in self.cells if several else (self.cells,):
            table = isinstance(one, dict) and {"blocks", "timesteps"} >= set(one) > set()
            if one not in CELLS and not table:
                raise SpecError(f"{where}: cells {one!r}; expected {', '.join(CELLS)}, or a table "
                                "of blocks and timesteps")  # fmt: skip
        if several and len(self.cells) != max(1, len(self.of)):
            raise SpecError(f"{where}: {len(self.cells)} cells for {max(1, len(self.of))} kinds of "
                            "features; expected one for each")  # fmt: skip
        if len(self.choose) > 1:
            raise SpecError(f"{where}: choose has {', '.join(self.choose)}; expected one argument")
        for name, values in self.choose.items():
            if not isinstance(values, (list, tuple)) or len(values) < 2:
                raise SpecError(f"{where}: choose {name} among {values!r}; expected two values at "
                                "least")  # fmt: skip
        if min(self.labels, default=1) < 0 or self.draws < 0:
            raise SpecError(f"{where}: labels = {list(self.labels)}, draws = {self.draws}; "
                            "expected counts of pictures (0 is all) and of draws")  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class DenseBenchmark(MeasuredBenchmark):
    """A file whose task is segmentation or depth.

    Attributes:
        train, test: named sets, such as "clothing:train" and "clothing:val".
        systems: the rows.
        frame: (H, W) that pictures are trained and scored at, labels moved by nearest; () is each
            picture's own size.
        labels: counts of labelled pictures; 0 is all.
        draws: of labelled pictures, of each count; of all pictures there is one, but for systems
            that draw, which have as many.
        train_limit, test_limit: pictures at most, drawn once by a hash of their ids.
        chooser: head that cells are chosen by, one at a time, a name of `diffeat search --head`.
        select: training pictures that choose the cell, those of its validation part included.
        held: share of their groups that is its validation part.
        policy: "standard", or "ddpm-seg", whose code counts absent classes as 0 and predictions
            on ignored pixels as false.
        pixels: (H, W) of the inputs whose raw pixels are features.
        lead: the system that every other row is compared with; "" is the first.
        uncertainty: systems whose uncertainty is measured, at the largest count of labels.
        boundary: systems whose contours are compared; "all" names all of them.
        shown: test pictures in a sheet of input, truth, prediction and uncertainty; never of
            persons.
        cap, min_depth: metres between which depth counts; cap 0 is none.
        crop: of depth, "eigen", or ().
        align: of depth, "", "median" or "scale-shift".
    """

    train: str
    test: str
    systems: tuple[System, ...] = ()
    frame: tuple[int, ...] = ()
    labels: tuple[int, ...] = (5, 20, ALL)
    draws: int = 3
    train_limit: int | None = None
    test_limit: int | None = None
    chooser: str = "ridge"
    select: int = 60
    held: float = 0.25
    policy: str = "standard"
    pixels: tuple[int, ...] = (48, 48)
    lead: str = ""
    uncertainty: tuple[str, ...] = ()
    boundary: tuple[str, ...] = ()
    shown: int = 0
    cap: float = 0.0
    min_depth: float = 0.001
    crop: str = ""
    align: str = ""

    def __post_init__(self) -> None:
        super().__post_init__()
        where, names = f"benchmark {self.name}", [one.name for one in self.systems]
        check_names(where, names)
        if self.train == self.test:
            raise SpecError(f"{where}: train and test are both {self.train!r}; expected two sets")
        for what in ("frame", "pixels"):
            sides = getattr(self, what)
            if len(sides) not in (0, 2) or min(sides, default=1) < 1:
                raise SpecError(f"{where}: {what} = {list(sides)}; expected H and W, or none")
        self._check_counts(where)
        self._check_names(where, names)
        self._check_ways(where)

    def _check_counts(self, where: str) -> None:
        if not self.labels or min(self.labels) < 0 or self.draws < 1:
            raise SpecError(f"{where}: labels = {list(self.labels)}, draws = {self.draws}; "
                            "expected counts of pictures (0 is all), and draws")  # fmt: skip
        if not 0 < self.held < 1 or self.select < 2:
            raise SpecError(f"{where}: held = {self.held}, select = {self.select}; expected a "
                            "share in (0, 1), and two pictures at least")  # fmt: skip

    def _check_names(self, where: str, names: list[str]) -> None:
        known = self.sources | {PIXELS, POSITION}
        for one in self.systems:
            if lost := [name for name in one.of if name not in known]:
                raise SpecError(f"{where}: system {one.name!r} is of {lost[0]!r}; expected "
                                f"{', '.join(sorted(known))}")  # fmt: skip
        asked = {"lead": (self.lead,) * bool(self.lead), "uncertainty": self.uncertainty,
                 "boundary": tuple(set(self.boundary) - {"all"})}  # fmt: skip
        for what, some in asked.items():
            if lost := [name for name in some if name not in names]:
                raise SpecError(f"{where}: {what} names {lost[0]!r}; expected one of "
                                f"{', '.join(names)}")  # fmt: skip

    def _check_ways(self, where: str) -> None:
        if self.policy not in POLICIES or self.align not in ALIGN:
            raise SpecError(f"{where}: policy = {self.policy!r}, align = {self.align!r}; expected "
                            f"{' or '.join(POLICIES)}; {', '.join(map(repr, ALIGN))}")  # fmt: skip

    @property
    def beside(self) -> tuple[str, ...]:
        return (*super().beside, *(one.name for one in self.systems))

    @property
    def leading(self) -> str:
        """The system that others are compared with."""
        return self.lead or self.systems[0].name
