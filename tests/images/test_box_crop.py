"""The crop of guided-diffusion, against its steps done by hand with numpy and Pillow."""

from __future__ import annotations

import math
import sys
from fractions import Fraction

import numpy as np
import pytest
from PIL import Image

from diffeat.images import content_box, fit_picture


def noise_picture(height: int, width: int) -> np.ndarray:
    random = np.random.default_rng([height, width])
    return random.integers(0, 256, (height, width, 3), dtype=np.uint8)


def halved(pixels: np.ndarray) -> np.ndarray:
    """Means of 2×2 pixels, rounded half up along rows and then along columns; even sides."""
    rows = (pixels[:, ::2].astype(int) + pixels[:, 1::2] + 1) // 2
    return ((rows[::2] + rows[1::2] + 1) // 2).astype(np.uint8)


def centre(pixels: np.ndarray, side: int) -> np.ndarray:
    top, left = ((length - side) // 2 for length in pixels.shape[:2])
    return pixels[top : top + side, left : left + side]


def fitted(pixels: np.ndarray, size: tuple[int, int], resample: str = "bicubic") -> np.ndarray:
    found = fit_picture(Image.fromarray(pixels), size, "box-crop", resample)
    return found.transpose(1, 2, 0)


@pytest.mark.parametrize("shape", [(32, 32), (32, 45), (70, 37), (33, 32)])
@pytest.mark.parametrize("resample", ["bicubic", "nearest"])
def test_a_picture_whose_short_side_fits_is_only_cut(shape, resample):
    pixels, side = noise_picture(*shape), min(shape)
    np.testing.assert_array_equal(fitted(pixels, (side, side), resample), centre(pixels, side))


def test_a_picture_of_twice_and_four_times_the_size_is_halved_and_nothing_else():
    pixels = noise_picture(64, 88)
    np.testing.assert_array_equal(fitted(pixels, (32, 32)), centre(halved(pixels), 32))
    pixels = noise_picture(148, 128)
    expected = centre(halved(halved(pixels)), 32)
    np.testing.assert_array_equal(fitted(pixels, (32, 32)), expected)


@pytest.mark.parametrize("shape", [(500, 375), (375, 500), (97, 64), (63, 64), (20, 31), (7, 300)])
@pytest.mark.parametrize("method", ["bicubic", "lanczos"])
def test_halvings_one_resize_and_the_centre(shape, method):
    side = 32
    width, height = shape[1], shape[0]
    halvings = max(0, math.floor(math.log2(min(shape) / side)))  # while the side is ≥ 2·32
    image = Image.fromarray(noise_picture(*shape))
    for _ in range(halvings):
        width, height = width // 2, height // 2
        image = image.resize((width, height), Image.Resampling.BOX)
    scale = Fraction(side, min(width, height))
    target = round(width * scale), round(height * scale)
    image = image.resize(target, getattr(Image.Resampling, method.upper()))
    expected = centre(np.asarray(image), side)
    assert expected.shape == (side, side, 3)
    np.testing.assert_array_equal(fitted(noise_picture(*shape), (side, side), method), expected)


def test_it_is_not_the_other_crop():
    pixels = noise_picture(150, 230)
    other = fit_picture(Image.fromarray(pixels), (32, 32), "crop").transpose(1, 2, 0)
    assert np.abs(fitted(pixels, (32, 32)).astype(int) - other).max() > 20


def test_an_odd_margin_loses_its_larger_half_on_the_right():
    pixels = np.arange(35, dtype=np.uint8)[None, :, None].repeat(32, 0).repeat(3, 2)
    assert fitted(pixels, (32, 32))[0, :, 0].tolist() == list(range(1, 33))


def test_sizes_that_are_not_square():
    # (64, 96) over (16, 40): 64 ≥ 32 and 96 ≥ 80, halved to (32, 48); then the side that is
    # shorter by the target's measure, 48/40 < 32/16, is brought to 40: (27, 40), cut to 16 rows
    pixels = noise_picture(64, 96)
    once = Image.fromarray(halved(pixels)).resize((40, 27), Image.Resampling.BICUBIC)
    np.testing.assert_array_equal(fitted(pixels, (16, 40)), np.asarray(once)[5:21])
    # a side that is twice the target's does not halve the other below its own
    pixels = noise_picture(64, 30)
    whole = Image.fromarray(pixels).resize((16, 34), Image.Resampling.BICUBIC)
    np.testing.assert_array_equal(fitted(pixels, (8, 16)), np.asarray(whole)[13:21])


@pytest.mark.parametrize("resample", ["nearest", "bicubic"])
def test_a_thread_of_pixels_is_not_enlarged_beyond_what_is_kept(resample, monkeypatch):
    """What is made of a thin picture is what the whole enlargement shows at its centre."""
    pixels = noise_picture(3, 500)
    whole = fitted(pixels, (48, 48), resample)
    monkeypatch.setattr(sys.modules[fit_picture.__module__], "MAX_PIXELS", 10_000)
    part = fitted(pixels, (48, 48), resample)
    assert np.abs(part.astype(int) - whole).max() <= 1


def test_it_shows_the_picture_everywhere():
    assert content_box((500, 20), (12, 16), "box-crop") == (0, 0, 12, 16)


def test_mirrored_pictures_are_mirrored_before_they_are_fitted():
    pixels = noise_picture(40, 35)
    for fit in ("squash", "crop", "box-crop", "pad"):
        found = fit_picture(Image.fromarray(pixels), (32, 33), fit, mirror=True)
        expected = fit_picture(Image.fromarray(pixels[:, ::-1]), (32, 33), fit)
        np.testing.assert_array_equal(found, expected)
