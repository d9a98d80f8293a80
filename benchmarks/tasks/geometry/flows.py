"""Objects whose dense flow is known: how much of it is found, and how smooth what is found is."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np

from benchmarks.searching import BoundPairs, CellKey, same_place
from benchmarks.tasks.geometry.kinds import WINDOWS, Kind, Scores, carried
from benchmarks.tasks.rows import patch_cells
from probes.cells import Cells
from probes.matching import NearestMatcher
from probes.metrics import FlowShare, FlowSmoothness, pair_interval

Finder = Callable[[int, np.ndarray], np.ndarray]
"""(pair, (n, 2) x, y in its source) → (n, 2) x, y in its target."""


class Flows(Kind):
    """Share of an object's pixels whose flow is right, and the flow's smoothness on the object.

    Every so many-th pixel of the source is matched; the displacement is interpolated between.
    """

    def judge(self, bound: BoundPairs, part: np.ndarray, label: str) -> BoundPairs:
        return bound  # nothing is chosen: one cell

    def of_cell(self, judge: BoundPairs, cell: CellKey) -> Scores:
        rows = np.stack([judge.pairs.source, judge.pairs.target], 1)
        return self._matched(judge.cells((cell,)), rows)

    def patches(self, side: int) -> Scores:
        return self._matched(patch_cells(self.source, (side, side)), self.rows)

    def floors(self) -> Iterator[tuple[str, Scores]]:
        yield "the same place", self._scores(self._same_place)
        smoothness = FlowSmoothness()
        for pair in range(len(self.report)):
            smoothness.update(*self.report.flow(pair))
        yield "the truth", {"shares": [], "parts": {}, "smoothness": smoothness.compute()}

    def sift(self) -> Iterator[tuple[str, Scores]]:
        """Each point goes along with the match that is nearest to it in the source; densely."""
        matches = list(self.sift_matches())
        yield "SIFT", self._scores(lambda pair, points: carried(points, *matches[pair]))
        for window in WINDOWS:
            yield f"SIFT, dense, {window} px", self._scores(self.dense_sift(window))

    def _same_place(self, pair: int, points: np.ndarray) -> np.ndarray:
        return same_place(points, *map(np.array, self.report.sizes[pair]))

    def _matched(self, cells: Cells, rows: np.ndarray) -> Scores:
        matcher = NearestMatcher()

        def find(pair: int, points: np.ndarray) -> np.ndarray:
            return matcher.match(*map(cells.maps, rows[pair].tolist()), points).points

        return self._scores(find)

    def _scores(self, find: Finder) -> Scores:
        report, shares = self.report, self.benchmark.shares
        counted, smoothness = FlowShare(shares, "target"), FlowSmoothness()
        each = []
        for pair in range(len(report)):
            truth, valid = report.flow(pair)
            size, other = report.sizes[pair]
            found = dense(lambda points, pair=pair: find(pair, points), size, self.benchmark.stride)
            part = report.categories[pair]
            each.append(counted.update(found, truth, valid, other, part))
            smoothness.update(found, valid)
        found = counted.compute()
        return {
            "pairs": len(report), "shares": self._intervals(np.array(each)),
            "parts": {part: list(values.values()) for part, values in found.items() if part},
            "smoothness": smoothness.compute(),
        }  # fmt: skip

    def _intervals(self, each: np.ndarray) -> list[dict[str, Any]]:
        """The mean of (P, A) shares of the pairs; groups of pictures drawn anew."""
        groups, values = self.report.groups, []
        several = len({name for both in groups for name in both}) > 1
        for share, right in zip(self.benchmark.shares, each.T, strict=True):
            one = {"share": share, "value": float(right.mean())}
            if several:
                ends = pair_interval(right, np.ones(len(right)), groups)
                one |= {"low": ends.low, "high": ends.high}
            values.append(one)
        return values


def dense(
    find: Callable[[np.ndarray], np.ndarray], size: tuple[int, int], stride: int
) -> np.ndarray:
    """(H, W, 2) u, v in pixels from matches of every `stride`-th pixel, bilinear between.

    Args:
        find: (n, 2) x, y of the source → (n, 2) x, y of the target.
        size: (H, W) of the source; the last row and column are matched, too.
    """
    y, x = (np.unique([*range(0, side, stride), side - 1]).astype(float) for side in size)
    points = np.stack(np.meshgrid(x, y), -1).reshape(-1, 2)
    moved = (find(points) - points).reshape(len(y), len(x), 2)
    for axis, (at, side) in enumerate(zip((y, x), size, strict=True)):
        moved = np.apply_along_axis(lambda line, at=at, side=side: np.interp(
            np.arange(side), at, line), axis, moved)  # fmt: skip
    return moved
