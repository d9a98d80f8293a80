"""Strips of frames, pixel by pixel where that says something."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image

from diffeat.errors import SpecError
from diffeat.viz import frame_strip, mask_over
from diffeat.viz.frames import strip_places
from diffeat.viz.maps import GAP, HEAD, TOP
from diffeat.viz.matches import LABELS


def noise(count: int, height: int = 40, width: int = 80) -> list[np.ndarray]:
    return list(np.random.default_rng(0).integers(0, 256, (count, height, width, 3), np.uint8))


def drawn(tmp_path, pictures, **options) -> np.ndarray:
    frame_strip(pictures, tmp_path / "s.png", side=80, **options)
    with Image.open(tmp_path / "s.png") as image:
        return np.asarray(image.convert("RGB"))


def test_frames_stand_in_lines_under_their_masks(tmp_path):
    pictures = noise(3)
    masks = [np.zeros((40, 80), np.uint8) for _ in range(3)]
    masks[0][:10], masks[2][20:] = 7, 255  # numbers count by their order
    found = drawn(tmp_path, pictures, masks=masks, across=2, heads=["a", "b", "c"])
    top, step, down = TOP + HEAD // 2, 150 + GAP, 40 + HEAD // 2 + GAP
    wanted = [mask_over(pictures[0], masks[0] // 7), pictures[1], mask_over(pictures[2],
              np.where(masks[2], 2, 0))]  # fmt: skip
    for place, one in enumerate(wanted):
        y, x = top + down * (place // 2), GAP + step * (place % 2)
        np.testing.assert_array_equal(found[y : y + 40, x : x + 80], one)


def test_points_keep_their_colour_and_nan_is_not_drawn(tmp_path):
    grey = [np.full((40, 80, 3), 120, np.uint8)] * 2
    points = [np.array([[10.0, 10], [60, 30]]), np.array([[20.0, 10], [np.nan, np.nan]])]
    found = drawn(tmp_path, grey, points=points).astype(int)
    top, step = TOP + HEAD // 2, 150 + GAP

    def seen(place: int, colour: str) -> np.ndarray:
        rgb = [int(colour[k : k + 2], 16) for k in (1, 3, 5)]
        tile = found[top : top + 40, GAP + place * step : GAP + place * step + 80]
        return np.argwhere(np.abs(tile - rgb).max(2) < 4)

    for place, (x, y) in enumerate(((10, 10), (20, 10))):
        np.testing.assert_allclose(seen(place, LABELS[0]).mean(0), (y, x), atol=1.5)
    assert len(seen(0, LABELS[1])) > 10
    assert not len(seen(1, LABELS[1]))


def test_which_frames_are_shown():
    assert strip_places(50).tolist() == [0, 7, 14, 21, 28, 35, 42, 49]
    assert strip_places(3).tolist() == [0, 1, 2]
    assert strip_places(1).tolist() == [0]


@pytest.mark.parametrize(
    ("fields", "message"),
    [({"masks": [np.zeros((40, 80))]}, "2 frames with"), ({"heads": ["a"]}, "2 frames with"),
     ({"masks": [np.zeros((4, 8))] * 2}, "mask 0 is")],
)  # fmt: skip
def test_what_does_not_fit(tmp_path, fields, message):
    with pytest.raises(SpecError, match=message):
        drawn(tmp_path, noise(2), **fields)
    with pytest.raises(SpecError, match="0 frames"):
        drawn(tmp_path, [])
