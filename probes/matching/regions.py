"""The part of a picture's places in which a match is sought."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from probes.maps import EDGE
from probes.matching.placed import Lattice


@dataclass(frozen=True, eq=False)
class Window:
    """Rows and columns of a lattice, and which of their places do not count.

    Attributes:
        rows, columns: (first, one after the last).
        outside: (Y, X) bool of these rows and columns; None: all of them count.
    """

    rows: tuple[int, int]
    columns: tuple[int, int]
    outside: np.ndarray | None = None

    @classmethod
    def whole(cls, lattice: Lattice) -> Window:
        return cls((0, len(lattice.y)), (0, len(lattice.x)))

    @property
    def shape(self) -> tuple[int, int]:
        return self.rows[1] - self.rows[0], self.columns[1] - self.columns[0]


def window_of(region: Any, lattice: Lattice, size: tuple[int, int]) -> Window:
    """The window of a box or a mask.

    Args:
        region: (4,) x1, y1, x2, y2 in pixels, borders included; (H, W) bool mask; None: all.
        lattice: the places.
        size: (H, W) of the picture.

    Raises:
        ValueError: another shape, or a region in which none of the places lies.
    """
    if region is None:
        return Window.whole(lattice)
    region = np.asarray(region)
    if region.shape == (4,):
        x1, y1, x2, y2 = region.astype(np.float64).tolist()
        rows = (lattice.y >= y1 - EDGE) & (lattice.y <= y2 + EDGE)
        columns = (lattice.x >= x1 - EDGE) & (lattice.x <= x2 + EDGE)
        inside = rows[:, None] & columns
    elif region.shape == tuple(size) and region.dtype == bool:
        y, x = (np.clip(np.rint(line).astype(int), 0, side - 1)
                for line, side in ((lattice.y, size[0]), (lattice.x, size[1])))  # fmt: skip
        inside = region[y[:, None], x]
    else:
        raise ValueError(
            f"region has shape {region.shape} and dtype {region.dtype}; expected x1, y1, x2, y2 "
            f"in pixels, or a bool mask {tuple(size)} of the target"
        )
    return _bounded(inside, region)


def _bounded(inside: np.ndarray, region: np.ndarray) -> Window:
    """The smallest window that holds all places inside."""
    if not inside.any():
        what = f"box {region.tolist()}" if region.shape == (4,) else "mask"
        raise ValueError(
            f"the region, a {what}, holds none of the target's {inside.size} places where a "
            "match may lie; expected one at least (pixels lie closer than sites)"
        )
    rows, columns = (np.flatnonzero(inside.any(side)) for side in (1, 0))
    (r0, r1), (c0, c1) = ((int(line[0]), int(line[-1]) + 1) for line in (rows, columns))
    outside = ~inside[r0:r1, c0:c1]
    return Window((r0, r1), (c0, c1), outside if outside.any() else None)
