"""What all matchers share."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterator
from typing import Any

import numpy as np
from sklearn.base import BaseEstimator

from probes.cells import Cells
from probes.maps import Maps
from probes.pairs import Matches, Pairs


class Matcher(BaseEstimator):
    """Finds points of a source picture in a target picture; nothing is learnt."""

    @abstractmethod
    def match(
        self, source: Maps, target: Maps, points: Any, *, region: Any = None, check: Any = None
    ) -> Matches:
        """Find points of the source in the target.

        Args:
            source, target: maps of the same cells; sizes, placements and grids may differ.
            points: (n, 2) x, y in pixels of the upright source.
            region: where to look in the target: (4,) x1, y1, x2, y2 in pixels, or an (H, W)
                bool mask; None is everywhere.
            check: pixels by which a match, matched back, may miss its point; None checks nothing.

        Raises:
            ValueError: points outside the source, maps of other cells or channels, an empty
                region.
        """

    def match_pairs(self, cells: Cells, pairs: Pairs) -> Iterator[Matches]:
        """`match` of every pair, in order; maps of a picture are read once in a row."""
        held: dict[int, Maps] = {}
        rows = zip(pairs.source.tolist(), pairs.target.tolist(), pairs.source_points, strict=True)
        for source, target, points in rows:
            held = {row: held.get(row) or cells.maps(row) for row in (source, target)}
            yield self.match(held[source], held[target], points)

    @abstractmethod
    def similarity(self, source: Maps, target: Maps, point: Any) -> np.ndarray:
        """(H, W) float32 over the target: how like each pixel is to one point of the source."""
