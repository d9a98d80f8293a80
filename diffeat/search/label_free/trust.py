"""Which label-free number to trust for which task: rank correlations with scores of the same cells.

For a number f and a task's validation scores g over the same cells,

    rho = Spearman's rank correlation of f and the goodness of g

and its 95 % interval is a bootstrap of blocks: all t of a block are drawn together, because cells
of one block are much alike. It says how far rho hangs on which blocks were looked at, and nothing
of other pictures or models.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from diffeat.errors import SpecError
from diffeat.search.measure import Measure
from diffeat.search.tasks import CellKey
from probes.metrics.intervals import DRAWS
from probes.metrics.risk_coverage import rank_correlation

LEAST = 3
"""Cells that a rank correlation needs at least."""


@dataclass(frozen=True)
class Trust:
    """How one number goes with one task.

    Attributes:
        score, task: their names.
        rho: Spearman's rank correlation over all cells, of the number as it comes; None where the
            number or the score is the same in all cells.
        low, high: its 95 % interval over blocks; None where there is none.
        within_t: mean over t of the correlation over blocks at that t: does it choose the block?
        within_block: mean over blocks of the correlation over t in that block: does it choose t?
        within_shape: mean over shapes of the correlation over cells of that shape, each weighing as
            many cells as it has: is it more than how wide and how fine a block is? None where no
            shapes were given.
        cell: the cell that the number would choose, as its authors read it.
        lost: by how much that cell's validation score is worse than the best cell's, in units of
            the score; never below 0.
        cells: how many cells there are.
    """

    score: str
    task: str
    rho: float | None
    low: float | None
    high: float | None
    within_t: float | None
    within_block: float | None
    within_shape: float | None
    cell: CellKey
    lost: float
    cells: int

    def to_dict(self) -> dict[str, Any]:
        return {**asdict(self), "cell": list(self.cell)}

    def __str__(self) -> str:
        if self.rho is None:
            return "not defined"
        if self.low is None:
            return f"{self.rho:+.2f}"
        return f"{self.rho:+.2f} ({self.low:+.2f} to {self.high:+.2f})"


def trust(
    score: str,
    values: Mapping[CellKey, float],
    task: str,
    validation: Mapping[CellKey, float],
    measure: Measure,
    higher: bool = True,
    shapes: Mapping[CellKey, Any] | None = None,
    seed: int = 0,
    draws: int = DRAWS,
) -> Trust:
    """How a label-free number goes with a task's scores.

    Args:
        score, task: names for tables.
        values: cell → number.
        validation: cell → validation score; cells of both count.
        measure: of the scores, which says which way is better.
        higher: whether the number's authors want more of it: it chooses its largest cell, else
            its smallest. rho does not depend on it.
        shapes: cell → its shape, such as channels and sites.
        seed, draws: of the bootstrap.

    Returns:
        The correlations, and what is lost where the number chooses.

    Raises:
        SpecError: fewer than three cells that both have.

    Source: Spearman 1904; A-SelecT 2026 claims such a correlation for the high-frequency ratio
    over t, Singh et al. 2025 (iREPA) for LDS with generation.
    """
    cells = [cell for cell in values if cell in validation]
    if len(cells) < LEAST:
        raise SpecError(f"{score} and {task} have {len(cells)} cells in common; expected at least "
                        f"{LEAST}, which have ranks")  # fmt: skip
    number = np.array([values[cell] for cell in cells], np.float64)
    good = measure.goodness([validation[cell] for cell in cells])
    blocks = np.array([block for block, _ in cells])
    steps = np.array([t for _, t in cells])
    rho = low = high = None
    if _varies(number) and _varies(good):
        if len(set(blocks)) > 1:
            found = rank_correlation(number, good, blocks, seed=seed, draws=draws)
            rho, low, high = found.value, found.low, found.high
        else:
            rho = _rho(number, good)
    same = None
    if shapes is not None:
        same = _within(number, good, np.array([str(shapes[cell]) for cell in cells]), weigh=True)
    place = int(np.argmax(number if higher else -number))
    return Trust(
        score, task, rho, low, high, _within(number, good, steps), _within(number, good, blocks),
        same, cells[place], float(good.max() - good[place]), len(cells),
    )  # fmt: skip


def _varies(values: np.ndarray) -> bool:
    return len(values) >= LEAST and bool(np.isfinite(values).all()) and np.ptp(values) > 0


def _rho(first: np.ndarray, second: np.ndarray) -> float:
    from scipy.stats import spearmanr

    return float(spearmanr(first, second).statistic)


def _within(
    first: np.ndarray, second: np.ndarray, groups: np.ndarray, weigh: bool = False
) -> float | None:
    """Mean over groups of the correlation within each; None where none has one.

    Args:
        weigh: whether a group weighs as many as it has.
    """
    parts: Sequence[np.ndarray] = [groups == one for one in dict.fromkeys(groups.tolist())]
    kept = [part for part in parts if _varies(first[part]) and _varies(second[part])]
    if not kept:
        return None
    found = [_rho(first[part], second[part]) for part in kept]
    return float(np.average(found, weights=[part.sum() if weigh else 1 for part in kept]))
