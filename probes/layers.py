"""Small layers that several networks share: resizing between grids, norms of narrow maps."""

from __future__ import annotations

import torch
from torch import nn
from torch.nn import functional as F


def group_norm(channels: int) -> nn.GroupNorm:
    """32 groups as published, or fewer: as many as divide the channels, with 3 at least in each.

    (So it is at the narrowest place of the published network, 96 channels. Groups of one channel
    would take away its mean over the map, which may be all that a picture's class shows in.)
    """
    most = max(1, min(32, channels // 3))
    return nn.GroupNorm(max(k for k in range(1, most + 1) if channels % k == 0), channels)


def resized(x: torch.Tensor, size: tuple[int, int]) -> torch.Tensor:
    """(n, C, h, w) → (n, C, *size), bilinear between centres of sites, as it is where it fits.

    One product of matrices a side: on a CPU half as long as `F.interpolate`, and back too.
    """
    if tuple(x.shape[2:]) == tuple(size):
        return x
    rows, columns = (between(*sides, x) for sides in zip(x.shape[2:], size, strict=True))
    return rows @ F.linear(x, columns)


def between(before: int, after: int, like: torch.Tensor) -> torch.Tensor:
    """(after, before): the weight of every site of one side in every new one, bilinear."""
    every = torch.eye(before, dtype=like.dtype, device=like.device)
    return F.interpolate(every[None], size=after, mode="linear", align_corners=False)[0].T
