"""Pictures under their segments."""

from __future__ import annotations

import numpy as np
import pytest

from diffeat.errors import SpecError
from diffeat.viz.segments import segment_colours, segment_overlay, shade

NAMES = ("background", "cat", "sky")
COLOURS = np.array([[96, 96, 96], [200, 100, 0], [0, 100, 200]], np.uint8)


def made(side: int = 60):
    """Two cats side by side over sky; a strip of none above, background on the right."""
    ids = np.full((side, side), 3, np.int32)
    ids[:6] = 0
    ids[20:40, 4:20], ids[20:40, 20:36], ids[:, 50:] = 1, 2, 4
    segments = [{"id": k, "class": label} for k, label in ((1, 1), (2, 1), (3, 2), (4, 0))]
    return ids, segments


def test_things_of_a_class_have_shades_and_stuff_its_colour():
    found = segment_colours(made()[1], COLOURS)
    assert found[1].tolist() == [200, 100, 0]
    assert found[2].tolist() == [215, 143, 71]  # .28 of the way to white
    assert found[3].tolist() == [0, 100, 200]
    assert shade([200, 100, 0], 2).tolist() == [144, 72, 0]  # and to black


def test_half_a_colour_over_the_picture_and_white_edges():
    picture = np.full((60, 60, 3), 100, np.uint8)
    found = segment_overlay(picture, made(), NAMES, COLOURS, legend=False)
    assert found.shape == (60, 60, 3)
    assert found[3, 10].tolist() == [100, 100, 100]  # of no segment
    assert found[30, 57].tolist() == [100, 100, 100]  # background
    assert found[22, 6].tolist() == [150, 100, 50]
    assert found[45, 10].tolist() == [50, 100, 150]
    assert found[38, 19].tolist() == found[38, 20].tolist() == [255, 255, 255]


def test_names_stand_in_their_segments_if_there_is_room():
    picture = np.full((240, 240, 3), 100, np.uint8)
    ids, segments = (np.kron(made()[0], np.ones((4, 4), int)), made()[1])
    with_names = segment_overlay(picture, (ids, segments), NAMES, COLOURS, legend=False)
    without = segment_overlay(
        picture, (ids, segments), ["background", "", ""], COLOURS, legend=False
    )
    changed = (with_names != without).any(2)
    for number in (1, 2, 3):
        assert changed[ids == number].mean() > 0.005
    assert not changed[ids == 4].any()
    tiny = np.zeros((240, 240), np.int32)
    tiny[100:104, 100:104] = 1
    one = segment_overlay(picture, (tiny, segments[:1]), NAMES, COLOURS, legend=False)
    assert (one != 100).any(2).sum() <= 36  # the segment and its edge alone


def test_a_legend_stands_below():
    picture = np.full((60, 300, 3), 100, np.uint8)
    ids = np.ones((60, 300), np.int32)
    found = segment_overlay(picture, (ids, [{"id": 1, "class": 2}]), NAMES, COLOURS)
    assert found.shape[0] > 60
    assert (found[60:] == COLOURS[2]).all(2).any()


def test_other_sizes_are_refused():
    with pytest.raises(SpecError, match="expected one size"):
        segment_overlay(np.zeros((9, 9, 3), np.uint8), made(), NAMES, COLOURS)
