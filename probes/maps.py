"""One picture's maps on their own grids, and where they lie in the picture.

Pixels and cells have their centres at whole numbers. For one side, and likewise for the other:

    u = sx·(x + .5) + tx − .5        picture pixel x → input pixel u; sx < 0 is mirrored
    k = (u + .5)·g/U − .5            input pixel u → site k of a map with g columns over U pixels
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

EDGE = 1e-6
"""Pixels by which a point may lie outside an edge and still count as on it: rounding errors."""


@dataclass(frozen=True, eq=False)
class Maps:
    """Maps of one picture, of any number of cells, each on a grid of its own.

    Attributes:
        values: cell, such as (block, t) → (C, h, w), numpy or torch.
        size: (H, W) of the upright picture in pixels.
        input_size: (H, W) in pixels of the input that every map covers.
        placement: (4,) sx, tx, sy, ty of the input in the picture; None: the picture was
            squashed to the input's size.
    """

    values: Mapping[Any, Any]
    size: tuple[int, int]
    input_size: tuple[int, int]
    placement: Any = None

    def __getitem__(self, cell: Any) -> Any:
        """The (C, h, w) map of a cell, as it was given."""
        if cell not in self.values:
            raise KeyError(f"{cell} is none of the cells {list(self.values)}")
        return self.values[cell]

    @property
    def nbytes(self) -> int:
        """Bytes of all maps."""
        return sum(values.nbytes for values in self.values.values())

    @property
    def numbers(self) -> tuple[float, float, float, float]:
        """sx, tx, sy, ty."""
        if self.placement is None:
            return self.input_size[1] / self.size[1], 0.0, self.input_size[0] / self.size[0], 0.0
        sx, tx, sy, ty = (float(number) for number in self.placement)
        return sx, tx, sy, ty

    def sites(self, points: Any, cell: Any) -> np.ndarray:
        """Picture pixels → sites of a cell's map.

        Args:
            points: (n, 2) x, y in picture pixels.
            cell: whose map.

        Returns:
            (n, 2) float64 column, row; also of points that the map does not show (see `valid`).

        Raises:
            ValueError: `points` is no (n, 2) array.
        """
        sx, tx, sy, ty = self.numbers
        x, y = _columns(points)
        (height, width), (h, w) = self.input_size, self.grid(cell)
        columns = (sx * (x + 0.5) + tx) * w / width - 0.5
        return np.stack([columns, (sy * (y + 0.5) + ty) * h / height - 0.5], 1)

    def points(self, sites: Any, cell: Any) -> np.ndarray:
        """(n, 2) column, row of a cell's map → x, y in picture pixels; the inverse of `sites`."""
        sx, tx, sy, ty = self.numbers
        column, row = _columns(sites)
        (height, width), (h, w) = self.input_size, self.grid(cell)
        x = ((column + 0.5) * width / w - tx) / sx - 0.5
        return np.stack([x, ((row + 0.5) * height / h - ty) / sy - 0.5], 1)

    def valid(self, points: Any) -> np.ndarray:
        """(n,) bool: which (n, 2) x, y lie in the picture and in what the input shows of it."""
        sx, tx, sy, ty = self.numbers
        x, y = _columns(points)
        return self._shown(x, 1, sx, tx) & self._shown(y, 0, sy, ty)

    def _shown(self, x: np.ndarray, side: int, s: float, t: float) -> np.ndarray:
        """Of one side: 1 is x, 0 is y."""
        low, high = sorted(((-EDGE - t) / s, (self.input_size[side] + EDGE - t) / s))
        low, high = max(low, -EDGE) - 0.5, min(high, self.size[side] + EDGE) - 0.5
        return (x >= low) & (x <= high)

    def sample(self, cell: Any, points: Any) -> tuple[Any, np.ndarray]:
        """A map's values at points of the picture, bilinear between its cells' centres.

        Beyond the outermost centres the outermost cells go on.

        Args:
            cell: whose map.
            points: (n, 2) x, y in picture pixels.

        Returns:
            (n, C), numpy or torch as the map is, at least float32; and (n,) bool, which points
            are valid: the values of the others mean nothing.

        Raises:
            KeyError: no such cell.
            ValueError: `points` is no (n, 2) array.
        """
        return self._as_given(cell, self.read(cell, points)), self.valid(points)

    def read(self, cell: Any, points: Any) -> torch.Tensor:
        """(n, C) tensor: what `sample` gives, without a word on which points are valid."""
        column, row = self.sites(points, cell).T
        values = as_float(self[cell])  # (C, h, w)
        left, right, wx = neighbours(column, values.shape[2], values)
        top, bottom, wy = neighbours(row, values.shape[1], values)
        flat, width = values.flatten(1), values.shape[2]
        corners = (top * width + left, top * width + right,
                   bottom * width + left, bottom * width + right)  # fmt: skip
        a, b, c, d = (flat.index_select(1, corner) for corner in corners)  # (C, n)
        return torch.lerp(torch.lerp(a, b, wx), torch.lerp(c, d, wx), wy).T

    def resize(self, cell: Any) -> tuple[Any, np.ndarray]:
        """A map over the whole picture: `sample` at every pixel.

        Args:
            cell: whose map.

        Returns:
            (C, H, W), numpy or torch as the map is; and (H, W) bool, which pixels are valid.

        Raises:
            KeyError: no such cell.
        """
        column, row = self.axes(cell)
        values = as_float(self[cell])  # (C, h, w)
        top, bottom, wy = neighbours(row, values.shape[1], values)
        values = torch.lerp(values[:, top], values[:, bottom], wy[:, None])  # (C, H, w)
        left, right, wx = neighbours(column, values.shape[2], values)
        values = torch.lerp(values[:, :, left], values[:, :, right], wx)  # (C, H, W)
        across, down = self.shown()
        return self._as_given(cell, values), down[:, None] & across

    def axes(self, cell: Any) -> tuple[np.ndarray, np.ndarray]:
        """(W,) columns and (H,) rows of a cell's map, float64, of the picture's pixels."""
        height, width = self.size
        x, y = np.arange(width, dtype=np.float64), np.arange(height, dtype=np.float64)
        column = self.sites(np.stack([x, np.zeros(width)], 1), cell)[:, 0]
        return column, self.sites(np.stack([np.zeros(height), y], 1), cell)[:, 1]

    def shown(self) -> tuple[np.ndarray, np.ndarray]:
        """(W,) and (H,) bool: which columns and rows of pixels the input shows."""
        height, width = self.size
        sx, tx, sy, ty = self.numbers
        x, y = np.arange(width, dtype=np.float64), np.arange(height, dtype=np.float64)
        return self._shown(x, 1, sx, tx), self._shown(y, 0, sy, ty)

    def grid(self, cell: Any) -> tuple[int, int]:
        """(h, w) of a cell's map; ValueError where it is none."""
        shape = tuple(self[cell].shape)
        if len(shape) != 3:
            raise ValueError(f"cell {cell} has shape {shape}; expected a map (C, h, w)")
        return int(shape[1]), int(shape[2])

    def _as_given(self, cell: Any, found: torch.Tensor) -> Any:
        return found if isinstance(self[cell], torch.Tensor) else found.numpy()


def _columns(points: Any) -> tuple[np.ndarray, np.ndarray]:
    """(n,) x and (n,) y of (n, 2) points."""
    found = np.asarray(points, dtype=np.float64)
    if found.ndim != 2 or found.shape[1] != 2:
        raise ValueError(f"points have shape {found.shape}; expected (n, 2), x and y in pixels")
    return found[:, 0], found[:, 1]


def as_float(values: Any) -> torch.Tensor:
    """A map as a tensor of at least float32, the same memory where that can be."""
    if not isinstance(values, torch.Tensor):
        values = np.asarray(values)
        values = torch.from_numpy(values if values.flags.writeable else values.copy())
    return values if values.dtype in (torch.float32, torch.float64) else values.float()


def neighbours(
    k: np.ndarray, cells: int, like: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """(n,) cells before and after sites k of one side, and the weight of the latter."""
    k = np.clip(np.nan_to_num(k), 0, cells - 1)
    before = np.minimum(k.astype(np.int64), max(cells - 2, 0))
    after = np.minimum(before + 1, cells - 1)
    weight = torch.from_numpy(k - before).to(like)
    return *(torch.from_numpy(index).to(like.device) for index in (before, after)), weight
