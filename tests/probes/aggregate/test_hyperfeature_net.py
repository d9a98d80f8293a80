"""The net of Diffusion Hyperfeatures against the published order, in plain modules and float64."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from probes.aggregate import HyperfeatureNet
from probes.aggregate.hyperfeature_net import group_norm, resized

KEYS = [("a", 1), ("b", 1), ("a", 5), ("b", 5)]
SHAPES = {"a": (8, 6, 6), "b": (12, 3, 3)}


class Plain(nn.Module):
    """One bottleneck as published: resized first, every 1×1 a convolution of its own."""

    def __init__(self, channels: int, width: int, groups: tuple[int, int]):
        super().__init__()
        inner = width // 4
        few, many = groups
        self.first = nn.Conv2d(channels, inner, 1, bias=False)
        self.norm1 = nn.GroupNorm(few, inner)
        self.second = nn.Conv2d(inner, inner, 3, 1, 1, bias=False)
        self.norm2 = nn.GroupNorm(few, inner)
        self.third = nn.Conv2d(inner, width, 1, bias=False)
        self.norm3 = nn.GroupNorm(many, width)
        self.shortcut = nn.Conv2d(channels, width, 1, bias=False)
        self.norm4 = nn.GroupNorm(many, width)

    def forward(self, x):
        y = torch.relu(self.norm1(self.first(x)))
        y = torch.relu(self.norm2(self.second(y)))
        return torch.relu(self.norm3(self.third(y)) + self.norm4(self.shortcut(x)))


def plain_sum(net: HyperfeatureNet, keys, cells, groups):
    """Cell by cell, float64, with the weights of a net."""
    powers = torch.exp(net.sharpness * net.scalars.double())
    total, blocks = 0.0, list(dict.fromkeys(block for block, _ in keys))
    for power, (block, _), r in zip(powers, keys, cells, strict=True):
        learned = net.bottlenecks[blocks.index(block)]
        plain = Plain(r.shape[1], net.width, groups).double()
        for mine, theirs in (
            (plain.first, learned.first), (plain.second, learned.middle),
            (plain.third, learned.last), (plain.shortcut, learned.shortcut),
        ):  # fmt: skip
            mine.weight.data = theirs.weight.detach().double()
        norms = (plain.norm1, plain.norm2, plain.norm3, plain.norm4)
        for mine, theirs in zip(norms, learned.norms, strict=True):
            mine.weight.data = theirs.weight.detach().double()
            mine.bias.data = theirs.bias.detach().double()
        r = F.interpolate(r.double(), size=net.size, mode="bilinear", align_corners=False)
        total = total + power / powers.sum() * plain(r)
    return total


def random_net(size, width=96, **options):
    torch.manual_seed(0)
    shapes = [SHAPES[block] for block, _ in KEYS]
    net = HyperfeatureNet(shapes, [block for block, _ in KEYS], width, size, **options)
    with torch.no_grad():
        net.scalars += torch.randn(len(KEYS))
        for one in net.modules():
            if isinstance(one, nn.GroupNorm):
                one.weight.uniform_(0.5, 2)
                one.bias.normal_()
    return net, [torch.randn(2, *shape) for shape in shapes]


@pytest.mark.parametrize("size", [(6, 6), (8, 7), (4, 2)])
@pytest.mark.parametrize("resize", ["before", "after"])
def test_it_is_the_published_sum(size, resize):
    net, cells = random_net(size, resize=resize, sharpness=2.0)
    with torch.no_grad():
        expected = plain_sum(net, KEYS, cells, (8, 32))
        torch.testing.assert_close(net(*cells).double(), expected, atol=1e-5, rtol=1e-5)


def test_convolving_before_the_resize_is_the_same_and_so_are_gradients():
    early, cells = random_net((9, 8))
    late, _ = random_net((9, 8), resize="after")
    found = []
    for net in (early, late):
        mixed = net(*cells)
        mixed.square().mean().backward()
        found.append([mixed.detach(), *(one.grad for one in net.parameters())])
    for one, other in zip(*found, strict=True):
        torch.testing.assert_close(one, other, atol=1e-5, rtol=1e-4)


def test_scalars_begin_at_1_and_blocks_share_their_bottleneck():
    net = HyperfeatureNet([(8, 4, 4)] * 3, ["x", "y", "x"], 16, (4, 4))
    assert net.scalars.tolist() == [1, 1, 1]
    torch.testing.assert_close(net.weights, torch.full((3,), 1 / 3))
    assert len(net.bottlenecks) == 2
    assert not [name for name, _ in net.named_parameters() if "bias" in name and "norm" not in name]


def test_maps_of_one_block_may_lie_on_several_grids():
    net, cells = random_net((6, 6))
    cells[2] = torch.randn(2, 8, 3, 4)
    with torch.no_grad():
        expected = plain_sum(net, KEYS, cells, (8, 32))
        torch.testing.assert_close(net(*cells).double(), expected, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize(
    ("channels", "groups"),
    [(384, 32), (96, 32), (64, 16), (24, 8), (16, 4), (6, 2), (5, 1), (1, 1)],
)
def test_groups_have_three_channels_at_least(channels, groups):
    assert group_norm(channels).num_groups == groups


@pytest.mark.parametrize("size", [(24, 17), (5, 7), (3, 12), (1, 1)])
def test_a_resize_is_that_of_torch(size):
    x = torch.randn(2, 3, 5, 7)
    expected = F.interpolate(x, size=size, mode="bilinear", align_corners=False)
    torch.testing.assert_close(resized(x, size), expected, atol=1e-6, rtol=1e-5)


def test_what_cannot_be():
    with pytest.raises(ValueError, match="expected one of before, after"):
        random_net((4, 4), resize="never")
    with pytest.raises(ValueError, match=r"block x has \[3, 4\] channels"):
        HyperfeatureNet([(3, 2, 2), (4, 2, 2)], ["x", "x"])
