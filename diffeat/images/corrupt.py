"""Pictures that got worse: common corruptions by name and severity, 1 to 5.

Names, definitions and strengths are those of ImageNet-C; with `cifar:` before the name, the
strengths of CIFAR-10-C. With x in [0, 1]:

    gaussian_noise    x + c·n                       n, u: standard normal; uniform, per sample
    shot_noise        Poisson(c·x)/c
    impulse_noise     a share c of the samples is 0 or 1, half and half
    speckle_noise     x + x·c·n
    gaussian_blur     Gaussian of sigma c pixels
    defocus_blur      disk of radius c pixels, itself blurred
    brightness        V + c                         in HSV
    contrast          mean + c·(x − mean)           means of each channel
    saturate          a·S + b                       in HSV
    jpeg_compression  stored at quality c
    pixelate          averaged to a share c of each side, and repeated

Blurs are in pixels of the picture as it is decoded; they were published for 224×224 and 32×32.
Results are rounded to 8 bits (the published code cuts off, so it is half a level darker). Left out
are corruptions that move pixels (glass, zoom, elastic), for labels of pixels would not move along,
and those that need ImageMagick or photographs (motion, snow, frost, fog, spatter).

Source: Hendrycks & Dietterich 2019, Benchmarking neural network robustness to common corruptions
and perturbations, and their code.
"""

from __future__ import annotations

import io
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

import numpy as np
from PIL import Image

from diffeat.errors import SpecError, brief, nearest
from diffeat.hashing import digest

SEVERITIES = (1, 2, 3, 4, 5)
CIFAR = "cifar"
_IMAGENET = {
    "gaussian_noise": (0.08, 0.12, 0.18, 0.26, 0.38),
    "shot_noise": (60, 25, 12, 5, 3),
    "impulse_noise": (0.03, 0.06, 0.09, 0.17, 0.27),
    "speckle_noise": (0.15, 0.2, 0.35, 0.45, 0.6),
    "gaussian_blur": (1, 2, 3, 4, 6),
    "defocus_blur": ((3, 0.1), (4, 0.5), (6, 0.5), (8, 0.5), (10, 0.5)),
    "brightness": (0.1, 0.2, 0.3, 0.4, 0.5),
    "contrast": (0.4, 0.3, 0.2, 0.1, 0.05),
    "saturate": ((0.3, 0), (0.1, 0), (2, 0), (5, 0.1), (20, 0.2)),
    "jpeg_compression": (25, 18, 15, 10, 7),
    "pixelate": (0.6, 0.5, 0.4, 0.3, 0.25),
}
_CIFAR = {
    "gaussian_noise": (0.04, 0.06, 0.08, 0.09, 0.1),
    "shot_noise": (500, 250, 100, 75, 50),
    "impulse_noise": (0.01, 0.02, 0.03, 0.05, 0.07),
    "speckle_noise": (0.06, 0.1, 0.12, 0.16, 0.2),
    "gaussian_blur": (0.4, 0.6, 0.7, 0.8, 1),
    "defocus_blur": ((0.3, 0.4), (0.4, 0.5), (0.5, 0.6), (1, 0.2), (1.5, 0.1)),
    "brightness": (0.05, 0.1, 0.15, 0.2, 0.3),
    "contrast": (0.75, 0.5, 0.4, 0.3, 0.15),
    "saturate": ((0.3, 0), (0.1, 0), (1.5, 0), (2, 0.1), (2.5, 0.2)),
    "jpeg_compression": (80, 65, 58, 50, 40),
    "pixelate": (0.95, 0.9, 0.85, 0.75, 0.65),
}
STRENGTHS: Mapping[str, Mapping[str, tuple[Any, ...]]] = MappingProxyType(
    {"": MappingProxyType(_IMAGENET), CIFAR: MappingProxyType(_CIFAR)}
)
"""Table → name → what severities 1 to 5 are; "" is ImageNet-C's."""
CORRUPTIONS = tuple(_IMAGENET)
"""Names of corruptions, of ImageNet-C's kind."""


@dataclass(frozen=True)
class Corruption:
    """A corruption of pictures.

    Attributes:
        name: one of `CORRUPTIONS`.
        severity: 1 to 5.
        table: "" for ImageNet-C's strengths, "cifar" for CIFAR-10-C's.
    """

    name: str
    severity: int
    table: str = ""

    @classmethod
    def read(cls, text: str) -> Corruption:
        """ "gaussian_noise:3", or "cifar:gaussian_noise:3"; SpecError for anything else."""
        *table, name, severity = text.strip().lower().split(":") if text.count(":") else ("", "")
        found = table[0] if table else ""
        known = name in CORRUPTIONS and found in STRENGTHS and len(table) < 2
        if known and severity in map(str, SEVERITIES):
            return cls(name, int(severity), found)
        raise SpecError(
            f"corrupt={brief(text)} is not understood; expected NAME:SEVERITY, or {CIFAR}:NAME:"
            f"SEVERITY, with a severity from 1 to 5 and a name of {', '.join(CORRUPTIONS)}"
            f"{nearest(name or text, CORRUPTIONS) if name not in CORRUPTIONS else ''}"
        )

    def __str__(self) -> str:
        return f"{self.table}{':' * bool(self.table)}{self.name}:{self.severity}"

    def apply(self, image: Image.Image, seed: int = 0, picture: str = "") -> Image.Image:
        """A picture made worse; of the same size.

        What is random depends on (name, seed, picture) and nothing else, so the severities of one
        corruption share their draws.

        Args:
            image: RGB, 8 bit, upright.
            seed: the extraction's.
            picture: id of the picture.
        """
        strength = STRENGTHS[self.table][self.name][self.severity - 1]
        key = np.frombuffer(digest("corrupt", self.name, int(seed), picture), dtype="<u8")
        rng = np.random.Generator(np.random.Philox(key=key))
        if self.name in _ON_PICTURES:
            return _ON_PICTURES[self.name](image, strength)
        found = _ON_ARRAYS[self.name](np.asarray(image) / 255.0, strength, rng)
        return Image.fromarray(np.rint(np.clip(found, 0, 1) * 255).astype(np.uint8))


