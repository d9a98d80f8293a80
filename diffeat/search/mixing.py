"""A trained mixer over all cells: how much of each (block, t) does the task want?"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np

from diffeat.search.asking import MEMORY, Progress, ask_all, ask_test
from diffeat.search.finding import Finding, Selection, cell_text
from diffeat.search.grid import Grid
from diffeat.search.journal import Journal
from diffeat.search.judge import Judge, Mix, Outcome
from diffeat.search.measure import SHARE, Measure
from diffeat.search.tasks import CellKey

MOST, STEPS = 6, (2.0, 1.0)
"""Cells that a search for weights mixes at most; by how much it moves a scalar."""
WEIGHT = Measure("weight", SHARE, ranked=False)
TRAINED = "trained"


@dataclass
class Mixed(Finding):
    """What a mixer learned.

    Attributes:
        weights: (block, t) → softmax weight of all cells; they sum to 1.
        validation, test: scores of the mixer.
        setting: what validation chose beside the weights.
        how: "trained", or "searched without a gradient" where the judge has no gradient.
        cost: in judgements of a cell; cost_text: what these were.
        interval: of test, where it is not that of counts.
        learns: whether it was trained before test, or only weighs what the judge asks about.
    """

    key: ClassVar[str] = "mixer"

    weights: dict[CellKey, float]
    validation: float
    setting: float | None
    test: float
    how: str
    cost: float
    cost_text: str
    interval: tuple[float, float] | None = None
    learns: bool = True

    @property
    def trained(self) -> bool:
        """Whether a mixer was trained, and not only weights searched for."""
        return self.how == TRAINED

    @property
    def best(self) -> CellKey:
        """The cell with the largest weight."""
        return self.grid.best

    @property
    def grid(self) -> Grid:
        return Grid("mixer", self.weights, WEIGHT, "softmax weight")

    def lines(self) -> list[str]:
        order = WEIGHT.order(list(self.weights.values()))[:3]
        cells = list(self.weights)
        first = ", ".join(
            f"{cell_text(cells[k])} {WEIGHT.say(self.weights[cells[k]])}" for k in order
        )
        how = "trained on both" if self.learns else "with these weights"
        return [
            f"mixer ({self.how}; {self.cost_text}): {self.measure.say(self.validation)}; most of "
            f"{first}",
            f"  {how}: {self.measure.say_test(self.test, self.interval)}",
        ]

    def to_dict(self) -> dict[str, Any]:
        names = ("validation", "test", "setting", "how", "cost")
        cells = [{"block": b, "t": t, "weight": w} for (b, t), w in self.weights.items()]
        return {"weights": cells, **{name: getattr(self, name) for name in names}}

    def selection(self) -> Selection:
        interval = self.measure.interval(self.test) or self.interval
        block, t = self.best
        chosen = f"most of {cell_text((block, t))} ({WEIGHT.say(self.weights[block, t])})"
        name = f"{self.how.split()[0]} mixer"
        taken = {t for (_, t), weight in self.weights.items() if weight > 0}
        return Selection(
            name, chosen, self.validation, self.test, self.cost, self.cost_text, interval,
            len(taken), self.trained,
        )  # fmt: skip


def train_mixer(
    judge: Judge,
    journal: Journal | None = None,
    memory: int = MEMORY,
    progress: Progress = iter,
    *,
    seed: int = 0,
) -> Mixed:
    """Learn one softmax weight per cell: y = head(sum over s of softmax(a)_s · P_s r_s).

    A judge that trains a mixer does so (`Judge.train_mixer`; classification by
    `probes.aggregate.MixerProbe`). For others the weights are searched for without a gradient:
    the scalars a of the `MOST` best cells move one by one by ±`STEPS`, and a move stays where
    validation gains. Test is touched once, by what was learned.

    Raises:
        SpecError: a judge without `mixes`.

    Source: Hyperfeatures (Luo et al. 2023), eq. 1; the coordinate search is Hooke & Jeeves 1961.
    """
    judge.check_mixes("mixer", "take the best cell of the grid")
    journal = journal or Journal()
    key = journal.key(judge, judge.part, "mixer", seed, *judge.mixer_identity)
    kept = journal.read("mixer", key, lambda stored: len(stored["weights"]) == len(judge.cells))
    if kept is None:
        for _ in progress(range(1)):
            found = judge.train_mixer(memory, seed)
        if found is None:
            return _searched(judge, journal, memory, progress)
        test, interval = judge.settle(judge.test_mixer(found.setting, memory, seed))
        kept = journal.write("mixer", key, {**vars(found), "test": test, "interval": interval})
    weights = dict(zip(judge.cells, kept["weights"], strict=True))
    return Mixed(
        weights, kept["validation"], kept["setting"], kept["test"], TRAINED, len(judge.cells),
        kept["text"], kept["interval"] and tuple(kept["interval"]), measure=judge.number,
        conditioned=judge.conditioned,
    )  # fmt: skip


def _searched(judge: Judge, journal: Journal, memory: int, progress: Progress) -> Mixed:
    """Weights by coordinate search on validation."""
    number = judge.number
    alone = ask_all(judge, judge.cells, memory, journal)
    order = number.order([outcome.validation for outcome in alone])[:MOST]
    cells = tuple(judge.cells[place] for place in order)
    cost, steps = float(len(alone)), iter(progress(range(1 + 2 * len(STEPS) * len(cells))))

    def scored(scalars: np.ndarray) -> tuple[Mix, Outcome]:
        nonlocal cost
        mix, cost = Mix(cells, _softmax(scalars)), cost + len(cells)
        [found] = ask_all(judge, [mix], memory, journal)
        next(steps, None)
        return mix, found

    next(steps, None)  # from here on the next one says that a mix is judged
    scalars = np.zeros(len(cells))
    best, outcome = scored(scalars)
    for moved in _moves(len(cells)):
        mix, found = scored(scalars + moved)
        if number.gain(found.validation, outcome.validation) > 0:
            scalars, best, outcome = scalars + moved, mix, found
    test, interval = ask_test(judge, best, outcome.setting, memory, journal)
    weights = {**dict.fromkeys(judge.cells, 0.0), **dict(zip(cells, best.weights, strict=True))}
    text = f"{len(alone)} cells, then {1 + 2 * len(STEPS) * len(cells)} mixes of {len(cells)}"
    return Mixed(
        weights, outcome.validation, outcome.setting, test, "searched without a gradient", cost,
        text, interval, learns=judge.learns, measure=number, conditioned=judge.conditioned,
    )  # fmt: skip


def _moves(count: int) -> Iterator[np.ndarray]:
    """(S,) steps of one scalar at a time, large ones first."""
    for size in STEPS:
        for place in range(count):
            for sign in (1.0, -1.0):
                yield sign * size * np.eye(count)[place]


def _softmax(scalars: np.ndarray) -> tuple[float, ...]:
    powers = np.exp(scalars - scalars.max())
    return tuple(round(float(weight), 6) for weight in powers / powers.sum())
