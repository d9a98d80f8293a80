"""A hypercolumn that is never built, against one that is (torch's own resize, einsum)."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from probes import Cells
from probes.dense import Column, NearestMean
from probes.maps import Maps

SHAPES = {("a", 20): (3, 4, 6), ("b", 20): (5, 8, 12), ("a", 50): (3, 4, 6), ("c", 20): (2, 30, 40)}
SIZE = (30, 40)


@pytest.fixture
def maps():
    rng = np.random.default_rng(0)
    values = {key: rng.normal(size=shape).astype(np.float32) for key, shape in SHAPES.items()}
    return Maps(values, SIZE, SIZE)


def built(maps: Maps) -> torch.Tensor:
    """(C, H, W) by torch alone; of squashed pictures."""
    ups = [F.interpolate(torch.from_numpy(one)[None], maps.size, mode="bilinear")[0]
           for one in maps.values.values()]  # fmt: skip
    return torch.cat(ups)


def test_pixels(maps):
    pixels = np.argwhere(np.random.default_rng(1).random(SIZE) < 0.2)
    found = Column(maps).at(pixels)
    whole = built(maps)
    torch.testing.assert_close(found, whole[:, pixels[:, 0], pixels[:, 1]].T, rtol=1e-5, atol=3e-6)


@pytest.mark.parametrize("rows", [None, 1, 7, 100])
def test_linear(maps, rows):
    generator = torch.Generator().manual_seed(0)
    weight, bias = torch.randn(4, 13, generator=generator), torch.randn(4, generator=generator)
    strips = list(Column(maps).linear(weight, bias, rows))
    assert [first for first, _ in strips] == list(range(0, 30, rows or 30))
    found = torch.cat([strip for _, strip in strips], 1)
    expected = torch.einsum("dc,chw->dhw", weight, built(maps)) + bias[:, None, None]
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-5)


def test_order_of_cells(maps):
    keys = [("c", 20), ("a", 50)]
    found = Column(maps, keys).at(np.array([[3, 4]]))[0]
    whole = torch.cat([built(Maps({key: maps[key]}, SIZE, SIZE)) for key in keys])
    torch.testing.assert_close(found, whole[:, 3, 4])


def test_nearest_mean_takes_the_mean_of_pixels():
    rng = np.random.default_rng(2)
    cells = Cells({("a", 0): rng.normal(size=(3, 4, 5, 7))}, sizes=[(10, 14)] * 3)
    masks = rng.integers(0, 3, (3, 10, 14))
    masks[0, :2] = 255
    with pytest.warns(UserWarning, match=r"1 of 4 classes have no pixel in training \(3\)"):
        head = NearestMean().fit(cells, masks, classes=4)
    assert head.seen_.tolist() == [True, True, True, False]
    whole = torch.stack([built(cells.maps(row)) for row in range(3)]).permute(0, 2, 3, 1).numpy()
    for k in range(3):
        np.testing.assert_allclose(head.means_[k], whole[masks == k].mean(0), rtol=1e-5, atol=3e-6)
    distance = ((whole[..., None, :] - head.means_[:3]) ** 2).sum(-1)
    assert np.array_equal(np.stack(list(head.predict(cells))), distance.argmin(-1))
