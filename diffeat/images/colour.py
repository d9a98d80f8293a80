"""From the colours of an embedded ICC profile to those of sRGB, which models were trained on."""

from __future__ import annotations

import io
from functools import lru_cache

import numpy as np
from PIL import Image, ImageCms

CONVERTED = "diffeat: converted to sRGB"
"""Key in `image.info` of a picture whose colours were brought to sRGB."""
SAME = 2
"""A profile that moves no colour by more, of 255, is taken for sRGB itself."""
MODES = {"RGB": ("RGB",), "GRAY": ("L",), "CMYK": ("CMYK",)}
"""Modes of pictures that a profile of a colour space can belong to."""
EXACTLY = {"L": ImageCms.Flags.NOOPTIMIZE, "CMYK": ImageCms.Flags.HIGHRESPRECALC}
"""Without them a coarse table stands for the way of a mode, up to 10 of 255 away in the dark."""


def to_srgb(image: Image.Image, profile: bytes) -> Image.Image:
    """An 8-bit picture with its colours brought from a profile to sRGB; alpha stays.

    Relative colorimetric with black point compensation. A profile that is sRGB's own, give or
    take the rounding, changes nothing.

    Args:
        image: of mode L, LA, RGB, RGBA, P or CMYK.
        profile: the bytes of an ICC profile.

    Returns:
        RGB or RGBA where something was converted, with CONVERTED in its info; else `image`.

    Raises:
        ValueError: the profile is damaged, or of another kind of picture.
    """
    if image.mode in ("P", "PA"):
        clear = image.mode == "PA" or "transparency" in image.info
        image = image.convert("RGBA" if clear else "RGB")
    alpha = image.getchannel("A") if image.mode in ("RGBA", "LA") else None
    plain = image.convert(image.mode.removesuffix("A")) if alpha is not None else image
    transform, space = _transform(profile)
    if plain.mode == "L" and space == "RGB":
        plain = plain.convert("RGB")
    if plain.mode not in MODES[space]:
        raise ValueError(f"it describes {space} and the picture is {image.mode}")
    if transform is None:
        return image
    found = ImageCms.applyTransform(plain, transform)
    if alpha is not None:
        found.putalpha(alpha)
    found.info = {k: v for k, v in image.info.items() if k != "icc_profile"} | {CONVERTED: True}
    return found


@lru_cache(maxsize=64)
def _transform(profile: bytes) -> tuple[ImageCms.ImageCmsTransform | None, str]:
    """The way to sRGB, None where there is nothing to do, and the profile's colour space."""
    try:
        opened = ImageCms.ImageCmsProfile(io.BytesIO(profile))
        space = opened.profile.xcolor_space.strip()
        if space not in MODES:
            raise ValueError(f"colour space {space}; expected RGB, GRAY or CMYK")
        mode = MODES[space][0]
        transform = ImageCms.buildTransform(
            opened,
            ImageCms.createProfile("sRGB"),
            mode,
            "RGB",
            ImageCms.Intent.RELATIVE_COLORIMETRIC,
            ImageCms.Flags.BLACKPOINTCOMPENSATION | EXACTLY.get(mode, 0),
        )
    except (OSError, ImageCms.PyCMSError) as error:
        raise ValueError(f"{error}") from error
    return (None if mode != "CMYK" and _changes_nothing(transform, mode) else transform), space


def _changes_nothing(transform: ImageCms.ImageCmsTransform, mode: str) -> bool:
    steps = np.linspace(0, 255, 18).round().astype(np.uint8)
    grid = np.stack(np.meshgrid(steps, steps, steps), -1).reshape(18 * 18, 18, 3)
    before = Image.fromarray(grid) if mode == "RGB" else Image.fromarray(grid[..., 0])
    after = np.asarray(ImageCms.applyTransform(before, transform)).astype(int)
    return bool(np.abs(after - np.asarray(before.convert("RGB"))).max() <= SAME)
