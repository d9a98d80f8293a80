"""One picture file → one RGB picture of the size that the backbone wants."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Collection, Sequence
from typing import BinaryIO

import numpy as np
from PIL import Image, ImageOps

from diffeat.errors import PictureError, SpecError
from diffeat.images.colour import CONVERTED, to_srgb
from diffeat.images.reading import READING

MAX_PIXELS = 178_956_970  # Pillow's own limit against decompression bombs
ANIMATED = ("GIF", "PNG", "WEBP", "AVIF")
FITS = ("squash", "crop", "box-crop", "pad", "native")
RESAMPLING = {
    "nearest": Image.Resampling.NEAREST,
    "bilinear": Image.Resampling.BILINEAR,
    "bicubic": Image.Resampling.BICUBIC,
    "lanczos": Image.Resampling.LANCZOS,
}


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


def content_box(
    original: tuple[int, int], size: tuple[int, int], fit: str
) -> tuple[int, int, int, int]:
    """The part of the model's input that shows the picture; the rest of it is black padding.

    Args:
        original: (width, height) of the upright picture in pixels, as Pillow's `image.size`.
        size: (H, W) of the model's input in pixels.
        fit: as in `fit_picture`; only "pad" leaves a part of the input without picture.

    Returns:
        (top, left, height, width) in pixels of the input.

    Raises:
        SpecError: unknown `fit`.
    """
    _check_name("fit", fit, FITS)
    height, width = size
    if fit != "pad":
        return 0, 0, height, width
    scale = min(width / original[0], height / original[1])
    # unlike in ImageOps.pad, no side ever vanishes
    inner_width = max(1, round(original[0] * scale))
    inner_height = max(1, round(original[1] * scale))
    return (height - inner_height) // 2, (width - inner_width) // 2, inner_height, inner_width


def real_mask(
    box: Sequence[int] | np.ndarray, size: tuple[int, int], grid: tuple[int, int]
) -> np.ndarray:
    """Which cells of a feature map show the picture and not its padding.

    Cell k of a side is real when its centre, (k + 1/2)·stride - 1/2 in coordinates in which
    pixel i has its centre at i, lies in the box or on its edge, top - 1/2 … top + height - 1/2.
    The edge counts on both sides, so that a centred picture has a symmetric mask. A picture
    that is thinner than a cell can fall between all centres: then no cell is real.

    Args:
        box: (top, left, height, width) in pixels, from `content_box`.
        size: (H, W) of the model's input in pixels.
        grid: (h, w) of the feature map in cells; the stride is H/h, W/w.

    Returns:
        (h, w) bool.
    """
    top, left, height, width = (int(value) for value in box)
    rows = _real_cells(top, height, size[0], grid[0])
    return rows[:, None] & _real_cells(left, width, size[1], grid[1])


def _real_cells(start: int, length: int, pixels: int, cells: int) -> np.ndarray:
    """(cells,) bool of one side; in whole numbers, because strides such as 50/7 are not exact."""
    centres = (2 * np.arange(cells, dtype=np.int64) + 1) * pixels  # in pixels / (2·cells)
    return (2 * cells * start <= centres) & (centres <= 2 * cells * (start + length))


def native_size(original: tuple[int, int], multiple: int = 1) -> tuple[int, int]:
    """The picture's own size, each side at the nearest multiple of `multiple`, at least one.

    A side in the middle between two multiples becomes the larger one.

    Args:
        original: (width, height) in pixels, as Pillow's `image.size`.
        multiple: pixels, at least 1.

    Returns:
        (H, W) in pixels.

    Raises:
        SpecError: `multiple` is no whole number of at least 1.
    """
    if not isinstance(multiple, (int, np.integer)) or isinstance(multiple, bool) or multiple < 1:
        raise SpecError(f"multiple={multiple!r}; expected a whole number of pixels, at least 1")
    step = int(multiple)
    width, height = (max(1, (2 * side + step) // (2 * step)) * step for side in original)
    return height, width


def fit_native(
    image: Image.Image, multiple: int = 1, resample: str = "bicubic", mirror: bool = False
) -> np.ndarray:
    """A picture at its own size, rounded by `native_size`, as uint8 of shape (3, H, W).

    Raises:
        SpecError: unknown `resample`, or a `multiple` below 1.
    """
    return fit_picture(image, native_size(image.size, multiple), "native", resample, mirror)


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
    _check_name("fit", fit, FITS)
    _check_name("resample", resample, RESAMPLING)
    height, width = size
    image = ImageOps.mirror(image) if mirror else image
    if image.size != (width, height):
        method = RESAMPLING[resample]
        if fit == "crop":
            image = ImageOps.fit(image, (width, height), method)
        elif fit == "box-crop":
            image = _box_crop(image, size, method)
        elif fit == "pad":
            image = _pad(image, size, method)
        else:
            image = image.resize((width, height), method)
    return np.ascontiguousarray(np.asarray(image, dtype=np.uint8).transpose(2, 0, 1))


def _box_crop(image: Image.Image, size: tuple[int, int], method: int) -> Image.Image:
    """Halve, resize once, cut the centre out; a picture whose shorter side fits is only cut."""
    height, width = size
    while image.width >= 2 * width and image.height >= 2 * height:
        image = image.resize((image.width // 2, image.height // 2), Image.Resampling.BOX)
    scale = max(width / image.width, height / image.height)
    whole = max(width, round(image.width * scale)), max(height, round(image.height * scale))
    left, top = (whole[0] - width) // 2, (whole[1] - height) // 2
    if whole[0] * whole[1] > MAX_PIXELS:  # a thin picture; only what is kept is made
        x, y = image.width / whole[0], image.height / whole[1]
        part = (left * x, top * y, (left + width) * x, (top + height) * y)
        return image.resize((width, height), method, part)
    if image.size != whole:
        image = image.resize(whole, method)
    return image.crop((left, top, left + width, top + height))


def _pad(image: Image.Image, size: tuple[int, int], method: int) -> Image.Image:
    """Scale to fit and centre on black."""
    top, left, height, width = content_box(image.size, size, "pad")
    canvas = Image.new("RGB", (size[1], size[0]))
    canvas.paste(image.resize((width, height), method), (left, top))
    return canvas


def _check_name(what: str, name: str, known: Collection[str]) -> None:
    if name not in known:
        raise SpecError(f"{what}={name!r} is unknown; expected one of {', '.join(known)}")
