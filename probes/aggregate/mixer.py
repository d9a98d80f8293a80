"""One softmax over all cells: which of them a task wants, learned together with its head."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from sklearn.utils import check_consistent_length, column_or_1d
from torch import nn
from torch.nn import functional as F

from probes.batches import Batches
from probes.cells import cells_of
from probes.checks import check_sides, required
from probes.lazy import Rows, as_numpy
from probes.network import NetworkProbe, Shapes

SHARPNESS = 10.0


class ChannelNorm(nn.Module):
    """(r - mean)/deviation per channel, of the batch in training and of all rows after it.

    Channels of one cell differ in scale by orders of magnitude, and so do cells.
    """

    def __init__(self, channels: int):
        super().__init__()
        self.register_buffer("mean", torch.zeros(channels))
        self.register_buffer("variance", torch.ones(channels))

    def forward(self, r: torch.Tensor) -> torch.Tensor:
        own = self.training and len(r) > 1  # one row has no deviation
        return F.batch_norm(r, self.mean, self.variance, training=own, momentum=0.1)


class MixerHead(nn.Module):
    """Projections of S cells to one width, summed with softmax weights, and a linear layer.

        z_s = norm(P_s r_s),    w = softmax(10·a),    y = W · mean over places of sum_s w_s z_s + b

    P_s is a 1×1 convolution (of vectors: a linear map) per cell, a one scalar per cell, and the
    norm has no weights of its own, so that the scalar alone says how much of a cell is taken. The
    factor 10 is ours: Adam moves a scalar by no more than the learning rate a step, and the
    weights are to be learned as fast as the projections.

    Args:
        shapes: (C, H, W) or (D,) per cell; one kind for all.
        classes: K.
        width: channels of z.

    Source: Hyperfeatures (Luo et al. 2023), eq. 1, with a plain projection for a bottleneck.
    """

    def __init__(self, shapes: Sequence[tuple[int, ...]], classes: int, width: int):
        super().__init__()
        self.maps = len(shapes[0]) == 3
        self.size = tuple(max(shape[k] for shape in shapes) for k in (1, 2)) if self.maps else ()
        kind = (lambda c: nn.Conv2d(c, width, 1)) if self.maps else (lambda d: nn.Linear(d, width))
        self.scales = nn.ModuleList(ChannelNorm(shape[0]) for shape in shapes)
        self.projections = nn.ModuleList(kind(shape[0]) for shape in shapes)
        self.norm = nn.GroupNorm(1, width, affine=False)
        self.scalars = nn.Parameter(torch.zeros(len(shapes)))  # a: (S,)
        self.head = nn.Linear(width, classes)

    @property
    def weights(self) -> torch.Tensor:
        """(S,) softmax weights."""
        return (SHARPNESS * self.scalars).softmax(0)

    def forward(self, *cells: torch.Tensor) -> torch.Tensor:
        mixed = 0.0
        for w, r, scale, project in zip(
            self.weights, cells, self.scales, self.projections, strict=True
        ):
            z = self.norm(project(scale(r)))  # (n, width, H_s, W_s) or (n, width)
            if self.maps and z.shape[2:] != self.size:
                z = F.interpolate(z, size=self.size, mode="bilinear", align_corners=False)
            mixed = mixed + w * z
        return self.head(mixed.mean((2, 3)) if self.maps else mixed)  # (n, K)


@dataclass(eq=False, repr=False, kw_only=True)
class MixerProbe(NetworkProbe):
    """A trained choice of (block, t): one softmax weight per cell, learned with a linear head.

    Args:
        width: channels that every cell is projected to.

    All others are those of `NetworkProbe`. X is a `probes.Cells`, or a mapping from (block, t)
    to (N, D) vectors or (N, C, H, W) maps, all of one kind.

    Attributes:
        cells_: the (block, t), in their order in X.
        weights_: (block, t) → softmax weight; they sum to 1.

    Source: see `MixerHead`.
    """

    width: int = 128

    @property
    def weights_(self) -> dict[tuple[str, float], float]:
        found = self.module_.weights.detach().cpu().tolist()
        return dict(zip(self.cells_, found, strict=True))

    def _build(self, shapes: Shapes, classes: int, batches: Batches) -> nn.Module:
        return MixerHead(shapes, classes, self.width)

    def _opened(self, X: Any, y: Any) -> tuple[list[Rows], np.ndarray]:
        cells = cells_of(X)
        parts = [cells.rows(key) for key in cells.keys]
        for part in parts:
            check_sides(part, self._sides)
        if len({len(part.shape) for part in parts}) > 1:
            raise ValueError("X holds vectors and maps; expected one kind: pool all, or none")
        y = column_or_1d(as_numpy(required(self, y)), warn=True)
        check_consistent_length(parts[0], y)
        self.cells_, self.n_features_in_ = tuple(cells.keys), len(parts)
        self.shapes_ = [part.shape[1:] for part in parts]
        return parts, y

    def _again(self, X: Any) -> list[Rows]:
        return cells_of(X).like(self.cells_, self.shapes_)
