"""What a benchmark file of mixing says."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from benchmarks.files import check_names
from benchmarks.tasks.matching.file import MatchingBenchmark
from diffeat.errors import SpecError

CELLS = ("all", "best", "best block", "best t", "set")


@dataclass(frozen=True)
class System:
    """One row: what is made of which cells of which features, and how it is read out.

    Attributes:
        name: for the table.
        method: a name of `benchmarks.tasks.mixing.systems.METHODS`.
        of: labels of models, random twins or vision models, or "pixels"; () is the first model.
        cells: "all", "best" (chosen by single cells), "best block" (at every t), "best t" (every
            block), "set" (the greedy one), or a table of blocks and timesteps; or a list with one
            of these for each of `of`.
        arguments: of the aggregator.
        choose: one argument with the values to try, "matcher.radius" of the read-out; the pairs
            that choose say which.
        matcher: arguments of the read-out where it is not that of all other rows; `kind` is a
            class of `probes.matching`.
        seeds: one training for each; all are counted together.
    """

    name: str
    method: str
    of: tuple[str, ...] = ()
    cells: Any = "all"
    arguments: dict[str, Any] = field(default_factory=dict)
    choose: dict[str, Any] = field(default_factory=dict)
    matcher: dict[str, Any] = field(default_factory=dict)
    seeds: tuple[int, ...] = (0,)

    def __post_init__(self) -> None:
        where = f"system {self.name!r}"
        for one in self.cells if isinstance(self.cells, (list, tuple)) else (self.cells,):
            table = isinstance(one, dict) and {"blocks", "timesteps"} >= set(one) > set()
            if one not in CELLS and not table:
                raise SpecError(f"{where}: cells {one!r}; expected {', '.join(CELLS)}, or a table "
                                "of blocks and timesteps")  # fmt: skip
        if isinstance(self.cells, (list, tuple)) and len(self.cells) != max(1, len(self.of)):
            raise SpecError(f"{where}: {len(self.cells)} cells for {max(1, len(self.of))} kinds of "
                            "features; expected one for each")  # fmt: skip
        if not self.seeds:
            raise SpecError(f"{where} has no seeds; expected at least one")
        if len(self.choose) > 1:
            raise SpecError(f"{where}: choose has {', '.join(self.choose)}; expected one argument")
        for name, values in self.choose.items():
            if not isinstance(values, (list, tuple)) or len(values) < 2:
                raise SpecError(f"{where}: choose {name} among {values!r}; expected two values at "
                                "least")  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class MixingBenchmark(MatchingBenchmark):
    """A file whose task is mixing.

    Pairs of `select` whose groups do not choose are trained on; with `train` it is those.

    Attributes:
        systems: rows beside the single cells and greedy sets of matching.
        train: pairs to train on; "" takes those of `select` that `select_share` leaves.
        single: whether single cells are rows; without, a model may have many cells and no pairs
            that choose.
    """

    systems: tuple[System, ...] = ()
    train: str = ""
    single: bool = True

    def __post_init__(self) -> None:
        super().__post_init__()
        where, names = f"benchmark {self.name}", [one.name for one in self.systems]
        check_names(where, names)
        chosen = [one.name for one in self.systems if _asks(one)]
        if chosen and not (self.select and self.single):
            raise SpecError(f"{where}: {chosen[0]!r} asks for what single cells choose; give "
                            "select, and leave single out")  # fmt: skip
        if [one.name for one in self.systems if one.choose] and not self.select:
            raise SpecError(f"{where}: a choice needs pairs to choose by; give select")
        known = self.sources | {"pixels"}
        for one in self.systems:
            if lost := [name for name in one.of if name not in known]:
                raise SpecError(f"{where}: system {one.name!r} is of {lost[0]!r}; expected "
                                f"{', '.join(sorted(known))}")  # fmt: skip

    @property
    def beside(self) -> tuple[str, ...]:
        return (*super().beside, *(one.name for one in self.systems))


def _asks(system: System) -> bool:
    """Whether single cells have to choose before."""
    cells = system.cells if isinstance(system.cells, (list, tuple)) else (system.cells,)
    return any(isinstance(one, str) and one != "all" for one in cells)
