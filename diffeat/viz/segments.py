"""Pictures in segments: colours of classes, things told apart by shade, edges, names."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from diffeat.errors import SpecError
from diffeat.viz.masks import BACKGROUNDS, _font, class_entries, edges, with_legend

SHARE = 0.5
"""What a segment's colour counts beside the picture under it."""
SHADES = (0.0, 0.28, -0.28, 0.5, -0.45)
"""Of the things of one class, in turn: towards white, or towards black."""
SMALLEST = 9
"""Pixels of letters below which no name is written."""


def shade(colour: Sequence[int], step: int) -> np.ndarray:
    """(3,) uint8 colour of the class's thing number `step`, from 0."""
    by = SHADES[step % len(SHADES)]
    end = 255.0 if by > 0 else 0.0
    return np.round(np.asarray(colour) + abs(by) * (end - np.asarray(colour, float))).astype(
        np.uint8
    )


def segment_colours(
    segments: Sequence[Mapping[str, Any]], colours: np.ndarray
) -> dict[int, np.ndarray]:
    """Id of each segment → its colour: that of its class, shaded so that neighbours differ."""
    seen: dict[int, int] = {}
    found = {}
    for one in segments:
        step = seen.setdefault(one["class"], 0)
        found[one["id"]] = shade(colours[one["class"]], step)
        seen[one["class"]] += 1
    return found


def segment_overlay(
    picture: np.ndarray,
    segmented: tuple[np.ndarray, Sequence[Mapping[str, Any]]],
    names: Sequence[str],
    colours: np.ndarray,
    *,
    legend: bool = True,
) -> np.ndarray:
    """A picture under its segments, with edges and the names of those that have room for them.

    Backgrounds (`diffeat.viz.masks.BACKGROUNDS`) are seen through, and not named.

    Args:
        picture: (H, W, 3) uint8.
        segmented: (H, W) ids, 0 of none, which is left as it is; and the segments.
        names, colours: of the K classes.
        legend: whether the classes and their shares stand below.

    Returns:
        (h, w, 3) uint8, the picture in the top left corner.

    Raises:
        SpecError: ids of another size than the picture.
    """
    ids, segments = segmented
    if ids.shape != picture.shape[:2]:
        raise SpecError(f"segments of {ids.shape}, the picture is {picture.shape[:2]}; expected "
                        "one size")  # fmt: skip
    solid = picture.astype(np.float32)
    labels = np.full(ids.shape, -1)
    of = segment_colours(segments, colours)
    for one in segments:
        inside = ids == one["id"]
        solid[inside] = of[one["id"]]
        labels[inside] = one["class"]
    behind = [k for k, name in enumerate(names) if str(name).lower() in BACKGROUNDS]
    weight = (SHARE * ((ids > 0) & ~np.isin(labels, behind)))[..., None]
    laid = picture + weight * (solid - picture)
    laid[edges(ids, max(1, round(max(ids.shape) / 500)))] = 255
    shown = [one for one in segments if one["class"] not in behind]
    laid = _named(np.round(laid).astype(np.uint8), ids, shown, names)
    if not legend:
        return laid
    count = np.bincount(labels[ids > 0], minlength=len(names))
    return with_legend(laid, class_entries(count / ids.size, names, colours))


def _named(
    pixels: np.ndarray, ids: np.ndarray, segments: Sequence[Mapping[str, Any]], names: Sequence[str]
) -> np.ndarray:
    """Names where segments are widest, in letters that fit."""
    from PIL import Image, ImageDraw
    from scipy.ndimage import distance_transform_edt

    image = Image.fromarray(pixels)
    draw = ImageDraw.Draw(image)
    most = max(11, round(max(ids.shape) / 28))
    for one in segments:
        inside = np.pad(ids == one["id"], 1)
        if not inside.any():
            continue
        far = distance_transform_edt(inside)[1:-1, 1:-1]
        y, x = np.unravel_index(int(far.argmax()), far.shape)
        text, size = str(names[one["class"]]), most
        room = 2.4 * float(far[y, x])  # names may reach a little over the edge
        while size >= SMALLEST and _font(size, bold=True).getlength(text) > room:
            size -= 1
        if size < SMALLEST:
            continue
        half = _font(size, bold=True).getlength(text) / 2
        x = min(max(x, half + 1), max(ids.shape[1] - half - 1, half + 1))
        draw.text((x, y), text, fill="white", stroke_fill="black", stroke_width=max(1, size // 8),
                  font=_font(size, bold=True), anchor="mm")  # fmt: skip
    return np.asarray(image)
