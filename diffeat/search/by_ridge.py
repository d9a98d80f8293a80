"""What judges by ridge in closed form share: reading, fitting, the penalty chosen on validation."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence
from functools import cached_property
from typing import Any, ClassVar

import numpy as np

from diffeat.errors import SpecError
from diffeat.hashing import fingerprint
from diffeat.search.intervals import percentile_interval, resampled
from diffeat.search.judge import Candidate, Judge, Mix, Outcome, cells_in
from diffeat.search.reading import SLAB_BYTES, numel, side_by_side
from diffeat.search.scores import Ridge
from diffeat.search.splits import TEST, TRAIN, VALIDATION, balance_of
from diffeat.search.targeted import other_kind
from diffeat.search.tasks import CellKey, Task, check_parts
from probes.grams import ALPHAS


class ByRidge(Judge):
    """A number of a linear map with an L2 penalty, in closed form.

    Every penalty comes from one decomposition per cell; validation chooses one, of equals the
    strongest. The features of several cells stand side by side, standardised.

    Args:
        task: features, targets and parts.
        penalties: values of alpha to choose from; None means `probes.grams.ALPHAS`.
        device: where it is fitted.

    Raises:
        SpecError: targets of another kind, or penalties that are not positive.
    """

    takes: ClassVar[str]
    """Kind of the targets."""
    draws = 2000
    """Of groups, for the interval of test."""

    def __init__(self, task: Task, penalties: Sequence[float] | None = None, device: str = "cpu"):
        if task.kind != self.takes:
            raise other_kind(task.name, task.kind, self.takes)
        self.task, self.device = task, device
        self.penalties = tuple(sorted(float(one) for one in penalties or ALPHAS))
        if self.penalties[0] <= 0:
            raise SpecError(f"penalties {self.penalties}; expected positive numbers")
        super().__init__({}, task.owners, task.part, task.name, task.identity, task.conditioned)
        self.how, self.together, self.made = task.how, task.together, task.made
        self.labels, self.told = balance_of(task.labels), task.corrupted

    # what a judge says

    @abstractmethod
    def probe(self, penalties: Sequence[float], standardise: bool = True) -> Any:
        """An estimator of `probes` whose `fit` takes validation too, not fitted yet."""

    @abstractmethod
    def foretold(self, probe: Any, X: np.ndarray) -> np.ndarray:
        """(n, M) what a fitted probe says of (n, D) features."""

    @abstractmethod
    def score(self, truth: np.ndarray, found: np.ndarray) -> float:
        """The number of what was foretold of (n, …) targets."""

    @abstractmethod
    def scores_of_draws(
        self, truth: np.ndarray, found: np.ndarray, times: np.ndarray
    ) -> np.ndarray:
        """(B,) the same of draws in which each picture stands (B, n) times; nan where none is."""

    # what there is

    @property
    def cells(self) -> tuple[CellKey, ...]:
        return self.task.cells

    def read(self, block: str, t: float) -> Any:
        return self.task.read(block, t)

    @cached_property
    def targets(self) -> str:  # the intervals that are kept depend on the groups
        return fingerprint(self.task.labels_fingerprint, list(self.groups))

    def describe(self) -> dict[str, Any]:
        return {"judge": self.name, "score": "ridge", "penalties": list(self.penalties)}

    @property
    def told_apart(self) -> int:
        return self.task.labels.shape[1] if self.task.labels.ndim == 2 else 1

    @property
    def headline(self) -> str:
        return super().headline + self.task.remarks

    def check(self, part: np.ndarray | None = None) -> None:
        if part is not None:  # the task's own parts were checked when it was made
            check_parts(self.source, self.task.labels, part)

    # judging

    def validate(self, cells: Sequence[Candidate], part: np.ndarray) -> list[Outcome]:
        return self.validate_splits(cells, [part])[0]

    def validate_splits(
        self, cells: Sequence[Candidate], parts: Sequence[np.ndarray]
    ) -> list[list[Outcome]]:
        rows = np.any([(part == TRAIN) | (part == VALIDATION) for part in parts], axis=0)
        found: list[list[Outcome]] = [[] for _ in parts]
        for cell in cells:
            columns = self._columns(cell, rows)  # read once for all splits
            for outcomes, part in zip(found, parts, strict=True):
                outcomes.append(self._outcome(cell, columns, part[rows], self.task.labels[rows]))
        return found

    def _outcome(
        self, cell: Candidate, columns: list[np.ndarray], part: np.ndarray, y: np.ndarray
    ) -> Outcome:
        train, held = part == TRAIN, part == VALIDATION
        X = _arranged(cell, columns, train)
        probe = self.probe(self.penalties, not _weighed(cell))
        try:
            probe.fit(X[train], y[train], X[held], y[held])
        except ValueError as error:  # a part too small for its number
            raise SpecError(f"{self.source}: {self.name} of {held.sum()} validation pictures: "
                            f"{error}; give more pictures") from error  # fmt: skip
        return Outcome(float(probe.scores_.max()), probe.alpha_)

    def test(self, cell: Candidate, setting: float | None) -> np.ndarray:
        """(n, M) what is said of the test pictures, which `settle` scores.

        Learnt from training and validation, with the penalty that validation chose.
        """
        known, tested = self._known, self.part == TEST
        rows = known | tested
        X = _arranged(cell, self._columns(cell, rows), known[rows])
        probe = self.probe((setting,), not _weighed(cell))
        probe.fit(X[known[rows]], self.task.labels[known])
        return self.foretold(probe, X[tested[rows]])

    def settle(self, value: np.ndarray) -> tuple[float, tuple[float, float] | None]:
        tested = self.part == TEST
        truth, groups = self.task.labels[tested], np.asarray(self.groups)[tested]
        draws = resampled(groups, draws=self.draws)
        scores = [self.scores_of_draws(truth, value, times) for times in draws]
        return self.score(truth, value), percentile_interval(np.concatenate(scores))

    def head(self, cell: Candidate, setting: float | None) -> Any:
        """The fitted probe, which standardises by itself: the weights of a mix play no part."""
        X = np.concatenate(self._columns(cell, self._known), axis=1)
        return self.probe((setting,)).fit(X, self.task.labels[self._known])

    def check_head(self) -> None:
        if self.made is None:
            raise SpecError(f"{self.source}: what the features were made of is not known, so a "
                            "head of them cannot be kept")  # fmt: skip

    @property
    def _known(self) -> np.ndarray:
        return (self.part == TRAIN) | (self.part == VALIDATION)

    @property
    def learnt(self) -> np.ndarray:
        """(n, …) targets of training and validation."""
        return self.task.labels[self._known]

    @property
    def tested(self) -> np.ndarray:
        """(n, …) targets of test."""
        return self.task.labels[self.part == TEST]

    # memory

    def _columns(self, cell: Candidate, rows: np.ndarray) -> list[np.ndarray]:
        """(n, D) features of some pictures, of every cell of a candidate."""
        return [self.task.matrix(key, rows) for key in cells_in(cell)]

    def bytes_of(self, cell: Candidate) -> float:
        width = sum(numel(self.shape(key)[1:]) for key in cells_in(cell))
        return Ridge().bytes_of(len(self.task.labels), width, 1) + SLAB_BYTES


def _weighed(cell: Candidate) -> bool:
    return isinstance(cell, Mix) and cell.weights is not None


def _arranged(cell: Candidate, columns: list[np.ndarray], fitted: np.ndarray) -> np.ndarray:
    """(n, sum of D), as it comes; with weights standardised on some rows, times these."""
    if _weighed(cell):
        return side_by_side(columns, fitted, cell.weights)
    return np.concatenate(columns, axis=1)
