"""One picture file → one RGB picture of the size that the backbone wants."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import BinaryIO

import numpy as np
from PIL import Image, ImageOps

from diffeat.errors import PictureError, SpecError

MAX_PIXELS = 178_956_970  # Pillow's own limit against decompression bombs
ANIMATED = ("GIF", "PNG", "WEBP", "AVIF")
FITS = ("squash", "crop", "pad")
RESAMPLING = {
    "nearest": Image.Resampling.NEAREST,
    "bilinear": Image.Resampling.BILINEAR,
    "bicubic": Image.Resampling.BICUBIC,
    "lanczos": Image.Resampling.LANCZOS,
}


def decode(opener: Callable[[], BinaryIO | str], picture: str) -> Image.Image:
    """Read one picture as 8-bit RGB, turned upright by its EXIF orientation.

    CMYK and grey become RGB; 16-bit samples are scaled to 8 bits (not clipped); transparency
    is laid over white; of an animation the first frame is taken, with a warning.

    Args:
        opener: returns a path or an open binary file.
        picture: id of the picture, for messages.

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
            return to_rgb(image)
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


def to_rgb(image: Image.Image) -> Image.Image:
    """An opened picture of any mode as upright 8-bit RGB, by the rules of `decode`.

    Raises:
        ValueError: floating-point or 32-bit samples, which have no agreed range.
    """
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
    if image.mode in ("RGBA", "LA", "PA", "La", "RGBa") or "transparency" in image.info:
        image = image.convert("RGBA")
        white = Image.new("RGBA", image.size, (255, 255, 255, 255))
        image = Image.alpha_composite(white, image)
    return image.convert("RGB")


def _pad(image: Image.Image, width: int, height: int, method: int) -> Image.Image:
    """Scale to fit and centre on black; unlike ImageOps.pad, no side ever vanishes."""
    scale = min(width / image.width, height / image.height)
    inner = (max(1, round(image.width * scale)), max(1, round(image.height * scale)))
    canvas = Image.new("RGB", (width, height))
    corner = ((width - inner[0]) // 2, (height - inner[1]) // 2)
    canvas.paste(image.resize(inner, method), corner)
    return canvas


def fit_picture(
    image: Image.Image, size: tuple[int, int], fit: str = "squash", resample: str = "bicubic"
) -> np.ndarray:
    """Bring a picture to `size` and return it as uint8 of shape (3, H, W).

    Args:
        image: RGB picture of any size.
        size: (height, width) in pixels.
        fit: "squash" ignores the aspect ratio; "crop" scales the shorter side and cuts the
            centre out; "pad" scales the longer side and centres the picture on black.
        resample: name of Pillow's (anti-aliased) filter.

    Raises:
        SpecError: unknown `fit` or `resample`.
    """
    if fit not in FITS:
        raise SpecError(f"fit={fit!r} is unknown; expected one of {', '.join(FITS)}")
    if resample not in RESAMPLING:
        raise SpecError(
            f"resample={resample!r} is unknown; expected one of {', '.join(RESAMPLING)}"
        )
    height, width = size
    if image.size != (width, height):
        method = RESAMPLING[resample]
        if fit == "squash":
            image = image.resize((width, height), method)
        elif fit == "crop":
            image = ImageOps.fit(image, (width, height), method)
        else:
            image = _pad(image, width, height, method)
    return np.ascontiguousarray(np.asarray(image, dtype=np.uint8).transpose(2, 0, 1))
