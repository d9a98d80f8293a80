"""Pairs with a dense flow: where each pixel of the source lies in the target."""

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
Flow = tuple[np.ndarray, np.ndarray]
"""(H, W, 2) float32 and (H, W) bool."""


@dataclass(frozen=True, eq=False)
class FlowPairs(PairTargets):
    """Pairs with a flow each, read when it is asked for.

    Attributes:
        sizes: P ((H, W) of the source, (H, W) of the target).
        flows: P functions that read a flow.
        opened: gives the source of the pictures.
        keys: P functions that hash what a flow is read from.
    """

    name: str
    source: tuple[str, ...]
    target: tuple[str, ...]
    sizes: tuple[tuple[Size, Size], ...]
    flows: tuple[Callable[[], Flow], ...]
    opened: Callable[[], Source]
    groups: tuple[tuple[str, str], ...]
    categories: tuple[str, ...]
    keys: tuple[Callable[[], str], ...]
    left_out: dict[str, int] = field(default_factory=dict)
    kind: str = "flow"

    def pictures(self) -> Source:
        return self.opened()

    def flow(self, pair: int) -> Flow:
        """Where the pixels of the source lie in the target.

        Returns:
            flow: (H, W, 2) float32 u, v: pixel (x, y) of the source is at (x + u, y + v).
            valid: (H, W) bool, where that is known; (x + u, y + v) may lie outside the target.
        """
        return self.flows[pair]()

    def truth(self, pair: int) -> Truth:
        """Pixels of a 16×16 grid of the source whose places in the target are known."""
        flow, valid = self.flow(pair)
        height, width = valid.shape
        y, x = (((np.arange(GRID) + 0.5) * side / GRID).astype(int) for side in (height, width))
        x, y = (axis.ravel() for axis in np.meshgrid(x, y))
        points = np.stack([x, y], 1).astype(np.float64)
        found = points + np.nan_to_num(flow[y, x].astype(np.float64))
        rows, columns = self.sizes[pair][1]
        inside = ((found >= -0.5) & (found <= (columns - 0.5, rows - 0.5))).all(1)
        kept = valid[y, x] & inside
        points, where = np.unique(points[kept], axis=0, return_index=True)
        return Truth(points, found[kept][where])

    @property
    def fingerprint(self) -> str:
        keys = [key() for key in self.keys]
        return fingerprint(self.source, self.target, keys, self.groups, self.categories)

    def take(self, pairs: Sequence[int] | np.ndarray) -> FlowPairs:
        rows = np.arange(len(self))[np.asarray(pairs)].tolist()
        names = ("source", "target", "sizes", "flows", "groups", "categories", "keys")
        return replace(
            self, **{name: tuple(getattr(self, name)[row] for row in rows) for name in names}
        )
