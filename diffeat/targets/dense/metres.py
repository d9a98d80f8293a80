"""From files of depth to metres."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from PIL import Image

from diffeat.errors import PictureError, SpecError
from diffeat.targets.dense.arrays import ARRAYS, read_array

UNITS = {"m": 1.0, "cm": 0.01, "mm": 0.001, "tum": 1 / 5000}
"""Metres of one step; TUM's RGB-D files have 5,000 a metre."""
NO_DEPTH = (0, 65535)
"""Of whole numbers: nothing is known."""
FAR = 1000.0
"""Metres; whole rooms and streets are nearer, so larger numbers are other units."""
WHOLE = ("I;16", "I;16B", "I;16L", "I;16N", "I", "L", "1")


def scale_of(unit: str | float | None) -> float | None:
    """Metres of one step of a unit: "m", "cm", "mm", "tum" (1/5000), or a number.

    Raises:
        SpecError: none of these.
    """
    if unit is None:
        return None
    try:
        scale = UNITS[unit] if isinstance(unit, str) and unit in UNITS else float(unit)
    except ValueError:
        scale = -1.0
    if not (np.isfinite(scale) and scale > 0):
        raise SpecError(f"depth unit {unit!r}; expected {', '.join(UNITS)}, or metres of one step, "
                        "such as 0.001")  # fmt: skip
    return scale


@dataclass(frozen=True, eq=False)
class DepthReader:
    """Depth maps: PNG or TIFF of 16-bit numbers, or .npy and .npz of metres.

    Nothing is known where whole numbers are 0 or 65535, and where others are not finite or not
    above 0.

    Attributes:
        scale: metres of one step; None: metres of floating-point numbers, and whole ones are
            refused.
    """

    scale: float | None = None
    kind: str = field(default="depth", init=False)
    classes: tuple[str, ...] = field(default=(), init=False)
    ignore: int = field(default=255, init=False)
    palette: None = field(default=None, init=False)

    def about(self) -> list:
        return ["depth", self.scale]

    def read(self, path: Path) -> np.ndarray:
        """(H, W) float32 metres, nan where nothing is known, as the file lies on the disk."""
        found = read_array(path) if path.suffix.lower() in ARRAYS else read_steps(path)
        whole = found.dtype.kind in "iub"
        if whole and self.scale is None:
            raise PictureError(
                str(path), f"holds whole numbers ({found.dtype}) of no known unit; say the unit of "
                "depth (--unit, unit=): mm, cm, m, or metres of one step"
            )  # fmt: skip
        if whole and found.dtype.itemsize == 1 and self.scale in UNITS.values():
            raise PictureError(
                str(path), "holds 8 bits a pixel, too few for depth in a unit of length; expected "
                "16 bits, or metres of one step as a number"
            )  # fmt: skip
        known = (
            (found > 0) & ~np.isin(found, NO_DEPTH) if whole else np.isfinite(found) & (found > 0)
        )
        metres = np.where(known, found, np.nan).astype(np.float64) * (self.scale or 1.0)
        if self.scale is None and np.nanmax(metres, initial=0) > FAR:
            raise PictureError(
                str(path), f"depth up to {np.nanmax(metres):,.0f}, which are hardly metres; say "
                "the unit of depth: mm, cm, m, or metres of one step"
            )  # fmt: skip
        return metres.astype(np.float32)


def read_steps(path: Path) -> np.ndarray:
    """(H, W) numbers of a picture of one number a pixel.

    Raises:
        PictureError: it cannot be read, or holds colours.
    """
    try:
        with Image.open(path) as image:
            mode, values = image.mode, np.asarray(image)
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        raise PictureError(str(path), f"no depth map that can be read ({error})") from error
    if mode not in (*WHOLE, "F"):
        raise PictureError(str(path), f"holds colours ({mode}); expected a depth a pixel, as 16 "
                           "bits or as floating-point numbers")  # fmt: skip
    return values.astype(values.dtype.newbyteorder("="))
