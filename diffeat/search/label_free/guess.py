"""Label-free numbers as a finding of a search, with their rank correlations to its scores."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar

from diffeat.noise import shown_t
from diffeat.search.asking import MEMORY, Progress
from diffeat.search.finding import Finding
from diffeat.search.frequency import runs_among
from diffeat.search.grid import Grid
from diffeat.search.journal import Journal
from diffeat.search.judge import Judge
from diffeat.search.label_free.scores import (
    PICTURES,
    CellScores,
    FreeOptions,
    chosen_scores,
)
from diffeat.search.label_free.table import LOWER, TITLES, FreeTable
from diffeat.search.label_free.trust import LEAST, Trust, trust
from diffeat.search.measure import Measure
from diffeat.search.reading import Sliced
from diffeat.search.tasks import CellKey


@dataclass(kw_only=True)
class FreeGuess(Finding):
    """Label-free numbers of the cells of a search.

    Attributes:
        numbers: of every cell.
        trusted: score → how it goes with validation; {} where nothing was compared.
    """

    key: ClassVar[str] = "free"

    numbers: FreeTable
    trusted: dict[str, Trust] = field(default_factory=dict)

    @property
    def grid(self) -> Grid:
        """The first number over (block, t)."""
        return self.numbers.grids[0]

    def compare(self, scores: Mapping[CellKey, float]) -> None:
        """Rank correlations with how good the same cells are (higher is better)."""
        cells = [cell for cell in self.numbers.cells if cell in scores]
        for score in self.numbers.scores if len(cells) >= LEAST else ():
            values = {cell: self.numbers.cells[cell][score] for cell in cells}
            self.trusted[score] = trust(
                score, values, "validation", scores, Measure(), score not in LOWER
            )

    def lines(self) -> list[str]:
        found = [f"label-free numbers of {self.numbers.pictures} pictures (no labels), Spearman "
                 "rank correlation with validation over all cells (95 % over blocks):"]  # fmt: skip
        for score in self.numbers.scores:
            block, t = self.numbers.best(score)
            said = str(self.trusted.get(score, "not defined"))
            place = f"{block}{shown_t(t, ' at t=')}" if self.numbers.varies(score) else "no cell"
            found.append(f"  {TITLES[score]}: {said}; would choose {place}")
        return found

    def columns(self) -> dict[str, Mapping[CellKey, Any]]:
        return {
            score: {cell: f"{one[score]:.6g}" for cell, one in self.numbers.cells.items()}
            for score in self.numbers.scores
        }

    def to_dict(self) -> dict[str, Any]:
        correlations = {score: one.to_dict() for score, one in self.trusted.items()}
        return {**self.numbers.to_dict(), "rank_correlations": correlations}


def guess_free(
    judge: Judge,
    journal: Journal | None = None,
    memory: int = MEMORY,
    progress: Progress = iter,
    *,
    options: FreeOptions | None = None,
    pictures: int = PICTURES,
) -> FreeGuess:
    """Label-free numbers of a judge's cells, over training and validation pictures."""
    maps = all(len(judge.shape(cell)) == 4 for cell in judge.cells)
    names = chosen_scores(None, maps, again=False)
    found, count = CellScores(names, options or FreeOptions()), 0
    for cell in progress(judge.cells):
        data = Sliced(judge.read(*cell))
        runs = runs_among(len(data), pictures, judge.seen)
        count = sum(map(len, runs))
        for run in runs:
            found.update(cell, data[run])
    return FreeGuess(numbers=FreeTable.of(judge.source, names, found.values(), count))
