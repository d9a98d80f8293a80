"""The sites of earlier frames that are most like each site of a frame, near it: exact, and sparse.

Of two grids only sites within a radius are compared. Tiles of the target are multiplied with the
window around them, frame by frame; so of a (sites × frames·sites) affinity, which would take
gigabytes, a few megabytes are there at a time. The k largest of a line lie in those k of its rows
whose largest members are largest; so but one pass goes over all similarities.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch

TILE = {"cpu": 8, "cuda": 16}
"""Sides of a tile: small ones waste least on what lies outside the radius."""
ROOM = {"cpu": 1 << 23, "cuda": 1 << 26}
"""Similarities that are held at a time."""


@dataclass(frozen=True)
class Tile:
    """Rows and columns of the target, and those of the window around them."""

    rows: range
    columns: range
    near_rows: range
    near_columns: range

    def __len__(self) -> int:
        return len(self.rows) * len(self.columns)

    def of(self, values: torch.Tensor) -> torch.Tensor:
        """(h, w, C) → (sites of the tile, C)."""
        return values[_slice(self.rows), _slice(self.columns)].flatten(0, 1)

    def near(self, values: torch.Tensor) -> torch.Tensor:
        """(h, w, C) → (rows of the window, its columns, C), the same memory."""
        return values[_slice(self.near_rows), _slice(self.near_columns)]

    def outside(self, radius: int, device: torch.device) -> tuple[torch.Tensor, torch.Tensor]:
        """(window's rows, sites) and (sites, window's columns) bool: further away than the radius.

        The neighbourhood is a square: rows and columns count, each for itself.
        """
        rows, columns, near_rows, near_columns = (
            torch.arange(one.start, one.stop, device=device)
            for one in (self.rows, self.columns, self.near_rows, self.near_columns)
        )
        own = torch.cartesian_prod(rows, columns).view(-1, 2)
        return ((near_rows[:, None] - own[:, 0]).abs() > radius,
                (near_columns - own[:, 1:]).abs() > radius)  # fmt: skip


def tiles(grid: tuple[int, int], radius: int, side: int) -> Iterator[Tile]:
    """Cut a grid, row by row."""
    (h, w) = grid
    for top in range(0, h, side):
        for left in range(0, w, side):
            rows, columns = range(top, min(top + side, h)), range(left, min(left + side, w))
            yield Tile(rows, columns, _around(rows, radius, h), _around(columns, radius, w))


def nearest_sites(
    target: torch.Tensor, frames: Sequence[torch.Tensor], radius: int | None, k: int
) -> tuple[torch.Tensor, torch.Tensor]:
    """The k sites of all frames together with the largest dots, within a radius of each site.

    Args:
        target: (h, w, C), contiguous.
        frames: F of the same shape, contiguous.
        radius: in sites, along rows and along columns; None: everywhere.
        k: how many; where fewer sites are near, so many.

    Returns:
        (h·w, k') int64 sites, counted through the frames: f·h·w + row·w + column; and
        (h·w, k') dots, −inf where fewer sites are near.
    """
    h, w, _ = target.shape
    radius = max(h, w) if radius is None else radius
    reach = min(2 * radius + 1, h) * min(2 * radius + 1, w)
    k = min(k, len(frames) * reach)
    sites = torch.zeros(h, w, k, dtype=torch.int64, device=target.device)
    dots = target.new_full((h, w, k), -torch.inf)
    for tile in tiles((h, w), radius, _side(target, len(frames), radius)):
        where, what = _of_tile(tile, target, frames, radius, k)
        at = _slice(tile.rows), _slice(tile.columns), slice(0, where.shape[1])
        sites[at], dots[at] = (one.view(len(tile.rows), len(tile.columns), -1)
                               for one in (where, what))  # fmt: skip
    return sites.view(h * w, k), dots.view(h * w, k)


def _of_tile(
    tile: Tile, target: torch.Tensor, frames: Sequence[torch.Tensor], radius: int, k: int
) -> tuple[torch.Tensor, torch.Tensor]:
    """(m, k') sites and dots of the m sites of a tile; at a corner less than k can be near."""
    h, w, _ = target.shape
    own, count = tile.of(target), len(tile)
    rows, columns = len(tile.near_rows), len(tile.near_columns)
    far_rows, far_columns = tile.outside(radius, target.device)
    bias = torch.zeros(count, columns, dtype=target.dtype, device=target.device)
    bias = bias.masked_fill_(far_columns, -torch.inf).expand(rows, count, columns)
    own = own.expand(rows, *own.shape)
    found = target.new_empty(len(frames), rows, count, columns)
    for place, frame in enumerate(frames):
        torch.baddbmm(bias, own, tile.near(frame).transpose(1, 2), out=found[place])
    best = found.amax(3).masked_fill_(far_rows, -torch.inf)  # (F, rows, m)
    best = best.flatten(0, 1).T
    _, lines = best.topk(min(k, best.shape[1]), dim=1, sorted=False)  # (m, k): f·rows + row
    each = torch.arange(count, device=target.device)[:, None]
    few = found.flatten(0, 1)[lines, each]  # (m, k, columns)
    few.masked_fill_(best.gather(1, lines).isneginf()[..., None], -torch.inf)
    few = few.flatten(1)
    dots, at = few.topk(min(k, few.shape[1]), dim=1)
    line = lines.gather(1, at // columns)
    frame, row = line // rows, line % rows + tile.near_rows.start
    return (frame * h + row) * w + at % columns + tile.near_columns.start, dots


def _side(target: torch.Tensor, frames: int, radius: int) -> int:
    """The side of a tile whose similarities fit."""
    h, w, _ = target.shape
    kind = target.device.type
    side = TILE.get(kind, TILE["cuda"])
    while side > 1:
        near = min(side + 2 * radius, h) * min(side + 2 * radius, w)
        if side * side * near * frames <= ROOM.get(kind, ROOM["cuda"]):
            break
        side //= 2
    return side


def _around(line: range, radius: int, end: int) -> range:
    return range(max(0, line.start - radius), min(end, line.stop + radius))


def _slice(line: range) -> slice:
    return slice(line.start, line.stop)
