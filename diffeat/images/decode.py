"""One picture file → one RGB picture of the size that the backbone wants."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import BinaryIO

import numpy as np
from PIL import Image, ImageOps

from diffeat.coords import (
    box_crop_steps,
    check_fit,
    content_box,
    crop_box,
    fit_numbers,
    native_size,
)
from diffeat.errors import PictureError, SpecError
from diffeat.images.colour import CONVERTED, to_srgb
from diffeat.images.reading import READING

MAX_PIXELS = 178_956_970  # Pillow's own limit against decompression bombs
ANIMATED = ("GIF", "PNG", "WEBP", "AVIF")
RESAMPLING = {
    "nearest": Image.Resampling.NEAREST,
    "bilinear": Image.Resampling.BILINEAR,
    "bicubic": Image.Resampling.BICUBIC,
    "lanczos": Image.Resampling.LANCZOS,
}
"""Name of a filter → Pillow's."""


def decode(
    opener: Callable[[], BinaryIO | str], picture: str, reading: int = READING
) -> Image.Image:
    """Read one picture as 8-bit RGB, turned upright by its EXIF orientation.

    CMYK and grey become RGB; 16-bit samples are scaled to 8 bits (not clipped); transparency
    is laid over white; of an animation the first frame is taken, with a warning. Colours of an
    embedded ICC profile are brought to sRGB (see `to_srgb`), and then CONVERTED stands in the
    picture's info; a damaged profile is passed over with a warning.

    Args:
        opener: returns a path or an open binary file.
        picture: id of the picture, for messages.
        reading: 1 leaves profiles alone (see `diffeat.images.reading`).

    Raises:
        PictureError: the file is empty, truncated, no picture, or larger than 179 megapixels.
    """
    try:
        with Image.open(opener()) as image:
            width, height = image.size
            if width * height > MAX_PIXELS:
                raise Image.DecompressionBombError
            image.load()
            if getattr(image, "is_animated", False) and image.format in ANIMATED:
                warnings.warn(
                    f"picture {picture!r} is animated: its first frame is used", stacklevel=2
                )
            return to_rgb(image, reading, picture)
    except Image.DecompressionBombError:
        raise PictureError(
            picture,
            f"more than {MAX_PIXELS:,} pixels, which could exhaust memory; shrink it first",
        ) from None
    except Image.UnidentifiedImageError:
        raise PictureError(
            picture, "not a picture, or empty: expected PNG, JPEG, WebP, …; remove or replace it"
        ) from None
    except FileNotFoundError:
        raise PictureError(picture, "no such file; correct the list or restore the file") from None
    except MemoryError:
        raise
    except Exception as error:  # Pillow's plugins raise all sorts of errors on damaged files
        raise PictureError(picture, f"cannot be decoded ({error}); replace it") from error


def to_rgb(image: Image.Image, reading: int = READING, picture: str = "") -> Image.Image:
    """An opened picture of any mode as upright 8-bit RGB, by the rules of `decode`.

    Raises:
        ValueError: floating-point or 32-bit samples, which have no agreed range.
    """
    profile = image.info.get("icc_profile") if reading > 1 else None
    image = ImageOps.exif_transpose(image)
    if image.mode.startswith("I;16") or image.mode == "I":
        # Pillow's own conversion clips 16-bit samples at 255 instead of scaling them
        samples = np.asarray(image).astype(np.float64)
        if samples.max(initial=0) > 65535 or samples.min(initial=0) < 0:
            raise ValueError("32-bit samples have no agreed range; save it as 8 or 16 bit")
        clear = image.info.get("transparency")
        image = Image.fromarray((samples / 257.0 + 0.5).astype(np.uint8))
        if isinstance(clear, int):
            image.putalpha(Image.fromarray(np.where(samples == clear, 0, 255).astype(np.uint8)))
    if image.mode == "F":
        raise ValueError("floating-point samples have no agreed range; save it as 8 or 16 bit")
    if profile:
        image = _in_srgb(image, profile, picture)
    converted = CONVERTED in image.info
    if image.mode in ("RGBA", "LA", "PA", "La", "RGBa") or "transparency" in image.info:
        image = image.convert("RGBA")
        white = Image.new("RGBA", image.size, (255, 255, 255, 255))
        image = Image.alpha_composite(white, image)
    image = image.convert("RGB")
    if converted:
        image.info[CONVERTED] = True
    return image


