"""Placements: points there and back, and where Pillow really puts things."""

from __future__ import annotations

from fractions import Fraction

import numpy as np
import pytest
from PIL import Image, ImageOps

from diffeat.coords import (
    FITS,
    Placement,
    crop_box,
    fit_numbers,
    grid_points,
    native_size,
    real_mask,
)
from diffeat.errors import SpecError
from diffeat.images import content_box, fit_and_place, fit_picture

INPUTS = ((32, 32), (24, 40), (33, 17))
PICTURES = (  # (H, W): odd, even, thin, huge ratios, smaller than the input
    (97, 131), (128, 96), (64, 64), (65, 130), (333, 250), (259, 515), (7, 501), (640, 11), (1, 90),
    (2000, 37), (20, 13), (9, 31), (32, 32), (40, 24),
)  # fmt: skip


def cases(seed: int, count: int):
    """Random (picture (H, W), input (H, W), fit, mirror), every fit equally often."""
    random = np.random.default_rng(seed)
    for number in range(count):
        picture = tuple(int(side) for side in np.exp(random.uniform(0, 8, 2)).astype(int) + 1)
        size = tuple(int(side) for side in random.integers(1, 80, 2))
        fit = FITS[number % len(FITS)]
        if fit == "native":
            size = native_size(picture[::-1], 8)
        yield picture, size, fit, bool(random.integers(2))


def inside(picture, count: int, random) -> np.ndarray:
    """(count, 2) x, y anywhere in a picture of (H, W)."""
    return random.uniform(-0.5, np.array(picture[::-1]) - 0.5, (count, 2))


# there and back


def test_a_point_there_and_back_for_every_fit():
    random = np.random.default_rng(0)
    for picture, size, fit, mirror in cases(1, 500):
        place = Placement.of_fit(picture, size, fit, mirror)
        points = inside(picture, 8, random)
        assert np.abs(place.to_picture(place.to_input(points)) - points).max() < 1e-6
        grid = tuple(int(side) for side in random.integers(1, 40, 2))
        assert np.abs(place.from_map(place.to_map(points, grid), grid) - points).max() < 1e-6
        view = place.view(-3, 2, (5, 7), mirrored=True)
        assert np.abs(view.to_picture(view.to_input(points)) - points).max() < 1e-6


def test_the_numbers_are_a_placement_again():
    for picture, size, fit, mirror in cases(2, 50):
        place = Placement.of_fit(picture, size, fit, mirror)
        assert place.numbers.dtype == np.float64
        assert Placement.of_numbers(place.numbers, np.array(size), np.array(picture)) == place


@pytest.mark.parametrize("points", [[1.0, 2.0], np.zeros((3, 3)), np.zeros((2, 2, 2))])
def test_points_are_pairs(points):
    with pytest.raises(SpecError, match=r"points have shape .*expected \(n, 2\)"):
        Placement.of_fit((4, 4), (4, 4)).to_input(points)


def test_an_unknown_fit():
    with pytest.raises(SpecError, match="fit='fill' is unknown"):
        fit_numbers((4, 4), (4, 4), "fill")


# by hand


@pytest.mark.parametrize(
    ("fit", "numbers"),
    [  # of a picture of 100 rows and 400 columns in 64×64
        ("squash", [64 / 400, 0, 64 / 100, 0]),
        ("native", [64 / 400, 0, 64 / 100, 0]),
        ("crop", [64 / 100, -150 * 64 / 100, 64 / 100, 0]),
        ("box-crop", [256 / 400, -96, 64 / 100, 0]),
        ("pad", [64 / 400, 0, 16 / 100, 24]),
    ],
)
def test_a_wide_picture_by_hand(fit, numbers):
    np.testing.assert_allclose(fit_numbers((100, 400), (64, 64), fit), numbers, rtol=1e-15)
    sx, tx, sy, ty = numbers
    mirrored = fit_numbers((100, 400), (64, 64), fit, mirror=True)
    np.testing.assert_allclose(mirrored, [-sx, tx + 400 * sx, sy, ty], rtol=1e-15)


