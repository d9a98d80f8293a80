"""What is carried from one picture to another: against a loop over pixels."""

from __future__ import annotations

import numpy as np
import pytest

from probes import Maps
from probes.matching import NearestMatcher, WindowSoftArgmaxMatcher, warp
from tests.probes.matching.naive import maps_of, pixels


@pytest.fixture(scope="module")
def pair():
    return maps_of((12, 20), 1), maps_of((15, 11), 2)


@pytest.fixture(scope="module")
def one_by_one(pair) -> np.ndarray:
    """(15, 11, 2) whole x, y: every pixel of the target, matched by itself."""
    matcher, (source, target) = NearestMatcher(), pair
    found = [matcher.match(target, source, [at]).points[0] for at in pixels((15, 11))]
    return np.array(found).astype(int).reshape(15, 11, 2)


def labels_of(size, kind, shape=()) -> np.ndarray:
    random = np.random.default_rng(0)
    if np.dtype(kind).kind == "f":
        return random.random((*size, *shape)).astype(kind)
    return random.integers(0, 5, (*size, *shape)).astype(kind)


@pytest.mark.parametrize("kind", [np.uint8, np.int64, bool, np.float32])
@pytest.mark.parametrize("shape", [(), (3,)])
def test_every_pixel_takes_what_its_match_has(pair, one_by_one, kind, shape):
    labels = labels_of((12, 20), kind, shape)
    found = warp(labels, *pair, NearestMatcher())
    assert found.dtype == kind
    x, y = np.moveaxis(one_by_one, -1, 0)
    np.testing.assert_array_equal(found, labels[y, x])


def test_soft_labels_of_pixels_in_a_row(pair):
    labels = labels_of((12, 20), np.float32, (3,))
    found = warp(labels.reshape(-1, 3), *pair, NearestMatcher())
    expected = warp(labels, *pair, NearestMatcher())
    np.testing.assert_array_equal(found, expected.reshape(-1, 3))


def test_soft_labels_are_read_between_pixels(pair):
    """A matcher that answers between pixels, and labels that are the coordinates."""
    source, target = pair
    labels = pixels((12, 20)).reshape(12, 20, 2)
    matcher = WindowSoftArgmaxMatcher(resolution="picture")
    found = warp(labels, source, target, matcher)
    flow = matcher.flow(target, source)
    np.testing.assert_allclose(found, flow.points, atol=1e-6)


@pytest.mark.parametrize("stride", [4, "site"])
@pytest.mark.parametrize("mirror", [False, True])
def test_pixels_between_those_that_are_matched(pair, stride, mirror):
    source, target = pair[0], maps_of((15, 11), 2, mirror=mirror)
    labels = labels_of((12, 20), np.uint8)
    found = warp(labels, source, target, NearestMatcher(), stride=stride)
    flow = NearestMatcher().flow(target, source, stride)
    soft = warp(labels.astype(float), source, target, NearestMatcher(), stride=stride)
    columns, rows = (np.sort(line) for line in (flow.x, flow.y))
    carried = labels[flow.points[..., 1].astype(int), flow.points[..., 0].astype(int)]
    for x, y in pixels((15, 11)).astype(int):
        j, i = np.abs(flow.x - x).argmin(), np.abs(flow.y - y).argmin()
        if (np.abs(flow.x - x) == np.abs(flow.x[j] - x)).sum() == 1 and (
            np.abs(flow.y - y) == np.abs(flow.y[i] - y)
        ).sum() == 1:
            assert found[y, x] == carried[i, j]
    ordered = carried[np.argsort(flow.y)][:, np.argsort(flow.x)].astype(float)
    across = [[np.interp(x, columns, row) for x in range(11)] for row in ordered]
    expected = np.stack([np.interp(np.arange(15), rows, line) for line in np.transpose(across)], 1)
    np.testing.assert_allclose(soft, expected, atol=1e-9)


def test_what_is_not_known_is_filled():
    source, target = maps_of((12, 20), 1), maps_of((10, 40), 2, fit="crop")
    labels = np.ones((12, 20), np.uint8)
    found = warp(labels, source, target, NearestMatcher(), fill=9)
    shown = target.valid(pixels((10, 40))).reshape(10, 40)
    np.testing.assert_array_equal(found == 9, ~shown)
    assert (warp(labels, source, target, NearestMatcher(), fill=9, check=0) == 9).sum() > 200


def test_a_picture_and_its_mask_segment_another():
    """Two colours; the target is the source, mirrored and of another size."""
    colours = np.zeros((2, 4, 6))
    colours[0, :, :2], colours[1, :, 2:] = 1, 1
    source = Maps({"a": colours}, (16, 24), (4, 6))
    target = Maps({"a": colours[:, :, ::-1].copy()}, (8, 18), (4, 6))
    mask = np.zeros((16, 24), bool)
    mask[:, :8] = True
    found = warp(mask, source, target, NearestMatcher(resolution="site"))
    np.testing.assert_array_equal(found, np.tile(np.arange(18) >= 12, (8, 1)))


@pytest.mark.parametrize("shape", [(20, 12), (12, 20, 3, 1), (239, 3), (240,)])
def test_labels_of_another_shape(pair, shape):
    with pytest.raises(ValueError, match="labels have shape"):
        warp(np.zeros(shape), *pair, NearestMatcher())
