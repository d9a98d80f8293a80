"""Cells by the grids of their maps, brought to one scale, and mixed: what pyramids begin with."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from probes.layers import resized
from probes.network import Shapes
from probes.standardise import Standardize, varies

Key = tuple[str, float]


@dataclass(frozen=True)
class Level:
    """The cells of one grid.

    Attributes:
        size: (h, w). members: their places. channels: of all of them.
    """

    size: tuple[int, int]
    members: tuple[int, ...]
    channels: int

    def joined(self, cells: Sequence[torch.Tensor]) -> torch.Tensor:
        """(n, channels, h, w), one after the other."""
        parts = [cells[k] for k in self.members]
        return torch.cat([resized(part, parts[0].shape[2:]) for part in parts], 1)


def levels_of(shapes: Shapes) -> list[Level]:
    """Cells (C, h, w) by grid, the finest first."""
    sizes = sorted({tuple(shape[1:]) for shape in shapes}, key=lambda s: (-s[0] * s[1], s))
    found = []
    for size in sizes:
        members = tuple(k for k, shape in enumerate(shapes) if tuple(shape[1:]) == size)
        found.append(Level(size, members, sum(shapes[k][0] for k in members)))
    return found


class TimeMix(nn.Module):
    """Each block's maps as one: softmax weights over its t, begun alike.

        y_b = sum over t of softmax(10·a_b)_t · r_bt

    Adam moves a scalar by no more than the learning rate a step; the factor lets short trainings
    choose, as in `probes.aggregate.mixer`.

    Args:
        keys: (block, t) of each cell.
        shapes: (C, h, w) of each, one C and grid a block.
    """

    def __init__(self, keys: Sequence[Key], shapes: Shapes):
        super().__init__()
        blocks = list(dict.fromkeys(block for block, _ in keys))
        self.members = [[k for k, key in enumerate(keys) if key[0] == block] for block in blocks]
        for block, members in zip(blocks, self.members, strict=True):
            if len(found := {tuple(shapes[k]) for k in members}) > 1:
                raise ValueError(f"block {block} has maps of {sorted(found)} at its t; expected "
                                 "one shape to mix")  # fmt: skip
        self.shapes = [tuple(shapes[members[0]]) for members in self.members]
        self.scalars = nn.ParameterList(
            nn.Parameter(torch.zeros(len(members))) for members in self.members
        )

    @property
    def weights(self) -> torch.Tensor:
        """(S,) of the cells, in their order; those of a block sum to 1."""
        found = torch.empty(sum(map(len, self.members)))
        for members, scalars in zip(self.members, self.scalars, strict=True):
            found[members] = (10 * scalars.detach().cpu()).softmax(0)
        return found

    def forward(self, *cells: torch.Tensor) -> list[torch.Tensor]:
        return [
            torch.einsum("t,tnchw->nchw", (10 * scalars).softmax(0),
                         torch.stack([cells[k] for k in members]))
            for members, scalars in zip(self.members, self.scalars, strict=True)
        ]  # fmt: skip


def scales(batches: Any, count: int) -> nn.ModuleList:
    """`Standardize` for every cell, by the moments of its channels over the sites of the training
    rows; all cells in one pass, in float64."""
    pairs = [Standardize(*(one.float().cpu() if not one.is_meta else one.float() for one in pair))
             for pair in _moments(batches, count)]  # fmt: skip
    return nn.ModuleList(pairs)


def _moments(batches: Any, count: int) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
    """(C,) mean and deviation of every cell, 1 where a channel is constant (Chan et al. 1979)."""
    standing: list[tuple[int, Any, Any]] = [(0, 0.0, 0.0)] * count
    for parts, _ in batches.ordered():
        for k, part in enumerate(parts):
            n, mean, square = standing[k]
            x = part.double().movedim(1, 0).flatten(1)  # (C, n·h·w)
            here, more = x.mean(1), x.shape[1]
            spread, step = (x - here[:, None]).square().sum(1), here - mean
            square = square + spread + step.square() * (n * more / (n + more))
            standing[k] = n + more, mean + step * (more / (n + more)), square
    for n, mean, square in standing:
        deviation = (square / n).sqrt()
        yield mean, torch.where(varies(deviation, mean), deviation, torch.ones_like(deviation))
