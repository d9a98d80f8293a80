"""A policy per picture: a learned agent that looks at each picture and chooses its t."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar

import numpy as np

from diffeat.errors import SpecError
from diffeat.hashing import fingerprint, unit_interval
from diffeat.noise import format_t, shown_t
from diffeat.search.asking import MEMORY, Progress, ask_all
from diffeat.search.finding import Finding, Selection
from diffeat.search.intervals import group_interval
from diffeat.search.journal import Journal
from diffeat.search.judge import Judge
from diffeat.search.splits import TEST, TRAIN, VALIDATION
from diffeat.search.tasks import CellKey, bytes_fingerprint
from probes.policy import PolicyHead

FOLDS = 5
ENTROPIES = (0.003, 0.03, 0.3)
"""Weights of the entropy bonus, in standard deviations of the rewards; validation chooses."""
EPOCHS, PATIENCE, BATCH, RATE = 60, 12, 128, 1e-3
BESIDE = ("best fixed t", "a random t", "oracle (knows the truth)")


@dataclass(frozen=True)
class Seen:
    """What a policy looks at, of every picture.

    Attributes:
        values: (N, 3, H, W) or (N, D) float32.
        name: for people.
        cell: the (block, t) that they are features of; None where no forward is needed.
    """

    values: np.ndarray
    name: str = "pictures"
    cell: CellKey | None = None


@dataclass
class Policy(Finding):
    """What a policy per picture does, beside what it has to beat.

    All scores are of the same probes, one per t, fitted on training and validation together.

    Attributes:
        block: whose t are chosen from: that of the best cell.
        timesteps: (A,) the arms.
        fixed: the t that is best on validation for all pictures.
        seen: what the policy looks at.
        entropy, epoch: the weight of the bonus and the epoch that validation chose.
        validation, test: share right with the chosen t.
        beside: the same of `BESIDE` on test; the oracle takes a right t wherever there is one,
            which no policy can know.
        difference: policy minus best fixed t on test, with its paired interval over groups.
        reward: mean reward on test of the policy and of the best fixed t; reward_difference as
            `difference`.
        what: what a reward is.
        chosen: (K, A) test pictures of each class for which each t was chosen.
        names: (K,) of the classes.
        history: the learning curve of the chosen policy.
        forwards: of a new picture: of the policy, of a fixed t, of the oracle.
        labels: targets that were used: of training (rewards) and validation (settings).
        cost: in judgements of one cell; cost_text: what these were.
        interval: of test, where it is not that of counts.
    """

    key: ClassVar[str] = "policy"

    block: str
    timesteps: list[float]
    fixed: float
    seen: str
    entropy: float
    epoch: int
    validation: float
    test: float
    beside: dict[str, float]
    difference: tuple[float, float, float]
    reward: tuple[float, float]
    reward_difference: tuple[float, float, float]
    what: str
    chosen: list[list[int]]
    names: list[str]
    history: list[dict[str, float]] = field(repr=False)
    forwards: tuple[int, int, int]
    labels: tuple[int, int]
    cost: float
    cost_text: str
    interval: tuple[float, float] | None = None

    @property
    def shares(self) -> dict[float, float]:
        """t → share of the test pictures for which it was chosen."""
        counts = np.sum(self.chosen, axis=0)
        return dict(zip(self.timesteps, (counts / counts.sum()).tolist(), strict=True))

    @property
    def better(self) -> str:
        """ "better than", "worse than" or "no different from" the best fixed t."""
        _, low, high = self.difference
        return "better than" if low > 0 else "worse than" if high < 0 else "no different from"

    def lines(self) -> list[str]:
        number, (gap, low, high) = self.measure, self.difference
        often = ", ".join(f"{format_t(t)}: {100 * s:.0f} %" for t, s in self.shares.items())
        rows = [f"  {name}: {number.say(value)}" for name, value in self.beside.items()]
        rows[0] += f" (t={format_t(self.fixed)})"
        mine, alone, _ = self.forwards
        ends = f"{number.show(low)} to {number.show(high)}"
        rgap, rlow, rhigh = self.reward_difference
        return [
            f"policy over t of {self.block}, which sees {self.seen} ({self.cost_text}): "
            f"{number.say_test(self.test, self.interval)}",
            *rows,
            f"  {self.better} the best fixed t: {number.change(gap)} (95 % interval {ends}, paired)"
            f"; {self.what}: {rgap:+.4f} ({rlow:+.4f} to {rhigh:+.4f})",
            f"  chosen t on test {often}; forwards of a new picture {mine}, of a fixed t {alone}; "
            f"labels of {self.labels[0]} training and {self.labels[1]} validation pictures",
        ]

    def to_dict(self) -> dict[str, Any]:
        skipped = ("measure", "conditioned")
        return {name: value for name, value in vars(self).items() if name not in skipped}

    def selection(self) -> Selection:
        most = max(self.shares, key=self.shares.get)
        chosen = f"{self.block}, a t per picture (mostly t={format_t(most)})"
        interval = self.measure.interval(self.test) or self.interval
        return Selection(
            "policy per picture", chosen, self.validation, self.test, self.cost, self.cost_text,
            interval, self.forwards[0],
        )  # fmt: skip


def check_policy(judge: Judge, seen: Seen | None = None) -> None:
    """SpecError unless pictures can be rewarded one by one and there are t to choose from."""
    if not getattr(judge, "reward_name", ""):
        rule = judge.describe().get("score", judge.name)
        raise SpecError(
            f"{rule} says nothing of single pictures that a policy could learn from; expected a "
            "classification by a probe: leave --policy out"
        )
    if len({t for _, t in judge.cells}) < 2:
        raise SpecError(
            f"{judge.source} has one t, so there is nothing for a policy to choose; expected at "
            "least 2: leave --policy out, or give more t"
        )
    if seen is not None and len(seen.values) != len(judge.groups):
        raise SpecError(
            f"the policy sees {len(seen.values)} {seen.name}; expected {len(judge.groups)}, one "
            "for each row"
        )
    if len(set(_owners(judge, judge.part == TRAIN))) < FOLDS:
        raise SpecError(
            f"{judge.source}: rewards are of {FOLDS} folds of groups, and training has fewer "
            "groups; give more pictures"
        )


def run_policy(
    judge: Judge,
    journal: Journal | None = None,
    memory: int = MEMORY,
    progress: Progress = iter,
    *,
    seen: Seen | None = None,
    seed: int = 0,
) -> Policy:
    """Learn π(t | picture) by REINFORCE, and score it beside the best fixed t.

    The arms are the t of one block, that of the best cell on validation. The reward of (picture,
    t) is what the judge says of single pictures (`rewards`): of classes by a logistic probe
    log p(truth), the published reward. For training pictures it is out of fold: the probe of each
    of `FOLDS` folds of groups is fitted on the others, since a probe praises the t that lets it
    remember. For validation pictures it is that of the probe fitted on training. The policy
    is trained on training pictures; validation chooses the epoch and the weight of the entropy
    bonus. Test is touched once, by the policy and what stands beside it.

    RepFusion trains its policy along with a student, over 1000 t of one block at the clean
    picture; here the features are as they were extracted, and so are the t.

    Args:
        journal: keeps the rewards of every t, and the end.
        seen: what the policy looks at; None takes the features of the smallest t, averaged over
            places, which then cost a forward of their own.
        seed: of folds, weights, order and draws.

    Raises:
        SpecError: a judge without rewards of single pictures, one t, too few groups.

    Source: RepFusion (Yang & Wang 2023), section 3.3; Williams 1992.
    """
    check_policy(judge, seen)
    journal = journal or Journal()
    arms, settings = _arms(judge, memory, journal)
    seen = seen or _first_features(judge, arms)
    key = journal.key(judge, judge.part, "policy", arms, seed, _mark(seen))
    train, held, tested = (judge.part == part for part in (TRAIN, VALIDATION, TEST))
    known, test = [], []
    for cell, setting in progress(list(zip(arms, settings, strict=True))):
        known.append(_known_rewards(judge, cell, setting, seed, journal))
        both = train | held
        test.append(_rewards(judge, cell, setting, both, tested, journal, "test"))
    rewards = np.array([one["reward"] for one in known]).T  # (n, A), of training and validation
    right = np.array([one["right"] for one in known]).T
    rows = np.flatnonzero(train | held)
    of_train, of_held = np.flatnonzero(train[rows]), np.flatnonzero(held[rows])
    kept = journal.read("policy", key, lambda stored: "arms" in stored)
    if kept is None:
        found = _trained(seen.values, rewards, rows, of_train, of_held, seed)
        head = found.pop("head")  # itself not kept
        pulled = {"validation": head.predict(seen.values[held]).tolist(),
                  "test": head.predict(seen.values[tested]).tolist()}  # fmt: skip
        kept = journal.write("policy", key, {**found, "arms": pulled})
    fixed = int(judge.number.best(right[of_held].mean(0)))
    rewards, right_test = (np.array([one[name] for one in test]).T for name in ("reward", "right"))
    return _finding(
        judge, arms, fixed, seen, kept, right[of_held], rewards, right_test
    )  # fmt: skip


def _arms(judge: Judge, memory: int, journal: Journal) -> tuple[list[CellKey], list[Any]]:
    """The cells of the block with the best one, and what validation chose of each."""
    outcomes = ask_all(judge, judge.cells, memory, journal)
    best = judge.cells[judge.number.best([one.validation for one in outcomes])]
    mine = [k for k, cell in enumerate(judge.cells) if cell[0] == best[0]]
    return [judge.cells[k] for k in mine], [outcomes[k].setting for k in mine]


def _first_features(judge: Judge, arms: Sequence[CellKey]) -> Seen:
    """The features of the smallest t, averaged over places."""
    cell = min(arms, key=lambda one: one[1])
    values = judge.features(cell, judge.part == TRAIN)
    values = values.reshape(*values.shape[:2], -1).mean(2) if values.ndim == 4 else values
    return Seen(values.reshape(len(values), -1), f"features{shown_t(cell[1], ' at t=')}", cell)


def _mark(seen: Seen) -> str:
    return fingerprint(seen.name, list(seen.values.shape), bytes_fingerprint(seen.values))


def _owners(judge: Judge, rows: np.ndarray) -> list[str]:
    return [judge.groups[row] for row in np.flatnonzero(rows)]


def folds_of(groups: Sequence[str], seed: int, folds: int = FOLDS) -> np.ndarray:
    """(n,) fold of each row: groups in the order of their hashes, dealt out one by one."""
    names = sorted(set(groups), key=lambda name: (unit_interval("fold", seed, name), name))
    fold = {name: place % folds for place, name in enumerate(names)}
    return np.array([fold[name] for name in groups])


def _known_rewards(
    judge: Judge, cell: CellKey, setting: Any, seed: int, journal: Journal
) -> dict[str, np.ndarray]:
    """Rewards of training pictures out of fold, and of validation pictures, in their order."""
    train, held = judge.part == TRAIN, judge.part == VALIDATION
    fold = np.full(len(train), -1)
    fold[train] = folds_of(_owners(judge, train), seed)
    found = {name: np.empty(len(train)) for name in ("reward", "right")}
    for number in range(FOLDS):
        out = fold == number
        for name, values in _rewards(
            judge, cell, setting, train & ~out, out, journal, f"fold{number}", seed
        ).items():
            found[name][out] = values
    for name, values in _rewards(judge, cell, setting, train, held, journal, "validation").items():
        found[name][held] = values
    return {name: values[train | held] for name, values in found.items()}


def _rewards(
    judge: Judge, cell: CellKey, setting: Any, fitted: np.ndarray, scored: np.ndarray,
    journal: Journal, what: str, *more: Any,
) -> dict[str, np.ndarray]:  # fmt: skip
    """`judge.rewards`, or what was kept of it."""
    key = journal.key(judge, judge.part, "rewards", cell, setting, what, *more)
    count, stem = int(scored.sum()), f"rewards-{what}-t{format_t(cell[1])}"
    kept = journal.read(stem, key, lambda stored: len(stored["reward"]) == count)
    if kept is None:
        reward, right = judge.rewards(cell, setting, fitted, scored)
        kept = journal.write(stem, key, {"reward": reward.tolist(), "right": right.tolist()})
    return {name: np.asarray(kept[name], np.float64) for name in ("reward", "right")}


def _trained(
    values: np.ndarray, rewards: np.ndarray, rows: np.ndarray, of_train: np.ndarray,
    of_held: np.ndarray, seed: int,
) -> dict[str, Any]:  # fmt: skip
    """The policy whose validation reward is best, over weights of the bonus and epochs."""
    scale = rewards[of_train].std() or 1.0
    scaled, best = (rewards / scale).astype(np.float32), None
    for entropy in ENTROPIES:
        head = PolicyHead(
            entropy=entropy, epochs=EPOCHS, patience=PATIENCE, batch_size=BATCH,
            learning_rate=RATE, schedule="constant", random_state=seed, progress=False,
        )  # fmt: skip
        head.fit(values[rows[of_train]], scaled[of_train], values[rows[of_held]], scaled[of_held])
        score = max(one["validation_reward"] for one in head.history_)
        if best is None or score > best[0]:
            best = score, entropy, head
    _, entropy, head = best
    history = [
        {k: v * scale if k in ("loss", "validation_loss", "validation_reward") else v
         for k, v in one.items() if k != "seconds"}
        for one in head.history_
    ]  # fmt: skip
    return {"entropy": entropy, "epoch": head.best_epoch_, "history": history, "head": head}


def _finding(
    judge: Judge, arms: Sequence[CellKey], fixed: int, seen: Seen, kept: dict,
    right_held: np.ndarray, rewards: np.ndarray, right: np.ndarray,
) -> Policy:  # fmt: skip
    """Everything that is said of a policy; rewards and right: (n, A) of test."""
    held, pulled = (np.asarray(kept["arms"][part]) for part in ("validation", "test"))
    rows = np.arange(len(pulled))
    mine, alone = right[rows, pulled], right[:, fixed]
    groups = _owners(judge, judge.part == TEST)

    def gap(first: np.ndarray, second: np.ndarray) -> tuple[float, float, float]:
        between = first - second
        return (float(between.mean()), *group_interval(between, groups))

    labels = judge.labels[judge.part == TEST]
    classes = np.unique(labels)
    chosen = [np.bincount(pulled[labels == k], minlength=len(arms)).tolist() for k in classes]
    given = judge.made.class_names if judge.made else ()
    names = [given[k] if k < len(given) else str(k) for k in classes.tolist()]
    own = seen.cell is not None and bool((pulled != arms.index(seen.cell)).any())
    train, validation, _ = judge.counts
    scores = alone.mean(), right.mean(), right.max(1).mean()
    reward = rewards[rows, pulled], rewards[:, fixed]
    return Policy(
        block=arms[0][0], timesteps=[t for _, t in arms], fixed=arms[fixed][1], seen=seen.name,
        entropy=kept["entropy"], epoch=kept["epoch"],
        validation=float(right_held[np.arange(len(held)), held].mean()), test=float(mine.mean()),
        beside=dict(zip(BESIDE, map(float, scores), strict=True)), difference=gap(mine, alone),
        reward=tuple(float(one.mean()) for one in reward), reward_difference=gap(*reward),
        what=judge.reward_name, chosen=chosen, names=names, history=kept["history"],
        forwards=(1 + own, 1, len(arms)), labels=(train, validation),
        cost=float(len(arms) * FOLDS), interval=group_interval(mine, groups),
        cost_text=f"{len(arms)} t × {FOLDS} folds, {len(ENTROPIES)} trainings",
        measure=judge.number, conditioned=judge.conditioned,
    )  # fmt: skip


def thumbnails(sources: Sequence[Any], side: int = 32) -> np.ndarray:
    """(N, 3, side, side) float32 in [0, 1] of all pictures of some sources, squashed, one after the
    other: what a policy sees without a forward."""
    from PIL import Image

    found = np.empty((sum(map(len, sources)), 3, side, side), np.float32)
    row = 0
    for source in sources:
        for index in range(len(source)):
            small = source.load(index).resize((side, side), Image.Resampling.BOX)
            found[row] = np.asarray(small, np.float32).transpose(2, 0, 1) / 255
            row += 1
    return found
