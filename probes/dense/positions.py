"""Where a pixel lies, as a feature: what can be said without looking at the picture."""

from __future__ import annotations

from typing import Any

import numpy as np

from probes.cells import Cells
from probes.lazy import Deferred

KEY = ("position", 0.0)
GRID = 64


def positions(cells: Cells, degree: int = 2, grid: int = GRID) -> Cells:
    """Powers x^i·y^j, 1 ≤ i + j ≤ degree, of the place in the picture, −1 … 1, as maps.

    Values are those at the sites' centres of a grid over the whole picture; read bilinearly, they
    are off by less than (1/grid)² between them.

    Args:
        cells: of the pictures, whose sizes are taken.
        degree: of the polynomial; 2 gives x, y, x², x·y, y².
        grid: sites of a side.

    Returns:
        `Cells` of the one key ("position", 0), of squashed pictures.

    Raises:
        ValueError: the sizes of the pictures are not known.
    """
    if cells.sizes is None:
        raise ValueError("the sizes of the pictures are not known; give Cells(…, sizes=…)")
    at = (np.arange(grid) + 0.5) / grid * 2 - 1
    maps = _powers(at, at, degree)

    def read(rows: Any) -> np.ndarray:
        return np.broadcast_to(maps, (len(np.arange(len(cells))[rows]), *maps.shape)).copy()

    values = Deferred((len(cells), *maps.shape), read, np.float32)
    return Cells({KEY: values}, sizes=cells.sizes)


def with_positions(cells: Cells, degree: int = 2, grid: int = GRID) -> Cells:
    """The same cells with one more, which says where in the picture a pixel lies.

    It lies in the input's frame as the others do: the place in the picture of a site's centre.
    Where sites are coarse it is therefore as coarse as `grid`.

    Raises:
        ValueError: the sizes of the pictures are not known.
    """

    def of(row: int) -> np.ndarray:
        frame = cells.frame(row)
        sx, tx, sy, ty = frame.numbers
        steps = (np.arange(grid) + 0.5) / grid
        x = ((steps * frame.input_size[1] - tx) / sx / frame.size[1]) * 2 - 1
        y = ((steps * frame.input_size[0] - ty) / sy / frame.size[0]) * 2 - 1
        return _powers(x, y, degree)

    def read(rows: Any) -> np.ndarray:
        return np.stack([of(int(row)) for row in np.arange(len(cells))[rows]])

    values = Deferred((len(cells), degree * (degree + 3) // 2, grid, grid), read, np.float32)
    arrays = {key: cells[key] for key in cells.keys}
    return Cells(
        {**arrays, KEY: values}, sizes=cells.sizes, placements=cells.placements,
        input_size=cells.input_size,
    )  # fmt: skip


def _powers(x: np.ndarray, y: np.ndarray, degree: int) -> np.ndarray:
    """(P, h, w) float32: x^i·y^j of (w,) and (h,) places, 1 ≤ i + j ≤ degree."""
    pairs = [(i, total - i) for total in range(1, degree + 1) for i in range(total, -1, -1)]
    return np.stack([x[None, :] ** i * y[:, None] ** j for i, j in pairs]).astype(np.float32)
