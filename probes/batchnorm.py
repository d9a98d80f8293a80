"""The probe of REPA and l-DAE: mean over places, BatchNorm without parameters, linear."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import nn
from torch.nn import functional as F

from probes.batches import Batches, moments
from probes.network import NetworkProbe, Shapes


def mean_of_places(x: torch.Tensor) -> torch.Tensor:
    """(n, D) as it is, (n, L, D) and (n, C, H, W) averaged over their places."""
    if x.ndim == 3:
        return x.mean(1)
    return x.mean((2, 3)) if x.ndim == 4 else x


class BatchNormHead(nn.Module):
    """Mean over places → BatchNorm without scale and shift → linear.

    The running statistics begin with those of the training rows, which is where they tend:
    so a short training is not led by their initial 0 and 1. A batch of one row, which has no
    variance, is normalised by them.
    """

    def __init__(self, mean: torch.Tensor, deviation: torch.Tensor, classes: int):
        super().__init__()
        self.norm = nn.BatchNorm1d(len(mean), eps=1e-6, affine=False)
        self.norm.running_mean.copy_(mean)
        self.norm.running_var.copy_(deviation.square())
        self.head = nn.Linear(len(mean), classes)
        nn.init.trunc_normal_(self.head.weight, std=0.01)
        nn.init.zeros_(self.head.bias)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x, norm = mean_of_places(x), self.norm
        if self.training and len(x) == 1:
            x = F.batch_norm(x, norm.running_mean, norm.running_var, eps=norm.eps)
        else:
            x = norm(x)
        return self.head(x)


@dataclass(eq=False, repr=False, kw_only=True)
class BatchNormProbe(NetworkProbe):
    """A linear layer on mean features, normalised by BatchNorm without parameters.

        logits = W·(x - mean)/sqrt(var + 1e-6) + b

    In training mean and variance are those of the batch, later the running ones.

    All parameters are those of `NetworkProbe`; a linear layer on normalised features bears a
    higher learning rate than other heads. X is (N, D), tokens (N, L, D) or maps
    (N, C, H, W).

    Source: REPA (Yu et al. 2025) and l-DAE (Chen et al. 2024), which follow the linear probe
    of MAE (He et al. 2022); the eps of 1e-6 and initial weights of N(0, 0.01²) are those of
    MAE's code by memory, not verified.
    """

    learning_rate: float = 1e-2

    _sides = (2, 3, 4)

    def _build(self, shapes: Shapes, classes: int, batches: Batches) -> nn.Module:
        return BatchNormHead(*moments(batches, mean_of_places), classes)
