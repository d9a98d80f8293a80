"""One search with everything that was asked for."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

from diffeat.errors import SpecError
from diffeat.search.asking import MEMORY
from diffeat.search.bandit import check_pulls, run_bandit
from diffeat.search.finding import Finding
from diffeat.search.frequency import check_maps, guess_frequency
from diffeat.search.halving import successive_halving
from diffeat.search.journal import Journal
from diffeat.search.judge import Judge
from diffeat.search.label_free.guess import guess_free
from diffeat.search.label_free.scores import FreeOptions
from diffeat.search.mixing import train_mixer
from diffeat.search.policy import Seen, check_policy, run_policy
from diffeat.search.repeats import repeat_surface
from diffeat.search.report import SearchReport
from diffeat.search.sets import best_pairs, check_pairs, check_sets, greedy_sets
from diffeat.search.surface import search_surface

PULLS_PER_T = 6
"""Of the agent, where selectors are compared and no number was given."""


@dataclass(frozen=True)
class Strategy:
    """Which cells a judge is asked about.

    Attributes:
        name: for progress bars and errors.
        run: (judge, journal, memory, progress) → finding.
        check: raises SpecError, before hours of work, for what could not be done after it.
        returns: whether it comes back to every t, and so wants all features at hand.
    """

    name: str
    run: Callable[..., Finding]
    check: Callable[[Judge], None] = lambda judge: None
    returns: bool = True


@dataclass(frozen=True)
class SearchOptions:
    """What is searched, and how.

    Attributes:
        repeats: random splits; 0 takes the one split of the judge.
        sets: cells of a greedy set at most; 0 searches none.
        pairs: whether all pairs are tried.
        halving: successive halving in place of the whole grid.
        frequency: cut-off of a guess by high frequencies, from maps; None makes none.
        free: label-free numbers of all cells, with these options; None computes none.
        bandit: pulls of an agent over t; 0 runs none.
        agent: "ucb1" or "thompson".
        selectors: also a mixer, of a judge that `mixes`, and a settled agent, beside the grid
            in one table.
        mixer: also a mixer alone.
        policy: also a policy that chooses a t for each picture.
        seen: what it looks at; None takes the features of the smallest t.
        seed: of random splits, subsets and weights.
        memory: bytes for features while they are fitted.
        out: folder that keeps finished cells, or None.
    """

    repeats: int = 0
    sets: int = 0
    pairs: bool = False
    halving: bool = False
    frequency: float | None = None
    free: FreeOptions | None = None
    bandit: int = 0
    agent: str = "ucb1"
    selectors: bool = False
    mixer: bool = False
    policy: bool = False
    seen: Seen | None = field(default=None, repr=False)
    seed: int = 0
    memory: int = MEMORY
    out: Path | None = None

    def __post_init__(self) -> None:
        if self.halving and (self.repeats or self.sets or self.pairs):
            raise SpecError(
                "halving takes the place of the whole grid, which repeats, sets and pairs need; "
                "choose one of the two"
            )

    def strategies(self, judge: Judge) -> list[Strategy]:
        """What was asked for, in order; the first finds the best single cell."""
        seed, pulls = self.seed, self.bandit
        if self.selectors and not pulls:
            pulls = PULLS_PER_T * len({t for _, t in judge.cells})
        if self.halving:
            chosen = [Strategy("halving", partial(successive_halving, seed=seed))]
        elif self.repeats:
            repeat = partial(repeat_surface, repeats=self.repeats, seed=seed)
            chosen = [Strategy("search", repeat, returns=False)]
        else:
            chosen = [Strategy("search", search_surface, returns=False)]
        if self.frequency is not None:
            guess = partial(guess_frequency, cutoff=self.frequency)
            chosen.append(Strategy("frequency", guess, check_maps, returns=False))
        if self.free is not None:
            numbers = partial(guess_free, options=self.free)
            chosen.append(Strategy("free", numbers, returns=False))
        if self.sets:
            check = partial(check_sets, most=self.sets)
            chosen.append(Strategy("sets", partial(greedy_sets, most=self.sets), check))
        if self.pairs:
            chosen.append(Strategy("pairs", best_pairs, check_pairs))
        if pulls:
            options = {"pulls": pulls, "agent": self.agent, "settle": self.selectors}
            run = partial(run_bandit, **options, seed=seed)
            chosen.append(Strategy("bandit", run, partial(check_pulls, **options)))
        if self.policy:
            run = partial(run_policy, seen=self.seen, seed=seed)
            chosen.append(Strategy("policy", run, partial(check_policy, seen=self.seen, seed=seed)))
        if (self.selectors or self.mixer) and (judge.mixes or self.mixer):
            chosen.append(Strategy("mixer", partial(train_mixer, seed=seed)))
        return chosen


def run_search(
    judge: Judge,
    options: SearchOptions,
    ready: Iterable[Finding] = (),
    progress: Callable[[str, Iterable], Iterable] = lambda label, items: iter(items),
) -> SearchReport:
    """Search for the best cells of a task.

    Args:
        judge: of the task.
        ready: findings that were made before, such as a guess from maps that are not kept.
        progress: (label, items) → the items, such as with a progress bar.
    """
    strategies, journal = options.strategies(judge), Journal(options.out)
    _check(judge, strategies)
    findings: dict[str, Finding] = {}
    seconds: dict[str, float] = {}
    for strategy in strategies:
        begun, bar = time.perf_counter(), partial(progress, strategy.name)
        found = strategy.run(judge, journal, options.memory, bar)
        findings.update(found.parts())
        seconds.update(dict.fromkeys(found.parts(), time.perf_counter() - begun))
        if len(findings) == len(found.parts()):  # after the first
            findings.update({one.key: one for one in ready})
    report = SearchReport(
        findings, judge.number, judge.conditioned, (journal.found, journal.computed),
        options.selectors, seconds, _about_mixer(judge, options), judge.told, judge.learns,
        judge.labels_used(), judge.labels_used(trained=True),
    )  # fmt: skip
    report.compare()
    return report


def _about_mixer(judge: Judge, options: SearchOptions) -> str:
    """Why there is no mixer, or none that was trained, where one was asked for."""
    if not (options.selectors or options.mixer):
        return ""
    if not judge.mixes:
        return f"no mixer: {judge.no_mixes}"
    why = judge.not_trained
    return f"the mixer's weights are searched for without a gradient: {why}" if why else ""


def _check(judge: Judge, strategies: Iterable[Strategy]) -> None:
    """SpecError, before anything is judged, for what could not be done."""
    judge.check()
    again = [strategy.name for strategy in strategies if strategy.returns]
    if len(judge.together) > 1 and again:
        steps = len({t for _, t in judge.cells})
        raise SpecError(
            f"{', '.join(again)}: they come back to every t, but the features of all {steps} t do "
            "not fit in memory together, so the model would run again and again; allow more "
            "(--memory), take fewer pictures or t, or extract to a file and search that"
        )
    for strategy in strategies:
        strategy.check(judge)
