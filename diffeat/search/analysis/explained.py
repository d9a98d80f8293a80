"""What a linear head goes by: exact Shapley values by block, t, channel and site."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy as np

import diffeat.companions  # noqa: F401 - before anything imports `probes`
from diffeat.errors import NumericsError, SpecError, nearest
from diffeat.noise import format_t
from diffeat.search.applied import Applied, Piece
from diffeat.search.kept import HeadNote
from diffeat.search.tasks import cell_name
from diffeat.specs import pool_size
from probes.shapley import grouped, linear_shapley, linear_weights

WAYS = ("cell", "block", "t", "channel", "site")
"""What features are put together by."""
PREDICTED, TRUE = "predicted", "true"
"""Which score of a picture is explained, where no class is named."""


@dataclass(frozen=True)
class Features:
    """Where the D features of a head come from: cell after cell, channel-major.

    Attributes:
        cells: (block, t) of each.
        channels: C of each cell.
        grid: (k, k) of all; (1, 1) of means over the picture.
    """

    cells: tuple[tuple[str, float], ...]
    channels: tuple[int, ...]
    grid: tuple[int, int]

    @classmethod
    def of(cls, note: HeadNote, widths: Sequence[int]) -> Features:
        """Of a head whose cells are so wide."""
        grid = pool_size(note.spec.pool) or (1, 1)
        sites = grid[0] * grid[1]
        return cls(note.cells, tuple(width // sites for width in widths), grid)

    def groups(self, by: str) -> tuple[np.ndarray, list[str]]:
        """(D,) which group a feature is of, and the groups' names.

        Raises:
            SpecError: an unknown way.
        """
        if by not in WAYS:
            raise SpecError(f"by={by!r}{nearest(by, WAYS)}; expected one of {', '.join(WAYS)}")
        sites, names, found = self.grid[0] * self.grid[1], {}, []
        for cell, channels in zip(self.cells, self.channels, strict=True):
            for c in range(channels):
                for site in range(sites):
                    name = self._name(by, cell, c, site)
                    found.append(names.setdefault(name, len(names)))
        return np.array(found), list(names)

    def _name(self, by: str, cell: tuple[str, float], channel: int, site: int) -> str:
        if by == "block":
            return cell[0]
        if by == "t":
            return f"t={format_t(cell[1])}"
        if by == "channel":
            return f"{cell[0]} t={format_t(cell[1])}, channel {channel}"
        if by == "site":
            return f"row {site // self.grid[1]}, column {site % self.grid[1]}"
        return f"{cell[0]} t={format_t(cell[1])}"


@dataclass
class Explanation:
    """Shapley values of a linear head over the pictures of a file.

    Args:
        applied: the head.
        features: where its features come from.
        which: a class's name (or output), `PREDICTED` or `TRUE`.
        truth: (N,) class index of each picture, where `which` is `TRUE`; −1 is not known.

    Attributes:
        mean: (D,) of the background, which `look` fills in.
        rows: how many pictures were explained.
        names: of the head's scores.
    """

    applied: Applied
    features: Features
    which: str = PREDICTED
    truth: np.ndarray | None = None
    mean: np.ndarray = field(init=False)
    rows: int = field(init=False, default=0)

    def __post_init__(self) -> None:
        try:
            self.weights, self.offsets = linear_weights(self.applied.head)
        except ValueError as error:
            raise SpecError(str(error)) from error
        self.names = tuple(self.applied.names)
        if self.which not in (PREDICTED, TRUE, *self.names):
            raise SpecError(
                f"class {self.which!r}{nearest(self.which, self.names)}; expected one of "
                f"{', '.join(self.names[:20])}, {PREDICTED} or {TRUE}"
            )
        if self.which == PREDICTED and self.applied.kind == "numbers" and len(self.weights) > 1:
            raise SpecError("this head gives several numbers, of which none is the predicted one; "
                            f"name one: {', '.join(self.names[:20])}")  # fmt: skip
        if self.which == TRUE and (self.truth is None or (self.truth < 0).all()):
            raise SpecError("no picture has a label of a class that the head knows, so none is "
                            f"explained by it; name a class, or say {PREDICTED}")  # fmt: skip

    def look(self, pieces: Iterator[Piece]) -> Explanation:
        """One pass over the background: the mean of every feature."""
        total, count = 0.0, 0
        for x, _ in self._tables(pieces):
            total, count = total + x.sum(0), count + len(x)
        if not count:
            raise SpecError("no pictures; expected some to compare with")
        self.mean = total / count
        return self

    def values(self, pieces: Iterator[Piece]) -> Iterator[tuple[np.ndarray, np.ndarray, Any]]:
        """Per piece (n, D) Shapley values, (n,) index of the explained score, (n,) rows.

        Pictures without a label are left out where the true class is explained.
        """
        for x, rows in self._tables(pieces):
            scores = self._scores(x, rows)
            kept = scores >= 0
            weights = self.weights[scores[kept]]
            yield linear_shapley(weights, x[kept], self.mean), scores[kept], rows[kept]

    def summary(self, pieces: Iterator[Piece], by: str = "cell") -> Shares:
        """Over all pictures: how much each group adds, on average, and which way."""
        groups, names = self.features.groups(by)
        count, size = len(names), len(self.weights)
        sums, signed = np.zeros((size, count)), np.zeros((size, count))
        seen = np.zeros(size, np.int64)
        for phi, scores, _ in self.values(pieces):
            found = grouped(phi, groups, count)
            np.add.at(sums, scores, np.abs(found))
            np.add.at(signed, scores, found)
            np.add.at(seen, scores, 1)
        if not seen.sum():
            raise SpecError("no picture was explained; expected some with a label")
        self.rows = int(seen.sum())
        return Shares(by, names, self.names, sums, signed, seen)

    def sites(self, phi: np.ndarray) -> np.ndarray:
        """(n, k, k) what the places of pictures add, all cells and channels together."""
        groups, _ = self.features.groups("site")
        count = self.features.grid[0] * self.features.grid[1]
        return grouped(phi, groups, count).reshape(len(phi), *self.features.grid)

    def _tables(self, pieces: Iterator[Piece]) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        """(n, D) float64 rows, cells side by side, and their (n,) numbers."""
        for piece in pieces:
            if not len(piece.rows):
                continue
            parts = []
            for cell in self.features.cells:
                values = np.asarray(piece.arrays[cell], np.float64)
                if values.ndim != 2:
                    raise SpecError(f"{cell_name(cell)} holds maps; a head of vectors takes those "
                                    "of --pool 1x1, 2x2, …")  # fmt: skip
                if not np.isfinite(values).all():
                    raise NumericsError(f"the features of {cell_name(cell)} contain nan or inf; "
                                        "extract them again")  # fmt: skip
                parts.append(values)
            yield np.concatenate(parts, 1), piece.rows

    def _scores(self, x: np.ndarray, rows: np.ndarray) -> np.ndarray:
        """(n,) which score of each picture is explained; −1 is none."""
        if self.which == TRUE:
            return self.truth[rows]
        if self.which in self.names:
            return np.full(len(x), self._place(self.names.index(self.which)))
        if len(self.weights) == 1:
            return np.zeros(len(x), np.int64)
        return (x @ self.weights.T + self.offsets).argmax(1)

    def _place(self, index: int) -> int:
        return min(index, len(self.weights) - 1)


@dataclass(frozen=True, eq=False)
class Shares:
    """How much groups of features add to the scores of many pictures.

    Attributes:
        by: what they were put together by.
        groups: G names.
        names: of the M scores.
        sums: (M, G) sums over pictures of |phi| of the explained score; signed: of phi.
        seen: (M,) pictures of each explained score.
    """

    by: str
    groups: list[str]
    names: tuple[str, ...]
    sums: np.ndarray
    signed: np.ndarray
    seen: np.ndarray

    @cached_property
    def share(self) -> np.ndarray:
        """(G,) of the sum of mean |phi| over groups."""
        total = self.sums.sum(0)
        return total / (total.sum() or 1.0)

    @property
    def mean(self) -> np.ndarray:
        """(G,) mean over pictures of phi, in units of the score."""
        return self.signed.sum(0) / self.seen.sum()

    @property
    def magnitude(self) -> np.ndarray:
        """(G,) mean over pictures of |phi|."""
        return self.sums.sum(0) / self.seen.sum()

    def strongest(self, group: int) -> str:
        """The score that a group speaks for most, by the mean of phi over its pictures."""
        with np.errstate(invalid="ignore", divide="ignore"):
            each = np.where(self.seen > 0, self.signed[:, group] / self.seen, -np.inf)
        return self.names[int(each.argmax())]

    def _each(self, group: int) -> dict[str, float]:
        """By score the mean of phi over the pictures that it was explained for."""
        return {f"mean phi of {self.names[m]}": float(self.signed[m, group] / self.seen[m])
                for m in np.flatnonzero(self.seen).tolist()}  # fmt: skip

    def rows(self, top: int | None = None, each: bool = False) -> list[dict[str, Any]]:
        """Groups by falling share.

        Args:
            top: only so many.
            each: whether the mean of phi stands there for every score, too.
        """
        order = np.argsort(-self.share, kind="stable")[:top]
        return [
            {self.by: self.groups[g], "share": float(self.share[g]),
             "mean |phi|": float(self.magnitude[g]), "mean phi": float(self.mean[g]),
             "most for": self.strongest(g), **(self._each(g) if each else {})}
            for g in order.tolist()
        ]  # fmt: skip
