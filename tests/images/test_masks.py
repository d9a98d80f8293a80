"""Masks: turned as Pillow turns their pictures, and moved as it moves pictures without mixing."""

from __future__ import annotations

import io

import numpy as np
import pytest
from PIL import Image

from diffeat.coords import FITS, Placement, native_size, real_mask
from diffeat.errors import PictureError, SpecError
from diffeat.images import (
    content_box,
    decode,
    fit_picture,
    move_mask,
    stored_size,
    upright_mask,
)

TALL, SQUARE = (5, 8), (6, 6)


def labels(size) -> np.ndarray:
    """(H, W) uint8, every pixel another."""
    return np.arange(size[0] * size[1], dtype=np.uint8).reshape(size)


def saved(size, orientation: int | None, kind: str = "PNG") -> bytes:
    """A picture whose red channel are its labels, with an EXIF orientation."""
    image, exif, file = (
        Image.fromarray(np.stack([labels(size)] * 3, -1)),
        Image.Exif(),
        io.BytesIO(),
    )
    if orientation is not None:
        exif[0x0112] = orientation
    image.save(file, kind, exif=exif, **({"quality": 100} if kind == "JPEG" else {}))
    return file.getvalue()


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "TIFF", "WEBP"])
@pytest.mark.parametrize("orientation", [None, *range(1, 9), 9])
def test_how_a_picture_is_stored(kind, orientation):
    expected = orientation if orientation in range(1, 9) else 1
    assert stored_size(io.BytesIO(saved(TALL, orientation, kind))) == (TALL, expected)


def test_what_is_no_picture(tmp_path):
    (tmp_path / "a.png").write_bytes(b"none")
    with pytest.raises(PictureError, match=r"a\.png.*not a picture"):
        stored_size(tmp_path / "a.png")
    with pytest.raises(PictureError, match=r"b\.png.*cannot be opened"):
        stored_size(tmp_path / "b.png")


@pytest.mark.parametrize("size", [TALL, SQUARE])
@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.filterwarnings("ignore:.*cannot be told")
def test_both_kinds_of_mask_lie_over_the_picture_as_it_is_decoded(size, orientation):
    data = saved(size, orientation)
    known = stored_size(io.BytesIO(data))
    upright = np.asarray(decode(lambda: io.BytesIO(data), "x"))[..., 0]
    found = upright_mask(labels(size), *known, frame="stored")
    np.testing.assert_array_equal(found, upright)
    np.testing.assert_array_equal(upright_mask(upright, *known, frame="upright"), upright)
    np.testing.assert_array_equal(upright_mask(upright, *known), upright)
    if size == TALL and orientation > 4:  # the size tells
        np.testing.assert_array_equal(upright_mask(labels(size), *known), upright)
    colours = np.stack([labels(size)] * 4, -1)
    turned = upright_mask(colours, *known, frame="stored")
    np.testing.assert_array_equal(turned[..., 3], upright)


@pytest.mark.parametrize(
    ("size", "orientation"), [(SQUARE, 6), (SQUARE, 5), (TALL, 3), (TALL, 2), (TALL, 4)]
)
def test_what_is_assumed_is_said(size, orientation):
    mask = labels(size)
    with pytest.warns(
        UserWarning, match=rf"orientation {orientation}\) cannot be told.*as seen is"
    ):
        assert upright_mask(mask, size, orientation) is mask


@pytest.mark.parametrize(("size", "orientation"), [(TALL, 6), (TALL, 1), (SQUARE, 1)])
def test_nothing_is_said_where_the_size_tells(size, orientation):
    upright_mask(labels(size), size, orientation)  # warnings are errors


def test_masks_of_other_pictures():
    with pytest.raises(SpecError, match=r"m\.png is 4×8; expected 8×5, as .* or 5×8, as"):
        upright_mask(labels((4, 8)), TALL, 6, name="m.png")
    with pytest.raises(SpecError, match="frame='stored' takes 5×8 alone"):
        upright_mask(labels(TALL[::-1]), TALL, 6, frame="stored")
    for wrong in ({"orientation": 0}, {"orientation": 6, "frame": "raw"}):
        with pytest.raises(SpecError, match=r"expected 1 … 8, and one of upright, stored"):
            upright_mask(labels(TALL), TALL, **wrong)


# moved


