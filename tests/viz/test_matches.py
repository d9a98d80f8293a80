"""Pictures of matches, pixel by pixel where that says something."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image

from diffeat.errors import SpecError
from diffeat.viz import mask_over, match_lines, similarity_sheet, warp_sheet
from diffeat.viz.maps import GAP, HEAD, SIDE, TOP, resized, tile_size
from diffeat.viz.matches import LABELS, LOST, MASKED, RIGHT, WRONG
from probes.pairs import Matches

ALL = np.ones(3, bool)


def grey(height: int, width: int) -> np.ndarray:
    return np.full((height, width, 3), 120, np.uint8)


def noise(height: int, width: int) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (height, width, 3), np.uint8)


def read(path) -> np.ndarray:
    return np.asarray(Image.open(path).convert("RGB"))


def of(colour: str) -> np.ndarray:
    return np.array([int(colour[k : k + 2], 16) for k in (1, 3, 5)])


def places(picture: np.ndarray, colour: str) -> np.ndarray:
    """(n, 2) x, y of the pixels of one colour."""
    rows, columns = np.nonzero(np.abs(picture.astype(int) - of(colour)).max(-1) <= 3)
    return np.stack([columns, rows], 1)


def drawn(tmp_path, source, target, points, matches, **options) -> np.ndarray:
    match_lines(source, target, points, matches, tmp_path / "m.png", side=200, **options)
    return read(tmp_path / "m.png")


class TestLines:
    def test_pictures_are_there_pixel_by_pixel(self, tmp_path):
        source, target = noise(100, 200), noise(50, 30)
        none = Matches(np.zeros((0, 2)), np.zeros(0), np.zeros(0, bool))
        found = drawn(tmp_path, source, target, np.zeros((0, 2)), none)
        top = TOP + HEAD
        np.testing.assert_array_equal(found[top : top + 100, GAP : GAP + 200], source)
        tall = resized(target, (200, 120))
        np.testing.assert_array_equal(found[top : top + 200, 2 * GAP + 200 :][:, :120], tall)

    @pytest.mark.parametrize(("right", "colour"), [(True, RIGHT), (False, WRONG)])
    def test_a_line_goes_from_the_point_to_the_match(self, tmp_path, right, colour):
        """Of a picture twice as large as it is shown, and of one shown twice as large."""
        matches = Matches(np.array([[90.0, 20.0]]), np.ones(1), ALL[:1])
        found = drawn(tmp_path, grey(400, 400), grey(100, 100), [[99.5, 299.5]], matches,
                      right=[right])  # fmt: skip
        there = places(found[: TOP + HEAD + 200], colour)
        start = (GAP + 50, TOP + HEAD + 150)
        end = (2 * GAP + 200 + 181, TOP + HEAD + 41)
        assert np.abs(there.min(0) - (start[0], end[1])).max() <= 9  # half a spot
        assert np.abs(there.max(0) - (end[0], start[1])).max() <= 9
        along = there[(there[:, 0] > start[0] + 20) & (there[:, 0] < end[0] - 20)]
        line = np.interp(along[:, 0], (start[0], end[0]), (start[1], end[1]))
        assert len(along) > 50
        assert np.abs(along[:, 1] - line).max() <= 2

    def test_what_was_not_found_has_no_line(self, tmp_path):
        points = [[20, 20], [50, 50], [80, 80]]
        matches = Matches(np.array(points, float), np.ones(3), np.array([True, False, True]))
        found = drawn(tmp_path, grey(100, 100), grey(100, 100), points, matches, right=ALL)
        found = found[TOP + HEAD :, GAP:]
        assert np.abs(places(found[85:117, 85:117], LOST).mean(0) - 16).max() <= 1
        assert (found[101, 120:200] == 120).all()
        assert (found[41, 120:200] != 120).all()

    def test_a_ring_where_a_wrong_one_should_be(self, tmp_path):
        matches = Matches(np.array([[80.0, 80.0]]), np.ones(1), ALL[:1])
        found = [drawn(tmp_path, grey(100, 100), grey(100, 100), [[80, 80]], matches,
                       right=[False], truth=truth)
                 for truth in (None, [[30, 30]])]  # fmt: skip
        new = np.argwhere((found[0] != found[1]).any(-1))[:, ::-1]
        centre = (2 * GAP + 200 + 61, TOP + HEAD + 61)
        assert np.abs((new.min(0) + new.max(0)) / 2 - centre).max() <= 1

    def test_scores_are_colours(self, tmp_path):
        """The best is the yellow end, the worst the dark one."""
        points = [[20.0, 10.0], [20.0, 50.0], [20.0, 90.0]]
        matches = Matches(np.array(points), np.array([0.9, 0.1, 0.5]), ALL)
        found = drawn(tmp_path, grey(100, 100), grey(100, 100), points, matches)
        along = found[TOP + HEAD : TOP + HEAD + 200, 150]
        best, worst = along[21], along[101]
        assert np.abs(best.astype(int) - (253, 231, 37)).max() <= 3
        assert np.abs(worst.astype(int) - (68, 1, 84)).max() <= 3

    def test_many_points_and_names_that_are_no_formulas(self, tmp_path):
        points = np.stack(np.meshgrid(np.arange(10), np.arange(9)), -1).reshape(-1, 2) * 5.0
        scores = np.linspace(0, 1, 90)
        for valid in (scores > 0.2, scores < 0):
            drawn(tmp_path, grey(60, 60), grey(60, 60), points, Matches(points, scores, valid),
                  title="$x_{$", names=("$a_{.jpg", "b" * 90))  # fmt: skip

    def test_a_long_title_takes_more_lines(self, tmp_path):
        none = Matches(np.zeros((0, 2)), np.zeros(0), np.zeros(0, bool))
        short, long = (
            drawn(tmp_path, noise(200, 200), grey(200, 200), [], none, title=title)
            for title in ("a title", "several words " * 8)
        )
        lower = len(long) - len(short)
        assert lower > 0
        top = TOP + HEAD
        np.testing.assert_array_equal(long[top + lower :], short[top:])
        assert (long[: top + lower - HEAD, -GAP:] == 255).all()

    @pytest.mark.parametrize(
        ("change", "message"),
        [
            ({"right": [True]}, "1 right for 3 points"),
            ({"truth": np.zeros((3, 2))}, "a truth without `right`"),
            ({"truth": np.full((3, 2), np.nan), "right": ALL}, "truth: point 0 is"),
            ({"points": np.zeros((2, 2))}, "3 matches for 2 points"),
            ({"points": np.zeros((2, 3))}, r"points: points have shape \(2, 3\)"),
            ({"source": np.zeros((5, 5))}, r"the source is \(5, 5\) of float64"),
        ],
    )
    def test_what_does_not_fit(self, tmp_path, change, message):
        matches = Matches(np.zeros((3, 2)), np.ones(3), ALL)
        given = {"source": grey(9, 9), "target": grey(9, 9), "points": np.zeros((3, 2)),
                 "matches": matches, **change}  # fmt: skip
        with pytest.raises(SpecError, match=message):
            match_lines(path=tmp_path / "m.png", **given)


class TestSimilarity:
    def test_the_best_place_is_yellow_and_far_from_it_dark(self, tmp_path):
        rows, columns = np.mgrid[:60, :80]
        maps = [np.exp(-((columns - 60) ** 2 + (rows - 20) ** 2) / 200), np.full((60, 80), np.nan)]
        similarity_sheet(grey(60, 80), grey(60, 80), [[5, 5], [9, 9]], maps, tmp_path / "s.png",
                         side=80)  # fmt: skip
        found = read(tmp_path / "s.png").astype(int)
        heat = found[TOP + HEAD :, GAP + 150 + GAP :]
        assert heat[20, 48, 1] > heat[50, 5, 1] + 50
        np.testing.assert_allclose(heat[58, 2], 0.35 * 120 + 0.65 * np.array([68, 1, 84]), atol=2)
        unknown = heat[58, 2 + 150 + GAP]
        np.testing.assert_allclose(unknown, 0.35 * 120 + 0.65 * 0xC8, atol=2)

    def test_many_are_wrapped(self, tmp_path):
        maps = [np.random.default_rng(k).normal(size=(40, 40)) for k in range(5)]
        shapes = []
        for count in (2, 5):
            points = np.ones((count, 2))
            similarity_sheet(grey(40, 40), grey(40, 40), points, maps[:count], tmp_path / "s.png",
                             side=40, across=2, truth=points)  # fmt: skip
            shapes.append(read(tmp_path / "s.png").shape)
        assert shapes[0][1] == shapes[1][1]
        assert shapes[1][0] - shapes[0][0] == 2 * (40 + HEAD + GAP)

    @pytest.mark.parametrize(
        ("points", "maps", "message"),
        [
            ([], [], "0 points, 0 maps; expected at least one"),
            ([[1, 1]], [np.zeros((4, 4))] * 2, "1 points, 2 maps"),
            ([[1, 1]], [np.zeros((4, 5))], r"a map is \(4, 5\); expected \(4, 4\)"),
        ],
    )
    def test_what_does_not_fit(self, tmp_path, points, maps, message):
        with pytest.raises(SpecError, match=message):
            similarity_sheet(grey(4, 4), grey(4, 4), points, maps, tmp_path / "s.png")


class TestWarped:
    def test_a_mask_lets_the_picture_through(self):
        labels = np.array([[0, 1], [255, len(LABELS) + 1]])
        found = mask_over(grey(2, 2), labels)
        laid = np.round((1 - MASKED) * 120 + MASKED * of(LABELS[0]))
        np.testing.assert_array_equal(found, [[[120] * 3, laid], [[120] * 3, laid]])
        np.testing.assert_array_equal(mask_over(grey(2, 2), labels == 1)[0, 1], laid)

    def test_what_is_not_seen_is_blank(self, tmp_path):
        source, target, warped = noise(40, 80), grey(60, 60), noise(60, 60)
        seen, carried = np.arange(60) < 30, np.ones((60, 60), int)
        warp_sheet(source, target, tmp_path / "w.png", warped=warped, side=SIDE,
                   seen=np.broadcast_to(seen, (60, 60)), carried=carried)  # fmt: skip
        found, top = read(tmp_path / "w.png"), TOP + HEAD
        high, wide = tile_size((40, 80), SIDE)
        left = GAP + wide + GAP
        np.testing.assert_array_equal(found[top : top + high, GAP : GAP + wide],
                                      resized(source, (high, wide)))  # fmt: skip
        tiles = [found[top : top + 180, left + k * (180 + GAP) :][:, :180] for k in range(3)]
        np.testing.assert_array_equal(tiles[0], resized(target, (180, 180)))
        np.testing.assert_array_equal(tiles[1][:, :90], resized(warped, (180, 180))[:, :90])
        assert (tiles[1][:, 90:] == 235).all()
        np.testing.assert_array_equal(tiles[2], resized(mask_over(target, carried), (180, 180)))

    @pytest.mark.parametrize(
        ("options", "message"),
        [
            ({}, "nothing to show"),
            ({"warped": np.zeros((3, 4, 3), np.uint8)}, r"warped is \(3, 4\); expected \(4, 4\)"),
            ({"carried": np.zeros((4, 4)), "labels": np.zeros((1, 4))}, r"labels is \(1, 4\)"),
        ],
    )
    def test_what_does_not_fit(self, tmp_path, options, message):
        with pytest.raises(SpecError, match=message):
            warp_sheet(grey(4, 4), grey(4, 4), tmp_path / "w.png", **options)
