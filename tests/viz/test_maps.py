"""Maps on pictures: each cell lies where its pixels of the input lie in the picture."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image

from diffeat.coords import Placement
from diffeat.images import fit_picture
from diffeat.viz import agreement, channel_rgb, feature_sheet, laid, pca_rgb
from diffeat.viz.maps import ACROSS, FAINT, GAP, HEAD, SIDE, TOP, resized, tile_size


def picture(height: int, width: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), np.uint8)


def cells(height: int, width: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).uniform(0, 1, (height, width, 3)).astype(np.float32)


class TestLaid:
    def test_whole_cells_have_edges(self):
        colours = cells(4, 4)
        found = laid(colours, (16, 16), (32, 32))
        expected = np.round(255 * colours).astype(np.uint8).repeat(4, 0).repeat(4, 1)
        np.testing.assert_array_equal(found, expected)

    @pytest.mark.parametrize("fit", ["squash", "crop", "pad", "box-crop"])
    @pytest.mark.parametrize("mirror", [False, True])
    @pytest.mark.parametrize("size", [(40, 64), (64, 40), (32, 32)])
    def test_a_map_lies_on_its_picture(self, fit, mirror, size):
        """A map that is the input itself gives the picture back where the input shows it."""
        rows, columns = np.mgrid[: size[0], : size[1]]
        ramp = np.stack([255 * rows / size[0], 255 * columns / size[1], 0 * rows], -1)
        ramp = np.round(ramp).astype(np.uint8)
        given = fit_picture(Image.fromarray(ramp), (16, 16), fit, "bilinear", mirror)
        placement = Placement.of_fit(size, (16, 16), fit, mirror)
        found = laid(given.transpose(1, 2, 0) / 255, size, size, placement, ramp)
        y, x = rows.ravel(), columns.ravel()
        seen = placement.valid(np.stack([x, y], 1)).reshape(size)
        seen[[0, -1]], seen[:, [0, -1]] = False, False
        off = np.abs(found.astype(int) - ramp).max(-1)
        # half a cell of the map, which is up to 4 pixels of a ramp, and the filter at edges
        assert np.median(off[seen]) <= 255 * 3 / min(size)
        assert np.percentile(off[seen], 95) <= 255 * 6 / min(size)

    def test_what_a_crop_cut_off_is_faint(self):
        under = picture(10, 30)
        placement = Placement.of_fit((10, 30), (8, 8), "crop")
        found = laid(np.zeros((2, 2, 3)), (10, 30), (10, 30), placement, under)
        assert (found[:, 10:20] == 0).all()
        faint = (255 - FAINT * (255.0 - under)).astype(np.uint8)
        np.testing.assert_array_equal(found[:, :10], faint[:, :10])
        np.testing.assert_array_equal(found[:, 20:], faint[:, 20:])

    def test_a_finer_map_is_averaged(self):
        colours = cells(64, 64)
        found = laid(colours, (16, 16), (16, 16)) / 255
        expected = colours.reshape(16, 4, 16, 4, 3).mean((1, 3))
        np.testing.assert_allclose(found, expected, atol=0.003)

    def test_smooth_is_linear_between_centres(self):
        ramp = np.repeat(np.linspace(0, 1, 4)[None, :, None], 3, 2).repeat(4, 0)
        found = laid(ramp, (8, 8), (8, 8), smooth=True)[0, :, 0] / 255
        centres = (np.arange(8) + 0.5) / 2 - 0.5
        np.testing.assert_allclose(found, np.interp(centres, range(4), ramp[0, :, 0]), atol=0.003)


@pytest.mark.parametrize(
    ("size", "shown"),
    [
        ((32, 32), (192, 192)),
        ((28, 28), (168, 168)),
        ((8, 24), (64, 192)),
        ((427, 640), (128, 192)),
    ],
)
def test_small_pictures_grow_by_a_whole_number(size, shown):
    assert tile_size(size, SIDE) == shown
    small = picture(*size)
    large = resized(small, shown)
    assert large.shape[:2] == shown
    if size[0] < 192:
        times = shown[0] // size[0]
        np.testing.assert_array_equal(large, small.repeat(times, 0).repeat(times, 1))


def sheet_of(tmp_path, columns: int, **options) -> np.ndarray:
    maps = {
        f"b{k}, t=1": np.random.default_rng(k).normal(size=(1, 5, 4, 4)) for k in range(columns)
    }
    options = {"originals": [picture(32, 32)], **options}
    feature_sheet(columns=maps, names=["a.png"], path=tmp_path / "s.png", **options)
    return np.asarray(Image.open(tmp_path / "s.png").convert("RGB"))


class TestSheet:
    def test_pictures_and_maps_are_there_pixel_by_pixel(self, tmp_path):
        found = sheet_of(tmp_path, 1, saw=[picture(16, 16, 1)])
        top, step = TOP + HEAD, SIDE + GAP
        tiles = [found[top : top + SIDE, GAP + k * step :][:, :SIDE] for k in range(3)]
        np.testing.assert_array_equal(tiles[0], resized(picture(32, 32), (SIDE, SIDE)))
        np.testing.assert_array_equal(tiles[1], resized(picture(16, 16, 1), (SIDE, SIDE)))
        colours = pca_rgb(np.random.default_rng(0).normal(size=(1, 5, 4, 4)))[0]
        np.testing.assert_array_equal(tiles[2], laid(colours, (SIDE, SIDE), (32, 32)))

    def test_many_maps_are_wrapped(self, tmp_path):
        one, full = sheet_of(tmp_path, ACROSS), sheet_of(tmp_path, 2 * ACROSS)
        assert full.shape[1] == one.shape[1] == GAP + (1 + ACROSS) * (SIDE + GAP)
        assert full.shape[0] - one.shape[0] == SIDE + HEAD + GAP

    def test_names_with_dollars_are_no_formulas(self, tmp_path):
        feature_sheet([None], {"a": np.ones((1, 2, 2, 2))}, ["$x_{$.png"], tmp_path / "a.png")
        assert (tmp_path / "a.png").is_file()


def test_one_channel():
    maps = np.random.default_rng(0).normal(size=(2, 3, 8, 8)).astype(np.float32)
    found = channel_rgb(maps, 1)
    assert (found.shape, found.dtype) == ((2, 8, 8, 3), np.float32)
    brightness = found @ (0.2126, 0.7152, 0.0722)
    order = np.argsort(maps[:, 1].ravel())
    assert np.corrcoef(np.arange(128), brightness.ravel()[order])[0, 1] > 0.95
    changed = maps.copy()
    changed[:, [0, 2]] = 0
    np.testing.assert_array_equal(channel_rgb(changed, 1), found)


def test_static_and_pictures_are_told_apart():
    rng = np.random.default_rng(0)
    static = rng.uniform(size=(2, 32, 32, 3))
    smooth = np.stack(np.meshgrid(*[np.linspace(0, 1, 32)] * 2), -1)[None]
    smooth = np.concatenate([smooth, smooth[..., :1]], -1)
    assert abs(agreement(static)) < 0.05
    assert agreement(smooth) > 0.95
    assert np.isnan(agreement(np.ones((1, 4, 4, 3))))
    assert np.isnan(agreement(np.ones((3, 1, 1, 3))))