@pytest.mark.parametrize("mirror", [False, True])
@pytest.mark.parametrize("fit", FITS)
def test_a_mask_moves_as_pillow_moves_its_picture(fit, mirror):
    """Every pixel says its own row and column; where a centre lies between two, both are near."""
    agreed = 0
    for picture in ((37, 53), (64, 64), (31, 90), (120, 33), (9, 14), (1, 40), (121, 75)):
        size = native_size(picture[::-1], 8) if fit == "native" else (33, 25)
        if fit == "box-crop" and min(picture[0] / size[0], picture[1] / size[1]) >= 2:
            continue  # halving mixes
        masks = np.indices(picture, np.uint8)
        image = Image.fromarray(np.stack([*masks, masks[0]], -1))
        expected = fit_picture(image, size, fit, "nearest", mirror)
        top, left, height, width = content_box(picture[::-1], size, fit)
        shown = np.zeros(size, bool)
        shown[top : top + height, left : left + width] = True
        place = Placement.of_fit(picture, size, fit, mirror)
        rows, columns = np.indices(size)
        x, y = place.to_picture(np.stack([columns.ravel(), rows.ravel()], 1)).T.reshape(2, *size)
        for mask, there, at in zip(masks, expected, (y, x), strict=False):
            found = move_mask(mask, place)
            assert found.dtype == np.uint8
            np.testing.assert_array_equal(found == 255, ~shown)
            off = np.abs(found.astype(int) - there)[shown]
            between = np.abs((at + 0.5) - np.round(at + 0.5))[shown] < 1e-3
            assert (off[~between] == 0).all()
            assert off.max() <= 1
            agreed += (off == 0).sum()
    assert agreed > 2000


def test_a_map_takes_the_labels_at_its_centres():
    mask = labels((8, 12)) + 100
    found = move_mask(mask, Placement.of_fit((8, 12), (16, 24)), (2, 3))  # 4×4 pixels a cell
    assert found.tolist() == mask[2::4, 2::4].tolist()
    mirrored = Placement.of_fit((8, 12), (16, 24), mirror=True)
    # the centres lie between two pixels, of which the latter is taken
    assert move_mask(mask, mirrored, (2, 3)).tolist() == mask[2::4, [10, 6, 2]].tolist()


def test_a_centre_on_the_edge_of_the_picture_is_inside_on_both_sides():
    place = Placement.of_fit((2, 4), (4, 4), "pad")  # rows 1 and 2 of 4 show the picture
    assert move_mask(labels((2, 4)), place, (2, 1))[:, 0].tolist() == [2, 6]
    box, grid = content_box((4, 2), (16, 16), "pad"), (2, 2)
    assert real_mask(box, (16, 16), grid).all()
    assert (move_mask(labels((2, 4)), Placement.of_fit((2, 4), (16, 16), "pad"), grid) < 8).all()


def test_what_shows_no_picture_is_ignored():
    mask = np.zeros((10, 20), np.int16)
    place = Placement.of_fit((10, 20), (20, 20), "pad")
    found = move_mask(mask, place, ignore=-1)
    assert found[:5].tolist() == found[15:].tolist() == [[-1] * 20] * 5
    assert (found[5:15] == 0).all()
    tile = place.view(0, 0, (10, 10), mirrored=True)
    assert (move_mask(mask, tile, ignore=-1)[:, 0] == [-1] * 5 + [0] * 5).all()
    assert move_mask(mask, place, (4, 1), ignore=7)[:, 0].tolist() == [7, 0, 0, 7]


@pytest.mark.parametrize(
    ("mask", "ignore", "message"),
    [
        (np.zeros((4, 5), np.uint8), 255, "the mask is 4×5, its picture 5×4"),
        (np.zeros((5, 4, 3), np.uint8), 255, "the mask is 5×4×3"),
        (np.zeros((5, 4), bool), 255, "bool cannot hold ignore=255"),
        (np.zeros((5, 4), np.float32), 255, "float32 cannot hold"),
        (np.zeros((5, 4), np.uint8), -1, "uint8 cannot hold ignore=-1"),
    ],
)
def test_masks_that_cannot_be_moved(mask, ignore, message):
    with pytest.raises(SpecError, match=message):
        move_mask(mask, Placement.of_fit((5, 4), (8, 8)), ignore=ignore)
