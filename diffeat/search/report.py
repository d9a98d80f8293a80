"""Everything that one search found, as text, CSV and JSON."""

from __future__ import annotations

import csv
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from diffeat.conditioned import marked
from diffeat.noise import format_t, shown_t
from diffeat.search.bandit import Bandit
from diffeat.search.frequency import FrequencyGuess
from diffeat.search.halving import Halving
from diffeat.search.intervals import accuracy_interval, accuracy_text
from diffeat.search.repeats import Repeats
from diffeat.search.sets import CellSets
from diffeat.search.surface import Cell, Surface
from diffeat.search.tasks import CellKey


@dataclass
class SearchReport:
    """The parts that were asked for; the rest is None.

    Attributes:
        surface: the whole grid (means, where splits were repeated); None after halving alone.
        tested: number of test pictures.
        made: (found, computed) pieces of work of the journal.
        conditioned: by what the features were told their targets (see `diffeat.conditioned`).
    """

    surface: Surface | None = None
    repeats: Repeats | None = None
    sets: CellSets | None = None
    pairs: CellSets | None = None
    halving: Halving | None = None
    frequency: FrequencyGuess | None = None
    bandit: Bandit | None = None
    made: tuple[int, int] = (0, 0)
    conditioned: str = ""
    tested: int = 0

    @property
    def best(self) -> Cell:
        """The single cell that validation chose."""
        if self.repeats is not None:
            return self.repeats.best
        return self.surface.best if self.surface is not None else self.halving.best

    @property
    def best_cells(self) -> tuple[CellKey, ...]:
        """The set that gains most over the best cell alone, by the same split; or the best cell."""
        found, gain = (self.best.key,), 0.0
        for one in (self.sets, self.pairs):
            if one is not None and one.gain > gain:
                found, gain = one.best.cells, one.gain
        return found

    @property
    def interval(self) -> tuple[float, float] | None:
        """95 % Wilson interval of the best cell's test accuracy."""
        test = self.best.test
        return None if test is None else accuracy_interval(test, self.tested)

    def to_dict(self) -> dict[str, Any]:
        parts = {name: part for name, part in vars(self).items() if hasattr(part, "to_dict")}
        return {
            **{name: part.to_dict() for name, part in parts.items()},
            "best": vars(self.best),
            "test_interval_95": self.interval,
            "best_cells": [{"block": block, "t": t} for block, t in self.best_cells],
            "found": self.made[0],
            "computed": self.made[1],
            **({"conditioned": marked(self.conditioned)} if self.conditioned else {}),
        }

    def lines(self) -> list[str]:
        """What to read on a terminal."""
        lines = self.surface.table().splitlines() if self.surface is not None else []
        if self.conditioned and self.surface is None:
            lines = [marked(self.conditioned)]
        for tell in (_halving, _repeats, _frequency, _sets, _pairs, _bandit):
            lines += tell(self)
        best = self.best
        setting = "" if best.C is None else f" (setting {best.C:g})"
        tested = (
            ""
            if best.test is None
            else f"; refitted on both, {accuracy_text(best.test, self.tested)}"
        )
        lines.append(
            f"best on validation: {best.block}{shown_t(best.t, ' at t=')}{setting}, "
            f"{_percent(best.validation)}{tested}"
        )
        return lines

    def write_csv(self, path: str | Path) -> None:
        """One row per cell; columns of parts that were not asked for are left out."""
        if self.surface is None:
            rows = [
                {"block": b, "t": shown_t(t), "pictures": one.pictures, "validation": round(v, 4)}
                for one in self.halving.rounds
                for (b, t), v in one.scores.items()
            ]
        else:
            rows = [self._row(index, cell) for index, cell in enumerate(self.surface.cells)]
        if self.conditioned:
            rows = [{**row, "conditioned": marked(self.conditioned)} for row in rows]
        with open(path, "w", newline="", encoding="utf-8") as file:
            writer = csv.DictWriter(file, list(rows[0]))
            writer.writeheader()
            writer.writerows(rows)

    def _row(self, index: int, cell: Cell) -> dict[str, Any]:
        row = {
            "features": self.surface.name,
            "block": cell.block,
            "t": shown_t(cell.t),
            "validation": round(cell.validation, 4),
            "test": "" if cell.test is None else round(cell.test, 4),
            "setting": cell.C,
        }
        if self.repeats is not None:
            row["half_width_95"] = round(float(self.repeats.half_width[index]), 4)
            row["wins"] = int(self.repeats.wins[index])
        if self.frequency is not None:
            row["high_frequency_ratio"] = round(self.frequency.ratios[cell.key], 6)
        return row


def _percent(value: float) -> str:
    return f"{100 * value:.1f} %"


def _repeats(report: SearchReport) -> list[str]:
    if report.repeats is None:
        return []
    repeats = report.repeats
    order = sorted(range(len(repeats.cells)), key=lambda i: -repeats.mean[i])[:5]
    lines = [
        f"{repeats.scores.shape[1]} splits, mean ± half of the 95 % interval (they share "
        "pictures), and in how many splits a cell was the best:"
    ]
    for index in order:
        block, t = repeats.cells[index]
        lines.append(
            f"  {block}{shown_t(t, ' t=')}: {100 * repeats.mean[index]:.1f} ± "
            f"{100 * repeats.half_width[index]:.1f} %, {repeats.wins[index]}"
        )
    return lines


def _sets(report: SearchReport) -> list[str]:
    return [] if report.sets is None else _set_lines("greedy sets", report.sets, report.tested)


def _pairs(report: SearchReport) -> list[str]:
    return [] if report.pairs is None else _set_lines("best pairs", report.pairs, report.tested)


def _set_lines(name: str, sets: CellSets, tested: int) -> list[str]:
    lines = [f"{name} ({sets.fits} fits; {sets.stopped}):"]
    for step in sets.steps:
        lines.append(f"  {_percent(step.validation)} ({100 * step.gain:+.1f}): {step}")
    return [*lines, f"  the best of them: {accuracy_text(sets.test, tested)}"]


def _halving(report: SearchReport) -> list[str]:
    if report.halving is None:
        return []
    halving = report.halving
    rounds = ", ".join(f"{len(one.scores)} cells on {one.pictures}" for one in halving.rounds)
    return [
        f"successive halving: {rounds} pictures; {halving.fits} fits that cost as much as "
        f"{halving.cost:.1f} on all pictures instead of {halving.full_cost}, "
        f"{halving.large_fits_saved} cells never fitted on all"
    ]


def _frequency(report: SearchReport) -> list[str]:
    if report.frequency is None:
        return []
    guess, (block, t) = report.frequency, report.frequency.best
    rank = guess.rank_correlation
    told = "not defined" if rank is None else f"{rank:+.2f}"
    return [
        f"high-frequency ratio (no labels; above {guess.cutoff:g} Nyquist, {guess.pictures} "
        f"pictures): highest {block}{shown_t(t, ' at t=')}; Spearman rank correlation with "
        f"validation {told}"
    ]


def _bandit(report: SearchReport) -> list[str]:
    if report.bandit is None:
        return []
    bandit = report.bandit
    counts = zip(bandit.timesteps, bandit.counts, strict=True)
    pulls = ", ".join(f"t={format_t(t)}: {n}" for t, n in counts)
    return [
        f"bandit: t={format_t(bandit.best)} after {len(bandit.arms)} pulls ({pulls}); regret "
        f"{bandit.regret()[-1]:.2f} in all"
    ]
