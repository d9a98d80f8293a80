"""Heat maps of words over a picture, side by side."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from diffeat.viz.maps import resized, tile_size
from diffeat.viz.masks import heat, legend

SIDE, GAP = 256, 6
"""Pixels of a tile's longer side, and between tiles."""
MOST = 8
"""Tiles of a line."""


def heat_sheet(
    picture: np.ndarray,
    maps: np.ndarray,
    words: Sequence[str],
    mask: np.ndarray | None = None,
    side: int = SIDE,
) -> np.ndarray:
    """A picture, and over it in grey the heat of each word, dark at 0 and light at 1.

    Args:
        picture: (H, W, 3) uint8.
        maps: (K, H, W) heat between 0 and 1; a map of nan is of a word that was not asked for, and
            left out.
        words: of the K maps.
        mask: (H, W, 3) uint8, such as the picture under its mask; shown at the end.
        side: pixels of a tile's longer side.

    Returns:
        (h, w, 3) uint8.
    """
    tiles = [(picture, "picture")]
    for values, word in zip(maps, words, strict=True):
        if not np.isnan(values).all():
            tiles.append((heat(values, 0.0, 1.0, picture), word))
    if mask is not None:
        tiles.append((mask, "mask"))
    size = tile_size(picture.shape[:2], side)
    lines = [tiles[k : k + MOST] for k in range(0, len(tiles), MOST)]
    columns, high = len(lines[0]), size[0] + GAP
    head = legend([(None, "M")], 64).shape[0]
    wide = max(size[1], 64)
    sheet = np.full((len(lines) * (head + high) + GAP, columns * (wide + GAP) + GAP, 3), 255,
                    np.uint8)  # fmt: skip
    for down, line in enumerate(lines):
        for across, (pixels, word) in enumerate(line):
            top, left = GAP + down * (head + high), GAP + across * (wide + GAP)
            sheet[top : top + head, left : left + wide] = legend([(None, word)], wide)[:head]
            shown = resized(pixels, size)
            sheet[top + head : top + head + size[0], left : left + size[1]] = shown
    return sheet
