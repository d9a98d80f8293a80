"""A learned agent over t: which noise level is worth looking at next?"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from diffeat.errors import SpecError
from diffeat.noise import format_t
from diffeat.search.grid import MEMORY, Progress, groups_within, stacked
from diffeat.search.halving import LEFT_OUT, balanced_order
from diffeat.search.journal import Journal
from diffeat.search.scores import Function, Score, score_of
from diffeat.search.tasks import TRAIN, VALIDATION, CellKey, Task

AGENTS = ("ucb1", "thompson")


@dataclass
class Bandit:
    """What an agent did.

    Attributes:
        timesteps: (A,) the arms.
        arms: (pulls,) which arm was pulled.
        rewards: (pulls,) what it gave, in [0, 1].
    """

    timesteps: list[float]
    arms: list[int] = field(default_factory=list)
    rewards: list[float] = field(default_factory=list)

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

    def to_dict(self) -> dict[str, Any]:
        return {
            **vars(self), "counts": self.counts.tolist(), "best": self.best,
            "means": [None if np.isnan(mean) else float(mean) for mean in self.means],
            "regret": self.regret().tolist(),
        }  # fmt: skip


def run_bandit(
    task: Task,
    pulls: int,
    agent: str = "ucb1",
    score: str | Score | Function = "ridge",
    pictures: int | None = None,
    blocks: Sequence[str] | None = None,
    seed: int = 0,
    memory: int = MEMORY,
    journal: Journal | None = None,
    progress: Progress = iter,
) -> Bandit:
    """Let an agent learn which t gives the best features, a few pictures at a time.

    A pull of t draws a fresh subset of training and of validation pictures, fits the score on
    the one and takes its mean over the blocks on the other as the reward. UCB1 pulls the arm
    with the highest mean + √(2 ln n / n_arm); Thompson sampling the highest draw from
    Beta(1 + successes, 1 + failures), a reward r counting as a success with probability r.

    It is an agent that learns one t for a whole task from noisy rewards, as RepFusion's policy
    is an agent over t. It is not RepFusion's: that is a network that looks at each picture and
    chooses a t for it, trained by policy gradient on a student's loss. Rewards here share
    pictures (fresh subsets of the same pools), so the bounds of the theory hold only roughly.
    The test part is not touched.

    Args:
        pulls: N, at least one per t.
        agent: "ucb1" or "thompson".
        score: of a pull; in [0, 1].
        pictures: training pictures of a pull, and a third as many for validation; None takes
            200, or 4 per class where that is more. Never more
            than half of a part, or they would not be fresh.
        blocks: whose mean is the reward; None means all of the task.
        seed: of subsets and draws.
        journal: keeps the rewards of pulls.

    Raises:
        SpecError: unknown agent or block, too few pulls, or a reward outside [0, 1].

    Source: Auer, Cesa-Bianchi & Fischer 2002 (UCB1); Agrawal & Goyal 2012, algorithm 2
        (Thompson sampling for rewards in [0, 1]).
    """
    cells = task.choose(blocks)
    arms = list(dict.fromkeys(t for _, t in cells))
    if agent not in AGENTS:
        raise SpecError(f"agent {agent!r}; expected {' or '.join(AGENTS)}")
    pictures = max(200, 4 * task.classes) if pictures is None else pictures
    if pulls < len(arms) or pictures < 2 * task.classes:
        raise SpecError(
            f"{pulls} pulls of {pictures} pictures; expected at least {len(arms)} pulls, one for "
            f"each t, and {2 * task.classes} pictures, two per class"
        )
    score, rng, log = score_of(score), np.random.default_rng(seed), Bandit(arms)
    journal = journal or Journal()
    chances = np.zeros((2, len(arms)))  # successes and failures
    for pull in progress(range(pulls)):
        if pull < len(arms):
            arm = pull
        elif agent == "ucb1":
            arm = int(np.argmax(log.means + np.sqrt(2 * np.log(pull) / log.counts)))
        else:
            arm = int(np.argmax(rng.beta(1 + chances[0], 1 + chances[1])))
        pulled, part = [c for c in cells if c[1] == arms[arm]], _fresh(task, pictures, rng)
        key = journal.key(task, score, part, "pull", pulled)
        name = f"pull-t{format_t(arms[arm])}"
        kept = journal.read(name, key, lambda stored: 0 <= stored["reward"] <= 1)
        if kept is None:
            found = _reward(task, score, pulled, part, memory)
            kept = journal.write(name, key, {"t": arms[arm], "reward": found})
        reward = kept["reward"]
        chances[int(rng.random() >= reward), arm] += 1
        log.arms.append(arm)
        log.rewards.append(reward)
    return log


def _fresh(task: Task, pictures: int, rng: np.random.Generator) -> np.ndarray:
    """(N,) parts of a task with few pictures of training and validation, the others left out."""
    part = np.full(len(task.part), LEFT_OUT)
    for number, size in ((TRAIN, pictures), (VALIDATION, max(task.classes, pictures // 3))):
        size = min(size, math.ceil((task.part == number).sum() / 2))
        order = balanced_order(task.labels, task.part == number, int(rng.integers(2**63)))
        part[order[:size]] = number
    return part


def _reward(
    task: Task, score: Score, cells: Sequence[CellKey], part: np.ndarray, memory: int
) -> float:
    """Mean over cells of a score on some pictures."""
    rows = part != LEFT_OUT
    train, y = part[rows] == TRAIN, task.labels[rows]
    values = []
    for group in groups_within(task, cells, score, memory):
        X = stacked(task, group, rows)
        values += score.fit(X[:, train], y[train], X[:, ~train], y[~train])
    reward = float(np.mean([one.validation for one in values]))
    if not 0 <= reward <= 1:
        raise SpecError(f"score {score.name!r} gave {reward}; a bandit needs rewards in [0, 1]")
    return reward
