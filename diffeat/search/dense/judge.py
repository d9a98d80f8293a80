"""The judges of what is said at every pixel, and that of segmentation, by mean IoU."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterable, Sequence
from functools import cached_property
from typing import Any, ClassVar

import numpy as np

from diffeat.errors import DiffeatError, SpecError
from diffeat.search.dense.bound import BoundDense
from diffeat.search.dense.heads import (
    HeadChoice,
    choice_of,
    fitted,
    has_choice,
    is_trained,
    setting_of,
    with_setting,
)
from diffeat.search.dense.mixed import weighed
from diffeat.search.intervals import FEW, percentile_interval, resampled
from diffeat.search.judge import Candidate, Judge, Mix, Outcome, cells_in
from diffeat.search.measure import SHARE
from diffeat.search.splits import TEST, TRAIN, VALIDATION, Fractions, split_groups
from diffeat.search.stored import corrupted_text, made_of, warn_of_targets_seen
from diffeat.search.tasks import CellKey, Made
from probes.cells import Cells
from probes.dense import Masks, MeanMask
from probes.metrics.segmentation import Confusion

SHARES: Fractions = (0.6, 0.2, 0.2)
"""Of training, validation and test."""
ROOM = 64 << 20
"""Bytes for a picture's scores and masks."""


