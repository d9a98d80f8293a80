"""The network of Diffusion Hyperfeatures: bottlenecks shared over t, one softmax over all cells."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence

import torch
from torch import nn
from torch.nn import functional as F

from probes.layers import group_norm, resized

RESIZES = ("before", "after")


class ResidualBottleneck(nn.Module):
    """One residual bottleneck.

        u, s = resize(first r), resize(shortcut r)
        B(r) = relu(norm(last relu(norm(middle relu(norm u)))) + norm s)

    `middle` is a 3×3 convolution, all others are 1×1; none has a bias. Norms are GroupNorm, see
    `group_norm`.

    Args:
        channels: C of what comes in.
        width: of what comes out; a quarter of it (at least 1) inside.
    """

    def __init__(self, channels: int, width: int):
        super().__init__()
        inner = max(1, width // 4)
        self.first = nn.Conv2d(channels, inner, 1, bias=False)
        self.middle = nn.Conv2d(inner, inner, 3, padding=1, bias=False)
        self.last = nn.Conv2d(inner, width, 1, bias=False)
        self.shortcut = nn.Conv2d(channels, width, 1, bias=False)
        self.norms = nn.ModuleList(map(group_norm, (inner, inner, width, width)))

    def forward(self, r: torch.Tensor, size: tuple[int, int], before: bool) -> torch.Tensor:
        """(n, C, h, w) → (n, width, *size); `before`: `first` and `shortcut` precede the resize."""
        r = r if before else resized(r, size)
        u, s = resized(self.first(r), size), resized(self.shortcut(r), size)
        u = F.relu(self.norms[0](u), inplace=True)
        u = F.relu(self.norms[1](self.middle(u)), inplace=True)
        z = self.norms[2](self.last(u))
        z += self.norms[3](s)  # in place: large tensors are dear to get
        return F.relu(z, inplace=True)


class HyperfeatureNet(nn.Module):
    """All cells of a picture as one map.

        w = softmax over all cells of sharpness·a,    y = sum over (b, t) of w_bt · B_b(r_bt)

    B_b is a `ResidualBottleneck` per block, for all its t, and a a scalar per cell, 1 at first.

    Args:
        shapes: (C, h, w) per cell; cells of one block have one C.
        blocks: the block of each cell: a name, or anything that tells them apart.
        width: channels of y.
        size: (H, W) of y.
        sharpness: 1 as published. Adam moves a scalar by no more than the learning rate a step, so
            that short trainings learn their bottlenecks long before their weights; with 10 both
            are learned as fast (the same as ten times the learning rate for the weights).
        resize: "before": the first 1×1 and the shortcut's before the resize, where y has the
            larger grid: both are linear, bilinear weights sum to 1, so they change places.
            "after": after it, as published. Equal up to rounding.

    Source: Luo et al. 2023, "Diffusion Hyperfeatures", eq. 1 and its aggregation network.
    """

    def __init__(
        self,
        shapes: Sequence[tuple[int, ...]],
        blocks: Sequence[str],
        width: int = 384,
        size: tuple[int, int] = (64, 64),
        sharpness: float = 1.0,
        resize: str = "before",
    ):
        super().__init__()
        if resize not in RESIZES:
            raise ValueError(f"resize={resize!r}; expected one of {', '.join(RESIZES)}")
        self.size, self.sharpness, self.resize = tuple(size), float(sharpness), resize
        names = list(dict.fromkeys(blocks))
        self.members = [[k for k, one in enumerate(blocks) if one == name] for name in names]
        for name, members in zip(names, self.members, strict=True):
            if len(found := sorted({shapes[k][0] for k in members})) > 1:
                raise ValueError(f"block {name} has {found} channels at its t; expected one number")
        self.width = width
        self.bottlenecks = nn.ModuleList(
            ResidualBottleneck(shapes[members[0]][0], width) for members in self.members
        )
        self.scalars = nn.Parameter(torch.ones(len(shapes)))

    @property
    def weights(self) -> torch.Tensor:
        """(S,) softmax weights of the cells."""
        return (self.sharpness * self.scalars).softmax(0)

    def forward(self, *cells: torch.Tensor) -> torch.Tensor:
        """S arrays (n, C_s, h_s, w_s) → (n, width, H, W)."""
        weights, mixed = self.weights, 0.0
        for members, z in self.projected(cells):
            mixed = mixed + torch.einsum("t,tnp->np", weights[members], z.flatten(2))
        return mixed.view(len(cells[0]), self.width, *self.size)

    def projected(self, cells: Sequence[torch.Tensor]) -> Iterator[tuple[list[int], torch.Tensor]]:
        """Block by block: which cells are its own, and (T, n, width, H, W) of them."""
        for members, bottleneck in zip(self.members, self.bottlenecks, strict=True):
            maps = [cells[k] for k in members]
            if len({one.shape[2:] for one in maps}) > 1:
                maps = [resized(one, self.size) for one in maps]
            r = torch.cat(maps)  # (T·n, C, h, w)
            larger = math.prod(self.size) >= math.prod(r.shape[2:])
            z = bottleneck(r, self.size, self.resize == "before" and larger)
            yield members, z.unflatten(0, (len(members), -1))


class PooledHead(nn.Module):
    """The mixed map itself, or with `outputs` a linear layer on its mean over places.

    Args:
        net: gives (n, width, H, W).
        outputs: of the linear layer, K; 0: there is none.
    """

    def __init__(self, net: HyperfeatureNet, outputs: int):
        super().__init__()
        self.net = net
        self.head = nn.Linear(net.width, outputs) if outputs else None

    def forward(self, *cells: torch.Tensor) -> torch.Tensor:
        mixed = self.net(*cells)
        return mixed if self.head is None else self.head(mixed.mean((2, 3)))  # (n, K)
