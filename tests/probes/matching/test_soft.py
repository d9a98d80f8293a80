"""Means of positions: against scipy's softmax, place by place."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.special import softmax

from probes.matching import KernelSoftArgmaxMatcher, SoftArgmaxMatcher, WindowSoftArgmaxMatcher
from tests.probes.matching.naive import maps_of, pixels, points_of, similarities

SIZE, STEP = (24, 32), 4
"""Of a target whose sites are 4 × 4 pixels."""


@pytest.fixture
def case():
    source, target = maps_of((30, 50), 1), maps_of(SIZE, 2)
    points = points_of(source)
    return source, target, points, similarities(source, target, points)


def mean_place(weighed: np.ndarray, temperature: float = 0.04) -> np.ndarray:
    """(H·W,) → (2,)."""
    return softmax(weighed / temperature) @ pixels(SIZE)


def apart(best: int) -> np.ndarray:
    """(H·W, 2) sites between every pixel and one of them."""
    return np.abs(pixels(SIZE) - pixels(SIZE)[best]) / STEP


@pytest.mark.parametrize("temperature", [0.04, 1.0])
def test_soft_argmax(case, temperature):
    source, target, points, similar = case
    matcher = SoftArgmaxMatcher(resolution="picture", temperature=temperature)
    found = matcher.match(source, target, points)
    flat = similar.reshape(len(points), -1)
    expected = [mean_place(one, temperature) for one in flat]
    np.testing.assert_allclose(found.points, expected, atol=1e-8)
    np.testing.assert_allclose(found.score, flat.max(1), atol=1e-8)


@pytest.mark.parametrize("radius", [0, 1, 2.5])
def test_a_window_counts_nothing_outside(case, radius):
    """At its borders too, where part of it lies outside the picture."""
    source, target, points, similar = case
    matcher = WindowSoftArgmaxMatcher(resolution="picture", radius=radius, temperature=1)
    found = matcher.match(source, target, points)
    corners = 0
    for one, place in zip(similar.reshape(len(points), -1), found.points, strict=True):
        best = int(one.argmax())
        inside = (apart(best) <= radius).all(1)
        corners += inside.sum() < (2 * int(STEP * radius) + 1) ** 2
        chosen = softmax(one[inside]) @ pixels(SIZE)[inside]
        np.testing.assert_allclose(place, chosen, atol=1e-8)
    assert corners or radius == 0


def test_a_wide_window_is_the_whole(case):
    source, target, points, _ = case
    found = WindowSoftArgmaxMatcher(radius=99).match(source, target, points)
    expected = SoftArgmaxMatcher().match(source, target, points)
    np.testing.assert_allclose(found.points, expected.points, atol=1e-9)


@pytest.mark.parametrize("sigma", [0.5, 7.0])
def test_a_kernel_times_the_cosines(case, sigma):
    source, target, points, similar = case
    matcher = KernelSoftArgmaxMatcher(resolution="picture", sigma=sigma)
    found = matcher.match(source, target, points)
    for one, place in zip(similar.reshape(len(points), -1), found.points, strict=True):
        kernel = np.exp(-(apart(int(one.argmax())) ** 2).sum(1) / (2 * sigma**2))
        np.testing.assert_allclose(place, mean_place(one * kernel), atol=1e-8)


def test_a_narrow_kernel_meets_a_region(case):
    """Where the kernel is 0 in float32, what lies outside the region still counts nothing."""
    source, target, points, _ = case
    mask = np.zeros(SIZE, bool)
    mask[2:22:3, 5:30:2] = True
    narrow = [maps_of(maps.size, seed, kind=None) for seed, maps in ((1, source), (2, target))]
    for maps in narrow:
        maps.values["a"] = maps["a"].float()
    found = KernelSoftArgmaxMatcher(resolution="picture", sigma=0.05).match(
        *narrow, points, region=mask
    )
    assert np.isfinite(found.points).all()


def test_a_kernel_of_distances_is_refused(case):
    with pytest.raises(ValueError, match="far away"):
        KernelSoftArgmaxMatcher(metric="l2").match(*case[:3])


@pytest.mark.parametrize(
    "matcher",
    [
        SoftArgmaxMatcher(temperature=0),
        WindowSoftArgmaxMatcher(radius=-1),
        KernelSoftArgmaxMatcher(sigma=0),
    ],
)
def test_numbers_that_mean_nothing(case, matcher):
    with pytest.raises(ValueError, match=r"temperature|radius|sigma"):
        matcher.match(*case[:3])
