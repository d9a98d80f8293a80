"""Everything that one search found, as text, CSV and JSON."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from diffeat.conditioned import marked
from diffeat.noise import shown_t
from diffeat.search.finding import Cell, Choice, Finding, Selection
from diffeat.search.grid import ACCURACY, Grid, aligned, write_rows
from diffeat.search.judge import cells_in
from diffeat.search.measure import Measure
from diffeat.search.tasks import CellKey


@dataclass
class SearchReport:
    """Findings side by side; each says its own lines, rows and values.

    Attributes:
        findings: by key; the first is about single cells.
        measure: the kind of number that was judged by.
        conditioned: by what the features were told their targets (see `diffeat.conditioned`).
        made: (found, computed) pieces of work of the journal.
        selectors: whether the selectors are compared in a table.
        seconds: that each finding took in this run; what was kept before takes none.
        left_out: which selector is missing or less than it could be, and why; "" if none.
        told: what every file says of the features: what the task's own protocol told the model, or
            what made pictures worse; "" if nothing.
        learns: whether what was scored on test was fitted anew before.
        labels: how many labels choosing a cell looks at, and what they are.
        labels_trained: the same of a mixer that is trained.
    """

    findings: dict[str, Finding]
    measure: Measure = field(default=ACCURACY)
    conditioned: str = ""
    made: tuple[int, int] = (0, 0)
    selectors: bool = False
    seconds: dict[str, float] = field(default_factory=dict)
    left_out: str = ""
    told: str = ""
    learns: bool = True
    labels: tuple[int, str] = (0, "labels")
    labels_trained: tuple[int, str] = (0, "labels")

    @property
    def first(self) -> Finding:
        return next(iter(self.findings.values()))

    @property
    def best(self) -> Cell:
        """The single cell that validation chose."""
        return self.first.best

    @property
    def choice(self) -> Choice:
        """The set that gains most over the best cell alone, by the same split; or the best cell."""
        found, gain = self.best.choice, 0.0
        for finding in self.findings.values():
            more, chosen = finding.improvement()
            if more > gain:
                found, gain = chosen, more
        return found

    @property
    def best_cells(self) -> tuple[CellKey, ...]:
        """The cells of what was chosen."""
        return cells_in(self.choice.candidate)

    @property
    def grid(self) -> Grid | None:
        """Validation scores of all cells; None after halving alone."""
        return self.first.grid

    @property
    def interval(self) -> tuple[float, float] | None:
        """95 % interval of the best cell's test score."""
        return self.first.selection().interval

    @property
    def selections(self) -> dict[str, Selection]:
        """What each selector chose, by the key of its finding."""
        found = {key: finding.selection() for key, finding in self.findings.items()}
        return {
            key: replace(one, labels=(self.labels_trained if one.trained else self.labels)[0])
            for key, one in found.items()
            if one is not None
        }

    def compare(self) -> None:
        """Show all findings how good the single cells are; higher is better."""
        scores = self.first.cell_scores
        good = dict(zip(scores, self.measure.goodness(list(scores.values())).tolist(), strict=True))
        for finding in self.findings.values():
            finding.compare(good)

    def to_dict(self) -> dict[str, Any]:
        more: dict[str, Any] = {}
        if self.selectors:
            more["selectors"] = [vars(one) for one in self.selections.values()]
        if self.left_out:
            more["left_out"] = self.left_out
        if self.conditioned:
            more["conditioned"] = marked(self.conditioned)
        if self.told:
            more["told"] = self.told
        return {
            **{key: finding.to_dict() for key, finding in self.findings.items()},
            "best": self.best.to_dict(),
            "test_interval_95": self.interval,
            "best_cells": [{"block": block, "t": t} for block, t in self.best_cells],
            "found": self.made[0],
            "computed": self.made[1],
            **more,
        }

    def lines(self) -> list[str]:
        """What to read on a terminal."""
        lines = [line for finding in self.findings.values() for line in finding.lines()]
        if self.selectors:
            what = self.labels[1]
            table = selector_table(self.selections, self.measure, self.seconds, what)
            lines += table.splitlines()
        lines += [self.left_out] if self.left_out else []
        best, number = self.best, self.measure
        setting = "" if best.setting is None else f" (setting {best.setting:g})"
        tested = (
            ""
            if best.test is None
            else "; "
            + "refitted on both, " * self.learns
            + number.say_test(best.test, self.interval)
        )
        lines.append(
            f"best on validation: {best.block}{shown_t(best.t, ' at t=')}{setting}, "
            f"{number.say(best.validation)}{tested}"
        )
        return lines

    def write_csv(self, path: str | Path) -> None:
        """One row per cell; columns of what was not asked for are left out."""
        columns: dict[str, Any] = {}
        for finding in self.findings.values():
            columns.update(finding.columns())
        mark = {"conditioned": marked(self.conditioned)} if self.conditioned else {}
        mark |= {"told": self.told} if self.told else {}
        rows = [
            {**row, **{name: values.get(cell, "") for name, values in columns.items()}, **mark}
            for cell, row in self.first.rows()
        ]
        write_rows(path, rows)


def selector_table(
    selections: Mapping[str, Selection], number: Measure, seconds: Mapping[str, float],
    labels: str = "labels",
) -> str:  # fmt: skip
    """A line per selector: what it chose, validation, test with its interval, the forwards of a
    picture that the chosen takes, the labels that choosing looked at, and the cost.

    Args:
        labels: what is counted as a label.
    """
    head = ("selector", "validation", "test", "95 % interval", "forwards", "labels", "cost",
            "seconds", "of", "chosen")  # fmt: skip
    rows = [head]
    for key, one in selections.items():
        ends = "" if one.interval is None else " to ".join(map(number.show, one.interval))
        test = "" if one.test is None else number.say(one.test)
        used = "" if one.labels is None else f"{one.labels:,}"
        costs = f"{one.cost:.1f}", f"{seconds.get(key, 0.0):.1f}", one.cost_text
        rows.append((one.selector, number.say(one.validation), test, ends, str(one.forwards), used,
                     *costs, one.chosen))  # fmt: skip
    lines = aligned(rows, range(1, 8))
    title = (
        f"selectors ({number.name}{number.direction}; forwards of a picture at use; {labels} that "
        "choosing looked at; cost in judgements of one cell):"
    )
    return "\n".join([title, lines[0], "-" * len(lines[0]), *lines[1:]])
