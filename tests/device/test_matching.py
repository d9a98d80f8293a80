"""Matchers on a device: they run there, and give what the CPU gives."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from sklearn.base import clone

from probes import Maps
from probes.matching import MutualMatcher, warp
from tests.device.claims import claimed
from tests.probes.matching.naive import TWO, maps_of, points_of
from tests.probes.matching.test_matchers import MATCHERS

DEVICE = pytest.mark.skipif(not torch.cuda.is_available(), reason="torch sees no CUDA device here")


@pytest.fixture(scope="module")
def pair():
    """On the CPU, in float32, with sizes and fits that differ."""
    return (maps_of((30, 50), 1, TWO, "pad", kind=torch.float32),
            maps_of((45, 33), 2, TWO, "crop", kind=torch.float32))  # fmt: skip


def moved(maps: Maps) -> Maps:
    values = {cell: values.to("cuda") for cell, values in maps.values.items()}
    return Maps(values, maps.size, maps.input_size, maps.placement)


def everything(matcher, source: Maps, target: Maps) -> list[np.ndarray]:
    """What a matcher says of two pictures."""
    mask = np.zeros(target.size, bool)
    mask[10:40, 3:30] = True
    mask[20:28, 9:17] = False
    points = points_of(source)
    found = matcher.match(source, target, points, region=mask, check=9)
    flow = matcher.flow(source, target, 9)
    carried = warp(np.arange(30 * 50).reshape(30, 50) / 50, source, target, matcher, stride=7)
    return [
        found.points, found.score, found.valid, flow.points, flow.score,
        matcher.similarity(source, target, points[0]), carried,
    ]  # fmt: skip


def compare(found: list[np.ndarray], expected: list[np.ndarray]) -> None:
    for one, other in zip(found, expected, strict=True):
        assert isinstance(one, np.ndarray), "answers are numpy's"
        np.testing.assert_allclose(one, other, rtol=1e-4, atol=1e-3)


@pytest.mark.parametrize("name", MATCHERS)
def test_a_matcher_on_the_device_is_that_of_the_cpu(name, pair, mode):
    matcher = MATCHERS[name]()
    expected = everything(matcher, *pair)
    mode.waits.clear()
    compare(everything(clone(matcher).set_params(device="cuda"), *pair), expected)
    assert mode.waits, "nothing ran on the device"


@pytest.mark.parametrize("name", MATCHERS)
def test_maps_are_matched_where_they_lie(name, pair, mode):
    matcher = MATCHERS[name]()
    expected = everything(matcher, *pair)
    there = [moved(maps) for maps in pair]
    assert claimed(there[0]["a"])
    compare(everything(matcher, *there), expected)


@pytest.mark.parametrize("options", [{}, {"combine": "concat", "weights": [1, 2]},
                                     {"metric": "l2", "normalise": "before"}])  # fmt: skip
def test_mutual_sites(options, pair, mode):
    matcher = MutualMatcher(**options)
    points, found = matcher.mutual(*pair)
    same, again = matcher.mutual(*(moved(maps) for maps in pair))
    compare([same, again.points, again.score], [points, found.points, found.score])


@pytest.mark.gpu
@DEVICE
@pytest.mark.parametrize("name", MATCHERS)
def test_a_matcher_on_a_real_device(name, pair):
    matcher = MATCHERS[name]()
    expected = everything(matcher, *pair)
    compare(everything(clone(matcher).set_params(device="cuda"), *pair), expected)
    compare(everything(matcher, *(moved(maps) for maps in pair)), expected)
