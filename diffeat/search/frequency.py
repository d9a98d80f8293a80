"""A first guess without labels: where do feature maps hold the most fine detail?"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np

from diffeat.errors import NumericsError, SpecError
from diffeat.noise import format_t, shown_t
from diffeat.search.asking import MEMORY, Progress
from diffeat.search.finding import Finding
from diffeat.search.grid import Grid
from diffeat.search.journal import Journal
from diffeat.search.judge import Judge
from diffeat.search.measure import SHARE, Measure
from diffeat.search.reading import Sliced
from diffeat.search.tasks import CellKey

CUTOFF = 0.5
"""Cut-off radius in Nyquist frequencies. The value of A-SelecT is not verified; this is ours."""
PICTURES = 512
RATIO = Measure("high-frequency ratio", SHARE)
RUN = 8
"""Neighbouring pictures that are read together."""


def high_frequency_ratio(maps: np.ndarray, cutoff: float = CUTOFF) -> np.ndarray:
    """Share of a map's energy at high spatial frequencies, per picture.

    With F the 2-D discrete Fourier transform of one channel and r = |(f_y, f_x)| / (1/2) the
    radius in Nyquist frequencies,

        ratio = sum_{r > cutoff} |F|² / sum |F|²,    averaged over channels.

    The sum below includes r = 0, the mean. A channel of zeros counts as 0.

    Args:
        maps: (N, C, H, W) floating point. Maps so small that they have no frequency above
            the cut-off give 0.
        cutoff: in [0, √2).

    Returns:
        (N,) float64 in [0, 1].

    Raises:
        SpecError: no maps, or a cut-off above all frequencies there can be.

    Source: A-SelecT 2026, the high-frequency ratio; its cut-off and tensor are not verified.
    """
    maps = np.asarray(maps)
    if maps.ndim != 4:
        raise SpecError(
            f"features of shape {maps.shape} are no maps (N, C, H, W); extract with --pool none"
        )
    if not 0 <= cutoff < math.sqrt(2):
        raise SpecError(
            f"cutoff={cutoff}; expected at least 0 and less than √2 Nyquist frequencies, the "
            "highest of a picture (0.5 is the default)"
        )
    fy, fx = np.fft.fftfreq(maps.shape[2]), np.fft.rfftfreq(maps.shape[3])
    high = 2 * np.hypot(fy[:, None], fx) > cutoff
    energy = np.abs(np.fft.rfft2(maps.astype(np.float64))) ** 2
    # the half that rfft leaves out mirrors the columns between the first and the last
    twice = np.full(len(fx), 2.0)
    twice[0] = 1.0
    if maps.shape[3] % 2 == 0:
        twice[-1] = 1.0
    energy *= twice
    total = energy.sum((2, 3))
    ratio = np.where(high, energy, 0.0).sum((2, 3)) / np.where(total > 0, total, 1.0)
    return ratio.mean(1)


@dataclass
class FrequencyGuess(Finding):
    """High-frequency ratios of cells, and how they go with validation scores.

    Attributes:
        ratios: cell → mean over pictures.
        cutoff: radius in Nyquist frequencies.
        pictures: how many were looked at.
        rank_correlation: Spearman's, over all cells; None where nothing was compared.
        by_block: the same over the t's of each block, which is what A-SelecT claims: t.
    """

    key: ClassVar[str] = "frequency"

    ratios: dict[CellKey, float]
    cutoff: float
    pictures: int
    rank_correlation: float | None = None
    by_block: dict[str, float | None] | None = None

    @property
    def best(self) -> CellKey:
        """The cell with the highest ratio; the first of equals."""
        return self.grid.best

    @property
    def grid(self) -> Grid:
        return Grid("high-frequency ratio", self.ratios, RATIO)

    def compare(self, scores: Mapping[CellKey, float]) -> FrequencyGuess:
        """Fill in the rank correlations with how good the same cells are (higher is better)."""
        cells = [cell for cell in self.ratios if cell in scores]
        self.rank_correlation = _spearman(self.ratios, scores, cells)
        self.by_block = {
            block: _spearman(self.ratios, scores, [cell for cell in cells if cell[0] == block])
            for block in dict.fromkeys(block for block, _ in cells)
        }
        return self

    def table(self) -> str:
        """Ratios in per cent, blocks down and t across; the highest is starred."""
        return self.grid.table()

    def lines(self) -> list[str]:
        rank = self.rank_correlation
        shown = "not defined" if rank is None else f"{rank:+.2f}"
        block, t = self.best
        return [
            f"high-frequency ratio (no labels; above {self.cutoff:g} Nyquist, {self.pictures} "
            f"pictures): highest {block}{shown_t(t, ' at t=')}; Spearman rank correlation with "
            f"validation {shown}"
        ]

    def columns(self) -> dict[str, Mapping[CellKey, Any]]:
        return {"high_frequency_ratio": {cell: round(v, 6) for cell, v in self.ratios.items()}}

    def to_dict(self) -> dict[str, Any]:
        rows = [{"block": b, "t": t, "ratio": v} for (b, t), v in self.ratios.items()]
        names = ("cutoff", "pictures", "rank_correlation", "by_block")
        return {"ratios": rows, **{name: getattr(self, name) for name in names}}


def guess_frequency(
    judge: Judge,
    journal: Journal | None = None,
    memory: int = MEMORY,
    progress: Progress = iter,
    *,
    cutoff: float = CUTOFF,
    pictures: int = PICTURES,
) -> FrequencyGuess:
    """`frequency_guess` of a judge's cells, over training and validation pictures."""
    return frequency_guess(_Cells(judge), progress(judge.cells), cutoff, pictures, judge.seen)


