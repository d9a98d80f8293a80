"""Depth in units, and sequences of RGB-D frames."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image

from diffeat.errors import PictureError, SourceError
from diffeat.targets.dense import open_dense
from tests.targets.dense.layouts import SIZE, mask, numbers, picture, write


@pytest.fixture
def opened(tmp_path):
    """Opens one picture with a depth map."""

    def opens(values, name="a.png", **options):
        picture(tmp_path / "images/a.jpg")
        mask(tmp_path / f"depth/{name}", values)
        return open_dense(tmp_path, **options)

    return opens


@pytest.mark.parametrize(
    ("unit", "metres"), [("mm", 2.5), ("cm", 25.0), ("tum", 0.5), (0.01, 25.0), ("0.002", 5.0)]
)
def test_sixteen_bits_have_a_unit(opened, unit, metres):
    found = opened(numbers(0, 2500, 65535, dtype=np.uint16), unit=unit)
    assert (found.kind, found.classes) == ("depth", ())
    wanted = np.resize(np.array([np.nan, metres, np.nan], np.float32), SIZE)
    np.testing.assert_allclose(found[0], wanted, rtol=1e-6)
    assert found[0].dtype == np.float32


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
def test_whole_numbers_without_a_unit(opened, dtype):
    with pytest.raises(PictureError, match=r"whole numbers \(uint.*of no known unit; say the unit"):
        opened(numbers(3, dtype=dtype)).target(0)


def test_eight_bits_hold_no_millimetres(opened):
    with pytest.raises(PictureError, match="8 bits a pixel, too few"):
        opened(numbers(3), unit="mm").target(0)
    np.testing.assert_allclose(opened(numbers(0, 50), unit=0.04)[0],
                               np.resize([np.nan, 2.0], SIZE), rtol=1e-6)  # fmt: skip


def test_floats_are_metres(opened):
    values = numbers(1.5, np.nan, np.inf, 0.0, -1.0, dtype=np.float64)
    found = opened(values, "a.npy")
    np.testing.assert_array_equal(found[0], np.where(values == 1.5, np.float32(1.5), np.nan))
    with pytest.raises(PictureError, match=r"depth up to 1,500, which are hardly metres"):
        opened(values * 1000, "a.npy").target(0)
    found = opened(values * 1000, "a.npy", unit="mm")
    np.testing.assert_array_equal(found[0] == np.float32(1.5), values == 1.5)


def test_nothing_is_known_of_a_whole_map(opened):
    assert np.isnan(opened(np.full(SIZE, np.nan), "a.npy")[0]).all()


def test_float_tiff(opened):
    np.testing.assert_array_equal(
        opened(np.full(SIZE, 2, np.float32), "a.tif")[0], np.full(SIZE, np.float32(2))
    )


def test_what_is_no_depth(opened, tmp_path):
    found = opened(numbers(1, dtype=np.uint16), unit="mm")
    picture(tmp_path / "depth/a.png")
    with pytest.raises(PictureError, match=r"holds colours \(RGB\); expected a depth a pixel"):
        found.target(0)
    found.files[0].write_bytes(b"x")
    with pytest.raises(PictureError, match="no depth map that can be read"):
        found.target(0)
    mask(found.files[0], numbers(1, size=(2, 2), dtype=np.uint16))
    with pytest.raises(PictureError, match="is 2×2; expected 6×8"):
        found.target(0)


def test_the_unit_is_in_the_fingerprint(opened):
    values = numbers(9, dtype=np.uint16)
    assert opened(values, unit="mm").fingerprint != opened(values, unit="cm").fingerprint


def test_masks_may_be_taken_for_depth(tmp_path):
    picture(tmp_path / "images/a.jpg")
    mask(tmp_path / "gt/a.png", numbers(5, dtype=np.uint16))
    assert open_dense(tmp_path, unit="m").kind == "depth"
    assert open_dense(tmp_path, kind="depth", unit="m")[0].max() == 5


class TestTum:
    def frames(self, folder, associated=False):
        for time in ("1.00", "1.10", "1.20"):
            picture(folder / f"rgb/{time}.png")
        for time, value in (("1.01", 5000), ("1.105", 10000), ("1.15", 15000)):
            mask(folder / f"depth/{time}.png", numbers(value, dtype=np.uint16))
        if associated:
            write(folder / "associations.txt", "1.20 rgb/1.20.png 1.15 depth/1.15.png\n")
            return
        write(folder / "rgb.txt", "# colour\n" + "\n".join(
            f"{time} rgb/{time}.png" for time in ("1.00", "1.10", "1.20")))  # fmt: skip
        write(folder / "depth.txt", "# depth\n" + "\n".join(
            f"{time} depth/{time}.png" for time in ("1.01", "1.105", "1.15")))  # fmt: skip

    def test_pictures_have_the_depth_nearest_in_time(self, tmp_path):
        self.frames(tmp_path)
        found = open_dense(tmp_path)
        assert found.ids == ("rgb/1.00.png", "rgb/1.10.png")
        assert [float(found[k].max()) for k in range(2)] == [1.0, 2.0]
        assert found.left_out == {"pictures without a depth map within 0.02 s": 1}

    def test_associations(self, tmp_path):
        self.frames(tmp_path, associated=True)
        found = open_dense(tmp_path)
        assert found.ids == ("rgb/1.20.png",)
        np.testing.assert_allclose(found[0], 3.0)

    def test_lists_are_read_strictly(self, tmp_path):
        self.frames(tmp_path)
        write(tmp_path / "rgb.txt", "one rgb/1.00.png")
        with pytest.raises(SourceError, match="expected seconds and a path"):
            open_dense(tmp_path)
        write(tmp_path / "rgb.txt", "1.0")
        with pytest.raises(SourceError, match="1 words; expected 2"):
            open_dense(tmp_path)

    def test_no_picture_lies_elsewhere(self, tmp_path):
        self.frames(tmp_path / "d")
        Image.new("RGB", SIZE[::-1]).save(tmp_path / "x.png")
        write(tmp_path / "d/rgb.txt", "1.0 ../x.png")
        with pytest.raises(SourceError, match="out of"):
            open_dense(tmp_path / "d")