def test_the_same_size_is_the_same_place():
    for fit in FITS:
        assert fit_numbers((31, 40), (31, 40), fit).tolist() == [1, 0, 1, 0]


def test_centres_and_edges_by_hand():
    place = Placement.of_fit((4, 8), (2, 2))
    assert place.to_input([[-0.5, -0.5], [3.5, 1.5], [7.5, 3.5]]).tolist() == [
        [-0.5, -0.5], [0.5, 0.5], [1.5, 1.5],
    ]  # fmt: skip
    assert place.to_map([[3.5, 1.5]], (1, 4)).tolist() == [[1.5, 0]]


def test_points_that_a_crop_cut_off_are_not_valid():
    place = Placement.of_fit((100, 400), (64, 64), "crop")  # columns 150 … 250 are shown
    points = [[149.4, 50], [149.6, 50], [249.4, 50], [249.6, 50], [200, -0.6], [200, 99.6]]
    assert place.valid(points).tolist() == [False, True, True, False, False, False]
    assert place.valid([[149.5, -0.5], [249.5, 99.5]]).all()
    assert not place.valid([[np.nan, 50], [np.inf, 50]]).any()


def test_every_corner_is_valid_where_all_is_shown():
    for picture, size, fit, mirror in cases(3, 300):
        if fit in ("squash", "native", "pad"):
            bottom, right = picture[0] - 0.5, picture[1] - 0.5
            corners = np.array([[-0.5, -0.5], [right, -0.5], [-0.5, bottom], [right, bottom]])
            place = Placement.of_fit(picture, size, fit, mirror)
            assert place.valid(corners).all()
            assert not place.valid(corners + 1e-3 * np.sign(corners)).any()


def test_cells_of_padding_are_those_that_lie_outside_of_the_picture():
    for picture, size, _, mirror in cases(4, 200):
        place, grid = Placement.of_fit(picture, size, "pad", mirror), (5, 7)
        sites = np.stack(np.meshgrid(np.arange(7.0), np.arange(5.0)), -1).reshape(-1, 2)
        found = place.valid(place.from_map(sites, grid)).reshape(grid)
        mask = real_mask(content_box(picture[::-1], size, "pad"), size, grid)
        np.testing.assert_array_equal(found, mask)


# what Pillow does


@pytest.mark.parametrize("resample", ["bicubic", "nearest"])
def test_the_crop_is_that_of_pillow(resample):
    random = np.random.default_rng(5)
    for picture in PICTURES:
        pixels = random.integers(0, 256, (*picture, 3), np.uint8)
        image = Image.fromarray(pixels)
        for size in INPUTS:
            method = getattr(Image.Resampling, resample.upper())
            expected = np.asarray(ImageOps.fit(image, size[::-1], method)).transpose(2, 0, 1)
            found = fit_picture(image, size, "crop", resample)
            np.testing.assert_array_equal(found, expected)


def test_the_box_of_the_crop_is_the_one_that_pillow_is_given(monkeypatch):
    given = []
    monkeypatch.setattr(Image.Image, "resize", lambda *args, box=None, **_: given.append(box))
    for picture in PICTURES:
        for size in INPUTS:
            ImageOps.fit(Image.new("L", picture[::-1]), size[::-1])
            assert crop_box(picture, size) == given.pop()


def ramp(picture, at: float, width: float, axis: int) -> Image.Image:
    """Grey that rises from 0 to 255 over `width` pixels around `at`, along x (1) or y (0)."""
    values = np.clip(127.5 + (np.arange(picture[axis]) - at) * 255 / width, 0, 255)
    pixels = np.round(values).astype(np.uint8)
    pixels = np.broadcast_to(pixels if axis else pixels[:, None], picture)
    return Image.fromarray(np.stack([pixels] * 3, -1))


