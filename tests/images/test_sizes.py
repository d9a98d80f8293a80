from itertools import product

import numpy as np
import pytest
from PIL import Image

from diffeat.errors import SpecError
from diffeat.images import content_box, fit_and_place, fit_picture, native_size, real_mask


def noise_picture(height, width):
    pixels = np.random.default_rng(0).integers(0, 256, (height, width, 3), dtype=np.uint8)
    return Image.fromarray(pixels)


# the part of the input that shows the picture

ORIGINALS = [(1, 1), (1, 500), (500, 1), (7, 5), (33, 100), (640, 427), (427, 640), (224, 224)]
SIZES = [(8, 8), (224, 224), (31, 64), (65, 17)]


@pytest.mark.parametrize("size", SIZES)
def test_content_box_of_pad_is_what_is_painted(size):
    for original in ORIGINALS:
        painted = fit_picture(Image.new("RGB", original, (255,) * 3), size, "pad").any(axis=0)
        top, left, height, width = content_box(original, size, "pad")
        expected = np.zeros(size, bool)
        expected[top : top + height, left : left + width] = True
        assert np.array_equal(painted, expected), original


@pytest.mark.parametrize("fit", ["squash", "crop", "native"])
def test_content_box_of_the_other_fits_is_the_whole_input(fit):
    assert content_box((500, 20), (12, 16), fit) == (0, 0, 12, 16)


def test_content_box_of_a_wide_picture_by_hand():
    # 400×100 into 64×64: scaled by 0.16 to 64×16, with 24 rows of black above
    assert content_box((400, 100), (64, 64), "pad") == (24, 0, 16, 64)


def test_content_box_refuses_an_unknown_fit():
    with pytest.raises(SpecError, match="fit='fill' is unknown; expected one of squash"):
        content_box((4, 4), (4, 4), "fill")


def mask_by_coordinates(box, size, grid):
    """The rule of `real_mask` in floating point."""
    sides = []
    for start, length, pixels, cells in zip(box[:2], box[2:], size, grid, strict=True):
        centres = (np.arange(cells) + 0.5) * (pixels / cells) - 0.5
        low, high = start - 0.5, start + length - 0.5  # edges of the first and the last pixel
        sides.append((centres >= low - 1e-9) & (centres <= high + 1e-9))
    return np.outer(*sides)


@pytest.mark.parametrize("grid", [(1, 1), (2, 2), (7, 7), (16, 8), (28, 28), (64, 64)])
def test_real_mask_holds_the_cells_with_their_centre_in_the_box(grid):
    for original, size in product(ORIGINALS, SIZES):
        box = content_box(original, size, "pad")
        mask = real_mask(np.array(box, np.int32), size, grid)
        assert mask.dtype == bool
        assert np.array_equal(mask, mask_by_coordinates(box, size, grid)), (original, size)


def test_real_mask_at_full_resolution_is_the_painted_part():
    painted = fit_picture(Image.new("RGB", (30, 11), (255,) * 3), (20, 24), "pad").any(axis=0)
    assert np.array_equal(
        real_mask(content_box((30, 11), (20, 24), "pad"), (20, 24), (20, 24)), painted
    )


def test_real_mask_by_hand():
    # rows 24 … 39 of 64; centres of 8 rows of 8 pixels lie at 3.5, 11.5, 19.5, 27.5, 35.5, …
    mask = real_mask((24, 0, 16, 64), (64, 64), (8, 8))
    assert mask.any(axis=1).tolist() == [False] * 3 + [True] * 2 + [False] * 3
    assert mask[3].all()


def test_real_mask_of_a_centred_picture_is_symmetric_where_the_edge_hits_centres():
    mask = real_mask((4, 0, 8, 16), (16, 16), (2, 2))
    assert mask.tolist() == [[True, True], [True, True]]


@pytest.mark.parametrize("fit", ["squash", "crop", "native"])
def test_without_padding_every_cell_is_real(fit):
    assert real_mask(content_box((90, 31), (50, 50), fit), (50, 50), (7, 7)).all()


def test_picture_thinner_than_a_cell_may_have_no_real_cell():
    box = content_box((500, 1), (64, 64), "pad")
    assert box == (31, 0, 1, 64)
    assert not real_mask(box, (64, 64), (2, 2)).any()


# native size


@pytest.mark.parametrize("multiple", [1, 2, 7, 8, 16, 64])
def test_native_size_is_the_nearest_multiple(multiple):
    for width in range(1, 150):
        height = 150 - width
        rows, columns = native_size((width, height), multiple)
        for side, chosen in ((height, rows), (width, columns)):
            assert chosen % multiple == 0
            assert chosen >= multiple
            assert 2 * abs(chosen - side) <= multiple or chosen == multiple


def test_native_size_by_hand():
    assert native_size((640, 427), 16) == (432, 640)
    assert native_size((12, 11), 8) == (8, 16)  # 12 lies in the middle and goes up
    assert native_size((3, 1), 8) == (8, 8)
    assert native_size((123, 45)) == (45, 123)


@pytest.mark.parametrize("multiple", [0, -8, 1.5, True, None])
def test_native_size_refuses_a_multiple_that_is_none(multiple):
    with pytest.raises(SpecError, match=f"multiple={multiple!r}; expected a whole number"):
        native_size((4, 4), multiple)


def test_native_is_pillows_resize_to_the_rounded_size():
    image = noise_picture(21, 30)
    expected = np.asarray(image.resize((32, 24), Image.Resampling.BILINEAR)).transpose(2, 0, 1)
    fitted = fit_and_place(image, None, "native", "bilinear", multiple=8)[0]
    assert fitted.shape == (3, 24, 32)
    assert np.array_equal(fitted, expected)
    assert np.array_equal(fit_picture(image, (24, 32), "native", "bilinear"), expected)


def test_native_leaves_a_fitting_picture_alone():
    image = noise_picture(16, 24)
    assert np.array_equal(
        fit_and_place(image, None, "native", multiple=8)[0], np.asarray(image).transpose(2, 0, 1)
    )
