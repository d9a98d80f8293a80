"""The first judge: accuracy of a probe, fitted on training and scored on validation."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from dataclasses import replace
from functools import partial
from typing import Any

import numpy as np

from diffeat.errors import SpecError
from diffeat.noise import format_t
from diffeat.progress import counted
from diffeat.search.intervals import few_text
from diffeat.search.judge import Candidate, Judge, Mix, Outcome, Trained, cells_in
from diffeat.search.measure import SHARE, Measure
from diffeat.search.reading import SLAB_BYTES, Sliced
from diffeat.search.scores import Function, Logistic, Score, score_of
from diffeat.search.splits import TEST, TRAIN, VALIDATION
from diffeat.search.targeted import other_kind
from diffeat.search.tasks import CellKey, Task, check_parts, readable
from probes.standardise import standardised

MIXER_EPOCHS, MIXER_PATIENCE, MIXER_RATE = 100, 15, 2e-3
LEAST = 1e-6
"""Probability of the truth below which a reward falls no further."""


class Classification(Judge):
    """Accuracy of classes that are read off a cell by a probe.

    Cells of equal D are fitted together. With N pictures and K classes, a group of G cells takes

        G · score.bytes_of(N, D, K) + 4 MiB

    bytes (4 · 4 · N · D for the features of a cell, and the solver's work space), and G is the
    largest number that keeps this within the memory that is allowed.

    Args:
        task: features, labels and parts.
        score: "logistic", "ridge", "knn", a `Score`, or a function (X_train, y_train,
            X_validation, y_validation) → float.
    """

    task_name = "classification"
    name, unit, needs, bounds = "accuracy", SHARE, ("labels",), (0.0, 1.0)

    def __init__(self, task: Task, score: str | Score | Function = "logistic"):
        if task.kind != "class":
            raise other_kind(task.name, task.kind, "class")
        self.task, self.score = task, score_of(score)
        super().__init__({}, task.owners, task.part, task.name, task.identity, task.conditioned)
        self.labels, self.how, self.together = task.labels, task.how, task.together
        self.made, self.told = task.made, task.corrupted

    # what there is

    @property
    def cells(self) -> tuple[CellKey, ...]:
        return self.task.cells

    def read(self, block: str, t: float) -> Any:
        return self.task.read(block, t)

    @property
    def targets(self) -> str:
        return self.task.labels_fingerprint

    def describe(self) -> dict[str, Any]:
        return self.score.describe()

    @property
    def number(self) -> Measure:
        return replace(super().number, counted=True)

    @property
    def headline(self) -> str:
        train, held, tested = self.counts
        split = f", split class by class ({self.how})" if self.how else ""
        return (
            f"{self.source}: {self.score.name}, validation accuracy in %, {self.classes} classes, "
            f"{train} training, {held} validation and {tested} test pictures{split}"
            f"{self.task.remarks}"
        )

    @property
    def floor(self) -> tuple[float, str] | None:
        if not self.score.is_accuracy:
            return None
        return chance(self.task), "the most frequent class of training"

    @property
    def few(self) -> str | None:
        return few_text(self.source, self.tested_groups)

    def check(self, part: np.ndarray | None = None) -> None:
        if part is not None:  # the task's own parts were checked when it was made
            check_parts(self.source, self.labels, part)

    # judging

    def validate(self, cells: Sequence[Candidate], part: np.ndarray) -> list[Outcome]:
        return self.validate_splits(cells, [part])[0]

    def validate_splits(
        self, cells: Sequence[Candidate], parts: Sequence[np.ndarray]
    ) -> list[list[Outcome]]:
        if isinstance(cells[0], Mix):
            return [self._validate_mixes(cells, part) for part in parts]
        if len(parts) == 1:
            return [self._fit_once(cells, parts[0])]
        rows = np.any([(part == TRAIN) | (part == VALIDATION) for part in parts], axis=0)
        X, y = self.stacked(cells, rows), self.labels[rows]  # (G, n, D), read once for all splits
        return [self._fit(X, y, part[rows]) for part in parts]

    def _fit_once(self, cells: Sequence[CellKey], part: np.ndarray) -> list[Outcome]:
        """One split: its parts are read one by one, so nothing is held twice."""
        train, held = part == TRAIN, part == VALIDATION
        X, Xv = self.stacked(cells, train), self.stacked(cells, held)
        return self.score.fit(X, self.labels[train], Xv, self.labels[held])

    def _fit(self, X: np.ndarray, y: np.ndarray, part: np.ndarray) -> list[Outcome]:
        train, held = part == TRAIN, part == VALIDATION
        return self.score.fit(X[:, train], y[train], X[:, held], y[held])

    def stacked(self, cells: Sequence[CellKey], rows: np.ndarray) -> np.ndarray:
        """(G, n, D) float32 features of some pictures, for cells of equal D."""
        X = np.empty((len(cells), int(rows.sum()), self.task.width(cells[0])), np.float32)
        for place, cell in zip(X, cells, strict=True):
            place[:] = self.task.matrix(cell, rows)
        return X

    def _validate_mixes(self, mixes: Sequence[Mix], part: np.ndarray) -> list[Outcome]:
        """Mixes of one width that share all cells but the last, whose features are read once."""
        rows = (part == TRAIN) | (part == VALIDATION)
        train, y = part[rows] == TRAIN, self.labels[rows]
        shared = mixes[0].cells[:-1]
        held = sum(map(self.task.width, shared))
        X = np.empty((len(mixes), len(y), self.width(mixes[0])), np.float32)
        base = self._columns(mixes[0], slice(0, -1), rows, train) if shared else None
        for place, mix in zip(X, mixes, strict=True):
            place[:, held:] = self._columns(mix, slice(-1, None), rows, train)
            if held:
                place[:, :held] = base
        return self.score.fit(X[:, train], y[train], X[:, ~train], y[~train])

    def _columns(self, mix: Mix, some: slice, rows: np.ndarray, train: np.ndarray) -> np.ndarray:
        """(n, sum of D) features of some cells of a mix, standardised on the training pictures."""
        found = []
        for cell, weight in zip(mix.cells[some], _weights(mix)[some], strict=True):
            X = self.task.matrix(cell, rows)
            found.append(_weighed(standardised(X[train], X)[1], weight))
        return np.concatenate(found, axis=1)

    def test(self, cell: Candidate, setting: float | None) -> float:
        """Refitted on training and validation; a mix is standardised on both."""
        known, tested = (self.part == TRAIN) | (self.part == VALIDATION), self.part == TEST
        if isinstance(cell, Mix):
            columns = [
                [_weighed(X, weight) for X in standardised(*self._both(key, known, tested))]
                for key, weight in zip(cell.cells, _weights(cell), strict=True)
            ]
            X, Xt = (np.concatenate(part, axis=1) for part in zip(*columns, strict=True))
        else:
            X, Xt = self._both(cell, known, tested)
        return self.score.test(X, self.labels[known], Xt, self.labels[tested], setting)

    def head(self, cell: Candidate, setting: float | None) -> Any:
        """The fitted probe, which standardises by itself: the weights of a mix play no part.

        Its test accuracy is that of `test`, but for pictures whose two best classes differ by
        rounding alone: `test` adds up in float32, a `LinearProbe` or `RidgeProbe` in float64, and
        the cells of a mix are standardised once and not twice.
        """
        known = (self.part == TRAIN) | (self.part == VALIDATION)
        X = [self.task.matrix(key, known) for key in cells_in(cell)]
        return self.score.head(np.concatenate(X, axis=1), self.labels[known], setting)

    def check_head(self) -> None:
        if type(self.score).head is Score.head:
            self.score.head(None, None, None)
        if self.made is None:
            raise SpecError(f"{self.source}: what the features were made of is not known, so a "
                            "head of them cannot be kept")  # fmt: skip

    # rewards of single pictures

    @property
    def reward_name(self) -> str:
        if type(self.score).head is Score.head:
            return ""
        return "log p(truth)" if isinstance(self.score, Logistic) else "share right"

    def rewards(
        self, cell: CellKey, setting: float | None, fitted: np.ndarray, scored: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray]:
        """What single pictures are worth in a cell, for what chooses picture by picture.

        Args:
            setting: what validation chose of the cell.
            fitted, scored: (N,) bool: what is learnt from, and what is rewarded.

        Returns:
            (n,) rewards of the scored pictures, higher is better: log p(truth) of a logistic probe,
            at least log 1e-6, of others whether it is right. And (n,) whether it is right.
        """
        X, y = self.task.matrix(cell, fitted), self.labels[fitted]
        head, truth = self.score.head(X, y, setting), self.labels[scored]
        X = self.task.matrix(cell, scored)
        if not isinstance(self.score, Logistic):
            right = (head.predict(X) == truth).astype(np.float64)
            return right, right
        p = np.asarray(head.predict_proba(X), np.float64)  # (n, K)
        place = np.searchsorted(head.classes_, truth).clip(max=p.shape[1] - 1)
        known = head.classes_[place] == truth  # training may lack a class
        of_truth = np.where(known, p[np.arange(len(p)), place], 0.0)
        right = (head.classes_[p.argmax(1)] == truth).astype(np.float64)
        return np.log(of_truth.clip(min=LEAST)), right

    def _both(self, cell: CellKey, known: np.ndarray, tested: np.ndarray) -> list[np.ndarray]:
        return [self.task.matrix(cell, rows) for rows in (known, tested)]

    # a mixer of all cells

    def train_mixer(self, memory: int, seed: int = 0) -> Trained | None:
        if not self.score.is_accuracy:
            return None
        train, held = self.part == TRAIN, self.part == VALIDATION
        held &= np.isin(self.labels, self.labels[train])  # others count as wrong
        mixer = self._mixer(memory, seed, epochs=MIXER_EPOCHS, patience=MIXER_PATIENCE)
        X, Xv = self._cells(train), self._cells(held)
        mixer.fit(X, self.labels[train], Xv, self.labels[held])
        share = held.sum() / (self.part == VALIDATION).sum()
        score = float(share * mixer.score(Xv, self.labels[held]))
        text = f"1 training of {len(self.cells)} cells, {mixer.n_epochs_} epochs"
        return Trained(tuple(mixer.weights_.values()), score, float(mixer.best_epoch_), text)

    def test_mixer(self, setting: float, memory: int, seed: int = 0) -> float:
        known, tested = (self.part == TRAIN) | (self.part == VALIDATION), self.part == TEST
        mixer = self._mixer(memory, seed, epochs=int(setting))
        mixer.fit(self._cells(known), self.labels[known])
        return float(mixer.score(self._cells(tested), self.labels[tested]))

    def _mixer(self, memory: int, seed: int, **options: Any) -> Any:
        from probes.aggregate import MixerProbe

        few = int((self.part == TRAIN).sum()) // 40
        return MixerProbe(
            batch_size=min(256, max(8, few)),
            learning_rate=MIXER_RATE,
            schedule="constant",
            random_state=seed,
            memory_mb=memory / 2**21,
            device=self.score.device,
            progress=partial(counted, delay=3),
            **options,
        )

    def _cells(self, rows: np.ndarray) -> Any:
        """Some pictures of all cells, which are read when they are wanted."""
        from probes import Cells

        wanted = np.flatnonzero(rows)
        return Cells({cell: Sliced(self.read(*cell)) for cell in self.cells})[wanted]

    # memory

    def width(self, cell: Candidate) -> int:
        """D: numbers per picture, maps flattened."""
        return sum(map(self.task.width, cells_in(cell)))

    def bytes_of(self, cell: Candidate, shared: int = 0) -> float:
        each = self.score.bytes_of(len(self.labels), self.width(cell), self.classes, shared)
        return each + SLAB_BYTES

    def batches(self, cells: Sequence[Candidate], memory: int) -> Iterator[list[Candidate]]:
        """Runs of cells with equal D, of mixes that also share all cells but the last."""
        mixes = [cell for cell in cells if isinstance(cell, Mix)]
        yield from self._by_width([c for c in cells if not isinstance(c, Mix)], memory, 0)
        for _, same in itertools.groupby(mixes, key=lambda mix: (mix.cells[:-1], mix.weights)):
            yield from self._by_width(list(same), memory, 1)  # one more array for what is shared

    def _by_width(
        self, cells: Sequence[Candidate], memory: int, shared: int
    ) -> Iterator[list[Candidate]]:
        for _, same in itertools.groupby(sorted(cells, key=self.width), key=self.width):
            same = list(same)
            self.check_memory(same[0], memory, shared)
            most = max(
                1, int((memory - SLAB_BYTES) / (self.bytes_of(same[0], shared) - SLAB_BYTES))
            )
            yield from (same[start : start + most] for start in range(0, len(same), most))

    def check_memory(self, cell: Candidate, memory: int, shared: int = 0) -> None:
        if (needed := self.bytes_of(cell, shared)) > memory:
            block, t = cells_in(cell)[-1]
            raise SpecError(
                f"{self.source}: block {block!r} at t={format_t(t)} has {self.width(cell):,} "
                f"numbers for each of {len(self.labels):,} pictures, which take {readable(needed)} "
                f"while they are fitted; {readable(memory)} are allowed: allow more (--memory), "
                "pool the features (--pool 1x1), or take fewer pictures"
            )


def chance(task: Task) -> float:
    """Accuracy on test of always saying the class that is most frequent in training."""
    guess = np.bincount(task.labels[task.seen]).argmax()
    return float((task.labels[task.part == TEST] == guess).mean())


def _weights(mix: Mix) -> tuple[float | None, ...]:
    return (None,) * len(mix.cells) if mix.weights is None else mix.weights


def _weighed(X: np.ndarray, weight: float | None) -> np.ndarray:
    return X if weight is None else X * np.float32(weight)
