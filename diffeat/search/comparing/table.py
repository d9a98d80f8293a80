"""What a comparison found: as text, CSV and JSON; `diffeat.viz` draws it."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from diffeat.conditioned import marked
from diffeat.noise import shown_t
from diffeat.search.finding import cell_text
from diffeat.search.grid import aligned, write_rows
from diffeat.search.intervals import HANDFUL
from diffeat.search.measure import Measure
from diffeat.search.tasks import CellKey

BETTER, WORSE = "better", "worse"
SAME = "no difference shown"
TOO_FEW = f"too few groups (below {HANDFUL}) to tell"
HEAD = ("system", "cell", "validation", "test", "95 % interval", "difference", "95 % interval",
        "verdict")  # fmt: skip
Interval = tuple[float, float]


@dataclass(frozen=True)
class Row:
    """One system, or a floor.

    Attributes:
        name: of the system.
        cell: the (block, t) that validation chose; None of a floor.
        setting: of its probe.
        validation: its score there; None of a floor.
        test: the score on test.
        interval: its 95 % interval.
        difference: of test to the reference, this one minus that; None of the reference itself.
        ends: the paired 95 % interval of the difference.
        verdict: the same in words; "reference" of the reference.
        conditioned: by what the features were told their targets; "" by nothing.
    """

    name: str
    cell: CellKey | None
    setting: float | None
    validation: float | None
    test: float
    interval: Interval | None
    difference: float | None = None
    ends: Interval | None = None
    verdict: str = "reference"
    conditioned: str = ""

    def to_dict(self) -> dict[str, Any]:
        """Plain values."""
        block, t = self.cell or (None, None)
        return {
            "system": self.name, "block": block, "t": None if t is None else shown_t(t),
            "setting": self.setting, "validation": self.validation, "test": self.test,
            "test_interval_95": self.interval, "difference": self.difference,
            "difference_interval_95": self.ends, "verdict": self.verdict,
            **({"conditioned": marked(self.conditioned)} if self.conditioned else {}),
        }  # fmt: skip


def verdict_of(ends: Interval | None, measure: Measure) -> str:
    """A paired interval of a difference in words; below `HANDFUL` groups none is believed."""
    if measure.groups < HANDFUL:
        return TOO_FEW
    low, high = sorted(measure.goodness(ends)) if ends is not None else (0.0, 0.0)
    return BETTER if low > 0 else WORSE if high < 0 else SAME


@dataclass(frozen=True)
class Comparison:
    """Systems on the same test rows.

    Attributes:
        task: of the command line.
        rows: the systems in the order in which they were given, floors last.
        against: name of the reference.
        measure: the kind of number, with the test rows and their groups.
        counts: rows in training, validation and test.
        simultaneous: whether all intervals of differences hold together in 95 of 100 cases, or
            each by itself.
        rows_are: what is counted, "pictures" or "pairs".
        notes: further lines for people: how the split was made, what was left out.
        made: scores that were found, and that were computed.
    """

    task: str
    rows: tuple[Row, ...]
    against: str
    measure: Measure
    counts: tuple[int, int, int]
    simultaneous: bool = False
    rows_are: str = "pictures"
    notes: tuple[str, ...] = ()
    made: tuple[int, int] = field(default=(0, 0))

    def __getitem__(self, name: str) -> Row:
        """The row of a system."""
        return next(row for row in self.rows if row.name == name)

    def table(self) -> str:
        """A line per system."""
        return columns_text([HEAD, *map(self._texts, self.rows)])

    def _texts(self, row: Row) -> tuple[str, ...]:
        show = self.measure.show
        change = "" if row.difference is None else self.measure.change(row.difference)
        return (
            row.name + (" !" if row.conditioned else ""),
            "" if row.cell is None else cell_text(row.cell),
            "" if row.validation is None else show(row.validation),
            show(row.test), self._between(row.interval), change,
            self._between(row.ends), row.verdict,
        )  # fmt: skip

    def _between(self, ends: Interval | None) -> str:
        return "" if ends is None else " to ".join(map(self.measure.show, ends))

    @property
    def headline(self) -> str:
        train, held, tested = self.counts
        learnt = f"{train} training, " if train else ""
        settled = any(row.setting is not None for row in self.rows)
        chosen = "cells and settings" if settled else "cells"
        unit = f" in {self.measure.unit}" if self.measure.unit else ""
        return (
            f"{self.task}: {self.measure.name}{unit}{self.measure.direction} on the same {tested} "
            f"test {self.rows_are} ({learnt}{held} validation); {chosen} chosen on validation"
        )

    @property
    def small_print(self) -> str:
        """How the intervals are meant."""
        each = (
            "they hold for all rows together in 95 of 100 samples (max-type)"
            if self.simultaneous
            else "each is for its own row, so of many rows some differ by chance (--simultaneous)"
        )
        return (
            f"differences are to {self.against}, on the same {self.rows_are}; bootstrap of "
            f"{self.measure.groups} groups of test {self.rows_are}, the same draws for all; {each}"
        )

    def lines(self) -> list[str]:
        """What to read on a terminal."""
        told = [row for row in self.rows if row.conditioned]
        marks = [f"! {row.name}: {marked(row.conditioned)}" for row in told]
        return [self.headline, *self.table().splitlines(), *marks, self.small_print, *self.notes]

    def to_dict(self) -> dict[str, Any]:
        """Plain values."""
        return {
            "task": self.task, "measure": self.measure.to_dict(), "against": self.against,
            "counts": dict(zip(("training", "validation", "test"), self.counts, strict=True)),
            "test_groups": self.measure.groups, "rows_are": self.rows_are,
            "intervals": "simultaneous" if self.simultaneous else "per comparison",
            "systems": [row.to_dict() for row in self.rows], "notes": list(self.notes),
            "found": self.made[0], "computed": self.made[1],
        }  # fmt: skip

    def write_json(self, path: str | Path) -> None:
        Path(path).write_text(json.dumps(self.to_dict(), indent=1) + "\n", encoding="utf-8")

    def write_csv(self, path: str | Path) -> None:
        """A row per system; empty where there is nothing, intervals as two columns."""
        marks = any(row.conditioned for row in self.rows)
        write_rows(path, [_flat(row.to_dict(), marks) for row in self.rows])


def _flat(values: dict[str, Any], marks: bool) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for name, value in values.items():
        if name.endswith("_interval_95"):
            stem = name.removesuffix("_interval_95")
            low, high = value or ("", "")
            found |= {f"{stem}_low": low, f"{stem}_high": high}
        else:
            found[name] = "" if value is None else value
    return found | ({"conditioned": values.get("conditioned", "")} if marks else {})


def columns_text(rows: Sequence[Sequence[str]]) -> str:
    """Rows under a heading; numbers to the right, words to the left."""
    lines = aligned(rows, range(2, 7))
    return "\n".join([lines[0], "-" * max(map(len, lines)), *lines[1:]])
