"""One search with everything that was asked for."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path

from diffeat.errors import SpecError
from diffeat.search.bandit import run_bandit
from diffeat.search.frequency import FrequencyGuess
from diffeat.search.grid import MEMORY, search_surface
from diffeat.search.halving import successive_halving
from diffeat.search.journal import Journal
from diffeat.search.repeats import repeat_surface
from diffeat.search.report import SearchReport
from diffeat.search.scores import Function, Score, score_of
from diffeat.search.sets import MOST_PAIRS, best_pairs, greedy_sets
from diffeat.search.tasks import Task


@dataclass(frozen=True)
class SearchOptions:
    """What is searched, and how.

    Attributes:
        score: "logistic", "ridge", "knn", a `Score`, or a function.
        repeats: random splits; 0 takes the one split of the task.
        sets: cells of a greedy set at most; 0 searches none.
        pairs: whether all pairs are tried.
        halving: successive halving in place of the whole grid.
        bandit: pulls of an agent over t; 0 runs none.
        agent: "ucb1" or "thompson".
        seed: of random splits and subsets.
        memory: bytes for features while they are fitted.
        out: folder that keeps finished cells, or None.
    """

    score: str | Score | Function = "logistic"
    repeats: int = 0
    sets: int = 0
    pairs: bool = False
    halving: bool = False
    bandit: int = 0
    agent: str = "ucb1"
    seed: int = 0
    memory: int = MEMORY
    out: Path | None = None

    def __post_init__(self) -> None:
        if self.halving and (self.repeats or self.sets or self.pairs):
            raise SpecError(
                "halving takes the place of the whole grid, which repeats, sets and pairs need; "
                "choose one of the two"
            )


def run_search(
    task: Task,
    options: SearchOptions,
    frequency: FrequencyGuess | None = None,
    progress: Callable[[str, Iterable], Iterable] = lambda label, items: iter(items),
) -> SearchReport:
    """Search a task.

    Args:
        frequency: a guess to compare with the scores of the same cells.
        progress: (label, items) → the items, such as with a progress bar.
    """
    _check_parts(task, options)
    score, journal = score_of(options.score), Journal(options.out)
    report = SearchReport(frequency=frequency, conditioned=task.conditioned, tested=task.counts[2])
    common = options.memory, journal

    def bar(label: str) -> Callable[[Iterable], Iterable]:
        return lambda items: progress(label, items)

    if options.halving:
        report.halving = successive_halving(
            task, score, None, options.seed, *common, bar("halving")
        )
    elif options.repeats:
        report.repeats = repeat_surface(
            task, options.repeats, score, options.seed, *common, bar("search")
        )
        report.surface = report.repeats.surface(task.name, task.classes, score.name)
        report.surface.conditioned = task.conditioned
    else:
        report.surface = search_surface(task, score, *common, bar("search"))
    if frequency is not None:
        rounds = report.halving.rounds[:1] if report.surface is None else ()
        scores = rounds[0].scores if rounds else {c.key: c.validation for c in report.surface.cells}
        frequency.compare(scores)
    if options.sets:
        report.sets = greedy_sets(task, options.sets, score, *common, bar("sets"))
    if options.pairs:
        report.pairs = best_pairs(task, score, *common, bar("pairs"))
    if options.bandit:
        report.bandit = run_bandit(
            task, options.bandit, options.agent, score, seed=options.seed,
            memory=options.memory, journal=journal, progress=bar("bandit"),
        )  # fmt: skip
    report.made = (journal.found, journal.computed)
    return report


def _check_parts(task: Task, options: SearchOptions) -> None:
    """SpecError, before hours of work, for parts that could not be done after it."""
    cells, steps = len(task.cells), len({t for _, t in task.cells})
    again = [
        name
        for name, wanted in (
            ("sets", options.sets), ("pairs", options.pairs), ("halving", options.halving),
            ("bandit", options.bandit),
        )
        if wanted
    ]  # fmt: skip
    if len(task.groups) > 1 and again:
        raise SpecError(
            f"{', '.join(again)}: they come back to every t, but the features of all {steps} t do "
            "not fit in memory together, so the model would run again and again; allow more "
            "(--memory), take fewer pictures or t, or extract to a file and search that"
        )
    if (options.sets or options.pairs) and cells < 2:
        raise SpecError(f"sets and pairs of {cells} cell; expected at least 2 cells")
    if options.pairs and cells * (cells - 1) // 2 > MOST_PAIRS:
        raise SpecError(
            f"{cells} cells make {cells * (cells - 1) // 2:,} pairs; expected at most "
            f"{MOST_PAIRS}: choose fewer blocks or timesteps, or search greedily (--sets 2)"
        )
    if options.bandit and options.bandit < steps:
        raise SpecError(f"{options.bandit} pulls for {steps} t; expected at least one for each")
