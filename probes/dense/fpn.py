"""The feature pyramid network for classes at every pixel."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import nn

from probes.dense.levels import levels_of
from probes.dense.pyramid import DecoderSegmenter
from probes.layers import group_norm, resized
from probes.network import Shapes


class FPN(nn.Module):
    """A pyramid from the top down, and all its levels as one.

        p_l = L_l f_l + up(p_{l+1}),    y = W·drop(sum over l of up(relu(norm(S_l p_l))))

    f_l are the cells of one grid, one after the other; L_l and W are 1×1 convolutions, S_l is a
    3×3 one, norms are GroupNorm, and `up` is bilinear. y has the finest grid.

    Args:
        shapes: (C, h, w) of the maps.
        outputs: channels of y.
        width: of p.
        dropout: share of channels.

    Source: Lin et al. 2017 (FPN); Kirillov et al. 2019, Panoptic feature pyramid networks, section
    3 (levels as one), whose several 3×3 convolutions a level, one per doubling, are one here.
    """

    def __init__(self, shapes: Shapes, outputs: int, width: int, dropout: float = 0.0):
        super().__init__()
        self.levels = levels_of(shapes)
        self.laterals = nn.ModuleList(nn.Conv2d(one.channels, width, 1) for one in self.levels)
        self.smooth = nn.ModuleList(
            nn.Sequential(
                nn.Conv2d(width, width, 3, padding=1, bias=False), group_norm(width), nn.ReLU()
            )
            for _ in self.levels
        )
        self.last = nn.Sequential(nn.Dropout2d(dropout), nn.Conv2d(width, outputs, 1))

    def forward(self, *cells: torch.Tensor) -> torch.Tensor:
        pyramid, above = [], None
        for level, lateral in zip(reversed(self.levels), reversed(self.laterals), strict=True):
            p = lateral(level.joined(cells))
            above = p if above is None else p + resized(above, p.shape[2:])
            pyramid.append(above)  # the coarsest first
        finest, total = above.shape[2:], 0.0
        for p, smooth in zip(pyramid, reversed(self.smooth), strict=True):
            total = total + resized(smooth(p), finest)
        return self.last(total)


@dataclass(eq=False, repr=False, kw_only=True)
class FPNHead(DecoderSegmenter):
    """A feature pyramid over the cells' own grids, for classes at every pixel; see `FPN`.

    Args:
        width: channels of the pyramid; 256 as published. A step's time grows with its square.
        dropout: share of channels dropped before the classifier; .1 as published.

    All others, and the attributes, are those of `DecoderSegmenter`.

    Source: see `FPN`; VPD (Zhao et al. 2023) puts it on a diffusion model's maps.
    """

    def _body(self, shapes: Shapes, outputs: int) -> nn.Module:
        return FPN(shapes, outputs, self.width, self.dropout)