def _in_srgb(image: Image.Image, profile: bytes, picture: str) -> Image.Image:
    if image.mode in ("1", "La", "RGBa"):
        image = image.convert({"1": "L", "La": "LA", "RGBa": "RGBA"}[image.mode])
    if "transparency" in image.info and image.mode in ("L", "RGB"):
        image = image.convert("LA" if image.mode == "L" else "RGBA")
    try:
        return to_srgb(image, profile)
    except ValueError as error:
        warnings.warn(
            f"picture {picture!r}: its ICC profile is passed over ({error}); its colours are taken "
            "for sRGB",
            stacklevel=4,
        )
        return image


def fit_picture(
    image: Image.Image,
    size: tuple[int, int],
    fit: str = "squash",
    resample: str = "bicubic",
    mirror: bool = False,
) -> np.ndarray:
    """Bring a picture to `size` and return it as uint8 of shape (3, H, W).

    Args:
        image: RGB picture of any size.
        size: (height, width) in pixels.
        fit: "squash" ignores the aspect ratio; "crop" scales the shorter side and cuts the
            centre out; "box-crop" is guided-diffusion's way to do that: both sides are halved
            (BOX) while both are at least twice those of `size`, then one resize brings the
            shorter one, measured by `size`, to its side, and the centre is cut out at whole
            pixels, (side - size) // 2; "pad" scales the longer side and centres the picture on
            black; "native" means that `size` is the picture's own, rounded (see
            `native_size`), and squashes.
        resample: name of Pillow's (anti-aliased) filter. For "box-crop" that of the one resize;
            bicubic is the published.
        mirror: mirror the picture, left and right, before anything else.

    Raises:
        SpecError: unknown `fit` or `resample`.

    Source: Dhariwal & Nichol 2021 (guided-diffusion), for "box-crop".
    """
    check_fit(fit)
    if resample not in RESAMPLING:
        known = ", ".join(RESAMPLING)
        raise SpecError(f"resample={resample!r} is unknown; expected one of {known}")
    height, width = size
    image = ImageOps.mirror(image) if mirror else image
    if image.size != (width, height):
        method = RESAMPLING[resample]
        if fit == "crop":
            box = crop_box((image.height, image.width), size)
            image = image.resize((width, height), method, box)
        elif fit == "box-crop":
            image = _box_crop(image, size, method)
        elif fit == "pad":
            image = _pad(image, size, method)
        else:
            image = image.resize((width, height), method)
    return np.ascontiguousarray(np.asarray(image, dtype=np.uint8).transpose(2, 0, 1))


def fit_and_place(
    image: Image.Image,
    size: tuple[int, int] | None,
    fit: str = "squash",
    resample: str = "bicubic",
    mirror: bool = False,
    multiple: int = 1,
) -> tuple[np.ndarray, tuple[int, ...], tuple[int, int], np.ndarray]:
    """Bring a picture to `size`, and say where it lies.

    Args:
        image: RGB picture of any size, upright.
        size: (H, W) in pixels; not used, and may be None, with fit "native".
        fit, resample, mirror: as in `fit_picture`.
        multiple: with fit "native", what the sides are rounded to, in pixels.

    Returns:
        (3, H, W) uint8; its content box (see `content_box`); (H, W) of the picture; (4,) float64
        sx, tx, sy, ty of its placement (see `diffeat.coords`).

    Raises:
        SpecError: as `fit_picture`, or a `multiple` below 1.
    """
    if fit == "native":
        size = native_size(image.size, multiple)
    original = image.height, image.width
    pixels = fit_picture(image, size, fit, resample, mirror)
    box = content_box(image.size, size, fit)
    return pixels, box, original, fit_numbers(original, size, fit, mirror)


def _box_crop(image: Image.Image, size: tuple[int, int], method: int) -> Image.Image:
    """Halve, resize once, cut the centre out; a picture whose shorter side fits is only cut."""
    height, width = size
    halvings, whole, (top, left) = box_crop_steps((image.height, image.width), size)
    for rows, columns in halvings:
        image = image.resize((columns, rows), Image.Resampling.BOX)
    if whole[0] * whole[1] > MAX_PIXELS:  # a thin picture; only what is kept is made
        x, y = image.width / whole[1], image.height / whole[0]
        part = (left * x, top * y, (left + width) * x, (top + height) * y)
        return image.resize((width, height), method, part)
    if (image.height, image.width) != whole:
        image = image.resize((whole[1], whole[0]), method)
    return image.crop((left, top, left + width, top + height))


def _pad(image: Image.Image, size: tuple[int, int], method: int) -> Image.Image:
    """Scale to fit and centre on black."""
    top, left, height, width = content_box(image.size, size, "pad")
    canvas = Image.new("RGB", (size[1], size[0]))
    canvas.paste(image.resize((width, height), method), (left, top))
    return canvas
