"""Fully connected layers, and the classifier made of them."""

from __future__ import annotations

from dataclasses import dataclass

from torch import nn

from probes.batches import Batches
from probes.checks import check_counts
from probes.network import NetworkHead, NetworkProbe, Shapes, standardizer


@dataclass(eq=False, repr=False, kw_only=True)
class MLPHead(NetworkHead):
    """Fully connected layers with ReLU between: D → hidden … → K, whatever K stands for.

        output = W_m·relu(… relu(W_1·x + b_1) …) + b_m

    x are the features, standardised if asked for; maps (N, C, H, W) are averaged to pool²
    cells and flattened.

    Args:
        hidden: widths of the hidden layers; () is a linear layer trained by gradient.
        dropout: share of hidden units that are left out in training.
        standardize: begin with mean 0 and variance 1 on the training rows, per feature (per
            channel of maps). Features of diffusion models have no common scale.
        pool: side of the grid that maps are averaged to; None keeps them.

    All others are those of `NetworkHead`.
    """

    hidden: tuple[int, ...] = (512,)
    dropout: float = 0.0
    standardize: bool = True
    pool: int | None = None

    def _build(self, shapes: Shapes, outputs: int, batches: Batches) -> nn.Module:
        check_counts(self, "hidden", *["pool"] * (self.pool is not None))
        (shape,) = shapes
        layers = [standardizer(self.standardize, batches)]
        width = shape[0]
        if len(shape) == 3:
            height, breadth = (self.pool, self.pool) if self.pool else shape[1:]
            width *= height * breadth
            layers += [nn.AdaptiveAvgPool2d((height, breadth)), nn.Flatten()]
        for next_width in self.hidden:
            layers += [nn.Linear(width, next_width), nn.ReLU(), nn.Dropout(self.dropout)]
            width = next_width
        return nn.Sequential(*layers, nn.Linear(width, outputs))


@dataclass(eq=False, repr=False, kw_only=True)
class MLPProbe(NetworkProbe, MLPHead):
    """A classifier of fully connected layers; its outputs are logits.

    Parameters are those of `MLPHead`; `hidden=()` is a linear softmax probe.

    Source: GDC (Mukhopadhyay et al. 2023, "Diffusion models beat GANs on image classification")
    probes with linear heads on s×s pooled maps and with MLPs of two widths; DDAE (Xiang et al.
    2023) with a linear head on the global average.
    """
