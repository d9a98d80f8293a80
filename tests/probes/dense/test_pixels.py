"""Sampled pixels: which are drawn, what is read, and that a seed says all of it."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from probes import Cells
from probes.dense import Masks, PixelPool

SIZE, COUNT, CLASSES, IGNORE = (6, 8), 5, 4, 255
PIXELS = SIZE[0] * SIZE[1]


@pytest.fixture
def masks():
    """Class 2 only in picture 1, twice; class 3 nowhere; a row of each picture is ignored."""
    found = np.random.default_rng(0).integers(0, 2, (COUNT, *SIZE))
    found[:, 2] = IGNORE
    found[1, 0, :2] = 2
    return found


def names() -> np.ndarray:
    """(N, 1, H, W): every pixel of every picture has a number of its own."""
    return np.arange(COUNT * PIXELS, dtype=np.float32).reshape(COUNT, 1, *SIZE)


def pool(masks, values=None, **how) -> PixelPool:
    cells = Cells({("a", 0): names() if values is None else values}, sizes=[SIZE] * COUNT)
    return PixelPool(cells, Masks(masks, cells, CLASSES, IGNORE), **how)


def drawn(data: PixelPool, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Numbers of the pixels, and labels, of an epoch: (n, …) each."""
    batches = list(data.shuffled(np.random.default_rng(seed)))
    return tuple(np.concatenate([one.numpy() for one in ones]) for ones in
                 ([x[..., 0] for (x,), _ in batches], [y for _, y in batches]))  # fmt: skip


@pytest.mark.parametrize("memory", [1 << 20, 700, 1])
@pytest.mark.parametrize("members", [None, 3])
def test_a_pass_has_every_labelled_pixel_once(masks, memory, members):
    data = pool(masks, memory=memory, members=members, size=10)
    found, labels = drawn(data)
    assert len(found) == len(data) == data.steps * 10 == 200  # 5·(48 − 8)
    for member in range(members or 1):
        mine = found if members is None else found[:, member]
        expected = np.flatnonzero(masks.ravel() != IGNORE)
        assert np.array_equal(np.sort(mine), expected)
    assert np.array_equal(masks.ravel()[found.astype(int)], labels)


def test_members_have_orders_of_their_own(masks):
    found, _ = drawn(pool(masks, members=2))
    assert not np.array_equal(found[:, 0], found[:, 1])


