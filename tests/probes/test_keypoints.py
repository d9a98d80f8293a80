"""SIFT's key points: the places of blobs that are known, and what is refused."""

from __future__ import annotations

import sys

import numpy as np
import pytest

from probes.matching.keypoints import distinct, sift


def blobs(places, size=(90, 120)) -> np.ndarray:
    y, x = np.mgrid[: size[0], : size[1]]
    total = sum(np.exp(-((x - a) ** 2 + (y - b) ** 2) / 18) for a, b in places)
    return (220 * np.clip(total, 0, 1)).astype(np.uint8)


PLACES = np.array([[30.0, 25], [80, 30], [55, 60], [100, 70]])


def test_blobs_are_found_where_they_are():
    points, descriptors = sift(blobs(PLACES))
    assert descriptors.shape == (len(points), 128)
    for place in PLACES:  # a quarter of a pixel is what plain upscaling would be off by
        assert np.linalg.norm(points - place, axis=1).min() < 0.1


def test_colours_are_read_as_their_grey():
    grey = blobs(PLACES)
    points, descriptors = sift(np.repeat(grey[:, :, None], 3, 2))
    wanted, others = sift(grey)
    np.testing.assert_allclose(points, wanted)
    np.testing.assert_allclose(descriptors, others)


def test_no_more_than_asked_for_and_the_strongest():
    picture = np.random.default_rng(0).integers(0, 255, (90, 120), np.uint8)
    many, _ = sift(picture)
    few, descriptors = sift(picture, 10)
    assert len(many) > 20
    assert len(few) == len(descriptors) == 10
    np.testing.assert_allclose(few, many[:10])


def test_a_plain_picture_has_none():
    points, descriptors = sift(np.zeros((40, 40, 3), np.uint8))
    assert points.shape == (0, 2)
    assert descriptors.shape == (0, 128)


def test_places_once_in_their_order():
    found = distinct(np.array([[3.0, 1], [2, 2], [3, 1], [1, 9]]))
    np.testing.assert_array_equal(found, [[3, 1], [2, 2], [1, 9]])


@pytest.mark.parametrize(
    ("picture", "most", "message"),
    [
        (np.zeros((4, 4), np.float32), 10, "expected uint8"),
        (np.zeros((2, 4, 4, 3), np.uint8), 10, "expected uint8"),
        (np.zeros((4, 4), np.uint8), 0, "most"),
    ],
)
def test_what_is_refused(picture, most, message):
    with pytest.raises(ValueError, match=message):
        sift(picture, most)


def test_without_opencv(monkeypatch):
    monkeypatch.setitem(sys.modules, "cv2", None)
    with pytest.raises(ValueError, match=r"pip install 'diffeat\[match\]'"):
        sift(np.zeros((4, 4), np.uint8))
