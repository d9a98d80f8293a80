"""Pictures of results: colours of feature maps, sheets and heat maps."""

from __future__ import annotations

from typing import ClassVar

import numpy as np
import pytest
from PIL import Image

from diffeat.search import Cell, Grid, Measure, Surface
from diffeat.viz import feature_sheet, heat_map, pca_rgb
from diffeat.viz.maps import GAP, SIDE


def maps(*shape: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


def colours(path) -> int:
    """Number of different colours in a PNG."""
    with Image.open(path) as picture:
        assert picture.format == "PNG"
        return len(picture.convert("RGB").getcolors(maxcolors=1 << 24))


class TestPcaRgb:
    @pytest.mark.parametrize("dtype", [np.float16, np.float32])
    @pytest.mark.parametrize("shape", [(3, 8, 5, 4), (2, 2, 6, 6), (1, 600, 3, 4), (2, 1, 4, 4)])
    def test_shape_and_range(self, shape, dtype):
        shown = pca_rgb(maps(*shape).astype(dtype))
        assert shown.shape == (shape[0], *shape[2:], 3)
        assert shown.dtype == np.float32
        assert shown.min() >= 0
        assert shown.max() <= 1
        assert shown[..., 0].min() == 0  # the range is used
        assert shown[..., 0].max() == 1

    def test_it_is_the_same_every_time(self):
        values = maps(2, 16, 8, 8)
        np.testing.assert_array_equal(pca_rgb(values), pca_rgb(values.copy()))

    def test_the_order_of_channels_does_not_matter(self):
        values = maps(2, 6, 8, 8)
        shuffled = values[:, [3, 1, 5, 0, 4, 2]]
        np.testing.assert_allclose(pca_rgb(shuffled), pca_rgb(values), atol=1e-4)

    def test_first_component_is_the_direction_of_the_largest_variance(self):
        values = 0.01 * maps(1, 5, 9, 9)
        ramp = np.linspace(-1, 1, 81).reshape(9, 9) ** 3 + 0.2
        values[0, 2] += ramp
        red = pca_rgb(values)[0, ..., 0].ravel()
        assert abs(np.corrcoef(red, ramp.ravel())[0, 1]) > 0.99

    def test_one_colour_means_the_same_in_every_picture(self):
        values = maps(2, 7, 8, 8)
        values[1, :, :4] = values[0, :, :4]
        together = pca_rgb(values)
        np.testing.assert_allclose(together[1, :4], together[0, :4], atol=1e-6)
        # fitted one by one, the equal halves would look different
        alone = [pca_rgb(values[k : k + 1])[0] for k in (0, 1)]
        assert np.abs(alone[1][:4] - alone[0][:4]).max() > 0.05

    def test_missing_components_stay_grey(self):
        shown = pca_rgb(maps(2, 1, 4, 4))
        assert (shown[..., 1:] == 0.5).all()
        assert len(np.unique(shown[..., 0])) > 10

    @pytest.mark.parametrize("shape", [(2, 5, 4, 4), (2, 1, 4, 4), (2, 3, 1, 1), (1, 3, 1, 1)])
    @pytest.mark.parametrize("value", [0.0, 1.5])
    def test_constant_maps_have_one_colour(self, shape, value):
        shown = pca_rgb(np.full(shape, value, np.float32))
        assert shown.shape == (shape[0], *shape[2:], 3)
        assert len(np.unique(shown.reshape(-1, 3), axis=0)) == 1
        assert 0 <= shown.min() <= shown.max() <= 1


class TestFeatureSheet:
    @pytest.fixture
    def sheet(self, tmp_path):
        originals = list(np.random.default_rng(0).integers(0, 256, (2, 16, 16, 3), np.uint8))

        def write(name: str, columns: dict, **options):
            path = tmp_path / name
            feature_sheet(originals, columns, ["a", "very/long/name/" * 4], path, **options)
            return path

        return write

    def test_a_png_with_content(self, sheet):
        path = sheet("a.png", {"up.0, t=20": maps(2, 8, 4, 4), "mid": maps(2, 3, 2, 6)}, title="T")
        assert colours(path) > 300  # 512 different pixels in the originals alone

    def test_it_grows_with_its_columns(self, sheet):
        one = sheet("one.png", {"a": maps(2, 8, 4, 4)})
        three = sheet("three.png", {name: maps(2, 8, 4, 4) for name in "abc"})
        with Image.open(one) as small, Image.open(three) as large:
            panel = SIDE + GAP
            assert large.width - small.width == 2 * panel
            assert large.height == small.height

    def test_the_maps_are_seen(self, sheet):
        first = sheet("a.png", {"a": maps(2, 8, 4, 4)})
        second = sheet("b.png", {"a": maps(2, 8, 4, 4, seed=1)})
        assert first.read_bytes() != second.read_bytes()
        assert first.read_bytes() == sheet("c.png", {"a": maps(2, 8, 4, 4)}).read_bytes()

    def test_names_and_pictures_must_fit(self, tmp_path):
        with pytest.raises(ValueError, match=r"shorter|longer"):
            feature_sheet([np.zeros((4, 4, 3), np.uint8)], {}, ["a", "b"], tmp_path / "a.png")


def surface(name: str, cells: dict) -> Grid:
    filled = [Cell(block, t, value, 0.01) for (block, t), value in cells.items()]
    return Surface(name, filled, (60, 20, 20), 10).grid


def red_pixels(path) -> np.ndarray:
    """Coordinates (row, column) of the frame's colour."""
    pixels = np.asarray(Image.open(path).convert("RGB"))
    return np.argwhere((pixels == (255, 0, 0)).all(-1))


class TestHeatMap:
    cells: ClassVar = {("mid", 5): 0.3, ("mid", 60): 0.5, ("up.0", 5): 0.6, ("up.0", 60): 0.9}

    def test_a_png_with_content(self, tmp_path):
        heat_map([surface("unet", self.cells)], tmp_path / "a.png", title="T")
        assert colours(tmp_path / "a.png") > 100

    @pytest.mark.parametrize("best", [("mid", 5), ("up.0", 60)])
    def test_the_best_cell_is_framed(self, tmp_path, best):
        path = tmp_path / "a.png"
        heat_map([surface("unet", {**self.cells, best: 0.95})], path)
        height, width = np.asarray(Image.open(path)).shape[:2]
        row, column = red_pixels(path).mean(0)
        assert (row < height / 2) == (best[0] == "mid")  # blocks run down …
        frames = red_pixels(path)[:, 1]
        assert frames.max() - frames.min() < width / 2  # … and one cell alone is framed
        other = tmp_path / "other.png"
        heat_map([surface("unet", {**self.cells, (best[0], 65 - best[1]): 0.95})], other)
        assert (column < red_pixels(other).mean(0)[1]) == (best[1] == 5)

    def test_two_surfaces_and_missing_cells(self, tmp_path):
        lacking = {key: value for key, value in self.cells.items() if key != ("mid", 60)}
        one, both = tmp_path / "one.png", tmp_path / "both.png"
        heat_map([surface("unet", self.cells)], one)
        heat_map([surface("unet", self.cells), surface("random", lacking)], both)
        with Image.open(one) as small, Image.open(both) as large:
            assert large.width > 1.2 * small.width
        assert colours(both) > 100

    def test_other_units_have_no_scale_in_common(self, tmp_path):
        percent = surface("unet", self.cells)
        pixels = Grid("unet", self.cells, Measure("error", "px", False))
        with pytest.raises(ValueError, match="shared=False"):
            heat_map([percent, pixels], tmp_path / "a.png")
        heat_map([percent, pixels], tmp_path / "a.png", shared=False)
        assert colours(tmp_path / "a.png") > 100

    def test_the_lowest_is_framed_where_lower_is_better(self, tmp_path):
        heat_map([Grid("e", self.cells, Measure("error", "px", False))], tmp_path / "a.png")
        size = np.asarray(Image.open(tmp_path / "a.png")).shape[:2]
        row, column = (red_pixels(tmp_path / "a.png") / size).mean(0)
        assert max(row, column) < 0.5  # mid, t=5: the upper left cell

    def test_equal_values_everywhere(self, tmp_path):
        heat_map([surface("unet", dict.fromkeys(self.cells, 0.5))], tmp_path / "a.png")
        assert colours(tmp_path / "a.png") > 100
