"""What says how good a cell is for a task; a task is added by writing one of these."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, ClassVar

import numpy as np

from diffeat.errors import NumericsError, SpecError
from diffeat.noise import format_t, shown_t
from diffeat.search.intervals import FEW, group_interval
from diffeat.search.measure import Measure
from diffeat.search.reading import numel, read_rows, side_by_side
from diffeat.search.splits import (
    LEFT_OUT,
    TEST,
    TRAIN,
    VALIDATION,
    random_part,
    split_groups,
)
from diffeat.search.tasks import CellKey, Made, cell_name, readable


@dataclass(frozen=True)
class Outcome:
    """A score on validation, and the setting that was chosen there (None if there is none)."""

    validation: float
    setting: float | None = None


@dataclass(frozen=True)
class Mix:
    """Several cells as one: standardised, side by side, each times its weight (None: 1).

    One cell without a weight is judged as it is alone: a set grows from what the grid found.
    """

    cells: tuple[CellKey, ...]
    weights: tuple[float, ...] | None = None

    def __str__(self) -> str:
        return " + ".join(block + shown_t(t, " t=") for block, t in self.cells)


@dataclass(frozen=True)
class Trained:
    """A trained mixer: its weight per cell, its validation score, and what it is trained again by.

    `text` says what the training took.
    """

    weights: tuple[float, ...]
    validation: float
    setting: float
    text: str = ""


Candidate = CellKey | Mix
"""What a judge is asked about."""


def cells_in(candidate: Candidate) -> tuple[CellKey, ...]:
    """The (block, t) of a candidate, in order."""
    return candidate.cells if isinstance(candidate, Mix) else (candidate,)


class Judge:
    """How good the features of a cell are for a task, as one number.

    A subclass gives either `measure`, one number from features, or, where there is more to it,
    `validate` and `test`. All else has defaults that serve.

    Class attributes:
        name: of the number, such as "accuracy".
        unit: "%" (of shares in [0, 1]), "px", or "".
        higher_is_better: the direction.
        needs: of the features and targets: "vectors", "maps", "labels", "placements", …;
            "maps" is checked.
        learns: whether it learns from training pictures. Halving and the bandit draw few of
            these; of validation pictures where it does not.
        task_name: of the command line, for heads that are kept.
        bounds: that no number can leave, if there are any; they scale the bandit's rewards.
        rows: what is split and counted: "pictures", or "pairs" of them.
        mixes: whether standardised cells side by side mean something to it, as sets need.

    Args:
        features: (block, t) → (N, …) array, or what reads like one in slices.
        groups: N names of what a picture or pair belongs to: parts are parts of groups. A
            picture that belongs to nothing has its id here.
        part: (N,) TRAIN, VALIDATION or TEST; None splits by the groups.
        source: what the features are of, for tables.
        identity: names features and targets, for finished work that is kept; "" keeps none.
        conditioned: by what the features were told their targets.
    """

    name: ClassVar[str] = "score"
    unit: ClassVar[str] = ""
    higher_is_better: ClassVar[bool] = True
    needs: ClassVar[tuple[str, ...]] = ()
    learns: ClassVar[bool] = True
    task_name: ClassVar[str] = ""
    bounds: ClassVar[tuple[float, float] | None] = None
    mixes: ClassVar[bool] = True
    rows: ClassVar[str] = "pictures"

    together: tuple[tuple[CellKey, ...], ...] = ()
    """Cells whose features are at hand together; () if it does not matter."""
    labels: np.ndarray | None = None
    """(N,) classes that splits and subsets keep in balance, if there are any."""
    made: Made | None = None
    """What the features were made of, where that is known."""
    how: str = ""
    """Why the parts were not made by a hash alone."""
    told: str = ""
    """What every file says: what the protocol tells the model, what made pictures worse."""
    head_notes: Mapping[str, Any] | None = None
    """Plain values that the file of a head says beside what all say."""

    def __init__(
        self,
        features: Mapping[CellKey, Any],
        groups: Sequence[str],
        part: np.ndarray | None = None,
        source: str = "features",
        identity: str = "",
        conditioned: str = "",
    ):
        self._features, self.groups, self._part = features, groups, part
        self.source, self.identity, self.conditioned = source, identity, conditioned

    # what a task says; the first is enough

    def measure(self, X: np.ndarray, fitted: np.ndarray, scored: np.ndarray) -> Any:
        """One number of some features.

        Args:
            X: (N, …) float32 features of all pictures.
            fitted: (N,) bool, what may be learnt from.
            scored: (N,) bool, what the number is of.

        Returns:
            The number, or (n,) numbers of the scored pictures, whose mean is the number and
            whose interval is a bootstrap of groups.
        """
        raise TypeError(f"{type(self).__name__} says neither measure nor validate and test")

    def validate(self, cells: Sequence[Candidate], part: np.ndarray) -> list[Outcome]:
        """Scores on the validation pictures of one split; one outcome per cell or mix."""
        train, held = part == TRAIN, part == VALIDATION
        found = [self.measure(self.features(cell, train), train, held) for cell in cells]
        return [Outcome(self._number(value, held)) for value in found]

    def test(self, cell: Candidate, setting: float | None) -> Any:
        """Score on test, learnt from all others, with what validation chose; see `measure`."""
        known = (self.part == TRAIN) | (self.part == VALIDATION)
        return self.measure(self.features(cell, known), known, self.part == TEST)

    def head(self, cell: Candidate, setting: float | None) -> Any:
        """The estimator that `test` scores, learnt from training and validation, to be kept.

        Of a mix it takes the cells' vectors side by side, as they come.

        Raises:
            SpecError: as here, where no head stands behind the number.
        """
        raise SpecError(f"{self.name} is measured without a head that could be kept; leave "
                        "--save out")  # fmt: skip

    def check_head(self) -> None:
        """SpecError, before anything is judged, where there will be no head."""
        if type(self).head is Judge.head:
            self.head(self.cells[0], None)

    def _number(self, value: Any, scored: np.ndarray) -> float:
        if np.shape(value) not in ((), (count := int(scored.sum()),)):
            raise SpecError(
                f"{type(self).__name__} gave {self.name} of shape {np.shape(value)}; expected one "
                f"number, or shape ({count},), one number for each scored picture"
            )
        number = float(np.mean(value))
        if not np.isfinite(number):
            raise NumericsError(f"{self.name} is {number}; expected a finite number")
        return number

    def settle(self, value: Any) -> tuple[float, tuple[float, float] | None]:
        """What `test` gave as one number, with its 95 % interval where it is known."""
        number = self._number(value, self.part == TEST)
        if np.ndim(value) == 0:
            return number, None
        tested = [self.groups[row] for row in np.flatnonzero(self.part == TEST)]
        return number, group_interval(np.asarray(value, np.float64), tested)

    # what there is

    @property
    def cells(self) -> tuple[CellKey, ...]:
        """The (block, t), blocks in the order of execution."""
        return tuple(self._features)

    def read(self, block: str, t: float) -> Any:
        """(N, …) array of a cell, or what reads like one in slices."""
        return self._features[block, t]

    @cached_property
    def part(self) -> np.ndarray:
        """(N,) parts of the pictures."""
        if self._part is not None:
            return np.asarray(self._part)
        return split_groups(self.groups, labels=self.labels)[0]

    @property
    def seen(self) -> np.ndarray:
        """Rows of features that may be looked at before the end: of training and validation."""
        return np.flatnonzero((self.part == TRAIN) | (self.part == VALIDATION))

    def another_part(self, seed: int, repeat: int, labels: np.ndarray | None = None) -> np.ndarray:
        """(N,) another random split into training and validation; the test part stays.

        Args:
            labels: (N,) to split class by class; None splits by a hash.
        """
        return random_part(self.part, self.groups, seed, repeat, labels)

    @property
    def counts(self) -> tuple[int, int, int]:
        """Rows in training, validation and test."""
        return tuple(int((self.part == part).sum()) for part in (TRAIN, VALIDATION, TEST))

    @property
    def tested_groups(self) -> int:
        """Groups in the test part."""
        return len({self.groups[row] for row in np.flatnonzero(self.part == TEST)})

    @property
    def classes(self) -> int:
        """Kinds that subsets keep in balance."""
        return 1 if self.labels is None else len(np.unique(self.labels[self.part != LEFT_OUT]))

    @property
    def told_apart(self) -> int:
        """Classes or labels that are told apart; 1 where there are none."""
        return self.classes

    @property
    def fewest(self) -> int:
        """Pictures that the smallest subset holds: four of each class, at least 16 in all."""
        return 16 if self.labels is None else 4 * self.classes

    @property
    def resource(self) -> int:
        """The part that subsets are drawn from."""
        return TRAIN if self.learns else VALIDATION

    @property
    def number(self) -> Measure:
        """The kind of number that is given."""
        return Measure(
            self.name, self.unit, self.higher_is_better, self.counts[2], self.tested_groups,
            rows=self.rows,
        )  # fmt: skip

    def check(self, part: np.ndarray | None = None) -> None:
        """SpecError, before anything is judged, if a part is empty or a feature is no map."""
        part = self.part if part is None else part
        for number, what in ((VALIDATION, "validation"), (TEST, "test")):
            if not (part == number).any():
                raise SpecError(
                    f"{self.source}: the {what} part is empty; give more {self.rows} or another "
                    "split"
                )
        for cell in self.cells if "maps" in self.needs else ():
            if len(self.shape(cell)) != 4:
                raise SpecError(
                    f"{self.name} needs maps, but block {cell[0]!r} at t={format_t(cell[1])} has "
                    f"shape {self.shape(cell)}; extract with --pool none"
                )

    def check_mixes(self, what: str, way_out: str) -> None:
        """SpecError where cells that are standardised side by side mean nothing."""
        if not self.mixes:
            raise SpecError(f"{what}: {self.no_mixes}; {way_out}")

    @property
    def no_mixes(self) -> str:
        """Why there are no sets, pairs and mixers, where `mixes` is false."""
        return f"{self.name} is of single cells, and standardised ones side by side mean nothing"

    # what stands beside the number

    @property
    def floor(self) -> tuple[float, str] | None:
        """What a constant scores on test, and which one; None where nothing is known."""
        return None

    def aside(self, cell: Candidate, setting: float | None) -> dict[str, float]:
        """Further numbers of what was chosen, on test, by name; learnt as for `test`."""
        return {}

    # what finished work depends on, and how people read of it

    def describe(self) -> dict[str, Any]:
        """The rule of judging, with its settings."""
        return {"judge": self.name}

    @property
    def targets(self) -> str:
        """Hash of what is to be told from the features, where `identity` does not say it."""
        return ""

    @property
    def headline(self) -> str:
        """What was judged, for people."""
        train, held, tested = self.counts
        unit = f" in {self.unit}" * bool(self.unit)
        return (
            f"{self.source}: validation {self.name}{unit}{self.number.direction}, {train} "
            f"training, {held} validation and {tested} test {self.rows}"
        )

    @property
    def few(self) -> str | None:
        """A warning of too few test pictures, or None."""
        if self.tested_groups >= FEW:
            return None
        return (
            f"{self.source}: {self.tested_groups} groups of test {self.rows} say little; give more"
        )

    # reading, in pieces that fit

    def shape(self, cell: CellKey) -> tuple[int, ...]:
        """(N, …) of a cell; nothing is read."""
        return tuple(self.read(*cell).shape)

    def features(self, cell: Candidate, fitted: np.ndarray) -> np.ndarray:
        """(N, …) float32 features of all pictures; of a mix standardised on `fitted`.

        A mix of one cell without a weight is as that cell.
        """
        everything = np.ones(len(self.groups), bool)

        def read(key: CellKey) -> np.ndarray:
            if (rows := self.shape(key)[0]) != len(everything):
                raise SpecError(
                    f"{cell_name(key)} has {rows} rows; expected {len(everything)}, one for each "
                    "picture"
                )
            where = f"{self.source}: the features of {cell_name(key)}"
            return read_rows(self.read(*key), everything, where)

        if isinstance(cell, Mix) and (len(cell.cells) > 1 or cell.weights is not None):
            return side_by_side([read(key) for key in cell.cells], fitted, cell.weights)
        return read(cells_in(cell)[0])

    def bytes_of(self, cell: Candidate) -> float:
        """Host memory that judging a cell or a mix takes."""
        copies = 2 if isinstance(cell, Mix) else 1
        return 4.0 * copies * sum(numel(self.shape(key)) for key in cells_in(cell))

    def batches(self, cells: Sequence[Candidate], memory: int) -> Iterator[list[Candidate]]:
        """Cells that are judged together, within `memory`; here one by one."""
        for cell in cells:
            self.check_memory(cell, memory)
            yield [cell]

    def check_memory(self, cell: Candidate, memory: int) -> None:
        """SpecError if one candidate alone needs more than `memory`."""
        if self.bytes_of(cell) > memory:
            raise SpecError(
                f"{self.source}: the features of {cell} take {readable(self.bytes_of(cell))}; "
                f"{readable(memory)} are allowed: allow more (--memory), pool the features, or "
                "take fewer pictures or cells"
            )

    # several cells at once, by weights that are learned

    def train_mixer(self, memory: int, seed: int = 0) -> Trained | None:
        """Softmax weights over all cells, learned on training and chosen on validation.

        None, as here, where there is no objective with a gradient: the weights of a `Mix` are
        then searched for by `validate` alone (see `diffeat.search.mixing`).
        """
        return None

    def test_mixer(self, setting: float, memory: int, seed: int = 0) -> Any:
        """Test score of a mixer that is trained again, on training and validation."""
        raise TypeError(f"{type(self).__name__} trains no mixer")

    def fitted_mixer(self, setting: float, memory: int, seed: int = 0) -> Any:
        """The mixer that `test_mixer` scores, to be kept; SpecError where there is none."""
        raise SpecError(f"{self.name}: no mixer that could be kept; leave --save out")

    @property
    def not_trained(self) -> str:
        """Why a mixer that this kind of judge could train is not; "" where it is."""
        return ""

    @property
    def mixer_identity(self) -> tuple[Any, ...]:
        """What a trained mixer depends on beside what the judge describes."""
        return ()

    def noted_pictures(self) -> dict[str, str]:
        """For the file of a mixer, those that it was fitted on; {} where that is not known."""
        return {}

    def labels_used(self, trained: bool = False) -> tuple[int, str]:
        """How many labels a choice looks at, and what they are; those of test are none of them.

        Args:
            trained: of a mixer that is trained, where cells learn nothing.
        """
        train, held, _ = self.counts
        return held + train * (self.learns or trained), f"labelled {self.rows}"

    def validate_splits(
        self, cells: Sequence[Candidate], parts: Sequence[np.ndarray]
    ) -> list[list[Outcome]]:
        """`validate` for several splits: a list per split. Override to read once for all."""
        return [self.validate(cells, part) for part in parts]
