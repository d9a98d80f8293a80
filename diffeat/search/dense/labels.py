"""Few labelled pictures, drawn again and again: how good a head is with 1, 5, 20, … of them.

Each draw is an order of the pictures that may be labelled; n labels are its first n, so larger
sets hold the smaller ones. What a head has to choose is chosen within the n pictures alone, and
every draw is scored on the same test pictures once.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from diffeat.errors import SpecError
from diffeat.hashing import unit_interval
from diffeat.search.dense.bound import BoundDense
from diffeat.search.dense.depth import KINDS
from diffeat.search.dense.heads import choice_of, fitted, has_choice, setting_of, with_setting
from diffeat.search.dense.judge import DenseJudge
from diffeat.search.grid import aligned, write_rows
from diffeat.search.intervals import percentile_interval, resampled
from diffeat.search.measure import Measure
from diffeat.search.splits import TEST, TRAIN, VALIDATION
from diffeat.search.tasks import CellKey
from probes.cells import Cells

COUNTS: tuple[int | str, ...] = (1, 5, 20, 50, "all")
HELD = 0.2
"""Of the groups of labelled pictures, that choose a setting."""


@dataclass(frozen=True)
class Draw:
    """One draw of labelled pictures.

    Attributes:
        labels: pictures.
        draw: its number.
        score: on test.
        setting: that was chosen within the labelled pictures; None: nothing was chosen.
        classes: that these pictures show; 0 where there are no classes.
    """

    labels: int
    draw: int
    score: float
    setting: float | None
    classes: int


@dataclass(frozen=True)
class LabelRow:
    """All draws of as many labels.

    Attributes:
        labels, draws: pictures, and how often they were drawn.
        mean: of the draws' scores on test.
        interval: 95 %, of draws and of groups of test pictures drawn anew.
        spread: standard deviation of the draws' scores; None of one draw.
        classes: that labelled pictures show, the mean over draws.
        settings: that were chosen.
    """

    labels: int
    draws: int
    mean: float
    interval: tuple[float, float] | None
    spread: float | None
    classes: float
    settings: tuple[float | None, ...]


@dataclass(frozen=True)
class FewLabels:
    """What few labels are worth.

    Attributes:
        source, head: whose features; what learnt.
        cells: the (block, t) that it learnt from, together.
        measure: the kind of number.
        rows: by count.
        draws: every draw.
        floor: what looks at no feature scores, with all labels, and which.
        counts: pictures that may be labelled, and of the test.
        all_classes: K; 0 where there are no classes.
        notes: lines for people.
    """

    source: str
    head: str
    cells: tuple[CellKey, ...]
    measure: Measure
    rows: tuple[LabelRow, ...]
    draws: tuple[Draw, ...]
    floor: tuple[float, str]
    counts: tuple[int, int]
    all_classes: int = 0
    notes: tuple[str, ...] = ()

    @property
    def headline(self) -> str:
        """What was measured, for people."""
        number, unit = self.measure, f" in {self.measure.unit}" if self.measure.unit else ""
        cells = " + ".join(f"{block} t={t:g}" for block, t in self.cells)
        return (
            f"{self.source}, {self.head} on {cells}: {number.name}{unit}{number.direction} on "
            f"{self.counts[1]} test pictures of {number.groups} groups, by labelled pictures out "
            f"of {self.counts[0]}"
        )

    def table(self) -> str:
        """A line per count."""
        show = self.measure.show
        head = ["labels", "draws", self.measure.name, "95 % interval", "sd of draws"]
        head += ["classes seen"] if self.all_classes else []
        lines = [tuple(head)]
        for row in self.rows:
            ends = "" if row.interval is None else " to ".join(map(show, row.interval))
            texts = [str(row.labels), str(row.draws), show(row.mean), ends,
                     "" if row.spread is None else show(row.spread)]  # fmt: skip
            if self.all_classes:
                texts.append(f"{row.classes:.1f} of {self.all_classes}")
            lines.append(tuple(texts))
        found = aligned(lines, range(len(head)))
        return "\n".join([found[0], "-" * len(found[0]), *found[1:]])

    def lines(self) -> list[str]:
        """What to read on a terminal."""
        value, what = self.floor
        return [
            self.headline, *self.table().splitlines(),
            "interval: draws of labels and groups of test pictures drawn anew; larger draws hold "
            "the smaller ones",
            *self.notes, f"without features, all labels ({what}): {self.measure.say(value)}",
        ]  # fmt: skip

    def to_dict(self) -> dict[str, Any]:
        """Plain values."""
        return {
            "source": self.source, "head": self.head,
            "cells": [{"block": block, "t": t} for block, t in self.cells],
            "measure": self.measure.to_dict(),
            "pool": self.counts[0], "test": self.counts[1], "test_groups": self.measure.groups,
            "rows": [{**asdict(row), "interval_95": row.interval} for row in self.rows],
            "draws": [asdict(draw) for draw in self.draws],
            "floor": {"value": self.floor[0], "of": self.floor[1]}, "notes": list(self.notes),
        }  # fmt: skip

    def write_json(self, path: str | Path) -> None:
        Path(path).write_text(json.dumps(self.to_dict(), indent=1) + "\n", encoding="utf-8")

    def write_csv(self, path: str | Path) -> None:
        """A row per count: labels, draws, mean, low, high, spread, classes."""
        write_rows(path, [
            {"labels": row.labels, "draws": row.draws, "mean": row.mean,
             "low": "" if row.interval is None else row.interval[0],
             "high": "" if row.interval is None else row.interval[1],
             "spread": "" if row.spread is None else row.spread, "classes": row.classes}
            for row in self.rows
        ])  # fmt: skip


def few_labels(
    bound: BoundDense,
    head: Any = None,
    counts: Sequence[int | str] = COUNTS,
    draws: int = 5,
    *,
    part: np.ndarray | None = None,
    keys: Sequence[CellKey] | None = None,
    cells: Cells | None = None,
    source: str | None = None,
    seed: int = 0,
    judge: DenseJudge | None = None,
    progress: Callable[[Iterable], Iterable] = iter,
) -> FewLabels:
    """Score a head with few labelled pictures.

    Pictures of training and validation may be labelled. A setting (penalty, steps) is chosen on a
    fifth of the groups of the labelled pictures, and the head learnt from all of them again; of
    pictures of one group, which cannot be parted, the head keeps its default.

    Args:
        bound: pictures, features and masks (or depth).
        head: as `DenseJudge` takes it.
        counts: of labelled pictures; "all". Those above what there is are left out, and noted.
        draws: of each count; of all pictures there is one.
        part: (N,) of the pictures; None splits by groups.
        keys: the (block, t) that the head learns from, together; None is all of them.
        cells: other features of the N pictures, in place of those of the files.
        source: what the features are of, for tables.
        seed: of the draws.
        judge: that scores; None is the one of the kind.
        progress: wraps the fits.

    Raises:
        SpecError: no test pictures, none that may be labelled, counts that are none.
    """
    judge = judge or KINDS[bound.kind](bound, part, head, source, seed)
    head = judge.choice if head is None else choice_of(head)
    X = bound.cells(keys) if cells is None else cells
    pool = np.flatnonzero((judge.part == TRAIN) | (judge.part == VALIDATION))
    tested = np.flatnonzero(judge.part == TEST)
    if not len(pool) or not len(tested):
        raise SpecError(f"{judge.source}: {len(pool)} pictures may be labelled, {len(tested)} are "
                        "of the test; expected some of both")  # fmt: skip
    wanted, notes = _counts(counts, len(pool), draws)
    shows = _classes_shown(judge, pool)
    orders = [draw_order([judge.groups[k] for k in pool], shows, seed, d) for d in range(draws)]
    plan = [(n, d) for n in wanted for d in range(draws if n < len(pool) else 1)]
    found, outcomes = [], {}
    for n, d in progress(plan):
        rows = pool[orders[d][:n]]
        fit, setting = _learnt(judge, head, X, rows)
        outcomes[n, d] = values = judge.outcomes_of(fit.predict(X[tested]), tested)
        classes = int(shows[orders[d][:n]].any(0).sum())
        found.append(Draw(n, d, judge.score(values), setting, classes))
    groups = np.asarray(judge.groups)[tested]
    table = tuple(
        _row(judge, n, [one for one in found if one.labels == n],
             [values for (labels, _), values in outcomes.items() if labels == n], groups, seed)
        for n in wanted
    )  # fmt: skip
    if any(one.setting is None for one in found) and any(one.setting for one in found):
        notes.append("of labelled pictures of one group nothing can be held out: the head's "
                     "default setting")  # fmt: skip
    return FewLabels(
        judge.source, head.name, tuple(X.keys), judge.number, table, tuple(found), judge.floor,
        (len(pool), len(tested)), shows.shape[1], tuple(notes),
    )  # fmt: skip


def draw_order(
    groups: Sequence[str], shows: np.ndarray, seed: int = 0, draw: int = 0
) -> np.ndarray:
    """(n,) places of pictures in a random order, whose beginnings show many classes and groups.

    The next picture is the first of the order that shows a class no earlier one has; without
    such, the first of the groups that were taken least often.

    Args:
        groups: n names of what the pictures belong to.
        shows: (n, K) bool, which classes they show; K may be 0.
    """
    names = [f"{name}\n{k}" for k, name in enumerate(groups)]
    chance = np.array([unit_interval("labels", seed, draw, name) for name in names])
    left = list(np.argsort(chance, kind="stable"))
    _, group = np.unique(np.asarray(groups), return_inverse=True)
    used, covered = np.zeros(group.max() + 1, np.int64), np.zeros(shows.shape[1], bool)
    order = []
    while left:
        rest = np.array(left)
        new = (shows[rest] & ~covered).any(1)
        rank = np.where(new, -1, used[group[rest]])
        place = int(rank.argmin())  # the first of equals
        chosen = left.pop(place)
        order.append(chosen)
        covered |= shows[chosen]
        used[group[chosen]] += 1
    return np.array(order, np.int64)


def inner_split(groups: Sequence[str], share: float = HELD) -> np.ndarray:
    """(n,) bool: pictures of a draw that choose a setting, the last groups to come in.

    None where all are of one group.
    """
    names = list(dict.fromkeys(groups))
    if len(names) < 2:
        return np.zeros(len(groups), bool)
    held = set(names[-max(1, round(share * len(names))) :])
    return np.array([name in held for name in groups])


def _learnt(judge: DenseJudge, head: Any, X: Cells, rows: np.ndarray) -> tuple[Any, float | None]:
    """A head that learnt from some rows, and the setting that was chosen among them."""
    masks, about = judge.bound.masks, judge._about
    estimator, setting = head.made(judge.kind), None
    held = inner_split([judge.groups[row] for row in rows])
    if has_choice(estimator) and held.any():
        inner, outer = rows[~held], rows[held]
        trial = fitted(estimator, X[inner], masks[inner], (X[outer], masks[outer]), *about)
        setting = setting_of(trial)
        estimator = with_setting(estimator, setting)
    return fitted(estimator, X[rows], masks[rows], None, *about), setting


def _counts(counts: Sequence[int | str], pool: int, draws: int) -> tuple[list[int], list[str]]:
    wanted = [pool if one == "all" else one for one in counts]
    if draws < 1 or not wanted or not all(isinstance(n, int) and n > 0 for n in wanted):
        raise SpecError(f"counts {list(counts)}, draws={draws}; expected numbers of pictures such "
                        "as 1,5,20,all, and at least one draw")  # fmt: skip
    more = sorted({n for n in wanted if n > pool})
    kept = sorted({n for n in wanted if n <= pool})
    notes = [f"left out, since {pool} pictures may be labelled: {', '.join(map(str, more))}"]
    if not kept:
        raise SpecError(f"{pool} pictures may be labelled, fewer than {min(more)}; expected counts "
                        f"up to {pool}, or all")  # fmt: skip
    return kept, notes if more else []


def _classes_shown(judge: DenseJudge, pool: np.ndarray) -> np.ndarray:
    """(n, K) bool: which classes each picture shows; K is 0 where there are none."""
    count = len(judge.bound.classes) if judge.kind == "masks" else 0
    shows = np.zeros((len(pool), count), bool)
    for place, row in enumerate(pool if count else ()):
        labels = np.unique(judge.truth(row))
        shows[place, labels[(labels >= 0) & (labels < count)]] = True
    return shows


def _row(
    judge: DenseJudge, labels: int, found: list[Draw], outcomes: list[np.ndarray],
    groups: np.ndarray, seed: int,
) -> LabelRow:  # fmt: skip
    scores = np.array([one.score for one in found])
    return LabelRow(
        labels, len(found), float(scores.mean()), _interval(judge, outcomes, groups, seed),
        float(scores.std(ddof=1)) if len(scores) > 1 else None,
        float(np.mean([one.classes for one in found])), tuple(one.setting for one in found),
    )  # fmt: skip


def _interval(
    judge: DenseJudge, outcomes: list[np.ndarray], groups: np.ndarray, seed: int
) -> tuple[float, float] | None:
    """Of the mean over draws: groups of test pictures drawn anew, and draws of labels too."""
    if len(set(groups)) < 2:
        return None
    rng = np.random.default_rng(seed)
    means = []
    for times in resampled(groups, seed):
        scores = np.stack([judge.scores_of_draws(one, times) for one in outcomes], 1)  # (B, D)
        drawn = rng.integers(0, len(outcomes), (len(times), len(outcomes)))
        means.append(np.take_along_axis(scores, drawn, 1).mean(1))
    return percentile_interval(np.concatenate(means))
