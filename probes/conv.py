"""The convolutional probe."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import nn

from probes.batches import Batches
from probes.checks import check_counts
from probes.network import NetworkProbe, Shapes, standardizer


@dataclass(eq=False, repr=False, kw_only=True)
class ConvProbe(NetworkProbe):
    """3×3 convolutions on a map, the average over all places, a linear layer.

    Each layer: convolution (stride 1, padding 1), GroupNorm of up to 32 groups, ReLU.
    GroupNorm, because it needs no statistics of a batch.

    Args:
        channels: widths of the convolutions.
        standardize: begin with mean 0 and variance 1 per channel on the training rows.

    All others are those of `NetworkProbe`. X is (N, C, H, W).

    Source: GDC (Mukhopadhyay et al. 2023) has a CNN head; the layers here are our own.
    """

    channels: tuple[int, ...] = (256, 256)
    standardize: bool = True

    _sides = (4,)

    def _build(self, shapes: Shapes, classes: int, batches: Batches) -> nn.Module:
        check_counts(self, "channels")
        ((width, *_),) = shapes
        layers = [standardizer(self.standardize, batches)]
        for next_width in self.channels:
            layers += [
                nn.Conv2d(width, next_width, 3, padding=1),
                nn.GroupNorm(math.gcd(32, next_width), next_width),
                nn.ReLU(),
            ]
            width = next_width
        return nn.Sequential(*layers, Average(), nn.Linear(width, classes))


class Average(nn.Module):
    """The mean over all places: (n, C, H, W) → (n, C)."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x.mean((2, 3))
