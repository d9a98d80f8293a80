"""A few frames of a clip side by side, with the masks or points that were carried through it."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from textwrap import wrap
from typing import IO, Any

import numpy as np

from diffeat.errors import SpecError
from diffeat.viz.figures import save, shorten
from diffeat.viz.maps import DPI, GAP, HEAD, TOP, Tile, resized, sheet_of, tile_size
from diffeat.viz.matches import BOLD, LABELS, LETTER, LINE, mask_over, sheet_axes, spot

ACROSS, SIDE = 4, 300
"""Frames in a line, and pixels of their longer side."""
SHOWN = 8
"""Frames that a strip shows of a clip."""


def strip_places(count: int, shown: int = SHOWN) -> np.ndarray:
    """Which of so many frames a strip shows: the first, the last, and others evenly between."""
    return np.unique(np.linspace(0, count - 1, min(shown, count)).round().astype(int))


def frame_strip(
    pictures: Sequence[np.ndarray],
    path: str | Path | IO[bytes],
    *,
    masks: Sequence[np.ndarray] | None = None,
    points: Sequence[np.ndarray] | None = None,
    heads: Sequence[str] = (),
    title: str = "",
    across: int = ACROSS,
    side: int = SIDE,
) -> None:
    """Write frames in lines, each with its mask laid over it, or with numbered points.

    Args:
        pictures: n frames (H, W, 3) uint8.
        path: the picture; its suffix says the format (PNG without one), or an open file.
        masks: n masks (H, W) of whole numbers; 0 is not drawn, any other number has a colour.
        points: n arrays (m, 2) of x, y in pixels; nan is not drawn. Points keep their numbers and
            colours from frame to frame.
        heads: n names.
        title: headline.
        across: frames in a line.
        side: pixels at which their longer sides are shown.

    Raises:
        SpecError: no frames, or lists that do not fit them.
    """
    given = {"masks": masks, "points": points, "heads": heads or None}
    lengths = {what: len(one) for what, one in given.items() if one is not None}
    if not len(pictures) or set(lengths.values()) - {len(pictures)}:
        raise SpecError(f"{len(pictures)} frames with {lengths}; expected as many of each, and one "
                        "at least")  # fmt: skip
    shown = list(pictures) if masks is None else _masked(pictures, masks)
    sizes = [tile_size(one.shape[:2], side) for one in shown]
    step = max(150, *(width for _, width in sizes)) + GAP
    down = max(height for height, _ in sizes) + HEAD // 2 + GAP
    lines = wrap(title, min(across, len(shown)) * step // BOLD) or [""]
    top = TOP + HEAD // 2 + LINE * (len(lines) - 1)
    tiles = []
    for place, (picture, size) in enumerate(zip(shown, sizes, strict=True)):
        row, column = divmod(place, across)
        head = shorten(heads[place], step // LETTER) if heads else ""
        tiles.append(Tile(resized(picture, size), head, GAP + column * step, top + row * down))
    figure = sheet_of(tiles, "\n".join(lines))
    if points is not None:
        _dots(sheet_axes(figure), tiles, pictures, points)
    save(figure, path, DPI)


def _masked(pictures: Sequence[np.ndarray], masks: Sequence[np.ndarray]) -> list[np.ndarray]:
    """Frames under their masks; numbers count by their order, so that 255 is a colour, too."""
    for place, (picture, mask) in enumerate(zip(pictures, masks, strict=True)):
        if picture.shape[:2] != mask.shape:
            raise SpecError(f"mask {place} is {mask.shape}; expected {picture.shape[:2]}, the "
                            "pixels of its frame")  # fmt: skip
    numbers = np.unique(np.concatenate([np.unique(mask) for mask in masks]))
    numbers = numbers[numbers != 0]
    return [
        mask_over(picture, np.where(mask == 0, 0, np.searchsorted(numbers, mask) + 1))
        for picture, mask in zip(pictures, masks, strict=True)
    ]


def _dots(
    axis: Any, tiles: Sequence[Tile], pictures: Sequence[np.ndarray], points: Sequence[np.ndarray]
) -> None:
    for tile, picture, each in zip(tiles, pictures, points, strict=True):
        rows, columns = tile.pixels.shape[:2]
        scale = np.array([columns / picture.shape[1], rows / picture.shape[0]])
        for k, point in enumerate((np.asarray(each) + 0.5) * scale + (tile.left, tile.top)):
            if np.isfinite(point).all():
                spot(axis, point, LABELS[k % len(LABELS)], k, len(each))
