"""A learned agent over t: which noise level is worth looking at next?"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar

import numpy as np

from diffeat.errors import SpecError
from diffeat.noise import format_t, shown_t
from diffeat.search.asking import MEMORY, Progress, ask_all, ask_test
from diffeat.search.finding import Cell, Finding, Selection
from diffeat.search.journal import Journal
from diffeat.search.judge import Judge
from diffeat.search.splits import LEFT_OUT, TRAIN, VALIDATION, balanced_order
from diffeat.search.tasks import CellKey, choose_cells

AGENTS = ("ucb1", "thompson")


@dataclass
class Bandit(Finding):
    """What an agent did.

    Attributes:
        timesteps: (A,) the arms.
        arms: (pulls,) which arm was pulled.
        rewards: (pulls,) what it gave, in [0, 1].
        chosen: the best block at the t that was learnt, where that was settled.
        cost: of all pulls, in judgements of a cell on all training pictures.
        interval: of the chosen cell's test score, where it is not that of counts.
    """

    key: ClassVar[str] = "bandit"

    timesteps: list[float]
    arms: list[int] = field(default_factory=list)
    rewards: list[float] = field(default_factory=list)
    chosen: Cell | None = None
    cost: float = 0.0
    interval: tuple[float, float] | None = None

    @property
    def counts(self) -> np.ndarray:
        """(A,) pulls of each arm."""
        return np.bincount(self.arms, minlength=len(self.timesteps))

    @property
    def means(self) -> np.ndarray:
        """(A,) mean reward of each arm; nan where it was never pulled."""
        sums = np.bincount(self.arms, self.rewards, minlength=len(self.timesteps))
        return np.divide(sums, self.counts, out=np.full(len(sums), np.nan), where=self.counts > 0)

    @property
    def best(self) -> float:
        """The t that was pulled most, which is what the agent has learned; ties by the mean."""
        means = np.nan_to_num(self.means, nan=-1.0)
        return self.timesteps[max(range(len(means)), key=lambda a: (self.counts[a], means[a]))]

    def regret(self, truth: Sequence[float] | None = None) -> np.ndarray:
        """(pulls,) what was lost so far against always pulling the best arm.

        Args:
            truth: (A,) the arms' true means, if known, such as from the whole surface; None
                takes the means that the agent saw, which flatters the arm it chose.
        """
        truth = self.means if truth is None else np.asarray(truth, np.float64)
        return np.cumsum(np.nanmax(truth) - truth[self.arms])

    def lines(self) -> list[str]:
        counts = zip(self.timesteps, self.counts, strict=True)
        pulls = ", ".join(f"{shown_t(t, 't=') or 'no t'}: {n}" for t, n in counts)
        return [
            f"bandit: {shown_t(self.best, 't=') or 'no t'} after {len(self.arms)} pulls "
            f"({pulls}); regret {self.regret()[-1]:.2f} in all"
        ]

    def to_dict(self) -> dict[str, Any]:
        names = ("timesteps", "arms", "rewards")
        return {
            **{name: getattr(self, name) for name in names},
            "counts": self.counts.tolist(), "best": self.best,
            "means": [None if np.isnan(mean) else float(mean) for mean in self.means],
            "regret": self.regret().tolist(),
            **({"chosen": self.chosen.to_dict()} if self.chosen else {}),
        }  # fmt: skip

    def selection(self) -> Selection | None:
        if self.chosen is None:
            return None
        cell, interval = self.chosen, self.measure.interval(self.chosen.test) or self.interval
        return Selection(
            "learned agent", str(cell), cell.validation, cell.test, self.cost,
            f"{len(self.arms)} pulls, then the blocks at one t", interval,
        )  # fmt: skip


def check_pulls(judge: Judge, pulls: int, agent: str = "ucb1", settle: bool = False) -> None:
    """SpecError unless the agent is known and every t gets a pull.

    Of one t there is nothing to learn, but its blocks may be settled.
    """
    steps = len({t for _, t in judge.cells})
    if agent not in AGENTS:
        raise SpecError(f"agent {agent!r}; expected {' or '.join(AGENTS)}")
    if steps < 2 and not settle:
        raise SpecError(
            f"{judge.source} has one t, so there is nothing for a bandit to learn; expected at "
            "least 2: leave the bandit out, or give more t"
        )
    if pulls < steps:
        raise SpecError(
            f"{pulls} pulls for {steps} t; expected at least {steps} pulls, at least one for each"
        )


def run_bandit(
    judge: Judge,
    journal: Journal | None = None,
    memory: int = MEMORY,
    progress: Progress = iter,
    *,
    pulls: int,
    agent: str = "ucb1",
    pictures: int | None = None,
    blocks: Sequence[str] | None = None,
    seed: int = 0,
    settle: bool = False,
) -> Bandit:
    """Let an agent learn which t gives the best features, a few pictures at a time.

    A pull of t draws a fresh subset of training and of validation pictures, judges the blocks
    by it and takes their mean as the reward. UCB1 pulls the arm with the highest
    mean + √(2 ln n / n_arm); Thompson sampling the highest draw from
    Beta(1 + successes, 1 + failures), a reward r counting as a success with probability r.
    Rewards lie in [0, 1]: see `rewards_of`.

    It is an agent that learns one t for a whole task from noisy rewards, as RepFusion's policy
    is an agent over t. It is not RepFusion's: that is a network that looks at each picture and
    chooses a t for it, trained by policy gradient on a student's loss. Rewards here share
    pictures (fresh subsets of the same pools), so the bounds of the theory hold only roughly.
    The test part is not touched, unless the choice is to be settled.

    Args:
        journal: keeps the rewards of pulls.
        pulls: N, at least one per t.
        agent: "ucb1" or "thompson".
        pictures: training pictures of a pull, and a third as many for validation; None takes
            200, or 4 per class where that is more. Never more
            than half of a part, or they would not be fresh.
        blocks: whose mean is the reward; None means all there are.
        seed: of subsets and draws.
        settle: also judge the blocks at the chosen t on all pictures, and the best on test.

    Raises:
        SpecError: unknown agent or block, one t, too few pulls, or a number outside the
            judge's bounds.

    Source: Auer, Cesa-Bianchi & Fischer 2002 (UCB1); Agrawal & Goyal 2012, algorithm 2
        (Thompson sampling for rewards in [0, 1]).
    """
    cells = choose_cells(judge.source, judge.cells, blocks)
    arms = list(dict.fromkeys(t for _, t in cells))
    pictures = max(200, 4 * judge.classes) if pictures is None else pictures
    check_pulls(judge, pulls, agent, settle)
    if pictures < 2 * judge.classes:
        raise SpecError(
            f"pulls of {pictures} pictures; expected {2 * judge.classes} pictures, two per class"
        )
    journal, rng = journal or Journal(), np.random.default_rng(seed)
    log, values, draws = Bandit(arms, measure=judge.number), [], []
    for pull in progress(range(pulls)):
        if pull < len(arms):
            arm = pull
        elif agent == "ucb1":
            arm = int(np.argmax(log.means + np.sqrt(2 * np.log(pull) / log.counts)))
        else:
            arm = int(np.argmax(rng.beta(*(1 + _chances(log, draws)))))
        pulled, part = [c for c in cells if c[1] == arms[arm]], _fresh(judge, pictures, rng)
        values.append(_pulled(judge, pulled, part, memory, journal))
        draws.append(rng.random())
        log.arms.append(arm)
        log.rewards = rewards_of(judge, values)
        log.cost += len(pulled) * _share(judge, part)
    if settle:
        _settle(log, judge, cells, memory, journal)
    return log


def rewards_of(judge: Judge, values: Sequence[float]) -> list[float]:
    """(pulls,) rewards in [0, 1], higher is better.

    Scaled by the judge's bounds; where there are none, by the range of what was seen so far.

    Raises:
        SpecError: a number outside the judge's bounds.
    """
    if judge.bounds is None:
        good = judge.number.goodness(values)
        low, span = good.min(), np.ptp(good)
        return ((good - low) / span).tolist() if span else [0.5] * len(values)
    low, high = judge.bounds
    for value in values:
        if not low <= value <= high:
            name = judge.describe().get("score", judge.name)
            raise SpecError(
                f"score {name!r} gave {value}; a bandit needs rewards in [{low:g}, {high:g}]"
            )
    scaled = [(value - low) / (high - low) for value in values]
    return scaled if judge.higher_is_better else [1 - reward for reward in scaled]


def _chances(log: Bandit, draws: Sequence[float]) -> np.ndarray:
    """(2, A) successes and failures of each arm: a reward r succeeds with probability r."""
    arms, success = np.array(log.arms), np.array(draws) < log.rewards
    count = len(log.timesteps)
    return np.stack([np.bincount(arms[success == won], minlength=count) for won in (True, False)])


def _fresh(judge: Judge, pictures: int, rng: np.random.Generator) -> np.ndarray:
    """(N,) parts with few pictures of training and validation, the others left out."""
    part = np.full(len(judge.part), LEFT_OUT)
    for number, size in ((TRAIN, pictures), (VALIDATION, max(judge.classes, pictures // 3))):
        drawn = judge.part == number
        size = min(size, math.ceil(drawn.sum() / 2))
        order = balanced_order(drawn, int(rng.integers(2**63)), judge.labels)
        part[order[:size]] = number
    return part


def _share(judge: Judge, part: np.ndarray) -> float:
    """How much of a judgement on all pictures one on these is."""
    return float((part == judge.resource).sum() / (judge.part == judge.resource).sum())


def _pulled(
    judge: Judge, cells: Sequence[CellKey], part: np.ndarray, memory: int, journal: Journal
) -> float:
    """Mean over cells of the scores on some pictures."""
    key = journal.key(judge, part, "pull", cells)
    name = f"pull-t{format_t(cells[0][1])}"
    kept = journal.read(name, key, lambda stored: math.isfinite(stored["reward"]))
    if kept is None:
        batches = judge.batches(cells, memory)
        outcomes = [one for batch in batches for one in judge.validate(batch, part)]
        found = float(np.mean([outcome.validation for outcome in outcomes]))
        rewards_of(judge, [found])  # what is out of bounds is not kept
        kept = journal.write(name, key, {"t": cells[0][1], "reward": found})
    return kept["reward"]


def _settle(
    log: Bandit, judge: Judge, cells: Sequence[CellKey], memory: int, journal: Journal
) -> None:
    """The best block at the learned t, on all pictures, and its test score."""
    blocks = [cell for cell in cells if cell[1] == log.best]
    outcomes = ask_all(judge, blocks, memory, journal)
    place = judge.number.best([outcome.validation for outcome in outcomes])
    best = outcomes[place]
    test, log.interval = ask_test(judge, blocks[place], best.setting, memory, journal)
    log.chosen = Cell(*blocks[place], best.validation, best.setting, test)
    log.cost += len(blocks)