class _Cells:
    """`cells[block, t]` of a judge."""

    def __init__(self, judge: Judge):
        self.judge = judge

    def __getitem__(self, cell: CellKey) -> Any:
        return self.judge.read(*cell)


def check_maps(judge: Judge) -> None:
    """SpecError unless all cells hold maps."""
    for cell in judge.cells:
        _check_map(cell, judge.shape(cell))


def _check_map(cell: CellKey, shape: tuple[int, ...]) -> None:
    if len(shape) != 4:
        raise SpecError(
            f"block {cell[0]!r} at t={format_t(cell[1])} holds vectors, whose frequencies are "
            "lost; extract with --pool none, or search straight from the model"
        )


def frequency_guess(
    store: Any,
    cells: Iterable[CellKey],
    cutoff: float = CUTOFF,
    pictures: int = PICTURES,
    rows: np.ndarray | None = None,
) -> FrequencyGuess:
    """Ratios of cells whose maps are stored, over pictures spread through the file.

    Args:
        store: `store[block, t]` is an array (N, C, H, W), or what reads like one.
        rows: which pictures may be looked at, such as `Task.seen`; None means all.

    Raises:
        SpecError: a cell holds no maps.
        NumericsError: nan or inf.
    """
    ratios, counted = {}, 0
    for cell in cells:
        data = store[cell]
        _check_map(cell, data.shape)
        runs = runs_among(data.shape[0], pictures, rows)
        counted = sum(map(len, runs))
        found = [high_frequency_ratio(Sliced(data)[run], cutoff) for run in runs]
        ratios[cell] = mean_ratio(cell, found)
    return FrequencyGuess(ratios, cutoff, counted)


def runs_among(total: int, count: int, rows: np.ndarray | None = None) -> list[np.ndarray]:
    """Runs of about `count` rows in all, spread over `rows`, or over all `total` rows."""
    allowed = np.arange(total) if rows is None else np.unique(rows)
    if not len(allowed):
        raise SpecError("no pictures to look at; expected at least one row")
    return [allowed[start:stop] for start, stop in spread(len(allowed), count)]


def spread(total: int, count: int) -> list[tuple[int, int]]:
    """(start, stop) of runs of at most 8 rows, about `count` in all, spread over `total`.

    Files are often sorted by class, so the first rows would speak for few classes.
    """
    if count >= total:
        return [(start, min(start + RUN, total)) for start in range(0, total, RUN)]
    size = min(RUN, count)
    starts = np.linspace(0, total - size, max(1, count // size)).astype(int)
    return [(int(start), int(start) + size) for start in starts]


def mean_ratio(cell: CellKey, found: list[np.ndarray]) -> float:
    """Mean over pictures; NumericsError if a map was not finite."""
    value = float(np.concatenate(found).mean())
    if not np.isfinite(value):
        raise NumericsError(
            f"the maps of block {cell[0]!r} at t={format_t(cell[1])} contain nan or inf; expected "
            "finite numbers: extract them again, with --dtype float32 if float16 was too narrow"
        )
    return value


def _spearman(
    ratios: Mapping[CellKey, float], scores: Mapping[CellKey, float], cells: list[CellKey]
) -> float | None:
    """Spearman's rank correlation; None for fewer than three cells or where nothing varies."""
    from scipy.stats import spearmanr

    first, second = [ratios[cell] for cell in cells], [scores[cell] for cell in cells]
    if len(cells) < 3 or len(set(first)) < 2 or len(set(second)) < 2:
        return None
    return float(spearmanr(first, second).statistic)
