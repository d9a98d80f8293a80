"""Points followed by matching."""

from __future__ import annotations

import numpy as np
import pytest

from probes.cells import Cells
from probes.maps import Maps
from probes.matching import NearestMatcher, SoftArgmaxMatcher
from probes.propagation import track_points

SIZE = (48, 96)


def clip(count=4, noise=0.0, seed=0):
    """Maps of a scene that moves 8 pixels, a site, to the left with every frame."""
    draw = np.random.default_rng(seed)
    scene = draw.standard_normal((24, 6, 12 + count))
    frames = [scene[:, :, place : place + 12] for place in range(count)]
    return [Maps({"m": (one + noise * draw.standard_normal(one.shape)).astype(np.float32)},
                 SIZE, SIZE) for one in frames]  # fmt: skip


POINTS = np.array([[60.0, 20.0], [80.0, 33.0]])


@pytest.mark.parametrize("chained", [False, True])
def test_points_move_with_the_scene(chained):
    found = list(track_points(clip(), POINTS, chained=chained, check=1))
    assert len(found) == 4
    for place, matches in enumerate(found):
        np.testing.assert_allclose(matches.points, POINTS - [8 * place, 0])
        assert matches.valid.all()
        np.testing.assert_allclose(matches.score, 1, atol=1e-5)


def test_each_frame_is_a_match_with_the_first_or_with_the_one_before():
    frames, matcher = clip(4, noise=1.0), SoftArgmaxMatcher(low_pass=1.0)
    found = list(track_points(frames, POINTS, matcher, check=20))
    for maps, matches in zip(frames[1:], found[1:], strict=True):
        expected = matcher.match(frames[0], maps, POINTS, check=20)
        np.testing.assert_array_equal(matches.points, expected.points)
        np.testing.assert_array_equal(matches.valid, expected.valid)
    at, valid = POINTS, np.ones(2, bool)
    chained = list(track_points(frames, POINTS, matcher, chained=True, check=5))
    for before, maps, matches in zip(frames, frames[1:], chained[1:], strict=False):
        expected = matcher.match(before, maps, at, check=5)
        at, valid = expected.points, valid & expected.valid
        np.testing.assert_array_equal(matches.points, at)
        np.testing.assert_array_equal(matches.valid, valid)


def test_what_is_lost_stays_lost_in_a_chain():
    """The second frame shows another scene; the third the first one's again."""
    a, other = clip(1), clip(1, seed=9)
    frames = [*a, *other, *a]
    chained = list(track_points(frames, POINTS, chained=True, check=0.5))
    assert chained[0].valid.all()
    assert not chained[1].valid.any()
    assert not chained[2].valid.any()
    straight = list(track_points(frames, POINTS, check=0.5))
    assert straight[2].valid.all()
    np.testing.assert_allclose(straight[2].points, POINTS)


def test_rows_of_cells_and_frames_one_by_one():
    frames = clip(3)
    cells = Cells({("m", 0.0): np.stack([one["m"] for one in frames])}, sizes=[SIZE] * 3)
    asked = []

    def given():
        for place, maps in enumerate(frames):
            asked.append(place)
            yield maps

    followed = track_points(given(), POINTS, NearestMatcher(resolution="site"))
    for place, expected in enumerate(
        track_points(cells, POINTS, NearestMatcher(resolution="site"))
    ):
        np.testing.assert_array_equal(next(followed).points, expected.points)
        assert asked == list(range(place + 1))


def test_bad_input():
    with pytest.raises(ValueError, match="no frames"):
        track_points([], POINTS)
    with pytest.raises(ValueError, match="outside the source"):
        track_points(clip(2), [[200.0, 3.0]])
    with pytest.raises(ValueError, match="check"):
        list(track_points(clip(2), POINTS, check=-1))
    other = Maps({"n": clip(1)[0]["m"]}, SIZE, SIZE)
    with pytest.raises(ValueError, match="expected the same"):
        list(track_points([*clip(1), other], POINTS))