class DenseJudge(Judge):
    """A number of what a head says at every pixel.

    The head learns from training pictures, validation chooses its setting, and what was chosen is
    learnt again from both and scored on test once. A `Mix` is one head on several cells, each on
    its own grid.

    Args:
        bound: pictures, features and what is known of the pixels.
        part: (N,) TRAIN, VALIDATION, TEST or LEFT_OUT; None splits by groups.
        head: a `HeadChoice`, its name or an estimator of `probes.dense`; None is the linear one.
        source: what the features are of, for tables; None is their model.
        conditioned: by what the features were told their targets.
    """

    unit, needs, rows = SHARE, ("maps",), "pictures"
    kind: ClassVar[str]
    """Of the targets."""
    draws: ClassVar[int] = 2000
    """Of groups, for the interval of test."""

    def __init__(
        self,
        bound: BoundDense,
        part: np.ndarray | None = None,
        head: HeadChoice | Any = None,
        source: str | None = None,
        seed: int = 0,
        conditioned: str = "",
    ):
        if bound.kind != self.kind:
            raise SpecError(f"{bound.name} holds {bound.kind}; expected {self.kind}")
        if part is None:
            part = split_groups(bound.groups, SHARES, seed)[0]
        worse = corrupted_text([one.spec for one in bound.files])
        if source is None:
            source = bound.files[0].model["name"] + (f" ({worse})" if worse else "")
        super().__init__({}, bound.groups, part, source, bound.identity, conditioned)
        self.bound, self.choice = bound, choice_of(head)
        self.estimator = self.choice.made(self.kind)
        self.told = worse
        self._last: tuple[Any, tuple[Any, Cells]] | None = None
        self._tested: dict[tuple[Candidate, float | None], np.ndarray] = {}
        _warn_seen(bound, np.asarray(part))

    # what a judge of one kind says

    @abstractmethod
    def outcomes_of(self, found: Iterable[np.ndarray], rows: np.ndarray) -> np.ndarray:
        """(n, Q) numbers of what was said, (H, W) each, of some rows."""

    @cached_property
    @abstractmethod
    def truths(self) -> Any:
        """N (H, W) of what is known; what an input does not show does not count."""

    @abstractmethod
    def scores_of_draws(self, values: np.ndarray, times: np.ndarray) -> np.ndarray:
        """(B,) numbers of draws in which n pictures with (n, Q) outcomes stand (B, n) times."""

    @abstractmethod
    def aside_of(self, values: np.ndarray) -> dict[str, float]:
        """Further numbers of (n, Q) outcomes."""

    @cached_property
    @abstractmethod
    def constant(self) -> tuple[np.ndarray, str]:
        """(n, Q) outcomes on test of what looks at no feature, and what that is."""

    # what there is

    @property
    def cells(self) -> tuple[CellKey, ...]:
        return self.bound.keys

    def read(self, block: str, t: float) -> Any:
        return self.bound.read(block, t)

    @cached_property
    def made(self) -> Made:
        found = made_of(self.bound.files[0])
        return Made(found.spec, found.model, found.pictures, self.bound.classes,
                    self.bound.digests)  # fmt: skip

    def check_head(self) -> None:
        """Every head can be kept."""

    def check(self, part: np.ndarray | None = None) -> None:
        super().check(part)
        if not (np.asarray(self.part if part is None else part) == TRAIN).any():
            raise SpecError(f"{self.source}: the training part is empty; give more pictures or "
                            "another split")  # fmt: skip

    @cached_property
    def targets(self) -> str:
        return self.bound.fingerprint

    def describe(self) -> dict[str, Any]:
        choice = self.choice
        more = {"penalties": list(choice.penalties)} if choice.penalties else {}
        if {"seed", "random_state"} & set(self.estimator.get_params()):
            more["seed"] = choice.seed
        return {"judge": self.name, "score": f"pixel {choice.name}", **more,
                **dict(choice.options), **({"frame": self.bound.frame} if self.bound.frame else {}),
                **self.policy}  # fmt: skip

    @property
    def policy(self) -> dict[str, Any]:
        """How is counted."""
        return {}

    @property
    def headline(self) -> str:
        groups = len(set(self.groups))
        text = super().headline + (f", {groups} groups" if groups < len(self.groups) else "")
        for what in (self.bound.noted, self.bound.left_out):
            left = " left out" if what is self.bound.left_out else ""
            text += "".join(f"; {count}{left}: {why}" for why, count in what.items())
        return f"{text}; {self.counted}"

    @property
    def counted(self) -> str:
        """How is counted, for people."""
        return ", ".join(f"{name} {value}" for name, value in self.policy.items())

    @property
    def few(self) -> str | None:
        if self.tested_groups >= FEW:
            return None
        return (f"{self.source}: test pictures of {self.tested_groups} groups say little; give "
                "more, or a test set of its own")  # fmt: skip

    # judging

    def validate(self, cells: Sequence[Candidate], part: np.ndarray) -> list[Outcome]:
        train, held = np.flatnonzero(part == TRAIN), np.flatnonzero(part == VALIDATION)
        found = []
        for candidate in cells:
            head, X = self._fitted(candidate, train, held)
            score = self.score(self._outcomes(head, X, held))
            found.append(Outcome(score, setting_of(head)))
        return found

    def test(self, cell: Candidate, setting: float | None) -> np.ndarray:
        """(n, Q) outcomes of the test pictures, learnt from training and validation."""
        if (cell, setting) not in self._tested:
            head, X = self._refitted(cell, setting)
            found = self._outcomes(head, X, np.flatnonzero(self.part == TEST))
            self._tested[cell, setting] = found
        return self._tested[cell, setting]

    def settle(self, value: np.ndarray) -> tuple[float, tuple[float, float] | None]:
        tested = np.asarray(self.groups)[self.part == TEST]
        number = self.score(value)
        if len(set(tested)) < 2:
            return number, None
        draws = [self.scores_of_draws(value, times) for times in
                 resampled(tested, draws=self.draws)]  # fmt: skip
        return number, percentile_interval(np.concatenate(draws))

    def head(self, cell: Candidate, setting: float | None) -> Any:
        if isinstance(cell, Mix) and cell.weights is not None:
            raise SpecError("a mix whose cells are weighed is no head that could be kept; keep a "
                            "set (--sets) or a single cell")  # fmt: skip
        return self._refitted(cell, setting)[0]

    @property
    def head_notes(self) -> dict[str, Any]:
        found: dict[str, Any] = {"kind": self.kind}
        if self.kind == "masks":
            palette = getattr(self.bound.targets, "palette", None)
            count = len(self.bound.classes)
            plain = None if palette is None else np.asarray(palette).reshape(-1, 3)[:count].tolist()
            found |= {"ignore": self.bound.ignore, "palette": plain}
        return found | ({"frame": list(self.bound.frame)} if self.bound.frame else {})

    @property
    def _known(self) -> np.ndarray:
        return np.flatnonzero((self.part == TRAIN) | (self.part == VALIDATION))

    def _refitted(self, candidate: Candidate, setting: float | None) -> tuple[Any, Cells]:
        """Learnt from training and validation; the last one is kept for another call."""
        if self._last is None or self._last[0] != (candidate, setting):
            self._last = (candidate, setting), self._fitted(candidate, self._known, (), setting)
        return self._last[1]

    def _fitted(
        self, candidate: Candidate, rows: np.ndarray, held: Any = (), setting: float | None = None
    ) -> tuple[Any, Cells]:
        """A head learnt from some rows, its setting chosen on others; and the cells it reads."""
        X, head = self.bound.cells(cells_in(candidate)), with_setting(self.estimator, setting)
        if isinstance(candidate, Mix) and candidate.weights is not None:
            X, head = weighed(X, rows, candidate.weights), _as_it_comes(head)
        masks = self.bound.masks
        validation = (X[held], masks[held]) if len(held) and has_choice(head) else None
        return fitted(head, X[rows], masks[rows], validation, *self._about), X

    _about: tuple[Any, ...] = ()
    """Of classes: their names, and the label that does not count."""

    def _outcomes(self, head: Any, X: Cells, rows: np.ndarray) -> np.ndarray:
        """(n, Q) of some rows."""
        return self.outcomes_of(head.predict(X[rows]), rows)

    def truth(self, row: int) -> np.ndarray:
        """(H, W) of a picture.

        Raises:
            SpecError: of another size than its picture, or labels that are no classes.
        """
        try:
            return self.truths[int(row)]
        except DiffeatError:
            raise
        except ValueError as error:
            raise SpecError(f"{self.bound.ids[row]}: {error}") from error

    @cached_property
    def _frames(self) -> Cells:
        return self.bound.cells(self.bound.keys[:1])

    def score(self, values: np.ndarray) -> float:
        """The number of (n, Q) outcomes."""
        found = float(self.scores_of_draws(values, np.ones((1, len(values)), np.int64))[0])
        if not np.isfinite(found):
            raise SpecError(f"{self.source}: no pixel of {len(values)} pictures is known, so there "
                            f"is no {self.name}; give more pictures")  # fmt: skip
        return found

    # what stands beside the number

    @property
    def floor(self) -> tuple[float, str]:
        values, what = self.constant
        return self.score(values), what

    def aside(self, cell: Candidate, setting: float | None) -> dict[str, float]:
        return self.aside_of(self.test(cell, setting))

    # memory

    def bytes_of(self, cell: Candidate) -> float:
        """What the head may hold, or of a linear one three matrices of products of channels; and
        the maps of one picture."""
        shapes = [self.shape(key)[1:] for key in cells_in(cell)]
        width = sum(shape[0] for shape in shapes)
        maps = sum(4.0 * np.prod(shape) for shape in shapes)
        has = self.estimator.get_params()
        pool = 2**20 * has["memory_mb"] if is_trained(self.estimator) else 24.0 * width**2
        return pool + 4 * maps + ROOM


