"""Similarities of points with all places of a picture, computed in strips that fit a cache."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from probes.axes import Axis
from probes.matching.placed import TINY, Placed
from probes.matching.regions import Window

STRIP = {"cpu": 1 << 17, "cuda": 1 << 24}
"""Similarities of a strip: few enough for a core's cache, enough to keep a GPU busy."""
NEAR = 1e-6
"""Sites by which a place may be further away than a limit and still count as within: rounding."""


@dataclass(frozen=True, eq=False)
class Layer:
    """Dots of n vectors with a map, (h, n, X), read across already; and how they are read down."""

    dots: torch.Tensor
    down: Axis

    @property
    def own(self) -> bool:
        """Whether all rows that are read are the map's own."""
        return self.down.start is not None

    def line(self, rows: torch.Tensor) -> torch.Tensor:
        """(n, X): of every vector one row."""
        each = torch.arange(len(rows), device=rows.device)
        if self.own:
            return self.dots[self.down.start + rows, each]
        above, below, weight = (one[rows] for one in self.down.corners)
        weight = weight.to(self.dots.dtype)[:, None]
        return torch.lerp(self.dots[above, each], self.dots[below, each], weight)


@dataclass(frozen=True, eq=False)
class Group:
    """Layers whose dots add before anything else is done to them.

    Attributes:
        norms: (Y, X), see `Placed.norms`; None: what is read are similarities already.
        own: (n,) |s|² of the vectors ("l2"), whose similarity counts `weight` times.
    """

    layers: list[Layer]
    norms: torch.Tensor | None = None
    own: torch.Tensor | None = None
    weight: float = 1.0

    def strip(self, first: int, last: int) -> torch.Tensor:
        """(last − first, n, X) similarities."""
        norms = None if self.norms is None else self.norms[first:last, None]
        parts = [layer.down.read(layer.dots, first, last) for layer in self.layers]
        return self._similar(parts, norms, not any(one.own for one in self.layers))

    def line(self, rows: torch.Tensor) -> torch.Tensor:
        """(n, X) similarities: of every vector one row."""
        norms = None if self.norms is None else self.norms[rows]
        return self._similar([layer.line(rows) for layer in self.layers], norms, True)

    def _similar(
        self, parts: list[torch.Tensor], norms: torch.Tensor | None, fresh: bool
    ) -> torch.Tensor:
        """`fresh`: the memory is ours to write to."""
        dots = parts[0]
        for part in parts[1:]:
            dots = dots + part
        if norms is None:
            return dots
        if self.own is None:
            return dots.mul_(norms) if fresh else dots * norms
        apart = (norms + self.own[:, None]).sub_(dots, alpha=2).clamp_min_(0)
        return apart.sqrt_().mul_(-self.weight)


