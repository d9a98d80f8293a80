"""What the places of a picture add to a score, laid over it: red speaks for it, blue against."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from diffeat.viz.maps import resized, tile_size
from diffeat.viz.masks import legend
from diffeat.viz.scales import colour_map
from probes.maps import Maps

FOR_AND_AGAINST = "RdBu_r"
"""Colours: red above 0, blue below, white at 0."""
SHARE = 0.85
"""What the strongest colour counts beside the picture under it."""
SIDE, GAP = 256, 6
"""Pixels of a tile's longer side, and between tiles."""


def sites_on(
    values: np.ndarray, size: tuple[int, int], input_size: tuple[int, int], placement: Any = None
) -> np.ndarray:
    """(H, W) float32 of a picture, each pixel that of the site that it lies in; 0 where the input
    does not show it.

    Args:
        values: (k, k) over the input.
        size: (H, W) of the upright picture in pixels.
        input_size: (H, W) of the input in pixels.
        placement: (4,) of the input in the picture; None: it was squashed.
    """
    maps = Maps({}, size, input_size, placement)
    sx, tx, sy, ty = maps.numbers
    across = np.floor((sx * (np.arange(size[1]) + 0.5) + tx) * values.shape[1] / input_size[1])
    down = np.floor((sy * (np.arange(size[0]) + 0.5) + ty) * values.shape[0] / input_size[0])
    rows, columns = (np.clip(one, 0, most - 1).astype(np.int64) for one, most in
                     ((down, values.shape[0]), (across, values.shape[1])))  # fmt: skip
    inside = (down == rows)[:, None] & (across == columns)
    return np.where(inside, values[np.ix_(rows, columns)], 0).astype(np.float32)


def attribution(picture: np.ndarray, values: np.ndarray, most: float) -> np.ndarray:
    """(H, W, 3) uint8: the picture in grey under red and blue.

    Args:
        picture: (H, W, 3) uint8.
        values: (H, W) what each place adds.
        most: magnitude of the strongest colour, the same for pictures that are compared.
    """
    scaled = np.clip(values / (most or 1.0), -1, 1)
    colours = colour_map(FOR_AND_AGAINST)((scaled + 1) / 2)[..., :3]
    grey = 0.35 + 0.65 * np.repeat(picture.mean(2, keepdims=True), 3, 2) / 255
    weight = SHARE * np.sqrt(np.abs(scaled))[..., None]
    return np.round(255 * ((1 - weight) * grey + weight * colours)).astype(np.uint8)


def explained_sheet(
    picture: np.ndarray, values: np.ndarray, most: float, title: str, parts: Sequence[tuple] = ()
) -> np.ndarray:
    """A picture, and what its places add, side by side, under a line of text.

    Args:
        picture: (H, W, 3) uint8.
        values: (H, W).
        most: see `attribution`.
        title: of the second tile.
        parts: further (values, title).

    Returns:
        (h, w, 3) uint8.
    """
    tiles = [(picture, "picture"), (attribution(picture, values, most), title)]
    tiles += [(attribution(picture, one, most), said) for one, said in parts]
    size = tile_size(picture.shape[:2], SIDE)
    wide = max(size[1], 160)
    head = legend([(None, "M")], 64).shape[0]
    sheet = np.full((head + size[0] + 2 * GAP, len(tiles) * (wide + GAP) + GAP, 3), 255, np.uint8)
    for k, (pixels, said) in enumerate(tiles):
        left = GAP + k * (wide + GAP)
        sheet[GAP : GAP + head, left : left + wide] = legend([(None, said)], wide)[:head]
        sheet[GAP + head : GAP + head + size[0], left : left + size[1]] = resized(pixels, size)
    return sheet
