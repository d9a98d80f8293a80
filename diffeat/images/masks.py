"""Masks of pictures: turned as their picture is, and moved to an input or a map by its placement.

A mask file carries no EXIF, so whether it was drawn over the picture as it is stored or as it is
seen must be told from its size.
"""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from PIL import ExifTags, Image, UnidentifiedImageError

from diffeat.coords import EDGE, Placement, Size, from_site, to_picture
from diffeat.errors import PictureError, SpecError

TURNS = {
    1: lambda mask: mask,
    2: lambda mask: mask[:, ::-1],
    3: lambda mask: mask[::-1, ::-1],
    4: lambda mask: mask[::-1],
    5: lambda mask: mask.swapaxes(0, 1),
    6: lambda mask: mask.swapaxes(0, 1)[:, ::-1],
    7: lambda mask: mask.swapaxes(0, 1)[::-1, ::-1],
    8: lambda mask: mask.swapaxes(0, 1)[::-1],
}
"""What makes a picture upright, by its EXIF orientation."""
FRAMES = ("upright", "stored")
LABELS = ("1", "L", "P", "I;16", "I;16B", "I")
"""Pillow's modes of pictures that hold one whole number a pixel."""
LOSSY = ("JPEG", "MPO")
"""Pillow's formats that keep numbers by and large."""