class Segmentation(DenseJudge):
    """mIoU of the classes that a head finds at every pixel (see `probes.metrics.Confusion`).

    Args:
        counting: a policy of `probes.metrics.segmentation.POLICIES`: "standard", or "ddpm-seg",
            which counts absent classes as 0 and predictions on ignored pixels as wrong.
    """

    name, kind, task_name, bounds = "mIoU", "masks", "segmentation", (0.0, 1.0)

    def __init__(self, *args: Any, counting: str = "standard", **more: Any):
        super().__init__(*args, **more)
        self.counting, self._about = counting, (self.bound.classes, self.bound.ignore)
        try:
            self.empty = self._counter()
        except ValueError as error:
            raise SpecError(f"{self.bound.name}: {error}") from error

    def _counter(self) -> Confusion:
        return Confusion(self.bound.classes, self.bound.ignore, self.counting)

    @property
    def told_apart(self) -> int:
        return len(self.bound.classes)

    @property
    def policy(self) -> dict[str, Any]:
        return {"counting": self.counting}

    @property
    def counted(self) -> str:
        return self.empty.convention

    def outcomes_of(self, found: Iterable[np.ndarray], rows: np.ndarray) -> np.ndarray:
        """(n, 4K) of each picture: right, true and found pixels of each class, and those found
        where nothing is known."""
        counter = self._counter()
        for row, said in zip(rows, found, strict=True):
            counter.update(said, self.truth(row))
        return counter.counts.reshape(len(rows), -1).astype(np.float64)

    def scores_of_draws(self, values: np.ndarray, times: np.ndarray) -> np.ndarray:
        return self.empty.of_counts(self._apart(times @ values))

    def _apart(self, values: np.ndarray) -> np.ndarray:
        """(…, 4K) → (…, 4, K)."""
        return values.reshape(*values.shape[:-1], 4, len(self.bound.classes))

    def aside_of(self, values: np.ndarray) -> dict[str, float]:
        counts = self._apart(values.sum(0))
        return {name.replace("_", " "): float(self.empty.of_counts(counts, name))
                for name in ("pixel_accuracy", "mean_accuracy")}  # fmt: skip

    def of_classes(self, values: np.ndarray) -> dict[str, float]:
        """IoU by class, of classes that occur."""
        right, true, found, _ = self._apart(values.sum(0))
        union = found + true - right
        return {name: float(a / b) for name, a, b in
                zip(self.bound.classes, right, union, strict=True) if b > 0}  # fmt: skip

    @cached_property
    def constant(self) -> tuple[np.ndarray, str]:
        """The mean mask of training and validation: position alone."""
        rows = np.flatnonzero(self.part == TEST)
        masks = self.bound.masks[self._known]
        head = fitted(MeanMask(), self._frames[self._known], masks, None, *self._about)
        return self.outcomes_of(head.predict(self._frames[rows]), rows), "mean mask, by position"

    @cached_property
    def truths(self) -> Masks:
        return Masks(self.bound.masks, self._frames, len(self.bound.classes), self.bound.ignore)


def _as_it_comes(head: Any) -> Any:
    """A head that does not standardise its features, which are already."""
    names = {"standardise", "standardize"} & set(head.get_params())
    return head.set_params(**dict.fromkeys(names, False))


def _warn_seen(bound: BoundDense, part: np.ndarray) -> None:
    """Say of aggregated maps that their aggregator saw targets of these pictures."""
    first = 0
    for files, rows in zip(bound.stores, bound.rows, strict=True):
        whole = np.full(sum(map(len, files)), -1)
        whole[rows] = part[first : first + len(rows)]
        first += len(rows)
        warn_of_targets_seen(files, whole)
