"""The multi-layer probe, and the linear one trained by gradient."""

from __future__ import annotations

from dataclasses import dataclass

from torch import nn

from probes.batches import Batches
from probes.checks import check_counts
from probes.network import NetworkProbe, Shapes, standardizer


@dataclass(eq=False, repr=False, kw_only=True)
class MLPProbe(NetworkProbe):
    """Fully connected layers with ReLU between: D → hidden … → K.

        logits = W_m·relu(… relu(W_1·x + b_1) …) + b_m

    x are the features, standardised if asked for; maps (N, C, H, W) are averaged to pool²
    cells and flattened.

    Args:
        hidden: widths of the hidden layers; () is a linear softmax probe.
        dropout: share of hidden units that are left out in training.
        standardize: begin with mean 0 and variance 1 on the training rows, per feature (per
            channel of maps). Features of diffusion models have no common scale.
        pool: side of the grid that maps are averaged to; None keeps them.

    All others are those of `NetworkProbe`.

    Source: GDC (Mukhopadhyay et al. 2023, "Diffusion models beat GANs on image classification")
    probes with linear heads on s×s pooled maps and with MLPs of two widths; DDAE (Xiang et al.
    2023) with a linear head on the global average.
    """

    hidden: tuple[int, ...] = (512,)
    dropout: float = 0.0
    standardize: bool = True
    pool: int | None = None

    def _build(self, shapes: Shapes, classes: int, batches: Batches) -> nn.Module:
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
        return nn.Sequential(*layers, nn.Linear(width, classes))
