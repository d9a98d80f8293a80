"""DPT's decoder: maps reassembled as a pyramid, and fused from the coarsest up."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import nn

from probes.dense.levels import Key, Level, levels_of
from probes.dense.pyramid import DecoderSegmenter
from probes.layers import group_norm, resized
from probes.network import Shapes

FACTORS = (4, 2, 1, -2)
"""Of four stages on one grid, from the first block to the last: ×4, ×2, ×1, ÷2."""


class ResidualUnit(nn.Module):
    """x + conv(relu(conv(relu x))), both 3×3."""

    def __init__(self, width: int):
        super().__init__()
        self.first = nn.Conv2d(width, width, 3, padding=1)
        self.second = nn.Conv2d(width, width, 3, padding=1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x + self.second(self.first(x.relu()).relu())


class FusionBlock(nn.Module):
    """One step up: y = P·up(R₂(x + R₁ f)), R residual units, P a 1×1 convolution.

    Args:
        width: of all.
        skip: whether there is an f; the coarsest has none.
    """

    def __init__(self, width: int, skip: bool):
        super().__init__()
        self.skip = ResidualUnit(width) if skip else None
        self.unit, self.project = ResidualUnit(width), nn.Conv2d(width, width, 1)

    def forward(self, x: torch.Tensor, f: torch.Tensor | None, size: Sequence[int]):
        x = x if f is None else x + self.skip(f)
        return resized(self.project(self.unit(x)), tuple(size))  # P before: it is linear


class DPT(nn.Module):
    """Reassembled stages, fused from the coarsest to the finest, and a small head.

    A stage is the cells of one grid, projected by a 1×1 and a 3×3 convolution. Where all cells
    have one grid, as a transformer's, the blocks in their order are cut into up to four stages
    that are brought to ×4, ×2, ×1 and ÷2 of it (transposed convolutions; one of stride 2). The
    head is conv 3×3, GroupNorm, ReLU, dropout and a 1×1, on twice the finest stage's grid.

    Args:
        keys: (block, t) of the maps, or whatever tells blocks apart.
        shapes: (C, h, w) of each.
        outputs: channels of what comes out.

    Source: Ranftl et al. 2021, Vision transformers for dense prediction, section 3 and figure 1;
    its readout token has no place here, and GroupNorm stands for BatchNorm.
    """

    def __init__(
        self, keys: Sequence[Key], shapes: Shapes, outputs: int, width: int, dropout: float = 0.0
    ):
        super().__init__()
        self.stages, factors = _stages(keys, shapes)
        self.reassemble = nn.ModuleList(
            nn.Sequential(nn.Conv2d(stage.channels, width, 1), *_factor(width, factor),
                          nn.Conv2d(width, width, 3, padding=1, bias=False))
            for stage, factor in zip(self.stages, factors, strict=True)
        )  # fmt: skip
        last = len(self.stages) - 1
        self.fuse = nn.ModuleList(FusionBlock(width, k < last) for k in range(last + 1))
        self.head = nn.Sequential(
            nn.Conv2d(width, width, 3, padding=1, bias=False), group_norm(width), nn.ReLU(),
            nn.Dropout2d(dropout), nn.Conv2d(width, outputs, 1),
        )  # fmt: skip

    def forward(self, *cells: torch.Tensor) -> torch.Tensor:
        made = [make(stage.joined(cells))
                for stage, make in zip(self.stages, self.reassemble, strict=True)]  # fmt: skip
        path = made[-1]
        for k in reversed(range(len(made))):  # the coarsest first
            f = None if k == len(made) - 1 else made[k]
            size = made[k - 1].shape[2:] if k else [2 * side for side in made[0].shape[2:]]
            path = self.fuse[k](path, f, size)
        return self.head(path)


def _stages(keys: Sequence[Key], shapes: Shapes) -> tuple[list[Level], list[int]]:
    """Cells by stage, the finest first, and by what each is enlarged."""
    levels, blocks = levels_of(shapes), list(dict.fromkeys(block for block, _ in keys))
    if len(levels) > 1 or len(blocks) == 1:
        return levels, [1] * len(levels)
    found = []
    for some in np.array_split(np.arange(len(blocks)), min(4, len(blocks))):
        names = {blocks[k] for k in some}
        members = tuple(k for k, (block, _) in enumerate(keys) if block in names)
        found.append(Level(levels[0].size, members, sum(shapes[k][0] for k in members)))
    return found, list(FACTORS[: len(found)])


def _factor(width: int, factor: int) -> list[nn.Module]:
    if factor == 1:
        return []
    if factor < 0:
        return [nn.Conv2d(width, width, 3, stride=-factor, padding=1)]
    return [nn.ConvTranspose2d(width, width, factor, stride=factor)]


@dataclass(eq=False, repr=False, kw_only=True)
class DPTHead(DecoderSegmenter):
    """DPT's decoder over the cells, for classes at every pixel; see `DPT`.

    Args:
        width: channels of all stages; 256 as published. A step's time grows with its square.
        dropout: share of channels dropped before the classifier; .1 as published.

    All others, and the attributes, are those of `DecoderSegmenter`.

    Source: see `DPT`.
    """

    def _body(self, shapes: Shapes, outputs: int) -> nn.Module:
        return DPT(self._keys(shapes), shapes, outputs, self.width, self.dropout)

    def _keys(self, shapes: Shapes) -> Sequence[Any]:
        return body_keys(self, shapes)


def body_keys(head: Any, shapes: Shapes) -> Sequence[Any]:
    """(block, t) of what a head's body is given, which may be mixed before."""
    if len(shapes) == len(head.cells_):
        return head.cells_
    return [(block, 0) for block in list(dict.fromkeys(b for b, _ in head.cells_))[: len(shapes)]]
