"""Colours of numbers: far enough apart to be told, and letters that are read on them."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image, ImageCms

from diffeat.search import Grid, Measure
from diffeat.viz import Scale, contrast, heat_map, ink
from diffeat.viz.figures import subplots
from diffeat.viz.scales import BENT, MISSING, colour_bar, colour_map, luminance


def lab(colours: np.ndarray) -> np.ndarray:
    """(n, 3) CIELAB of (n, 3) sRGB in [0, 1], by Pillow's colour management."""
    pixels = Image.fromarray(np.round(255 * colours[None]).astype(np.uint8))
    turn = ImageCms.buildTransform(
        ImageCms.createProfile("sRGB"), ImageCms.createProfile("LAB"), "RGB", "LAB"
    )
    found = np.asarray(ImageCms.applyTransform(pixels, turn))[0].astype(np.float64)
    found[:, 0] *= 100 / 255
    found[:, 1:] = np.where(found[:, 1:] > 127, found[:, 1:] - 256, found[:, 1:])
    return found


def far(one: np.ndarray, other: np.ndarray) -> float:
    """Difference of two colours, CIE 1976."""
    return float(np.linalg.norm(np.subtract(*lab(np.stack([one[:3], other[:3]])))))


CROWDED = [0.99, 0.985, 0.98, 0.97, 0.96, 0.955, 0.95, 0.88, 0.55]


class TestScale:
    def test_99_and_96_are_two_colours_beside_a_bad_cell(self):
        best, other = Scale.of(CROWDED).colours([0.99, 0.96])
        assert far(best, other) > 30
        linear = colour_map()((np.array([0.99, 0.96]) - 0.55) / 0.44)
        assert far(best, other) > 3 * far(*linear)  # of a scale from end to end

    def test_the_median_of_a_crowd_is_the_middle(self):
        scale = Scale.of(CROWDED)
        assert scale.power > 1
        assert scale.places(np.median(CROWDED)) == pytest.approx(0.5)
        np.testing.assert_allclose(scale.places([0.55, 0.99]), [0, 1])

    def test_it_is_linear_where_most_are_bad(self):
        scale = Scale.of([0.1, 0.2, 0.3, 0.9])
        assert scale.power == 1
        np.testing.assert_allclose(scale.places([0.1, 0.5, 0.9]), [0, 0.5, 1])

    def test_the_best_is_at_the_top_whichever_way_better_is(self):
        scale = Scale.of([3.2, 3.3, 9.1], higher_is_better=False)
        assert (scale.worst, scale.best) == (9.1, 3.2)
        places = scale.places([3.2, 3.3, 9.1])
        assert places[0] == 1 > places[1] > places[2] == 0

    @pytest.mark.parametrize("place", [0, 0.25, 0.5, 1])
    def test_value_is_the_inverse(self, place):
        for scale in (Scale.of(CROWDED), Scale.of([4.0, 1.0, 2.0], higher_is_better=False)):
            assert scale.places(scale.value(place)) == pytest.approx(place)

    def test_one_number_alone_and_none_at_all(self):
        one = Scale.of([0.5, 0.5])
        assert one.constant
        np.testing.assert_array_equal(one.places([0.5]), [1])
        nothing = Scale.of([np.nan])
        assert nothing.constant
        grey = tuple(int(MISSING[k : k + 2], 16) / 255 for k in (1, 3, 5))
        np.testing.assert_allclose(nothing.colours([np.nan])[0, :3], grey, atol=1e-6)

    def test_almost_all_equal(self):
        scale = Scale.of([0.9] * 9 + [0.1])
        assert 1 < scale.power <= 12
        assert np.isfinite(scale.places([0.9, 0.5, 0.1])).all()


class TestInk:
    def test_luminance_and_contrast_of_known_colours(self):
        assert luminance((1, 1, 1)) == pytest.approx(1)
        assert luminance((0, 1, 0)) == pytest.approx(0.7152)
        assert contrast((1, 1, 1), (0, 0, 0)) == pytest.approx(21)
        grey = (0x76 / 255,) * 3  # the darkest grey that has 4.5 on white
        assert contrast(grey, (1, 1, 1)) == pytest.approx(4.54, abs=0.01)

    def test_numbers_are_read_on_every_colour_of_the_scale(self):
        inks = {"black": (0, 0, 0), "white": (1, 1, 1)}
        for name in ("viridis", "cividis"):
            for colour in colour_map(name)(np.linspace(0, 1, 256)):
                assert contrast(colour, inks[ink(colour)]) >= 4.5


