"""Sets of (block, t): features of several cells side by side."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np

from diffeat.errors import SpecError
from diffeat.noise import shown_t
from diffeat.search.grid import MEMORY, Progress, check_memory
from diffeat.search.journal import Journal
from diffeat.search.scores import Function, Outcome, Score, score_of, standardised
from diffeat.search.tasks import SLAB_BYTES, TEST, TRAIN, VALIDATION, CellKey, Task

MOST_PAIRS = 3000


@dataclass(frozen=True)
class Step:
    """A set and what it scores on validation; `gain` over the step before."""

    cells: tuple[CellKey, ...]
    validation: float
    setting: float | None
    gain: float

    def __str__(self) -> str:
        return " + ".join(f"{block}{shown_t(t, ' t=')}" for block, t in self.cells)


@dataclass
class CellSets:
    """The way of a search over sets.

    Attributes:
        steps: the best set of each size that was tried and kept (greedy), or the best pairs.
        single: validation score of the best cell alone, by the same split.
        test: score on test of the best set, refitted on training and validation.
        fits: sets that were scored.
        stopped: why no larger set was tried.
    """

    steps: list[Step] = field(default_factory=list)
    single: float = 0.0
    test: float | None = None
    fits: int = 0
    stopped: str = ""

    @property
    def best(self) -> Step:
        """The highest validation score; the smaller set of equals."""
        return max(self.steps, key=lambda step: (step.validation, -len(step.cells)))

    @property
    def gain(self) -> float:
        """Of the best set over the best cell alone."""
        return self.best.validation - self.single

    def to_dict(self) -> dict[str, Any]:
        return {**asdict(self), "best": asdict(self.best)}


def greedy_sets(
    task: Task,
    most: int,
    score: str | Score | Function = "logistic",
    memory: int = MEMORY,
    journal: Journal | None = None,
    progress: Progress = iter,
    test: bool = True,
) -> CellSets:
    """Forward selection: add the cell that helps most, until none helps or there are `most`.

    Features of a set are concatenated, each standardised on the training pictures. Greedy
    choices on one validation part flatter themselves a little more with every step; the test
    score of the final set does not.

    Args:
        most: cells of a set at most, from 2 on.
        memory: bytes for the features of a set, of a group of candidates, and copies of both.
        test: whether the best set is refitted and scored on test.

    Raises:
        SpecError: fewer than two cells, or a set that does not fit in memory.
    """
    if most < 2 or len(task.cells) < 2:
        raise SpecError(
            f"sets of up to {most} out of {len(task.cells)} cells; expected at least 2 of each"
        )
    bench = _Bench(task, score_of(score), memory, journal or Journal())
    chosen, found = (), CellSets(stopped=f"{most} cells were allowed")
    for size in progress(range(1, min(most, len(task.cells)) + 1)):
        sets = [(*chosen, cell) for cell in task.cells if cell not in chosen]
        outcomes = bench.score(sets)
        index = max(range(len(sets)), key=lambda i: outcomes[i].validation)
        found.fits += len(sets)
        best = outcomes[index]
        gain = best.validation - (found.steps[-1].validation if chosen else 0.0)
        if chosen and gain <= 0:
            found.stopped = f"no cell helped a set of {size - 1}"
            break
        chosen = sets[index]
        found.steps.append(Step(chosen, best.validation, best.setting, gain))
    found.single = found.steps[0].validation
    found.test = bench.test(found.best) if test else None
    return found


def best_pairs(
    task: Task,
    score: str | Score | Function = "logistic",
    memory: int = MEMORY,
    journal: Journal | None = None,
    progress: Progress = iter,
    keep: int = 10,
) -> CellSets:
    """Every pair of cells, exhaustively; the best `keep` are returned, best first.

    `gain` of a pair is over the better of its two cells alone.

    Raises:
        SpecError: more than 3000 pairs.
    """
    pairs = list(itertools.combinations(task.cells, 2))
    if not 1 <= len(pairs) <= MOST_PAIRS:
        raise SpecError(
            f"{len(task.cells)} cells make {len(pairs):,} pairs; expected 1 to {MOST_PAIRS}: "
            "choose fewer blocks or timesteps, or search greedily (--sets 2)"
        )
    bench = _Bench(task, score_of(score), memory, journal or Journal())
    alone = dict(zip(task.cells, bench.score([(cell,) for cell in task.cells]), strict=True))
    found = CellSets(fits=len(pairs) + len(alone), stopped="all pairs were tried")
    found.single = max(outcome.validation for outcome in alone.values())
    steps = []
    for first, group in itertools.groupby(progress(pairs), key=lambda pair: pair[0]):
        sets = list(group)
        for pair, outcome in zip(sets, bench.score(sets), strict=True):
            single = max(alone[first].validation, alone[pair[1]].validation)
            gain = outcome.validation - single
            steps.append(Step(pair, outcome.validation, outcome.setting, gain))
    found.steps = sorted(steps, key=lambda step: -step.validation)[:keep]
    found.test = bench.test(found.best)
    return found


class _Bench:
    """Scores sets of cells of one task."""

    def __init__(self, task: Task, score: Score, memory: int, journal: Journal):
        self.task, self.made, self.memory, self.journal = task, score, memory, journal
        self.rows = (task.part == TRAIN) | (task.part == VALIDATION)

    def score(self, sets: Sequence[tuple[CellKey, ...]]) -> list[Outcome]:
        """One outcome per set; sets that share all cells but the last share their features."""
        found: dict[tuple[CellKey, ...], Outcome] = {}
        keys = {one: self._key(one) for one in sets}
        for one in sets:
            stored = self.journal.get(one[-1], keys[one])
            if stored is not None:
                found[one] = Outcome(stored["validation"], stored["setting"])
        pending = [one for one in sets if one not in found]
        for shared, group in itertools.groupby(pending, key=lambda one: one[:-1]):
            for one, outcome in self._fit(shared, list(group)):
                values = {"validation": outcome.validation, "setting": outcome.setting}
                self.journal.put(one[-1], keys[one], {**values, "set": one})
                found[one] = outcome
        return [found[one] for one in sets]

    def _fit(self, shared: tuple[CellKey, ...], sets: list[tuple[CellKey, ...]]):
        task = self.task
        held = sum(map(task.width, shared))
        train = task.part[self.rows] == TRAIN
        base = self._columns(shared, train) if shared else None
        y = task.labels[self.rows]
        ordered = sorted(sets, key=lambda one: task.width(one[-1]))
        for width, same in itertools.groupby(ordered, key=lambda one: task.width(one[-1])):
            same = list(same)
            # one more array for the shared features
            each = check_memory(task, same[0][-1], width + held, self.made, self.memory, shared=1)
            most = max(1, int((self.memory - SLAB_BYTES) / each))
            for start in range(0, len(same), most):
                group = same[start : start + most]
                X = np.empty((len(group), len(y), held + width), np.float32)
                for place, one in zip(X, group, strict=True):
                    place[:, held:] = self._columns(one[-1:], train)
                    if held:
                        place[:, :held] = base
                outcomes = self.made.fit(X[:, train], y[train], X[:, ~train], y[~train])
                yield from zip(group, outcomes, strict=True)

    def _columns(self, cells: Sequence[CellKey], train: np.ndarray) -> np.ndarray:
        """(n, sum of D) features, standardised on the training pictures."""
        found = []
        for cell in cells:
            X = self.task.matrix(cell, self.rows)
            found.append(standardised(X[train], X)[1])
        return np.concatenate(found, axis=1)

    def test(self, step: Step) -> float:
        """Refitted on training and validation, standardised on both, scored on test."""
        task, width = self.task, sum(map(self.task.width, step.cells))
        key = self._key(step.cells, "test", step.setting)
        stored = self.journal.get(step.cells[-1], key)
        if stored is not None:
            return stored["test"]
        check_memory(task, step.cells[-1], width, self.made, self.memory)
        tested = task.part == TEST  # a picture that was left out is in no part
        pairs = [
            standardised(task.matrix(cell, self.rows), task.matrix(cell, tested))
            for cell in step.cells
        ]
        X, Xt = (np.concatenate(columns, axis=1) for columns in zip(*pairs, strict=True))
        value = self.made.test(X, task.labels[self.rows], Xt, task.labels[tested], step.setting)
        self.journal.put(step.cells[-1], key, {"test": value, "set": step.cells})
        return value

    def _key(self, cells: Sequence[CellKey], *rest: Any) -> str:
        return self.journal.key(self.task, self.made, self.task.part, "set", cells, *rest)
