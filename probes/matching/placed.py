"""One picture made ready: its maps on the device, where answers may lie, norms computed once."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import torch

from probes.axes import Axis, gaussian, squares
from probes.checks import pick_device
from probes.maps import Maps, as_float
from probes.threads import sized

TINY = 1e-24
"""|f|² at and below which a vector counts as zero."""
CANCELLED = 1e-10
"""Share of its neighbours' |f|² below which an interpolated vector is nothing but rounding."""


@dataclass(frozen=True)
class Rule:
    """What makes two places alike; see `probes.matching.base.Matcher`.

    Attributes:
        weights: of every cell; None is 1.
    """

    metric: str = "cosine"
    combine: str = "sum"
    weights: Mapping[Any, float] | None = None
    normalise: str = "after"
    resolution: str = "picture"
    low_pass: float | None = None
    device: str = "auto"


@dataclass(frozen=True, eq=False)
class Lattice:
    """Places evenly in rows and columns: (X,) x and (Y,) y in pixels of the upright picture."""

    x: np.ndarray
    y: np.ndarray

    def points(self) -> np.ndarray:
        """(Y·X, 2) x, y, row by row."""
        x, y = np.meshgrid(self.x, self.y)
        return np.stack([x.ravel(), y.ravel()], 1)

    def nearest(self, points: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """(n,) columns and (n,) rows of the places nearest to points, int64."""
        found = []
        for line, at in zip((self.x, self.y), points.T, strict=True):
            step = line[1] - line[0] if len(line) > 1 else 1.0
            steps = np.rint((at - line[0]) / step)
            found.append(np.minimum(np.maximum(steps, 0), len(line) - 1).astype(np.int64))
        return found[0], found[1]

    def snapped(self, points: np.ndarray) -> np.ndarray:
        """(n, 2) x, y of the places nearest to points."""
        return self.at(*self.nearest(points))

    def at(self, columns: np.ndarray, rows: np.ndarray) -> np.ndarray:
        """(n, 2) x, y of (n,) columns and rows."""
        found = np.empty((len(columns), 2))
        found[:, 0], found[:, 1] = self.x[columns], self.y[rows]
        return found


class Placed:
    """One picture's maps, ready to be matched; what is asked for again is kept.

    Args:
        maps: of one picture.
        rule: how they are read.

    Raises:
        ValueError: no cell, a cell that holds no map, an empty one, or one with nan or inf.
    """

    def __init__(self, maps: Maps, rule: Rule):
        self.rule, self.cells = rule, tuple(maps.values)
        self.offsets: dict[Any, torch.Tensor] = {}
        if not self.cells:
            raise ValueError("the maps hold no cell; expected one at least")
        values = {cell: self._ready(maps, cell) for cell in self.cells}
        self.device = values[self.cells[0]].device
        self.numbers = sum(one.numel() for one in values.values())
        self.maps = Maps(values, maps.size, maps.input_size, maps.placement)
        self.finest = max(self.cells, key=lambda cell: int(np.prod(self.maps.grid(cell))))

    def _ready(self, maps: Maps, cell: Any) -> torch.Tensor:
        maps.grid(cell)  # or it is none
        values = as_float(maps[cell])
        if not values.numel():
            raise ValueError(f"the map of cell {cell} has shape {tuple(values.shape)}; expected at "
                             "least one channel and one site")  # fmt: skip
        values = values.detach().to(pick_device(self.rule.device, maps[cell]))
        with sized(values.numel(), values.device):
            return self._changed(cell, values)

    def _changed(self, cell: Any, values: torch.Tensor) -> torch.Tensor:
        """A (C, h, w) map as the rule wants it."""
        low, high = values.aminmax()  # nan, if there is one
        if not bool(torch.isfinite(high - low)):
            raise ValueError(f"the map of cell {cell} holds nan or inf; expected finite numbers")
        if self.rule.low_pass:
            sides = values.shape[1:]
            rows, columns = (gaussian(side, self.rule.low_pass, values) for side in sides)
            values = rows @ values @ columns.T
        if self.rule.normalise == "before":
            norms = torch.linalg.vector_norm(values, dim=0, dtype=torch.float64)
            values = values * norms.clamp_min(TINY**0.5).reciprocal().to(values.dtype)
        if self.rule.combine == "concat":
            values = values * self.weight(cell)
        if self.rule.metric == "l2":  # distances do not change, and less of them cancels
            self.offsets[cell] = values.mean((1, 2), dtype=torch.float64).to(values.dtype)
            values = values - self.offsets[cell][:, None, None]
        return values.contiguous()

    def weight(self, cell: Any) -> float:
        weights = self.rule.weights
        return 1.0 if weights is None else weights[cell]

    @property
    def groups(self) -> list[tuple[Any, ...]]:
        """Cells whose vectors are one: all of them ("concat"), or each by itself ("sum")."""
        if self.rule.combine == "concat":
            return [self.cells]
        return [(cell,) for cell in self.cells]

    @property
    def shares(self) -> list[float]:
        """What each group's similarity counts in the sum."""
        single = self.rule.combine == "concat"
        return [1.0] if single else [self.weight(cell) for cell in self.cells]

    @cached_property
    def pixels(self) -> Lattice:
        """The pixels that the input shows."""
        x, y = (np.flatnonzero(line).astype(float) for line in self.maps.shown())
        if not len(x) or not len(y):
            raise ValueError(f"the input, placed at {self.maps.numbers}, shows no pixel of the "
                             f"picture, {self.maps.size}; expected one at least")  # fmt: skip
        return Lattice(x, y)

    @cached_property
    def sites(self) -> Lattice:
        """Centres of all sites of the finest grid, also of those in a padding."""
        h, w = self.maps.grid(self.finest)
        x = self.maps.points(np.stack([np.arange(w), np.zeros(w)], 1), self.finest)[:, 0]
        return Lattice(x, self.maps.points(np.stack([np.zeros(h), np.arange(h)], 1),
                                           self.finest)[:, 1])  # fmt: skip

    @cached_property
    def inner(self) -> Lattice:
        """Those of them that lie in the picture; the nearest, where none does."""
        lines = []
        for line, side in ((self.sites.x, self.maps.size[1]), (self.sites.y, self.maps.size[0])):
            kept = line[(line >= -0.5) & (line <= side - 0.5)]
            middle = line[[np.abs(line - (side - 1) / 2).argmin()]]
            lines.append(kept if len(kept) else np.clip(middle, -0.5, side - 0.5))
        return Lattice(*lines)

    @property
    def answers(self) -> Lattice:
        """Where a match may lie."""
        return self.inner if self.rule.resolution == "site" else self.pixels

    @property
    def compared(self) -> Lattice:
        """Where features are compared."""
        return self.sites if self.rule.resolution == "similarity" else self.answers

    def steps(self) -> np.ndarray:
        """(2,) pixels between sites of the finest grid, along x and y."""
        here, there = self.maps.points([[0.0, 0.0], [1.0, 1.0]], self.finest)
        return np.abs(there - here)

    def grid(self, stride: int | str) -> Lattice:
        """Every so many-th pixel of the picture, or the centres of sites ("site")."""
        if stride == "site":
            return self.inner
        if isinstance(stride, str) or stride != int(stride) or stride < 1:
            raise ValueError(f"stride={stride!r}; expected whole pixels >= 1, or 'site'")
        height, width = self.maps.size
        lines = (np.arange(0, side, int(stride), dtype=np.float64) for side in (width, height))
        return Lattice(*lines)

    def corners(self, points: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """(n, 4, 2) centres of the sites around points, and (n, 4) their bilinear weights."""
        h, w = self.maps.grid(self.finest)
        at = np.clip(self.maps.sites(points, self.finest), 0, [w - 1, h - 1])
        low = np.minimum(at.astype(np.int64), np.maximum([w - 2, h - 2], 0))
        high, share = np.minimum(low + 1, [w - 1, h - 1]), at - low
        places, shares = [], []
        for x, along in ((low[:, 0], 1 - share[:, 0]), (high[:, 0], share[:, 0])):
            for y, down in ((low[:, 1], 1 - share[:, 1]), (high[:, 1], share[:, 1])):
                places.append(self.maps.points(np.stack([x, y], 1), self.finest))
                shares.append(along * down)
        return np.stack(places, 1), np.stack(shares, 1)

    def axes(self, cell: Any, lattice: Lattice) -> tuple[Axis, Axis]:
        """The rows and columns of a cell's map at a lattice's places."""
        h, w = self.maps.grid(cell)
        x, y = lattice.x, lattice.y
        columns = self.maps.sites(np.stack([x, np.zeros(len(x))], 1), cell)[:, 0]
        rows = self.maps.sites(np.stack([np.zeros(len(y)), y], 1), cell)[:, 1]
        return Axis(rows, h, self.maps[cell]), Axis(columns, w, self.maps[cell])

    @cached_property
    def layers(self) -> Mapping[Any, tuple[Axis, Axis]]:
        """Cell → its axes at the places where features are compared."""
        return {cell: self.axes(cell, self.compared) for cell in self.cells}

    @cached_property
    def between(self) -> tuple[Axis, Axis]:
        """The finest grid's axes at the places of answers, which similarities are read at."""
        return self.axes(self.finest, self.answers)

    @cached_property
    def norms(self) -> list[torch.Tensor]:
        """Of every group, (Y, X): 1/|f|, 0 where that is nothing ("cosine"); |f|² ("l2")."""
        with sized(5 * self.numbers, self.device):
            return [self._norm(group) for group in self.groups]

    def _norm(self, group: tuple[Any, ...]) -> torch.Tensor:
        parts = [squares(self.maps[cell], *self.layers[cell]) for cell in group]
        total, plain = (sum(each[1:], each[0]) for each in zip(*parts, strict=True))
        kind = self.maps[group[0]].dtype
        if self.rule.metric == "l2":
            found = total.clamp_min(0).to(kind)
            if not bool(torch.isfinite(found.max())):
                raise ValueError(f"squares of the maps of {list(group)} are too large for {kind}; "
                                 "give float64 maps, or divide them by a number")  # fmt: skip
            return found
        empty = (total <= TINY) | (total < CANCELLED * plain)
        return torch.where(empty, 0.0, total.clamp_min(TINY).rsqrt()).to(kind)

    def vectors(self, points: np.ndarray) -> dict[Any, torch.Tensor]:
        """Cell → (n, C) features at points; with `resolution="site"` those of the nearest site."""
        found = {}
        column, row = self.inner.nearest(points) if self.rule.resolution == "site" else (None, None)
        for cell in self.cells:
            down, across = self.layers[cell]
            if column is None:
                values = self.maps.read(cell, points)
            elif down.start is None or across.start is None:  # of a coarser grid
                values = self.maps.read(cell, self.inner.at(column, row))
            else:
                flat = self.maps[cell].flatten(1)
                place = (down.start + row) * across.cells + across.start + column
                values = flat.index_select(1, torch.from_numpy(place).to(self.device)).T
            found[cell] = values + self.offsets[cell] if self.offsets else values
        return found

    @property
    def nbytes(self) -> int:
        """What is held, about: maps, norms, and the matrices that say how maps are read."""
        maps = sum(values.nbytes for values in self.maps.values.values())
        x, y = len(self.compared.x), len(self.compared.y)
        axes = sum(y * h + x * w for h, w in map(self.maps.grid, self.cells))
        return maps + 4 * (x * y * len(self.groups) + axes) + 64 * (x + y) * len(self.cells)


class Held:
    """Pictures that were asked for, those asked for last kept while they fit.

    Args:
        read: row → a picture made ready, which says its `nbytes`.
        limit: bytes; the two of a pair are held whatever they take.
    """

    def __init__(self, read: Callable[[int], Any], limit: float):
        self.read, self.limit = read, limit
        self._held: OrderedDict[int, tuple[Any, int]] = OrderedDict()
        self._bytes = 0

    def __call__(self, *rows: int) -> list[Any]:
        """The pictures of some rows."""
        found = [self._one(row) for row in rows]
        while self._bytes > self.limit and len(self._held) > len(set(rows)):
            self._bytes -= self._held.popitem(last=False)[1][1]
        return found

    def _one(self, row: int) -> Any:
        if row not in self._held:
            made = self.read(row)
            self._held[row] = made, made.nbytes
            self._bytes += made.nbytes
        self._held.move_to_end(row)
        return self._held[row][0]