def cells(rows: int, columns: int) -> dict:
    rng = np.random.default_rng(0)
    return {
        (f"up.{i}.attn", 10 * j): float(rng.uniform(0.5, 0.9))
        for i in range(rows)
        for j in range(columns)
    }


def pixels_of(path) -> np.ndarray:
    return np.asarray(Image.open(path).convert("RGB"))


def count(pixels: np.ndarray, colour) -> int:
    return int((np.abs(pixels.astype(int) - np.round(255 * np.asarray(colour))) <= 1).all(-1).sum())


class TestHeatMaps:
    def test_two_grids_have_one_scale(self, tmp_path):
        """0.96 is the colour that it has among all numbers, not the best one of its own grid."""
        first = Grid("trained", {("a", 0): 0.99, ("b", 0): 0.97})
        second = Grid("random", {("a", 0): 0.96, ("b", 0): 0.55})
        heat_map([first, second], tmp_path / "a.png")
        shared = Scale.of([99, 97, 96, 55])
        pixels = pixels_of(tmp_path / "a.png")
        for value in (99, 97, 96, 55):
            assert count(pixels, shared.colours(value)[:3]) > 500, value

    def test_a_number_that_is_missing_is_grey(self, tmp_path):
        grey = tuple(int(MISSING[k : k + 2], 16) / 255 for k in (1, 3, 5))
        for name, lacking, least in (("all", {}, 0), ("nan", {("b", 1): np.nan}, 1000)):
            values = {("a", 0): 0.5, ("a", 1): 0.7, ("b", 0): 0.6, ("b", 1): 0.9, **lacking}
            heat_map([Grid("g", values)], tmp_path / f"{name}.png")
            found = count(pixels_of(tmp_path / f"{name}.png"), grey)
            assert found >= least if least else found < 50

    @pytest.mark.parametrize("values", [[np.nan], [0.5], [0.5, 0.5], [np.nan, 0.2]])
    @pytest.mark.parametrize("shared", [True, False])
    def test_grids_with_next_to_nothing(self, tmp_path, values, shared):
        grid = Grid("g", {("a", k): value for k, value in enumerate(values)}, Measure("r2", ""))
        heat_map([grid], tmp_path / "a.png", shared=shared)
        assert pixels_of(tmp_path / "a.png").size > 1000

    def test_it_fits_a_page_and_large_ones_go_without_numbers(self, tmp_path):
        widths = {}
        for rows, columns in ((4, 8), (60, 30)):
            path = tmp_path / f"{rows}.png"
            grid = Grid("g", cells(rows, columns))
            heat_map([grid] if rows == 60 else [grid, grid], path, "title")
            widths[rows] = pixels_of(path).shape[1]
        assert widths[4] < 1300
        assert widths[60] < 1500
        # of a grid with numbers most rows of pixels cross black or white letters
        pixels = pixels_of(tmp_path / "60.png")
        body = pixels[200:-200, 300:-300]
        assert count(body, (1, 1, 1)) + count(body, (0, 0, 0)) < 0.002 * body[..., 0].size


def test_titles_are_text_and_no_formulas(tmp_path):
    grid = Grid("m$a$\\frac{$", {("up.0", 20): 0.5, ("up.1", 20): 0.4})
    for shared in (True, False):
        heat_map([grid], tmp_path / "h.png", "$\\frac{$", shared)
    assert (tmp_path / "h.png").is_file()


@pytest.mark.parametrize(("values", "bent"), [(CROWDED, True), ([0.1, 0.2, 0.3, 0.9], False)])
def test_the_bar_says_that_its_scale_is_bent(values, bent):
    figure, axes = subplots(1, 1, (3, 3))
    colour_bar(figure, axes[0, 0], Scale.of(values), "accuracy", str)
    assert (BENT in figure.axes[-1].get_ylabel()) == bent


def test_a_long_label_of_the_bar_is_in_the_picture():
    figure, axes = subplots(1, 1, (3, 2))
    label = "validation right matches within 1 % of the side of the target, in %"
    colour_bar(figure, axes[0, 0], Scale.of(CROWDED), label, str)
    figure.canvas.draw()
    where = figure.axes[-1].yaxis.label.get_window_extent()
    assert where.y0 >= 0
    assert where.y1 <= figure.bbox.height
    assert label in figure.axes[-1].get_ylabel().replace("\n", " ")