def stored_size(picture: str | Path | BinaryIO) -> tuple[Size, int]:
    """How a picture file lies on the disk; its header alone is read.

    Returns:
        (H, W) in pixels before it is turned, and its EXIF orientation, 1 … 8 (1 is upright).

    Raises:
        PictureError: it cannot be opened as a picture.
    """
    name = str(picture) if isinstance(picture, (str, Path)) else "picture"
    try:
        with Image.open(picture) as image:
            turned = image.getexif().get(ExifTags.Base.Orientation, 1)
            width, height = image.size
            if image.format == "TIFF":  # newer Pillows give the upright size here
                width, height = (image.tag_v2[tag] for tag in (256, 257))
    except UnidentifiedImageError:
        raise PictureError(name, "not a picture, or empty: expected PNG, JPEG, …") from None
    except (OSError, KeyError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        raise PictureError(name, f"cannot be opened ({error}); replace it") from error
    return (int(height), int(width)), turned if turned in TURNS else 1


def read_labels(path: str | Path) -> tuple[np.ndarray, list[int] | None]:
    """The labels of a mask file: a picture of one whole number a pixel, such as an indexed PNG.

    Returns:
        (H, W) whole numbers; and the palette of an indexed one, 768 numbers, or None.

    Raises:
        PictureError: it cannot be read, or holds colours and no labels, or JPEG's nearly equal
            numbers.
    """
    try:
        with Image.open(path) as image:
            image.load()
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        raise PictureError(str(path), f"no mask that can be read ({error})") from error
    if image.mode not in LABELS:
        raise PictureError(
            str(path), f"holds colours ({image.mode}); expected a PNG with one label a pixel"
        )
    if image.format in LOSSY:
        raise PictureError(
            str(path), f"is a {image.format}, which changes labels by a little; expected a PNG"
        )
    labels = np.asarray(image)
    labels = labels.astype(np.uint8) if labels.dtype == bool else labels
    palette = image.getpalette() if image.mode == "P" else None
    return labels, None if palette is None else [*palette, *[0] * 768][:768]


def upright_mask(
    mask: np.ndarray,
    size: Size,
    orientation: int,
    *,
    frame: str | None = None,
    name: str = "mask",
) -> np.ndarray:
    """A mask as its picture is seen, whether it was drawn over the stored or the upright picture.

    A mask of the upright picture's size stays as it is; one of the stored picture's size is
    turned as the picture is. Where a turn leaves the size alone (a square, or a picture upside
    down or mirrored), the size does not tell: then it is taken for upright, with a warning,
    because people draw over what they see.

    Args:
        mask: (H, W) or (H, W, …), of any dtype.
        size: (H, W) in pixels of the picture before it is turned, from `stored_size`.
        orientation: its EXIF orientation, 1 … 8.
        frame: "upright" or "stored", where it is known how the mask was drawn.
        name: of the mask, for messages.

    Returns:
        (H, W, …) of the upright picture, a view of `mask`.

    Raises:
        SpecError: the mask has neither size (says both), or not that of its `frame`; unknown
            `frame` or orientation.
    """
    if orientation not in TURNS or frame not in (None, *FRAMES):
        raise SpecError(
            f"orientation={orientation!r}, frame={frame!r}; expected 1 … 8, and one of "
            f"{', '.join(FRAMES)}, or None"
        )
    stored = tuple(size)
    upright = stored[::-1] if orientation > 4 else stored
    sizes = {"upright": upright, "stored": stored}
    found = tuple(mask.shape[:2])
    fitting = [one for one in ([frame] if frame else FRAMES) if sizes[one] == found]
    if not fitting:
        wanted = f"{_text(upright)}, as the picture is seen"
        if stored != upright:
            wanted += f", or {_text(stored)}, as it is stored (EXIF orientation {orientation})"
        raise SpecError(
            f"{name} is {_text(found)}; expected {wanted}: it belongs to another picture, or was "
            "resized" + (f"; frame={frame!r} takes {_text(sizes[frame])} alone" if frame else "")
        )
    if frame is None and is_unclear(found, stored, orientation):
        warnings.warn(
            f"{name}: whether it was drawn over the picture as seen or as stored (EXIF "
            f"orientation {orientation}) cannot be told from its size {_text(found)}; as seen is "
            "assumed: say frame='stored' if it was not",
            stacklevel=2,
        )
    return mask if fitting[0] == "upright" else TURNS[orientation](mask)


def is_unclear(shape: Size, stored: Size, orientation: int) -> bool:
    """Whether a mask's size fits the picture as it is seen and as it is stored, which differ."""
    found, stored = tuple(shape[:2]), tuple(stored)
    upright = stored[::-1] if orientation > 4 else stored
    return orientation != 1 and found == stored == upright


def move_mask(
    mask: np.ndarray, placement: Placement, grid: Size | None = None, ignore: int = 255
) -> np.ndarray:
    """A picture's mask as its input shows it, or a map over the input: nearest, never mixed.

    Every pixel (or site) takes the label of the picture pixel in which its centre lies, and
    `ignore` where that lies outside of the picture, such as in padding.

    Args:
        mask: (H, W) whole numbers, of the upright picture.
        placement: of the input in the picture.
        grid: (h, w) of the map in cells; None is the input itself.
        ignore: label of what shows no picture.

    Returns:
        (h, w) in the dtype of `mask`.

    Raises:
        SpecError: the mask has another size than the picture, or its dtype cannot hold `ignore`.
    """
    mask = np.asarray(mask)
    if mask.ndim != 2 or mask.shape != tuple(placement.picture_size):
        raise SpecError(
            f"the mask is {_text(mask.shape)}, its picture {_text(placement.picture_size)}; "
            "expected one label per pixel (see upright_mask)"
        )
    if mask.dtype.kind not in "iu" or not _holds(mask.dtype, ignore):
        raise SpecError(
            f"a mask of {mask.dtype} cannot hold ignore={ignore}; expected whole numbers that can, "
            "such as uint8 with 255"
        )
    (height, width), place = placement.input_size, placement
    rows, columns = grid or placement.input_size
    row = _nearest(rows, height, place.sy, place.ty, mask.shape[0])
    column = _nearest(columns, width, place.sx, place.tx, mask.shape[1])
    moved = np.full((rows, columns), ignore, mask.dtype)
    shown = np.ix_(row >= 0, column >= 0)
    moved[shown] = mask[row[row >= 0]][:, column[column >= 0]]
    return moved


def _nearest(cells: int, pixels: int, s: float, t: float, length: int) -> np.ndarray:
    """(cells,) picture pixels in which the centres of one side's cells lie; -1 outside.

    A centre on the edge of two pixels takes the latter, and one on the picture's edge the
    outermost, as it counts as inside elsewhere too.
    """
    x = to_picture(from_site(np.arange(cells), pixels, cells), s, t) + 0.5  # pixel i: i … i + 1
    inside = (x >= -EDGE) & (x <= length + EDGE)
    return np.where(inside, np.clip(np.floor(x + EDGE), 0, length - 1), -1).astype(np.int64)


def _holds(dtype: np.dtype, value: int) -> bool:
    limits = np.iinfo(dtype)
    return limits.min <= value <= limits.max


def _text(size: Any) -> str:
    return "×".join(map(str, size))