class Surfaces:
    """Similarities of n vectors of a source with the places of a target.

    Args:
        target: the picture that is searched.
        vectors: cell → (n, C) of the source, see `Placed.vectors`.
        window: the part of `target.answers` that is searched.

    Attributes:
        known: (n,) bool, False for a vector that is zero ("cosine").
    """

    def __init__(self, target: Placed, vectors: Mapping[Any, torch.Tensor], window: Window):
        self.target, self.window = target, window
        self.count = len(next(iter(vectors.values())))
        self.device = target.device
        between = target.rule.resolution == "similarity"
        first = Window.whole(target.compared) if between else window
        pairs = [_group(target, number, vectors, first) for number in range(len(target.groups))]
        self.groups = [group for group, _ in pairs]
        self.known = _any([known for _, known in pairs])
        if between:
            down, across = target.between
            sites = self._strip(*first.rows)  # (h, n, w)
            self.groups = [Group([Layer(across.across(sites, *window.columns), down)])]
        # nothing is read between rows, so that a strip holds what a line does, to the last digit
        self.own = all(one.own for group in self.groups for one in group.layers)
        self.outside = None
        if window.outside is not None:
            self.outside = torch.from_numpy(window.outside).to(self.device)

    def _strip(self, first: int, last: int) -> torch.Tensor:
        """(rows, n, X), rows counted from the lattice's first."""
        parts = [group.strip(first, last) for group in self.groups]
        return parts[0] if len(parts) == 1 else sum(parts[1:], parts[0])

    def strips(self) -> Iterator[tuple[int, torch.Tensor]]:
        """First row in the window, and (rows, n, X) similarities; -inf outside."""
        (begin, end), width = self.window.rows, self.window.shape[1]
        rows = max(1, STRIP.get(self.device.type, STRIP["cuda"]) // max(1, self.count * width))
        for first in range(begin, end, rows):
            last = min(first + rows, end)
            found = self._strip(first, last)
            if self.outside is not None:
                found = found.masked_fill(self.outside[first - begin : last - begin, None],
                                          -torch.inf)  # fmt: skip
            yield first - begin, found

    def best(self) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """(n,) rows and columns in the window of the most similar places, and (n,) similarities.

        Of several, the first, row by row. A strip leaves but each row's largest; the row that
        wins is read again, unless the places are the sites themselves and few.
        """
        tops = []
        for _, strip in self.strips():
            if self.own and len(strip) == self.window.shape[0]:
                score, place = strip.transpose(0, 1).flatten(1).max(1)  # (n,)
                row = torch.div(place, strip.shape[2], rounding_mode="floor")
                return row, place - row * strip.shape[2], score
            tops.append(strip.amax(2))
        row = torch.cat(tops).argmax(0)  # of (Y, n)
        parts = [group.line(row + self.window.rows[0]) for group in self.groups]
        line = parts[0] if len(parts) == 1 else sum(parts[1:], parts[0])
        if self.outside is not None:
            line = line.masked_fill(self.outside[row], -torch.inf)
        score, column = line.max(1)
        return row, column, score

    def whole(self) -> torch.Tensor:
        """(n, Y, X) similarities of the window; -inf outside."""
        kind = self.groups[0].layers[0].dots.dtype
        found = torch.empty(self.count, *self.window.shape, dtype=kind, device=self.device)
        for first, strip in self.strips():
            found[:, first : first + len(strip)] = strip.transpose(0, 1)
        return found

    @property
    def most(self) -> float:
        """The largest sum of cosines that there can be."""
        return sum(self.target.shares)

    def lines(self) -> tuple[torch.Tensor, torch.Tensor]:
        """(X,) x and (Y,) y of the window's places, float64 pixels."""
        answers, window = self.target.answers, self.window
        x, y = answers.x[slice(*window.columns)], answers.y[slice(*window.rows)]
        return torch.from_numpy(x).to(self.device), torch.from_numpy(y).to(self.device)

    def places(self, rows: torch.Tensor, columns: torch.Tensor) -> np.ndarray:
        """(n, 2) x, y of rows and columns of the window."""
        columns, rows = columns.cpu().numpy(), rows.cpu().numpy()
        return self.target.answers.at(columns + self.window.columns[0], rows + self.window.rows[0])

    def from_places(
        self, rows: torch.Tensor, columns: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """(n, Y) and (n, X): along y and x from given places, in sites of the finest grid."""
        (x, y), (across, down) = self.lines(), self.target.steps().tolist()
        return (y - y[rows, None]) / down, (x - x[columns, None]) / across

    def somewhere(self, rows: torch.Tensor, columns: torch.Tensor) -> torch.Tensor:
        """(n,) bool: vectors that are not zero, found where the target's is none, either."""
        if self.target.rule.metric != "cosine":
            return torch.ones_like(self.known)
        target = self.target
        if target.rule.resolution == "similarity":
            at = target.sites.nearest(self.places(rows, columns))
            columns, rows = (torch.from_numpy(line).to(self.device) for line in at)
        else:
            columns, rows = columns + self.window.columns[0], rows + self.window.rows[0]
        return self.known & _any([norms[rows, columns] > 0 for norms in target.norms])


def _any(each: list[torch.Tensor]) -> torch.Tensor:
    """(n,) bool: whether any of them is True."""
    return each[0] if len(each) == 1 else torch.stack(each).any(0)


def _group(
    target: Placed, number: int, vectors: Mapping[Any, torch.Tensor], window: Window
) -> tuple[Group, torch.Tensor]:
    """A group of a target's cells; and (n,) which vectors are not zero."""
    vectors, own = readied(target, number, vectors)
    weight = target.shares[number]
    if target.rule.metric == "cosine" and weight != 1:
        vectors = {cell: values * weight for cell, values in vectors.items()}
    layers = [_layer(target, cell, values, window) for cell, values in vectors.items()]
    norms = target.norms[number][:, slice(*window.columns)]
    if target.rule.metric == "cosine":
        return Group(layers, norms), own > TINY
    return Group(layers, norms, own.to(norms.dtype), weight), own > TINY


def readied(
    target: Placed, number: int, vectors: Mapping[Any, torch.Tensor]
) -> tuple[dict[Any, torch.Tensor], torch.Tensor]:
    """Vectors of a group's cells, made ready for dots with a target's, wherever they are from.

    Returns:
        Cell → (n, C): together of length 1 or 0 ("cosine"), or from the target's own origin
        ("l2"); and (n,) float64 |s|² before that.
    """
    found = {cell: vectors[cell].to(target.maps[cell]) for cell in target.groups[number]}
    if target.offsets:
        found = {cell: values - target.offsets[cell] for cell, values in found.items()}
    squares = [values.double().square().sum(1) for values in found.values()]
    own = sum(squares[1:], squares[0])
    if target.rule.metric == "cosine":
        scale = own.clamp_min(TINY).rsqrt()[:, None]
        found = {cell: values * scale.to(values) for cell, values in found.items()}
    return found, own


def _layer(target: Placed, cell: Any, vectors: torch.Tensor, window: Window) -> Layer:
    values = target.maps[cell]
    down, across = target.layers[cell]
    dots = (vectors @ values.flatten(1)).view(-1, *values.shape[1:]).transpose(0, 1)  # (h, n, w)
    if down.start is None or across.start is None:
        dots = dots.contiguous()
    return Layer(across.across(dots, *window.columns), down)