def corruption_of(text: str | None, seed: int) -> Callable[[Image.Image, str], Image.Image] | None:
    """(picture, its id) → the picture made worse, of a spec's field and seed; None for None."""
    if text is None:
        return None
    corruption = Corruption.read(text)
    return lambda image, picture: corruption.apply(image, seed, picture)


def _impulses(x: np.ndarray, share: float, rng: np.random.Generator) -> np.ndarray:
    hit, white = rng.random(x.shape) < share, rng.random(x.shape) < 0.5
    return np.where(hit, white, x)


def _gaussian(x: np.ndarray, sigma: float, _: Any) -> np.ndarray:
    from scipy.ndimage import gaussian_filter

    return gaussian_filter(x, (sigma, sigma, 0), mode="nearest", truncate=4)


def _defocus(x: np.ndarray, disk: tuple[float, float], _: Any) -> np.ndarray:
    """The borders are mirrored at the outermost pixels."""
    from scipy.signal import fftconvolve

    kernel = disk_kernel(*disk)
    reach = len(kernel) // 2
    wide = np.pad(x, ((reach, reach), (reach, reach), (0, 0)), "reflect")
    return fftconvolve(wide, kernel[..., None], "valid", axes=(0, 1))


def disk_kernel(radius: float, sigma: float) -> np.ndarray:
    """(n, n) float64 of a disk whose edge a Gaussian of 3×3 (above radius 8: 5×5) softens."""
    from scipy.ndimage import correlate1d

    reach, half = (8, 1) if radius <= 8 else (int(radius), 2)
    line = np.arange(-reach, reach + 1) ** 2
    disk = (line[:, None] + line <= radius**2).astype(np.float64)
    soft = np.exp(-(np.arange(-half, half + 1) ** 2) / (2 * sigma**2))
    for axis in (0, 1):
        disk = correlate1d(disk, soft / soft.sum(), axis, mode="mirror")
    return disk / (line[:, None] + line <= radius**2).sum()


def _contrast(x: np.ndarray, factor: float, _: Any) -> np.ndarray:
    mean = x.mean((0, 1), keepdims=True)
    return mean + factor * (x - mean)


def _brightness(x: np.ndarray, more: float, _: Any) -> np.ndarray:
    """Hue and saturation stay, so the channels' ratios do; black becomes grey."""
    value = x.max(2, keepdims=True)
    lighter = np.minimum(value + more, 1)
    return np.divide(x * lighter, value, out=np.repeat(lighter, 3, 2), where=value > 0)


def _saturate(x: np.ndarray, line: tuple[float, float], _: Any) -> np.ndarray:
    """Value and hue stay; of a grey pixel the hue is 0, red."""
    value = x.max(2, keepdims=True)
    below = value - x  # V·S·(0 … 1), by hue
    depth = below.max(2, keepdims=True)  # V·S
    saturation = np.divide(depth, value, out=np.zeros_like(value), where=value > 0)
    red = np.broadcast_to((0.0, 1.0, 1.0), x.shape).copy()
    share = np.divide(below, depth, out=red, where=depth > 0)
    return value * (1 - share * np.clip(line[0] * saturation + line[1], 0, 1))


def _jpeg(image: Image.Image, quality: int) -> Image.Image:
    file = io.BytesIO()
    image.save(file, "JPEG", quality=quality)
    with Image.open(file) as found:
        return found.convert("RGB")


def _pixelate(image: Image.Image, share: float) -> Image.Image:
    small = tuple(max(1, int(side * share)) for side in image.size)
    box = Image.Resampling.BOX
    return image.resize(small, box).resize(image.size, box)


_ON_PICTURES: Mapping[str, Callable[..., Image.Image]] = {
    "jpeg_compression": _jpeg,
    "pixelate": _pixelate,
}
_ON_ARRAYS: Mapping[str, Callable[..., np.ndarray]] = {
    "gaussian_noise": lambda x, c, rng: x + rng.normal(scale=c, size=x.shape),
    "shot_noise": lambda x, c, rng: rng.poisson(x * c) / c,
    "impulse_noise": _impulses,
    "speckle_noise": lambda x, c, rng: x + x * rng.normal(scale=c, size=x.shape),
    "gaussian_blur": _gaussian,
    "defocus_blur": _defocus,
    "brightness": _brightness,
    "contrast": _contrast,
    "saturate": _saturate,
}