def crossing(profile: np.ndarray, falls: bool) -> float:
    """Where a profile passes 127.5 upwards (or downwards)."""
    values = profile.astype(float) if not falls else 255 - profile.astype(float)
    (index,) = np.flatnonzero((values[:-1] < 127.5) & (values[1:] >= 127.5))
    return index + (127.5 - values[index]) / (values[index + 1] - values[index])


def off_by(picture, size, fit, resample, mirror, axis, share, cut=None) -> float | None:
    """Input pixels between where a ramp's middle is found and where the placement says.

    None where the picture or what is shown of it is too small for a ramp.
    """
    place = Placement.of_fit(picture, size, fit, mirror)
    scale = abs(place.sx if axis else place.sy)
    width = 8 * max(1, 1 / scale)  # of picture pixels, and of input pixels
    at = -0.5 + share * picture[axis]
    if cut:
        place = place.view(*cut)
    point = np.full(2, (np.array(picture[::-1]) - 1) / 2)
    point[1 - axis] = at
    expected = place.to_input(point[None])[0, 1 - axis]
    reach = width * scale  # twice what the ramp takes to either side
    in_input = reach < expected < place.input_size[axis] - 1 - reach
    if not (in_input and width < at < picture[axis] - 1 - width):
        return None
    found = fit_picture(ramp(picture, at, width, axis), size, fit, resample, mirror)[0]
    if cut:
        top, left, (rows, columns), mirrored = cut
        found = found[top : top + rows, left : left + columns]
        found = found[:, ::-1] if mirrored else found
    top, left, rows, columns = (
        content_box(picture[::-1], size, fit) if not cut else (0, 0, *found.shape)
    )
    profile = found[top + rows // 2] if axis else found[:, left + columns // 2]
    start, length = (left, columns) if axis else (top, rows)
    place_falls = place.sx < 0 and axis == 1
    there = crossing(profile[start : start + length], place_falls) + start
    return (there - expected) / max(1, scale)


def rounding_of_halvings(picture, size, axis: int) -> float:
    """Most input pixels by which the box filter shifts what it halves with an odd side.

    It takes two whole pixels or three, whose middle is off by half a pixel at most.
    """
    rows, columns = picture
    sides = []
    while columns >= 2 * size[1] and rows >= 2 * size[0]:
        sides.append((rows, columns)[axis])
        rows, columns = rows // 2, columns // 2
    scale = Fraction(max(Fraction(size[0], rows), Fraction(size[1], columns)))
    last = (rows, columns)[axis]
    return float(sum(Fraction(last, 2 * side) * scale for side in sides if side % 2))


@pytest.mark.parametrize("fit", FITS)
@pytest.mark.parametrize("mirror", [False, True])
def test_a_ramp_lies_where_the_placement_says(fit, mirror):
    tried = 0
    for picture in PICTURES:
        sizes = [native_size(picture[::-1], 8)] if fit == "native" else INPUTS
        for size in sizes:
            for axis in (0, 1):
                slack = rounding_of_halvings(picture, size, axis) if fit == "box-crop" else 0
                for share in (0.31, 0.5, 0.62):
                    off = off_by(picture, size, fit, "bicubic", mirror, axis, share)
                    if off is not None:
                        assert abs(off) < 0.03 + slack, (picture, size, axis, share)
                        tried += 1
    assert tried > (20 if fit == "native" else 40)


@pytest.mark.parametrize("resample", ["bilinear", "lanczos"])
def test_whatever_the_filter(resample):
    for fit in ("squash", "crop", "pad"):
        for share in (0.4, 0.55):
            off = off_by((259, 515), (64, 48), fit, resample, False, 1, share)
            assert off is not None
            assert abs(off) < 0.03


@pytest.mark.parametrize("picture", [(333, 250), (259, 515), (501, 777)])
def test_halvings_of_odd_sides_lose_no_pixels(picture):
    """Single ramps are off by what the box filter rounds; over the picture it evens out."""
    found = [
        off_by(picture, (48, 48), "box-crop", "bicubic", False, axis, share)
        for axis in (0, 1) for share in np.linspace(0.25, 0.75, 21)
    ]  # fmt: skip
    found = [off for off in found if off is not None]
    assert len(found) > 20
    assert abs(np.mean(found)) < 0.03


def test_a_thin_picture_of_which_only_a_part_is_made():
    """Scaled as a whole it would have more pixels than Pillow allows."""
    picture, size, at = (4, 2_000_000), (64, 48), 1_000_000
    assert 64 * round(2_000_000 * 64 / 4) > Image.MAX_IMAGE_PIXELS
    pixels = np.zeros((*picture, 3), np.uint8)
    pixels[:, at] = 255
    found = fit_picture(Image.fromarray(pixels), size, "box-crop", "bilinear")[0, 30]
    expected = Placement.of_fit(picture, size, "box-crop").to_input([[at, 2]])[0, 0]
    assert abs(np.average(np.arange(48), weights=found) - expected) < 0.02


def test_views_of_an_input():
    """Tiles, cut out of the fitted picture with numpy, and their mirror images."""
    tried = 0
    for fit in ("squash", "crop", "pad"):
        for cut in ((0, 0, (64, 96), False), (32, 64, (64, 96), False), (32, 64, (64, 96), True)):
            for mirror in (False, True):
                for axis in (0, 1):
                    for share in (0.4, 0.5, 0.6):
                        how = ((211, 317), (96, 160), fit, "bicubic", mirror, axis, share, cut)
                        off = off_by(*how)
                        if off is not None:
                            assert abs(off) < 0.03, how
                            tried += 1
    assert tried > 40


@pytest.mark.parametrize("fit", ["squash", "crop", "pad"])
def test_a_bright_dot_is_found_where_it_is_placed(fit):
    picture, size = (180, 240), (60, 48)
    rows, columns = np.indices(picture)
    place = Placement.of_fit(picture, size, fit)
    for x, y in ((100.0, 70.0), (131.3, 104.8), (120, 90)):
        blob = 255 * np.exp(-((columns - x) ** 2 + (rows - y) ** 2) / (2 * 9**2))
        image = Image.fromarray(np.stack([blob.round().astype(np.uint8)] * 3, -1))
        found = fit_picture(image, size, fit)[0].astype(float)
        down, across = np.indices(size)
        centre = [np.average(across, weights=found), np.average(down, weights=found)]
        np.testing.assert_allclose(centre, place.to_input([[x, y]])[0], atol=0.02)


@pytest.mark.parametrize("fit", FITS)
def test_what_is_fitted_is_placed(fit):
    for picture in PICTURES:
        random = np.random.default_rng(picture)
        image = Image.fromarray(random.integers(0, 256, (*picture, 3), np.uint8))
        for mirror in (False, True):
            asked = None if fit == "native" else (24, 40)
            found = fit_and_place(image, asked, fit, "bilinear", mirror, 8)
            size = asked or native_size(picture[::-1], 8)
            assert found[0].shape == (3, *size)
            expected = fit_picture(image, size, fit, "bilinear", mirror)
            np.testing.assert_array_equal(found[0], expected)
            assert found[1:3] == (content_box(picture[::-1], size, fit), picture)
            assert found[3].tolist() == fit_numbers(picture, size, fit, mirror).tolist()


@pytest.mark.parametrize(("size", "along", "shape"), [((30, 60), 4, (2, 4)), ((7, 100), 5, (1, 5)),
                                                      ((9, 9), 3, (3, 3))])  # fmt: skip
def test_a_grid_of_points_is_even_and_fills_the_picture(size, along, shape):
    """Centres of squares: each is as far from its neighbours as twice from the edge."""
    found = grid_points(size, along).reshape(*shape, 2)
    for axis, side, count in ((1, size[0], shape[0]), (0, size[1], shape[1])):
        line = found[:, 0, 1] if axis else found[0, :, 0]
        expected = [side * (2 * k + 1) / (2 * count) - 0.5 for k in range(count)]
        np.testing.assert_allclose(line, expected)
