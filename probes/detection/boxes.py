"""Boxes of things in pictures: what is known of one, and what was found."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from probes.cells import Cells
from probes.maps import Maps

SMALLEST = 1.0
"""Pixels of the input that a box must have in both sides to be learnt from."""


@dataclass(frozen=True, eq=False)
class Boxes:
    """Boxes of one picture.

    Attributes:
        boxes: (n, 4) float64 x1, y1, x2, y2: edges in pixels of the upright picture, whose first
            pixel spans 0 to 1 (COCO's x, y, width, height is x1, y1, x2 − x1, y2 − y1).
        labels: (n,) int64 class indices.
        scores: (n,) float64 of what was found; None of what is known.
        crowd: (n,) bool: whether a box is round many things; None: none is.

    Raises:
        ValueError: other shapes, boxes without extent, numbers that are not finite.
    """

    boxes: np.ndarray
    labels: np.ndarray
    scores: np.ndarray | None = None
    crowd: np.ndarray | None = None

    def __post_init__(self) -> None:
        boxes = np.asarray(self.boxes, np.float64).reshape(-1, 4)
        labels = np.asarray(self.labels, np.int64)
        if labels.shape != (len(boxes),):
            raise ValueError(f"{len(boxes)} boxes with labels of shape {labels.shape}; expected "
                             "one a box")  # fmt: skip
        if not np.isfinite(boxes).all() or (boxes[:, 2:] <= boxes[:, :2]).any():
            raise ValueError("boxes without extent, or not finite; expected x1 < x2 and y1 < y2")
        for name in ("scores", "crowd"):
            value = getattr(self, name)
            if value is not None and np.shape(value) != labels.shape:
                raise ValueError(f"{len(boxes)} boxes with {name} of shape {np.shape(value)}; "
                                 "expected one a box")  # fmt: skip
        if self.scores is not None and not np.isfinite(self.scores).all():
            raise ValueError("scores are nan or inf; expected finite numbers")
        object.__setattr__(self, "boxes", boxes)
        object.__setattr__(self, "labels", labels)

    def __len__(self) -> int:
        return len(self.boxes)


def to_input(boxes: np.ndarray, maps: Maps) -> np.ndarray:
    """(n, 4) edges in picture pixels → edges in input pixels, cut off where the input ends.

    u = sx·x + tx,  v = sy·y + ty
    """
    sx, tx, sy, ty = maps.numbers
    height, width = maps.input_size
    x = np.sort(boxes[:, [0, 2]] * sx + tx, axis=1).clip(0, width)
    y = np.sort(boxes[:, [1, 3]] * sy + ty, axis=1).clip(0, height)
    return np.stack([x[:, 0], y[:, 0], x[:, 1], y[:, 1]], 1)


def to_picture(boxes: np.ndarray, maps: Maps) -> np.ndarray:
    """(n, 4) edges in input pixels → edges in picture pixels, cut off where the picture ends."""
    sx, tx, sy, ty = maps.numbers
    height, width = maps.size
    x = np.sort((boxes[:, [0, 2]] - tx) / sx, axis=1).clip(0, width)
    y = np.sort((boxes[:, [1, 3]] - ty) / sy, axis=1).clip(0, height)
    return np.stack([x[:, 0], y[:, 0], x[:, 1], y[:, 1]], 1)


def packed(known: Sequence[Boxes], cells: Cells, classes: int) -> np.ndarray:
    """(N, M, 5) float32 boxes in input pixels and their labels, −1 where a picture has fewer.

    Boxes round many things, and those of which an input shows less than `SMALLEST`, are left out.

    Raises:
        ValueError: another number than of pictures, labels outside 0 … K − 1, no box at all.
    """
    if len(known) != len(cells):
        raise ValueError(f"boxes of {len(known)} pictures for {len(cells)}; expected one a picture")
    rows = [_shown(one, cells.frame(row), classes, row) for row, one in enumerate(known)]
    most = max(map(len, rows))
    if not most:
        raise ValueError(f"none of {len(cells)} pictures has a box that its input shows")
    found = np.full((len(rows), most, 5), -1, np.float32)
    for row, some in enumerate(rows):
        found[row, : len(some)] = some
    return found


def _shown(one: Any, maps: Maps, classes: int, row: int) -> np.ndarray:
    """(n, 5) of one picture."""
    if not isinstance(one, Boxes):
        raise ValueError(f"boxes[{row}] is a {type(one).__name__}; expected probes.detection.Boxes")
    odd = one.labels[(one.labels < 0) | (one.labels >= classes)]
    if len(odd):
        raise ValueError(f"boxes[{row}] has the label {odd[0]}; expected 0 … {classes - 1}")
    moved = to_input(one.boxes, maps)
    kept = (moved[:, 2:] - moved[:, :2] >= SMALLEST).all(1)
    if one.crowd is not None:
        kept &= ~np.asarray(one.crowd, bool)
    return np.concatenate([moved[kept], one.labels[kept, None]], 1)
