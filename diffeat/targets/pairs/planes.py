"""Pairs of pictures of one plane: a homography says where each pixel went."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace

import numpy as np

from diffeat.coords import Size
from diffeat.hashing import fingerprint
from diffeat.images.sources import Source
from diffeat.targets.pairs.base import PairTargets, Truth

GRID = 16
"""Points of a truth along each side of the source."""


@dataclass(frozen=True, eq=False)
class HomographyPairs(PairTargets):
    """Pairs with a homography each.

    Attributes:
        matrices: (P, 3, 3) float64: x_target ~ H·(x_source, y_source, 1), pixels with their
            centres at whole numbers.
        sizes: P ((H, W) of the source, (H, W) of the target).
        opened: gives the source of the pictures.
    """

    name: str
    source: tuple[str, ...]
    target: tuple[str, ...]
    matrices: np.ndarray
    sizes: tuple[tuple[Size, Size], ...]
    opened: Callable[[], Source]
    groups: tuple[tuple[str, str], ...]
    categories: tuple[str, ...]
    left_out: dict[str, int] = field(default_factory=dict)
    kind: str = "homography"

    def pictures(self) -> Source:
        return self.opened()

    def homography(self, pair: int) -> np.ndarray:
        """(3, 3) float64, from pixels of the source to pixels of the target."""
        return self.matrices[pair]

    def truth(self, pair: int) -> Truth:
        """The centres of 16×16 equal fields of the source that lie in the target, and where."""
        (height, width), size = self.sizes[pair]
        x, y = (((np.arange(GRID) + 0.5) * side / GRID - 0.5) for side in (width, height))
        points = np.stack(np.meshgrid(x, y), -1).reshape(-1, 2)
        found, there = project(self.matrices[pair], points, size)
        return Truth(points[there], found[there])

    @property
    def fingerprint(self) -> str:
        return fingerprint(self.source, self.target, self.matrices.tolist(), self.sizes,
                           self.groups, self.categories)  # fmt: skip

    def take(self, pairs: Sequence[int] | np.ndarray) -> HomographyPairs:
        rows = np.arange(len(self))[np.asarray(pairs)].tolist()
        names = ("source", "target", "sizes", "groups", "categories")
        some = {name: tuple(getattr(self, name)[row] for row in rows) for name in names}
        return replace(self, matrices=self.matrices[rows], **some)


def project(matrix: np.ndarray, points: np.ndarray, size: Size) -> tuple[np.ndarray, np.ndarray]:
    """Where a homography takes points, and which of them stay in a picture.

    Args:
        matrix: (3, 3); points: (n, 2) x, y; size: (H, W) of the picture they go to.

    Returns:
        points: (n, 2) float64, nan where the third coordinate is not positive relative to that of
            the centre's side (a point behind the camera).
        inside: (n,) bool.
    """
    ends = np.column_stack([points, np.ones(len(points))]) @ matrix.T
    # the sign of H is free: in front of the camera is where most of the points are
    depth = ends[:, 2] * (np.sign(np.median(ends[:, 2])) or 1.0)
    front = depth > 1e-12 * np.abs(depth).max(initial=1e-300)
    found = np.full(points.shape, np.nan)
    found[front] = ends[front, :2] / ends[front, 2:]
    height, width = size
    inside = front.copy()
    inside[front] = (
        (found[front] >= -0.5) & (found[front] <= (width - 0.5, height - 0.5))
    ).all(1)  # fmt: skip
    return found, inside
