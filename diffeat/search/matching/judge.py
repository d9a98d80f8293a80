"""The judge of correspondence: PCK of pairs, which are the rows; a mixer alone learns."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from functools import cached_property
from typing import Any, ClassVar

import numpy as np

from diffeat.errors import SpecError
from diffeat.hashing import fingerprint
from diffeat.progress import counted
from diffeat.search.fitted_on import noted
from diffeat.search.intervals import FEW
from diffeat.search.judge import Candidate, Judge, Mix, Outcome, Trained, cells_in
from diffeat.search.matching.bound import BoundPairs
from diffeat.search.matching.floors import SAME_PLACE, same_place_pck
from diffeat.search.matching.mixed import default_mixer, described_mixer, steps_of, train
from diffeat.search.matching.rules import described, matcher_of, matcher_text
from diffeat.search.matching.scored import check_references, count, told_text
from diffeat.search.measure import SHARE
from diffeat.search.splits import (
    LEFT_OUT,
    TEST,
    TRAIN,
    VALIDATION,
    Fractions,
    random_pairs,
    split_pairs,
)
from diffeat.search.stored import made_of, warn_of_pairs_seen
from diffeat.search.tasks import CellKey, Made, bytes_fingerprint
from probes.aggregate import HyperfeatureMixer
from probes.matching import NearestMatcher, Paired
from probes.matching.base import Matcher
from probes.metrics.conventions import Convention
from probes.metrics.pck import ALPHAS, PCK

FRACTIONS: Fractions = (0.0, 0.5, 0.5)
"""Cells learn nothing, so no pair is kept for training, unless a mixer is to be trained."""


class Matching(Judge):
    """PCK: the share of key points that a matcher finds within alpha of a reference.

    Cells are judged on validation pairs alone, and what was chosen on test pairs once; a pair
    whose pictures belong to groups of different parts is left out. A `Mix` is the sum of its
    cells' similarities, each times its weight. The interval of test draws the groups of both
    pictures anew (`probes.metrics.intervals`).

    A prompt that names the category of a picture is what DIFT's protocol has: it is not refused,
    but said in the headline and in every file (`told`), as are captions.

    Args:
        bound: the pairs and their features.
        part: (P,) VALIDATION, TEST or LEFT_OUT; TRAIN is not looked at but by random splits. None
            splits by `fractions` and `seed`.
        convention: how points are counted, None is by box and per point; other aggregates stand
            aside.
        alphas: shares of the reference; cells are judged by the first.
        matcher: None is `NearestMatcher()`.
        source: what the features are of, for tables; None is their model.
        mixer: what `train_mixer` trains, on pairs of a training part; None is `default_mixer()`.
    """

    task_name = "matching"
    trains: ClassVar[bool] = True
    """Whether the truth is key points, of which a mixer learns."""
    unit, needs, learns, bounds, rows = SHARE, ("maps",), False, (0.0, 1.0), "pairs"

    def __init__(
        self,
        bound: BoundPairs,
        part: np.ndarray | None = None,
        convention: Convention | None = None,
        alphas: Sequence[float] = ALPHAS,
        matcher: Matcher | None = None,
        fractions: Fractions = FRACTIONS,
        seed: int = 0,
        source: str | None = None,
        mixer: HyperfeatureMixer | None = None,
    ):
        if part is None:
            part = split_pairs(*zip(*bound.groups, strict=True), fractions, seed)[0]
        warn_of_pairs_seen(bound, np.asarray(part) == TEST)
        source = bound.stores[0].model["name"] if source is None else source
        super().__init__({}, bound.groups, part, source, bound.identity)
        self.bound, self.convention = bound, convention or Convention()
        self.alphas = tuple(alphas)
        self.matcher = NearestMatcher() if matcher is None else matcher
        self.mixer = default_mixer() if mixer is None else mixer
        self.name = f"PCK@{self.alphas[0]:g}"
        self._judged: dict[CellKey, tuple[np.ndarray, np.ndarray]] = {}
        self._tested: dict[Candidate, PCK] = {}
        self._fitted: tuple[tuple[float, int], HyperfeatureMixer] | None = None
        names = np.unique(bound.categories, return_inverse=True)
        self.labels = names[1] if len(names[0]) > 1 else None

    # what there is

    @property
    def cells(self) -> tuple[CellKey, ...]:
        return self.bound.keys

    def read(self, block: str, t: float) -> Any:
        return self.bound.read(block, t)

    @cached_property
    def made(self) -> Made:
        return made_of(self.bound.stores[0])

    @property
    def seen(self) -> np.ndarray:
        mine = (self.part == TRAIN) | (self.part == VALIDATION)
        pairs = self.bound.pairs
        return np.unique(np.concatenate([pairs.source[mine], pairs.target[mine]]))

    @property
    def tested_groups(self) -> int:
        return len({name for row in np.flatnonzero(self.part == TEST) for name in self.groups[row]})

    @property
    def told(self) -> str:
        return told_text(self.bound.conditioned).removeprefix("; ")

    @cached_property
    def targets(self) -> str:
        pairs = self.bound.pairs
        rows = bytes_fingerprint(np.stack([pairs.source, pairs.target]))
        return fingerprint(self.bound.targets.fingerprint, rows)

    def describe(self) -> dict[str, Any]:
        return {"judge": self.name, "alphas": list(self.alphas), **asdict(self.convention),
                **described(self.matcher)}  # fmt: skip

    @property
    def headline(self) -> str:
        train, held, tested = self.counts
        what = "a trained mixer and random splits" if self.trains else "random splits alone"
        idle = f", {train} for {what}" if train else ""
        text = (
            f"{self.source}: validation {self.name} in %, {held} validation and {tested} test "
            f"pairs{idle} of {len({name for pair in self.groups for name in pair})} groups"
        )
        if apart := int((self.part == LEFT_OUT).sum()):
            text += f"; {apart} pairs whose groups lie in different parts are left out"
        left = "".join(f"; {n} {what}" for what, n in self.bound.noted.items())
        left += "".join(f"; {n} left out: {why}" for why, n in self.bound.left_out.items())
        counted = f"; {self.convention.line(self.alphas)}; {matcher_text(self.matcher)}"
        return text + left + counted + told_text(self.bound.conditioned)

    @property
    def few(self) -> str | None:
        if self.tested_groups >= FEW:
            return None
        return (f"{self.source}: test pairs of {self.tested_groups} groups say little; give more, "
                "or a list of test pairs of its own")  # fmt: skip

    def check(self, part: np.ndarray | None = None) -> None:
        super().check(part)
        check_references(self.bound, [self.convention])

    def another_part(self, seed: int, repeat: int, labels: np.ndarray | None = None) -> np.ndarray:
        return random_pairs(self.part, self.groups, seed, repeat)

    # judging

    def validate(self, cells: Sequence[Candidate], part: np.ndarray) -> list[Outcome]:
        return self.validate_splits(cells, [part])[0]

    def validate_splits(
        self, cells: Sequence[Candidate], parts: Sequence[np.ndarray]
    ) -> list[list[Outcome]]:
        """Every pair is matched once for all splits, and for all that follow."""
        rows = [np.flatnonzero(part == VALIDATION) for part in parts]
        found: list[list[Outcome]] = [[] for _ in parts]
        for candidate in cells:
            matched = self._matched(candidate, np.unique(np.concatenate(rows)))
            for outcomes, mine in zip(found, rows, strict=True):
                outcomes.append(Outcome(self._score(matched, mine)))
        return found

    # what judges of other truths say in their own way

    def _matched(self, candidate: Candidate, rows: np.ndarray) -> Any:
        """What was found of some pairs, matched now or before."""
        return self._right(candidate, rows)

    def _score(self, matched: Any, rows: np.ndarray) -> float:
        """The number of some of these pairs."""
        return self._value(self._pck(matched, rows))

    def _right(self, candidate: Candidate, rows: np.ndarray) -> np.ndarray:
        """(P, 1, A) points of some pairs that are right; what is known is not matched again."""
        if isinstance(candidate, Mix) and len(candidate.cells) == 1 and candidate.weights is None:
            candidate = candidate.cells[0]
        nothing = np.zeros((len(self.bound), 1, len(self.alphas)), np.int32)
        right, known = self._judged.get(candidate, (nothing, np.zeros(len(nothing), bool)))
        new = rows[~known[rows]]
        if len(new):
            piece = PCK(self.alphas, [self.convention])
            matcher = matcher_of(self.matcher, candidate)
            cells = self.bound.cells(cells_in(candidate))
            with counted(len(new), desc="match", unit="pairs", delay=3) as bar:
                done, _ = count(piece, matcher, self.bound, cells, new, bar.update)
            right[done], known[done] = piece.state["right"], True
        if not isinstance(candidate, Mix):  # of which there may be thousands
            self._judged[candidate] = right, known
        return right

    def _pck(self, right: np.ndarray, rows: np.ndarray) -> PCK:
        """The counts of some pairs."""
        total, bound = PCK(self.alphas, [self.convention]), self.bound
        points = [len(bound.pairs.source_points[row]) for row in rows]
        names = {
            "picture": [bound.targets.target[row] for row in rows],
            "category": [bound.categories[row] for row in rows],
            "groups": [bound.groups[row] for row in rows],
        }
        return total.load({**total.state, "right": right[rows], "points": points, **names})

    def _value(self, pck: PCK, aggregate: str | None = None) -> float:
        try:
            return pck.compute(aggregate)[self.alphas[0]]
        except ValueError as error:
            raise SpecError(f"{self.source}: {error}") from error

    def test(self, cell: Candidate, setting: float | None) -> PCK:
        rows = np.flatnonzero(self.part == TEST)
        self._tested[cell] = found = self._pck(self._right(cell, rows), rows)
        return found

    def settle(self, value: PCK) -> tuple[float, tuple[float, float] | None]:
        number = self._value(value)
        if self.tested_groups < 2:
            return number, None
        one = value.interval()[self.alphas[0]]
        return number, (one.low, one.high)

    # what stands beside the number

    @property
    def floor(self) -> tuple[float, str] | None:
        return self._value(self.same_place), SAME_PLACE

    @cached_property
    def same_place(self) -> PCK:
        """What is right of the test pairs where every point stays where it is, squashed to the
        target's size."""
        tested = np.flatnonzero(self.part == TEST)
        return same_place_pck(self.bound, tested, self.alphas, [self.convention])

    def aside(self, cell: Candidate, setting: float | None) -> dict[str, float]:
        pck = self._tested.get(cell) or self.test(cell, setting)
        ways = [self.convention.aggregate]
        ways += [one for one in ("point", "pair") if one not in ways]
        named = self.labels is not None and "class" not in ways
        ways += ["class"] if named else []
        found = {}
        for aggregate in ways:
            for alpha, value in pck.compute(aggregate).items():
                found[f"PCK@{alpha:g} per {aggregate}"] = value
        del found[f"{self.name} per {self.convention.aggregate}"]
        return found

    # a mixer of all cells, which alone looks at training pairs

    def train_mixer(self, memory: int, seed: int = 0) -> Trained | None:
        """Judged on validation by the matcher on its maps, as a cell is."""
        rows = {number: np.flatnonzero(self.part == number) for number in (TRAIN, VALIDATION)}
        if self.not_trained:
            return None
        mixer = train(self.mixer, self.bound, self.cells, rows[TRAIN], rows[VALIDATION],
                      **self._where(memory, seed))  # fmt: skip
        score = self._value(self._of_mixer(mixer, rows[VALIDATION]))
        text = f"1 training of {len(self.cells)} cells, {steps_of(mixer)} steps kept"
        return Trained(tuple(mixer.weights_.values()), score, float(steps_of(mixer)), text)

    def test_mixer(self, setting: float, memory: int, seed: int = 0) -> PCK:
        return self._of_mixer(self.fitted_mixer(setting, memory, seed),
                              np.flatnonzero(self.part == TEST))  # fmt: skip

    def fitted_mixer(self, setting: float, memory: int, seed: int = 0) -> HyperfeatureMixer:
        """The mixer of `setting` steps, of training and validation; kept for another call."""
        if self._fitted is None or self._fitted[0] != (setting, seed):
            known = np.flatnonzero((self.part == TRAIN) | (self.part == VALIDATION))
            how = {"steps": int(setting), "epochs": 1, **self._where(memory, seed)}
            found = train(self.mixer, self.bound, self.cells, known, **how)
            self._fitted = (setting, seed), found
        return self._fitted[1]

    @property
    def not_trained(self) -> str:
        if not self.trains:
            return f"{self.name} has no key points to train one on"
        if isinstance(self.matcher, Paired):
            return "the matcher transforms pairs of cells, and mixed maps are none of these"
        if not (self.part == TRAIN).any():
            return "no pairs are in a training part; --split 0.6,0.2,0.2 gives one"
        return ""

    @property
    def mixer_identity(self) -> tuple[Any, ...]:
        return type(self.mixer).__name__, sorted(described_mixer(self.mixer).items())

    def labels_used(self, trained: bool = False) -> tuple[int, str]:
        parts = (TRAIN, VALIDATION) if trained else (VALIDATION,)
        points = self.bound.pairs.source_points
        rows = np.flatnonzero(np.isin(self.part, parts))
        return sum(len(points[row]) for row in rows), "key points"

    def noted_pictures(self) -> dict[str, str]:
        stores = self.bound.stores
        if any(one.digests is None for one in stores):
            return {}
        return {"fitted_on": noted(np.concatenate([one.digests for one in stores])[self.seen])}

    def _where(self, memory: int, seed: int) -> dict[str, Any]:
        limit = min(self.mixer.memory_mb, memory / 2**21)
        return {"memory_mb": limit, "random_state": seed, "device": self.matcher.device}

    def _of_mixer(self, mixer: HyperfeatureMixer, rows: np.ndarray) -> PCK:
        """The counts of some pairs, matched on mixed maps."""
        piece, cells = PCK(self.alphas, [self.convention]), mixer.transform(self.bound.cells())
        with counted(len(rows), desc="match mixed maps", unit="pairs", delay=3) as bar:
            count(piece, self.matcher, self.bound, cells, rows, bar.update)
        return piece

    # memory

    def bytes_of(self, cell: Candidate) -> float:
        """What the matcher may hold."""
        return self.matcher.memory_mb * 2**20
