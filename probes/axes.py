"""One side of a map, read between its rows or columns; separable, so two of them make a picture."""

from __future__ import annotations

from functools import cached_property

import numpy as np
import torch

from probes.maps import neighbours

CLOSE = 1e-9
"""Sites by which positions may miss whole numbers and still be a map's own rows or columns."""
CHANNELS = 64
"""Of a map, that are float64 at a time."""
TRUNCATE = 4.0
"""Sigmas at which a Gaussian ends, as in `scipy.ndimage`."""


class Axis:
    """(L,) positions between the g rows (or columns) of a map: linear, clamped at both ends.

    Attributes:
        cells: g.
        start: the first row, where the positions are the map's own rows in order; else None.
    """

    def __init__(self, positions: np.ndarray, cells: int, like: torch.Tensor):
        self.positions, self.cells = positions, cells
        self.dtype, self.device = like.dtype, like.device
        first = round(float(positions[0])) if len(positions) else 0
        inside = first >= 0 and first + len(positions) <= cells
        own = inside and (np.abs(positions - first - np.arange(len(positions))) < CLOSE).all()
        self.start = first if own else None

    @cached_property
    def corners(self) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """(L,) int64 neighbours before and after, and (L,) float64 weight of the latter."""
        like = torch.zeros(0, dtype=torch.float64, device=self.device)
        return neighbours(self.positions, self.cells, like)

    @cached_property
    def low(self) -> np.ndarray:
        """(L,) int64 neighbours before again, as numpy, so that nobody waits for a device."""
        return self.corners[0].cpu().numpy()

    @cached_property
    def matrix(self) -> torch.Tensor:
        """(L, g), rows of which sum to 1, in the map's dtype."""
        before, after, weight = (one[:, None] for one in self.corners)
        shape = len(self), self.cells
        matrix = torch.zeros(shape, dtype=torch.float64, device=self.device)
        matrix.scatter_(1, before, 1 - weight).scatter_add_(1, after, weight)
        return matrix.to(self.dtype)

    def __len__(self) -> int:
        return len(self.positions)

    def read(self, values: torch.Tensor, first: int, last: int) -> torch.Tensor:
        """(g, …) → (last − first, …): at some of the positions; only rows beside them are read."""
        if self.start is not None:
            return values[self.start + first : self.start + last]
        low = self.low[first:last]
        a, b = int(low.min()), min(int(low.max()) + 2, self.cells)
        flat = values[a:b].reshape(b - a, -1)
        return (self.matrix[first:last, a:b] @ flat).view(last - first, *values.shape[1:])

    def across(self, values: torch.Tensor, first: int, last: int) -> torch.Tensor:
        """(…, g) → (…, last − first), of the last side."""
        if self.start is not None:
            return values[..., self.start + first : self.start + last]
        return values @ self.matrix[first:last].T


def squares(values: torch.Tensor, down: Axis, across: Axis) -> tuple[torch.Tensor, torch.Tensor]:
    """|f|² of a map read at positions, without reading it there.

    With the four neighbours' weights, |f|² is a quadratic form of five Gram maps: <f, f>,
    <f, right>, <f, below>, <f, below right> and <right, below>.

    Args:
        values: (C, h, w).
        down, across: (Y,) rows and (X,) columns.

    Returns:
        (Y, X) float64; and (Y, X) float64 |f|² interpolated, which it is where neighbours are
        alike and which says how much of them cancels.
    """
    if down.start is not None and across.start is not None:
        rows, columns = (slice(one.start, one.start + len(one)) for one in (down, across))
        own = values.new_zeros((len(down), len(across)), dtype=torch.float64)
        few = CHANNELS // 4
        room = own.new_empty((few, *own.shape))  # once: fresh memory costs more than sums
        for part in values[:, rows, columns].split(few):
            exact = room[: len(part)].copy_(part)
            own += exact.mul_(exact).sum(0)
        return own, own
    own, right, below, diagonal, other = grams(values)
    a, b, u = across.corners
    beside = right[:, a] * (2 * u * (1 - u))
    level = own[:, a] * (1 - u) ** 2 + beside + own[:, b] * u**2  # (h, X)
    mixed = (diagonal + other)[:, a] * (u * (1 - u))
    between = below[:, a] * (1 - u) ** 2 + mixed + below[:, b] * u**2
    top, bottom, v = down.corners
    v = v[:, None]
    found = level[top] * (1 - v) ** 2 + level[bottom] * v**2 + between[top] * (2 * v * (1 - v))
    plain = torch.lerp(own[:, a], own[:, b], u)
    return found, torch.lerp(plain[top], plain[bottom], v)


def grams(values: torch.Tensor) -> tuple[torch.Tensor, ...]:
    """The five (h, w) float64 Gram maps of a (C, h, w) map; borders go on beyond the last site."""
    _, h, w = values.shape
    found = torch.zeros(5, h, w, dtype=torch.float64, device=values.device)
    own, right, below, diagonal, other = found
    for part in values.split(CHANNELS):
        f = part.double()
        own += f.square().sum(0)
        right[:, :-1] += (f[:, :, :-1] * f[:, :, 1:]).sum(0)
        below[:-1] += (f[:, :-1] * f[:, 1:]).sum(0)
        diagonal[:-1, :-1] += (f[:, :-1, :-1] * f[:, 1:, 1:]).sum(0)
        other[:-1, :-1] += (f[:, :-1, 1:] * f[:, 1:, :-1]).sum(0)
    right[:, -1] = own[:, -1]
    below[-1] = own[-1]
    diagonal[-1], diagonal[:, -1] = right[-1], below[:, -1]
    other[-1], other[:, -1] = right[-1], below[:, -1]
    return own, right, below, diagonal, other


def gaussian(cells: int, sigma: float, like: torch.Tensor) -> torch.Tensor:
    """(g, g) that smooths one side of a map; beyond its ends the outermost sites go on."""
    reach = int(TRUNCATE * sigma + 0.5)
    steps = np.arange(-reach, reach + 1)
    weights = np.exp(-0.5 * (steps / sigma) ** 2)
    weights /= weights.sum()
    matrix = np.zeros((cells, cells))
    at = np.arange(cells)[:, None]
    np.add.at(matrix, (np.broadcast_to(at, (cells, len(steps))), np.clip(at + steps, 0, cells - 1)),
              weights)  # fmt: skip
    return torch.from_numpy(matrix).to(like)
