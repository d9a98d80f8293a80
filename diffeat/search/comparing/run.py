"""One comparison: the best cell of each system by validation, test once, differences paired."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np

from diffeat.errors import SpecError, nearest
from diffeat.noise import format_t
from diffeat.search.asking import MEMORY, ask
from diffeat.search.comparing.outcomes import Outcomes, floor_of, outcomes_of, scorer_of
from diffeat.search.comparing.table import Comparison, Interval, Row, verdict_of
from diffeat.search.intervals import percentile_interval, resampled
from diffeat.search.journal import Journal
from diffeat.search.judge import Judge, Outcome
from diffeat.search.matching.judge import Matching
from diffeat.search.measure import Measure
from diffeat.search.splits import TEST
from diffeat.search.tasks import CellKey

Draws = Callable[[], Iterator[np.ndarray]]
"""Gives (B, n) how often each of n test rows is there; the same ones each time."""


@dataclass(frozen=True, eq=False)
class Chosen:
    """The cell of a system that validation chose, and what it did on test."""

    cell: CellKey | None
    outcome: Outcome | None
    outcomes: Outcomes
    conditioned: str = ""


def compare(
    judges: Mapping[str, Judge],
    against: str | None = None,
    simultaneous: bool = False,
    journal: Journal | None = None,
    memory: int = MEMORY,
    seed: int = 0,
    progress: Callable[[str, Iterable], Iterable] = lambda label, items: iter(items),
    notes: Sequence[str] = (),
    draws: Draws | None = None,
    floors: Mapping[str, Outcomes] | None = None,
) -> Comparison:
    """Compare systems whose judges have the same rows, targets and parts.

    Of every system the cell with the best validation score is scored on test, once. Intervals
    are percentiles of draws of whole groups of test rows; every draw is the same for all systems,
    so the interval of a difference is paired.

    Args:
        judges: system → judge, at least two.
        against: the reference of differences; None is the first.
        simultaneous: intervals of differences that hold for all rows together: their half width is
            the 95 % quantile of the largest deviation among them, in standard errors.
        journal: where finished scores are kept.
        memory: in bytes, for features.
        seed: of the draws.
        progress: (label, items) → the items, such as with a progress bar.
        notes: lines for people that go with the table.
        draws: how often each test row is there, draw by draw; None draws whole groups.
        floors: name → outcomes without a model, the last rows of the table; None is what a
            constant does.

    Raises:
        SpecError: one system only, a reference that is none of them, or parts that differ.
    """
    against = _checked(judges, against)
    journal, first = journal or Journal(), next(iter(judges.values()))
    found = {
        name: _chosen(judge, journal, memory, partial(progress, name))
        for name, judge in judges.items()
    }
    if floors is None:
        floors = dict([floor] if (floor := floor_of(first)) is not None else [])
    found |= {name: Chosen(None, None, outcomes) for name, outcomes in floors.items()}
    if draws is None:
        tested = [first.groups[row] for row in np.flatnonzero(first.part == TEST)]
        draws = partial(resampled, tested, seed)
    return Comparison(
        first.task_name, rows_of(found, against, first.number, draws, simultaneous), against,
        first.number, first.counts, simultaneous, first.rows, tuple(notes),
        (journal.found, journal.computed),
    )  # fmt: skip


def _checked(judges: Mapping[str, Judge], against: str | None) -> str:
    """The name of the reference; SpecError for what cannot be compared."""
    names = list(judges)
    if len(names) < 2:
        raise SpecError(f"{', '.join(names) or 'no system'}: nothing to compare with; expected two "
                        "systems or more")  # fmt: skip
    if against is not None and against not in names:
        raise SpecError(f"against {against!r}{nearest(against, names)}; expected one of "
                        f"{', '.join(names)}")  # fmt: skip
    first = judges[names[0]]
    for judge in judges.values():
        if not np.array_equal(judge.part, first.part) or _truth(judge) != _truth(first):
            raise SpecError(f"{judge.source} and {first.source} have different parts or targets; "
                            "expected the same rows for all")  # fmt: skip
        judge.check()
    return against or names[0]


def _truth(judge: Judge) -> str:
    """Hash of what is to be told, whatever rows of files it is told from."""
    return judge.bound.targets.fingerprint if isinstance(judge, Matching) else judge.targets


def _chosen(
    judge: Judge, journal: Journal, memory: int, progress: Callable[[Iterable], Iterable]
) -> Chosen:
    """The best cell on validation; test once."""
    steps = iter(progress(list(judge.cells)))
    next(steps, None)  # from here on the next one says that a cell is done
    found: dict[CellKey, Outcome] = {}
    for cell, [outcome] in ask(judge, judge.cells, None, memory, journal):
        found[cell] = outcome
        next(steps, None)
    scores = [found[cell].validation for cell in judge.cells]
    best = judge.cells[judge.number.best(scores)]
    outcomes = _tested(judge, best, found[best].setting, journal, memory)
    return Chosen(best, found[best], outcomes, judge.conditioned)


def _tested(
    judge: Judge, cell: CellKey, setting: float | None, journal: Journal, memory: int
) -> Outcomes:
    """Outcomes of the test rows, which the journal may have."""
    block, t = cell
    name = f"test-{block[:80]}-t{format_t(t)}"
    key = journal.key(judge, judge.part, cell, "outcomes", setting)
    stored = journal.read(name, key, lambda values: "outcomes" in values)
    if stored is None:
        judge.check_memory(cell, memory)
        outcomes = outcomes_of(judge, cell, setting)
        stored = {"block": block, "t": t, "setting": setting, "outcomes": outcomes.values.tolist()}
        journal.write(name, key, stored)
    return Outcomes(np.array(stored["outcomes"], np.float64), scorer_of(judge))


def rows_of(
    found: Mapping[str, Chosen], against: str, measure: Measure, draws: Draws,
    simultaneous: bool = False,
) -> tuple[Row, ...]:  # fmt: skip
    """Rows of a table: scores, differences to the reference, and the intervals of both."""
    names = list(found)
    outcomes = [one.outcomes for one in found.values()]
    drawn = np.concatenate(
        [np.stack([one.of_draws(times) for one in outcomes]) for times in draws()], axis=1
    )  # (S, B)
    values, base = [one.value for one in outcomes], names.index(against)
    others = [k for k in range(len(names)) if k != base]
    differences = np.array([values[k] - values[base] for k in others])
    ends = intervals_of(differences, drawn[others] - drawn[base], simultaneous)
    about = dict(zip(others, zip(differences.tolist(), ends, strict=True), strict=True))
    rows = []
    for k, (name, one) in enumerate(found.items()):
        interval = _own_interval(values[k], drawn[k], measure)
        validation, setting = (one.outcome.validation, one.outcome.setting) if one.outcome else (
            None, None)  # fmt: skip
        row = Row(name, one.cell, setting, validation, values[k], interval,
                  conditioned=one.conditioned)  # fmt: skip
        if k in about:
            difference, both = about[k]
            row = Row(**{**vars(row), "difference": difference, "ends": both,
                         "verdict": verdict_of(both, measure)})  # fmt: skip
        rows.append(row)
    return tuple(rows)


def _own_interval(value: float, drawn: np.ndarray, measure: Measure) -> Interval | None:
    """Of the draws; where none or all are right every draw is alike, and Wilson's counts."""
    if measure.counted and value in (0.0, 1.0):
        return measure.interval(value)
    return percentile_interval(drawn)


def intervals_of(
    values: np.ndarray, drawn: np.ndarray, simultaneous: bool = False
) -> list[Interval | None]:
    """95 % intervals of S numbers from B draws of each, one by one or all together.

        one by one:    the 2.5th to the 97.5th percentile of a number's own draws
        all together:  value ± q · s,  s the standard deviation of its draws,
                       q the 95th percentile over draws of the largest |draw - value| / s

    Args:
        values: (S,) numbers.
        drawn: (S, B) the same of draws that all share; a draw with a nan is left out of q.

    Returns:
        S intervals; None where all draws are nan.

    Source: Westfall & Young 1993, "Resampling-Based Multiple Testing" (the max-type statistic).
    """
    if not simultaneous:
        return [percentile_interval(each) for each in drawn]
    spread = np.nanstd(drawn, axis=1)
    moving = spread > 0
    if not moving.any():
        return [(float(value), float(value)) for value in values]
    far = np.abs(drawn[moving] - values[moving, None]) / spread[moving, None]
    q = np.nanquantile(far.max(0), 0.95)
    return [(float(v - q * s), float(v + q * s)) for v, s in zip(values, spread, strict=True)]
