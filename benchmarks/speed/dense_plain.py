"""DDPM-Seg's way, in plain torch: the hypercolumn in pieces, and one MLP after the other.

Source: Baranchuk et al. 2022, their code's pixel classifier and its training; what is ours is
that the hypercolumn is built for some rows of the picture at a time, since as a whole it takes
gigabytes.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch
from torch import nn
from torch.nn import functional as F

from probes import Maps
from probes.dense.ensemble_net import EnsembleNet

CHUNK_BYTES = 128 << 20
"""Of the hypercolumn that are built at a time."""


def classifier(channels: int, hidden: Sequence[int], classes: int) -> nn.Sequential:
    """One member."""
    layers: list[nn.Module] = []
    for width in hidden:
        layers += [nn.Linear(channels, width), nn.ReLU(), nn.BatchNorm1d(width)]
        channels = width
    return nn.Sequential(*layers, nn.Linear(channels, classes))


def members_of(net: EnsembleNet) -> list[nn.Sequential]:
    """The members of an ensemble with the weights that it has now."""
    found = []
    for member in range(net.members):
        widths = [weight.shape[1] for weight in net.weights]
        one = classifier(net.weights[0].shape[2], widths[:-1], widths[-1])
        linear = [layer for layer in one if isinstance(layer, nn.Linear)]
        norms = [layer for layer in one if isinstance(layer, nn.BatchNorm1d)]
        with torch.no_grad():
            for layer, weight, bias in zip(linear, net.weights, net.biases, strict=True):
                layer.weight.copy_(weight[member])
                layer.bias.copy_(bias[member, 0])
            for layer, norm in zip(norms, net.norms, strict=True):
                layer.weight.copy_(norm.scale[member])
                layer.bias.copy_(norm.shift[member])
                layer.running_mean.copy_(norm.running_mean[member])
                layer.running_var.copy_(norm.running_var[member])
        found.append(one.train(net.training))
    return found


def between(cells: int, pixels: int) -> torch.Tensor:
    """(pixels, cells): the weights of torch's own bilinear resize of one side."""
    every = torch.eye(cells)[None]
    return F.interpolate(every, size=pixels, mode="linear", align_corners=False)[0].T


def hypercolumns(maps: Maps) -> Iterator[torch.Tensor]:
    """(n, C) float32 of some rows of pixels at a time, down the picture."""
    values = [torch.from_numpy(one) for one in maps.values.values()]
    height, width = maps.size
    rows = {one.shape[1]: between(one.shape[1], height) for one in values}
    columns = {one.shape[2]: between(one.shape[2], width) for one in values}
    each = 4 * width * sum(len(one) for one in values)
    step = max(1, CHUNK_BYTES // each)
    for first in range(0, height, step):
        built = [
            rows[one.shape[1]][first : first + step] @ one @ columns[one.shape[2]].T
            for one in values
        ]
        yield torch.cat(built).flatten(1).T.contiguous()


def logits(maps: Maps, members: Sequence[nn.Sequential]) -> torch.Tensor:
    """(M, H·W, K) of every member at every pixel."""
    with torch.no_grad():
        parts = [torch.stack([one(x) for one in members]) for x in hypercolumns(maps)]
    return torch.cat(parts, 1)


def trained(member: nn.Sequential, batches: Iterator, rate: float = 1e-3) -> nn.Sequential:
    """One member, by Adam and plain cross-entropy, over (n, C) features and (n,) classes."""
    optimizer = torch.optim.Adam(member.parameters(), lr=rate)
    member.train()
    for (x,), y in batches:
        optimizer.zero_grad()
        F.cross_entropy(member(x), y).backward()
        optimizer.step()
    return member
