"""What a search strategy found, and what every finding can say of itself."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any, ClassVar

from diffeat.noise import shown_t
from diffeat.search.grid import ACCURACY, Grid
from diffeat.search.judge import Candidate
from diffeat.search.measure import Measure
from diffeat.search.tasks import CellKey


@dataclass(frozen=True)
class Choice:
    """What validation chose, whose head may be kept.

    Attributes:
        candidate: a cell, or several side by side.
        setting: of its probe.
        validation, test: scores.
    """

    candidate: Candidate
    setting: float | None
    validation: float
    test: float | None


@dataclass
class Cell:
    """One (block, t): its score on validation; `test` only where the cell was chosen.

    `setting` is what validation chose: C of the logistic probe, alpha of ridge, k of k-NN; None
    for a judge that has none.
    """

    block: str
    t: int | float
    validation: float
    setting: float | None = None
    test: float | None = None

    @property
    def key(self) -> CellKey:
        return self.block, self.t

    def __str__(self) -> str:
        return cell_text(self.key)

    @property
    def choice(self) -> Choice:
        return Choice(self.key, self.setting, self.validation, self.test)

    @property
    def C(self) -> float | None:
        """The name of `setting` before 0.9."""
        return self.setting

    def to_dict(self) -> dict[str, Any]:
        """Plain values; the setting also by its name before 0.9, which programs may ask for."""
        return {**asdict(self), "C": self.setting}

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Cell:
        """The cell that `to_dict` wrote, also before 0.9."""
        known = {("setting" if name == "C" else name): value for name, value in values.items()}
        return cls(**known)


def cell_text(cell: CellKey) -> str:
    """ "up.1 t=20"."""
    return cell[0] + shown_t(cell[1], " t=")


@dataclass(frozen=True)
class Selection:
    """What a selector of cells chose, what that scores, and what it took to find it.

    Attributes:
        selector: "grid search", "trained mixer", "searched mixer", "learned agent", …
        chosen: for people.
        validation, test: scores.
        cost: in judgements of one cell on all training pictures (half of them count half).
        cost_text: what these were.
        interval: of test, where it is not that of counts.
        forwards: of a picture that what was chosen takes: its different t.
        trained: whether it was trained where cells learn nothing, so on further labels.
        labels: how many were looked at; see `SearchReport.labelled`.
    """

    selector: str
    chosen: str
    validation: float
    test: float | None
    cost: float
    cost_text: str
    interval: tuple[float, float] | None = None
    forwards: int = 1
    trained: bool = False
    labels: int | None = None


@dataclass(kw_only=True)
class Finding(ABC):
    """What a strategy found; `best` is what was chosen: a `Cell`, a set, a t.

    Attributes:
        key: its name in JSON and in the report.
        measure: the kind of number that the judge gives.
        conditioned: by what the features were told their targets, "" if they were not; marks
            every view (see `diffeat.conditioned`).
    """

    key: ClassVar[str]
    measure: Measure = field(default=ACCURACY)
    conditioned: str = ""

    @property
    def grid(self) -> Grid | None:
        """Numbers over (block, t), or None."""
        return None

    @abstractmethod
    def lines(self) -> list[str]:
        """What to read on a terminal."""

    @abstractmethod
    def to_dict(self) -> dict[str, Any]:
        """Plain values."""

    def table(self) -> str:
        return "\n".join(self.lines())

    # what a report puts together; most findings have only some of it

    def parts(self) -> dict[str, Finding]:
        """The findings by key, where one holds others."""
        return {self.key: self}

    @property
    def cell_scores(self) -> Mapping[CellKey, float]:
        """Validation scores of all single cells, of a finding that is about these."""
        return {}

    def rows(self) -> list[tuple[CellKey, dict[str, Any]]]:
        """(cell, CSV row), of a finding that is about single cells."""
        return []

    def columns(self) -> dict[str, Mapping[CellKey, Any]]:
        """CSV columns that are added to the rows of another finding."""
        return {}

    def compare(self, scores: Mapping[CellKey, float]) -> None:  # noqa: B027
        """Take note of the validation scores of single cells, found by another strategy."""

    def improvement(self) -> tuple[float, Choice | None]:
        """(gain over the best cell alone, what was chosen); (0, None) for single cells."""
        return 0.0, None

    def selection(self) -> Selection | None:
        """A line of the table of selectors; None where nothing was settled."""
        return None
