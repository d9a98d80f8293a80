"""Features behind which no network stands: the pixels themselves, and where they lie."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch.nn.functional import pad

from diffeat.images import Source, fit_picture
from probes.cells import Cells
from probes.lazy import Deferred

PATCH = 7
"""Side in pixels of the patch round each pixel."""
PIXELS, POSITION = ("pixels", 0), ("position", 0)
TERMS = 9
"""Of a position: x, y, their squares and product, and four waves."""


def floor_cells(
    sources: Sequence[Source], sizes: np.ndarray, size: tuple[int, int], pixels: bool
) -> Cells:
    """Position, and with `pixels` the 7 × 7 pixels round each pixel of the input, as maps.

    Args:
        sources: of the pictures, one after the other, which are squashed.
        sizes: (N, 2) H, W of what is scored.
        size: (H, W) of the inputs.
        pixels: False looks at no picture.
    """
    count = len(sizes)
    where = positions(size)
    arrays = {POSITION: Deferred((count, *where.shape), lambda rows: _same(where, count, rows),
                                 np.float32)}  # fmt: skip
    if pixels:
        raw = np.concatenate([_inputs(source, size) for source in sources])
        shape = (count, 3 * PATCH**2, *size)
        arrays = {PIXELS: Deferred(shape, lambda rows: raw_patches(raw[rows]), np.float32),
                  **arrays}  # fmt: skip
    return Cells(arrays, sizes=sizes, input_size=size)


def _inputs(source: Source, size: tuple[int, int]) -> np.ndarray:
    """(N, 3, H, W) uint8."""
    found = np.empty((len(source), 3, *size), np.uint8)
    for row in range(len(source)):
        found[row] = fit_picture(source.load(row), size, "squash", "bicubic")
    return found


def _same(values: np.ndarray, count: int, rows: slice) -> np.ndarray:
    return np.broadcast_to(values, (len(range(count)[rows]), *values.shape))


def positions(size: tuple[int, int]) -> np.ndarray:
    """(9, H, W) float32 of x and y in (−1, 1): x, y, x², x·y, y², and sin and cos of πx and πy."""
    y, x = ((2 * np.arange(side) + 1) / side - 1 for side in size)
    y, x = np.meshgrid(y, x, indexing="ij")
    terms = (x, y, x * x, x * y, y * y, *(wave(np.pi * at) for at in (x, y)
                                          for wave in (np.sin, np.cos)))  # fmt: skip
    return np.stack(terms).astype(np.float32)


def raw_patches(pixels: np.ndarray, side: int = PATCH) -> np.ndarray:
    """(n, 3, H, W) uint8 → (n, 3·side², H, W) float32 in [0, 1]; edges go on."""
    values = torch.from_numpy(pixels.astype(np.float32)) / 255
    wide = pad(values, [side // 2] * 4, mode="replicate")
    around = wide.unfold(2, side, 1).unfold(3, side, 1)  # (n, 3, H, W, side, side)
    return around.permute(0, 1, 4, 5, 2, 3).flatten(1, 3).contiguous().numpy()
