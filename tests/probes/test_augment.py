"""Zooms of maps and targets: coordinates as features tell where everything went."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from probes.augment import mirror_crop_scale, random_crop_scale
from probes.objectives import CROSS_ENTROPY, pixel_cross_entropy
from probes.pixel_objectives import silog
from probes.training import augmented

H, W = 24, 32


def coordinates(h, w, count=40):
    """(n, 2, h, w): x and y of every site's centre, in frames."""
    y, x = (torch.arange(side, dtype=torch.float32).add(0.5) / side for side in (h, w))
    grid = torch.stack([x.expand(h, w), y[:, None].expand(h, w)])
    return grid.expand(count, 2, h, w).clone()


@pytest.mark.parametrize("augment", [random_crop_scale, mirror_crop_scale])
def test_maps_and_labels_stay_over_each_other(augment):
    fine, coarse = coordinates(H, W), coordinates(6, 8)
    labels = (torch.arange(H)[:, None] * W + torch.arange(W)).expand(40, H, W)
    (fine, coarse), moved = augment([fine, coarse], np.random.default_rng(0), labels, -1)
    shown = moved >= 0
    row, column = moved // W, moved % W
    x, y = fine.unbind(1)
    for found, at, side in ((x, column, W), (y, row, H)):
        inside = shown & (found > 0.5 / side + 1e-4) & (found < 1 - 0.5 / side - 1e-4)
        apart = (found * side - (at + 0.5)).abs()[inside]
        assert inside.float().mean() > 0.5
        assert apart.max() <= 0.5 + 1e-3  # the site in which the centre lies
    # a coarse map shows the same window: its sites are means of 4×4 fine ones, away from edges
    means = torch.nn.functional.avg_pool2d(fine, 4)
    away = ((means > 0.2) & (means < 0.8)).all(1, keepdim=True).expand_as(means)
    assert (coarse - means).abs()[away].max() < 1e-3
    assert 0.02 < (~shown).float().mean() < 0.6
    assert (moved[shown].unique().numel()) > 0.9 * H * W


def test_zooms_are_in_their_range_and_repeat():
    maps = coordinates(H, W, 300)
    (first,), _ = random_crop_scale([maps], np.random.default_rng(3), maps[:, 0], float("nan"))
    (again,), _ = random_crop_scale([maps], np.random.default_rng(3), maps[:, 0], float("nan"))
    assert torch.equal(first, again)
    steps = (first[:, 0].diff(dim=2).amax((1, 2)) * W).numpy()  # 1/zoom
    assert steps.min() > 0.5 - 1e-4
    assert steps.max() < 2 + 1e-4
    assert steps.min() < 0.55
    assert steps.max() > 1.8
    assert abs(np.log(steps).mean()) < 0.1
    other = random_crop_scale([maps], np.random.default_rng(4))[0]
    assert not torch.equal(first, other)


def test_depths_beyond_the_edge_are_unknown_and_values_stay():
    depth = torch.rand(30, H, W) + 1
    maps, moved = random_crop_scale([coordinates(H, W, 30)], np.random.default_rng(0), depth,
                                    float("nan"))  # fmt: skip
    outside = moved.isnan()
    assert 0 < outside.float().mean() < 0.6
    for one, before in zip(moved, depth, strict=True):
        assert set(one[~one.isnan()].tolist()) <= set(before.flatten().tolist())
    x = maps[0][:, 0]
    assert (x[outside] >= 0.5 / W - 1e-5).all()  # the outermost sites go on


def test_targets_without_an_unknown_are_filled():
    labels = torch.randint(0, 3, (30, H, W))
    _, moved = random_crop_scale([coordinates(H, W, 30)], np.random.default_rng(0), labels)
    assert set(moved.unique().tolist()) <= {0, 1, 2}


def test_in_the_loop():
    labels = torch.randint(0, 3, (40, H, W))
    rng = np.random.default_rng(0)
    inputs = [coordinates(H, W), torch.zeros(40, 5)]
    (maps, vectors), moved = augmented(
        inputs, labels, pixel_cross_entropy(3, 7), random_crop_scale, rng
    )
    assert maps.shape == (40, 2, H, W)
    assert vectors is inputs[1]
    assert set(moved.unique().tolist()) == {0, 1, 2, 7}
    _, depth = augmented(inputs[:1], labels + 1.0, silog(), mirror_crop_scale, rng)
    assert depth.isnan().any()
    assert depth.shape == (40, H, W)
    parts, y = augmented(inputs, labels[:, 0, 0], CROSS_ENTROPY, random_crop_scale, rng)
    assert torch.equal(y, labels[:, 0, 0])
    assert not torch.equal(parts[0], inputs[0])