def test_pictures_are_mixed(masks):
    """A pool that holds them all: no step has one picture's pixels alone."""
    found, _ = drawn(pool(masks, size=40))
    for step in found.reshape(-1, 40):
        assert len(set(step // PIXELS)) >= 4


def test_pixels_that_fill_no_step_are_left_out(masks):
    data = pool(masks, size=64)
    assert (len(data), data.steps) == (192, 3)


def test_balanced(masks):
    data = pool(masks, sampling="balanced", pixels=30, size=10)
    found, labels = drawn(data)
    assert np.abs(np.bincount(labels, minlength=4) - [50, 50, 50, 0]).max() <= 1
    numbers, times = np.unique(found[labels == 2], return_counts=True)
    assert set(numbers) == {PIXELS, PIXELS + 1}  # the two pixels of class 2, as often as can be
    assert abs(int(times[0]) - int(times[1])) <= 1


def test_uniform_with_fewer_pixels(masks):
    data = pool(masks, pixels=8, size=8)
    found, _labels = drawn(data)
    assert len(set(found)) == len(found) == 40
    assert np.bincount(found.astype(int) // PIXELS).max() <= 9
    other, _ = drawn(data, seed=1)
    assert set(found) != set(other)


def test_small_shares_have_their_turn(masks):
    """One pixel a picture: over many passes a class comes as often as its pixels."""
    data = pool(masks, pixels=1, size=5, steps=120)
    _, labels = drawn(data)
    share = (labels == 2).mean()
    assert 0.002 < share < 0.025  # 2 of 200 pixels


def test_classes_with_too_few_pixels_in_a_picture(masks):
    masks[0, 3:] = 1
    data = pool(masks, fewest=3, size=1)
    _, labels = drawn(data)
    assert 2 not in labels
    assert np.array_equal(data.counts[1], [*np.bincount(masks[1][masks[1] < 2]), 0, 0])
    with pytest.raises(ValueError, match="no pixel of 5 masks counts where a class has 49 pixels"):
        pool(masks, fewest=49)


def test_steps_over_several_passes(masks):
    data = pool(masks, steps=7, size=64)
    assert len(data) == 7 * 64
    found, _ = drawn(data)
    assert np.unique(found, return_counts=True)[1].max() <= 3
    assert len(drawn(pool(masks, steps=7, size=64, pixels=3))[0]) == 7 * 64


def test_seeds(masks):
    data = pool(masks, steps=3, members=2)
    one, again, other = drawn(data), drawn(data), drawn(data, seed=1)
    assert all(np.array_equal(a, b) for a, b in zip(one, again, strict=True))
    assert not np.array_equal(one[0], other[0])


def test_features_are_those_of_upsampled_maps(masks):
    rng = np.random.default_rng(1)
    values = {("a", 0): rng.normal(size=(COUNT, 3, 2, 3)).astype(np.float16),
              ("b", 9): rng.normal(size=(COUNT, 2, 4, 5))}  # fmt: skip
    cells = Cells(values, sizes=[SIZE] * COUNT)
    data = PixelPool(cells, Masks(masks, cells, CLASSES, IGNORE))
    pixels = np.argwhere(np.ones(SIZE))
    built = torch.cat([F.interpolate(torch.from_numpy(one[3:4]).float(), SIZE, mode="bilinear")[0]
                       for one in values.values()])  # fmt: skip
    found = data.features(3, pixels)
    torch.testing.assert_close(found, built.flatten(1).T, rtol=1e-5, atol=1e-6)
    mean, deviation = torch.arange(5.0), torch.arange(1.0, 6)
    data.moments = mean, deviation
    torch.testing.assert_close(data.features(3, pixels), (found - mean) / deviation)


def test_of_many_pictures_an_epoch_reads_a_part():
    values = Counted(np.zeros((3000, 1, 2, 2), np.float32))
    cells = Cells({("a", 0): values}, sizes=[(10, 10)] * 3000)
    masks = np.zeros((3000, 10, 10), np.uint8)
    data = PixelPool(cells, Masks(masks, cells, 1), steps=200)
    list(data.shuffled(np.random.default_rng(0)))
    assert len(set(values.read)) == len(values.read) == 200  # 64 pixels of each
    assert len(data) == 200 * 64


class Counted:
    """Rows that note when they are read."""

    def __init__(self, values):
        self.values, self.read = values, []
        self.shape, self.dtype = values.shape, values.dtype

    def __len__(self):
        return len(self.values)

    def __getitem__(self, rows):
        self.read += range(len(self))[rows]
        return self.values[rows]


def test_maps_are_read_once_a_pass_for_all_members(masks):
    values = Counted(names())
    data = pool(masks, values, members=10, steps=5)
    list(data.shuffled(np.random.default_rng(0)))
    assert sorted(values.read) == [0, 1, 2, 3, 4]


def test_moments_are_those_of_labelled_pixels(masks):
    rng = np.random.default_rng(2)
    values = rng.normal(size=(COUNT, 3, *SIZE)) * [[[2.0]], [[0.1]], [[0.0]]] + 5
    mean, deviation = pool(masks, values).measured()
    kept = values.transpose(0, 2, 3, 1)[masks != IGNORE]
    np.testing.assert_allclose(mean, kept.mean(0), rtol=1e-5)
    np.testing.assert_allclose(deviation[:2], kept.std(0)[:2], rtol=1e-4)
    assert deviation[2] == 1


def test_ordered_gives_the_same_pixels(masks):
    values = Counted(names())
    data = pool(masks, values, members=2, pixels=4)
    one, again = ([(x.numpy(), y.numpy()) for (x,), y in data.ordered()] for _ in range(2))
    assert all(np.array_equal(a, b) for p, q in zip(one, again, strict=True)
               for a, b in zip(p, q, strict=True))  # fmt: skip
    assert one[0][0].shape == (20, 2, 1)
    assert len(values.read) == COUNT


def test_weights_of_classes(masks):
    data = pool(masks)
    count = np.array([(masks == k).sum() for k in range(3)])
    weighed = data.weights()[:3] * count
    np.testing.assert_allclose(weighed, weighed[0])
    assert data.weights()[3] == 0
    assert weighed.sum() == pytest.approx(count.sum())


def test_what_cannot_be(masks):
    with pytest.raises(ValueError, match="all are ignored"):
        pool(np.full_like(masks, IGNORE))
    with pytest.raises(ValueError, match="sampling='random'; expected one of uniform, balanced"):
        pool(masks, sampling="random")
    with pytest.raises(ValueError, match="pixels=0"):
        pool(masks, pixels=0)
