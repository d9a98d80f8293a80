"""Rows of matching tables behind which no network stands: pixels, and places that see nothing."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import torch
from torch.nn.functional import pad

from diffeat.images import Source, fit_picture
from diffeat.targets.pairs import PairTargets
from probes.cells import Cells
from probes.lazy import Deferred

PATCH = 7
"""Side in pixels of the patches that raw pixels are matched by."""


def patch_cells(
    source: Source, size: tuple[int, int], resample: str = "bicubic", side: int = PATCH
) -> Cells:
    """The pixels round each pixel as its descriptor, for the read-out that features have.

        f(y, x) = the side × side × 3 pixels round (y, x), each less its channel's mean in them

    Beyond the edges the outermost pixels go on.

    Args:
        source: the pictures, which are squashed.
        size: (H, W) of the input, as the models have it; resample: likewise.
        side: of a patch in pixels, odd.

    Returns:
        One cell ("pixels", 0) of N maps (3·side², H, W), made as they are read.
    """
    pixels = np.empty((len(source), 3, *size), np.uint8)
    sizes = np.empty((len(source), 2), np.int64)
    for row in range(len(source)):
        picture = source.load(row)
        pixels[row] = fit_picture(picture, size, "squash", resample)
        sizes[row] = picture.height, picture.width
    shape = (len(source), 3 * side**2, *size)
    maps = Deferred(shape, lambda rows: patches(pixels[rows], side), np.float32)
    return Cells({("pixels", 0): maps}, sizes=sizes, input_size=size)


def patches(pixels: np.ndarray, side: int = PATCH) -> np.ndarray:
    """(n, 3, H, W) pixels → (n, 3·side², H, W) float32 descriptors; see `patch_cells`."""
    values = torch.from_numpy(pixels.astype(np.float32)) / 255
    wide = pad(values, [side // 2] * 4, mode="replicate")
    around = wide.unfold(2, side, 1).unfold(3, side, 1)  # (n, 3, H, W, side, side)
    centred = around - around.mean((4, 5), keepdim=True)
    return centred.permute(0, 1, 4, 5, 2, 3).flatten(1, 3).contiguous().numpy()


def sift_at(picture: np.ndarray, points: np.ndarray, window: int) -> np.ndarray:
    """(n, 128) float32 of SIFT's descriptors at points, upright and of one scale, by OpenCV.

    Args:
        picture: (H, W, 3) uint8; points: (n, 2) x, y in pixels.
        window: side in pixels of what a descriptor looks at.
    """
    import cv2

    grey = cv2.cvtColor(picture, cv2.COLOR_RGB2GRAY)
    size = window / 6  # OpenCV's descriptor has 4 × 4 fields of 3 · size / 2
    places = [cv2.KeyPoint(float(x), float(y), size, 0.0) for x, y in points]
    found, values = cv2.SIFT_create().compute(grey, places)
    if len(found) != len(points):
        raise ValueError(f"OpenCV described {len(found)} of {len(points)} points; expected all")
    return values


def sizes_of(source: Source) -> np.ndarray:
    """(N, 2) int64 H, W in pixels of the upright pictures, which are decoded for it."""
    pictures = (source.load(row) for row in range(len(source)))
    return np.array([(one.height, one.width) for one in pictures], np.int64).reshape(-1, 2)


def mean_places(
    targets: PairTargets, sizes: Mapping[str, np.ndarray]
) -> dict[tuple[str, str], np.ndarray]:
    """Where the points of each name lie on average: what can be known without seeing a picture.

    Args:
        targets: pairs whose points have names; every picture counts once.
        sizes: picture id → (2,) H, W in pixels.

    Returns:
        (category, name) → (2,) x, y as shares of the picture's width and height.
    """
    seen: dict[tuple[tuple[str, str], str], np.ndarray] = {}
    for pair, category in enumerate(targets.categories):
        truth = targets.truth(pair)
        sides = ((targets.source[pair], truth.source_points),
                 (targets.target[pair], truth.target_points))  # fmt: skip
        for picture, points in sides:
            shares = (points + 0.5) / sizes[picture][::-1]
            for name, at in zip(truth.names, shares, strict=True):
                seen[(category, name), picture] = at
    found: dict[tuple[str, str], list[np.ndarray]] = {}
    for (key, _), at in seen.items():
        found.setdefault(key, []).append(at)
    return {key: np.mean(places, 0) for key, places in found.items()}
