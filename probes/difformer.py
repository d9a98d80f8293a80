"""DifFormer: one attention head over several blocks and t."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from sklearn.utils import check_consistent_length, column_or_1d
from torch import nn

from probes.attention import AttentionTrunk, trunk_options
from probes.batches import Batches
from probes.cells import cells_of
from probes.checks import check_sides, required
from probes.lazy import Rows, as_numpy
from probes.network import NetworkProbe, Shapes


class DifFormerHead(nn.Module):
    """The trunk, shared by all t, over the blocks of each t; the class tokens side by side.

    Args:
        shapes: (C, H, W) per block, the same at every t.
        steps: number of t, T.
        classes: K.
        trunk: options of `AttentionTrunk`.
    """

    def __init__(self, shapes: Sequence[tuple[int, ...]], steps: int, classes: int, **trunk):
        super().__init__()
        self.blocks = len(shapes)
        self.trunk = AttentionTrunk(shapes, **trunk)
        self.head = nn.Linear(steps * self.trunk.token.shape[-1], classes)

    def forward(self, *maps: torch.Tensor) -> torch.Tensor:
        """Maps ordered by t, then by block."""
        steps = [maps[k : k + self.blocks] for k in range(0, len(maps), self.blocks)]
        return self.head(torch.cat([self.trunk(step) for step in steps], 1))


@dataclass(eq=False, repr=False, kw_only=True)
class DifFormerProbe(NetworkProbe):
    """Attention over the places of several blocks, at several t.

    The tokens of all blocks of one t and a class token go through the transformer layers of
    `AttentionTrunk`, whose weights serve every t; the class tokens of the T noise levels side
    by side give the logits through a linear layer.

    Args:
        width, heads, depth, limit, dropout, qkv_bias: see `AttentionTrunk`. The published head
            has width 1024, 8 heads, 2 layers; the defaults here are narrower.

    All others are those of `NetworkProbe`. X is a `probes.Cells`, or a mapping from (block,
    t) to (N, C, H, W): a full grid of blocks × t, where a block has one shape.

    Attributes:
        cells_: the (block, t), by t, then by block, in their order in X.

    Source: DifFormer (Mukhopadhyay et al. 2024); norms and 1×1 convolutions serve every t too.
    """

    width: int = 256
    heads: int = 8
    depth: int = 2
    limit: int = 16
    dropout: float = 0.0
    qkv_bias: bool = False
    batch_size: int = 128

    def _build(self, shapes: Shapes, classes: int, batches: Batches) -> nn.Module:
        blocks = len(dict.fromkeys(block for block, _ in self.cells_))
        steps = len(shapes) // blocks
        return DifFormerHead(shapes[:blocks], steps, classes, **trunk_options(self))

    def _opened(self, X: Any, y: Any) -> tuple[list[Rows], np.ndarray]:
        cells = cells_of(X)
        blocks = list(dict.fromkeys(block for block, _ in cells))
        steps = list(dict.fromkeys(t for _, t in cells))
        wanted = [(block, t) for t in steps for block in blocks]
        missing = [key for key in wanted if key not in cells.keys]
        if missing:
            raise ValueError(f"X lacks the cells {missing}; expected every block at every t")
        parts = [cells.rows(key) for key in wanted]
        for k, part in enumerate(parts):
            check_sides(part, self._sides)
            if part.shape != parts[k % len(blocks)].shape:
                raise ValueError(
                    f"{part.name} has shape {part.shape}; expected "
                    f"{parts[k % len(blocks)].shape}, as at the first t"
                )
        y = column_or_1d(as_numpy(required(self, y)), warn=True)
        check_consistent_length(parts[0], y)
        self.cells_, self.n_features_in_ = tuple(wanted), len(wanted)
        self.shapes_ = [part.shape[1:] for part in parts]
        return parts, y

    def _again(self, X: Any) -> list[Rows]:
        return cells_of(X).like(self.cells_, self.shapes_)
