"""Sets of (block, t): features of several cells side by side."""

from __future__ import annotations

import itertools
from dataclasses import asdict, dataclass, field
from typing import Any, ClassVar

from diffeat.errors import SpecError
from diffeat.search.asking import MEMORY, Progress, ask_all, ask_test
from diffeat.search.finding import Choice, Finding, Selection
from diffeat.search.journal import Journal
from diffeat.search.judge import Judge, Mix
from diffeat.search.tasks import CellKey

MOST_PAIRS = 3000


@dataclass(frozen=True)
class Step:
    """A set and what it scores on validation; `gain` over the step before."""

    cells: tuple[CellKey, ...]
    validation: float
    setting: float | None
    gain: float

    def __str__(self) -> str:
        return str(Mix(self.cells))


@dataclass
class CellSets(Finding):
    """The way of a search over sets.

    Attributes:
        steps: the best set of each size that was tried and kept (greedy), or the best pairs.
        single: validation score of the best cell alone, by the same split.
        test: score on test of the best set, learnt from training and validation.
        fits: sets that were judged.
        stopped: why no larger set was tried.
        interval: of test, where it is not that of counts.
    """

    key: ClassVar[str] = "sets"
    title: ClassVar[str] = "greedy sets"

    steps: list[Step] = field(default_factory=list)
    single: float = 0.0
    test: float | None = None
    fits: int = 0
    stopped: str = ""
    interval: tuple[float, float] | None = None

    @property
    def best(self) -> Step:
        """The best validation score; the smaller set of equals."""
        ordered = sorted(self.steps, key=lambda step: len(step.cells))
        return ordered[self.measure.best([step.validation for step in ordered])]

    @property
    def gain(self) -> float:
        """Of the best set over the best cell alone."""
        return self.measure.gain(self.best.validation, self.single)

    def improvement(self) -> tuple[float, Choice]:
        best = self.best
        return self.gain, Choice(Mix(best.cells), best.setting, best.validation, self.test)

    def lines(self) -> list[str]:
        number = self.measure
        lines = [f"{self.title} ({self.fits} fits; {self.stopped}):"]
        for step in self.steps:
            gain = number.change(step.gain)
            lines.append(f"  {number.say(step.validation)} ({gain}): {step}")
        if self.test is not None:
            tested = number.say_test(self.test, self.interval)
            lines.append(f"  the best of them: {tested}")
        return lines

    def to_dict(self) -> dict[str, Any]:
        names = ("single", "test", "fits", "stopped")
        return {
            "steps": [asdict(step) for step in self.steps],
            **{name: getattr(self, name) for name in names},
            "best": asdict(self.best),
        }

    def selection(self) -> Selection:
        interval = self.measure.interval(self.test) or self.interval
        return Selection(
            self.title, str(self.best), self.best.validation, self.test, self.fits,
            f"{self.fits} sets judged", interval, len({t for _, t in self.best.cells}),
        )  # fmt: skip


class CellPairs(CellSets):
    """The best pairs, best first."""

    key, title = "pairs", "best pairs"


def check_sets(judge: Judge, most: int) -> None:
    """SpecError unless there can be sets."""
    judge.check_mixes("sets", "leave --sets out, and take the best cell of the grid")
    if most < 2 or len(judge.cells) < 2:
        raise SpecError(
            f"sets of up to {most} out of {len(judge.cells)} cells; expected at least 2 of each"
        )


def check_pairs(judge: Judge) -> None:
    """SpecError if there are no pairs, or too many."""
    judge.check_mixes("pairs", "leave --cell-pairs out, and take the best cell of the grid")
    cells = len(judge.cells)
    pairs = cells * (cells - 1) // 2
    if not 1 <= pairs <= MOST_PAIRS:
        raise SpecError(
            f"{cells} cells make {pairs:,} pairs; expected at most {MOST_PAIRS}, and one at least: "
            "choose fewer blocks or timesteps, or search greedily (--sets 2)"
        )


def greedy_sets(
    judge: Judge,
    journal: Journal | None = None,
    memory: int = MEMORY,
    progress: Progress = iter,
    *,
    most: int,
    test: bool = True,
) -> CellSets:
    """Forward selection: add the cell that helps most, until none helps or there are `most`.

    Features of a set are side by side, each standardised on the training pictures; of one cell
    they are as the judge takes a cell. Greedy
    choices on one validation part flatter themselves a little more with every step; the test
    score of the final set does not.

    Args:
        memory: bytes for the features of a set, of a group of candidates, and copies of both.
        most: cells of a set at most, from 2 on.
        test: whether the best set is judged on test.

    Raises:
        SpecError: a judge without `mixes`, fewer than two cells, or a set that does not
            fit in memory.
    """
    check_sets(judge, most)
    journal, number = journal or Journal(), judge.number
    chosen, found = (), CellSets(stopped=f"{most} cells were allowed", measure=number)
    for size in progress(range(1, min(most, len(judge.cells)) + 1)):
        sets = [Mix((*chosen, cell)) for cell in judge.cells if cell not in chosen]
        outcomes = ask_all(judge, sets, memory, journal)
        index = number.best([outcome.validation for outcome in outcomes])
        found.fits += len(sets)
        best = outcomes[index]
        nothing = 0.0 if number.higher_is_better else best.validation  # an error has no zero point
        before = found.steps[-1].validation if chosen else nothing
        gain = number.gain(best.validation, before)
        if chosen and gain <= 0:
            found.stopped = f"no cell helped a set of {size - 1}"
            break
        chosen = sets[index].cells
        found.steps.append(Step(chosen, best.validation, best.setting, gain))
    found.single = found.steps[0].validation
    return _tested(found, judge, memory, journal) if test else found


def best_pairs(
    judge: Judge,
    journal: Journal | None = None,
    memory: int = MEMORY,
    progress: Progress = iter,
    *,
    keep: int = 10,
) -> CellPairs:
    """Every pair of cells, exhaustively; the best `keep` are returned, best first.

    `gain` of a pair is over the better of its two cells alone.

    Raises:
        SpecError: a judge without `mixes`, or more than 3000 pairs.
    """
    check_pairs(judge)
    journal, number = journal or Journal(), judge.number
    pairs = list(itertools.combinations(judge.cells, 2))
    single = [Mix((cell,)) for cell in judge.cells]
    outcomes = ask_all(judge, single, memory, journal)
    alone = {cell: one.validation for cell, one in zip(judge.cells, outcomes, strict=True)}
    found = CellPairs(fits=len(pairs) + len(alone), stopped="all pairs were tried", measure=number)
    values = list(alone.values())
    found.single = values[number.best(values)]
    steps = []
    for _, group in itertools.groupby(progress(pairs), key=lambda pair: pair[0]):
        sets = [Mix(pair) for pair in group]
        for pair, outcome in zip(sets, ask_all(judge, sets, memory, journal), strict=True):
            gain = min(number.gain(outcome.validation, alone[cell]) for cell in pair.cells)
            steps.append(Step(pair.cells, outcome.validation, outcome.setting, gain))
    order = number.order([step.validation for step in steps])
    found.steps = [steps[place] for place in order[:keep]]
    return _tested(found, judge, memory, journal)


def _tested(found: CellSets, judge: Judge, memory: int, journal: Journal) -> CellSets:
    """With the test score of the best set."""
    best = found.best
    found.test, found.interval = ask_test(judge, Mix(best.cells), best.setting, memory, journal)
    return found
