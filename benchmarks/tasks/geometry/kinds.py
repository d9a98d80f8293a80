"""What is counted of planes and of surfaces, and the rows behind which no model stands."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from functools import lru_cache
from typing import Any

import numpy as np

from benchmarks.searching import (
    TEST,
    BoundPairs,
    CellKey,
    DenseRecall,
    HomographyAccuracy,
    Plane,
    match_planes,
    plane_of,
    recall_of,
    same_place,
    unmoved,
)
from benchmarks.tasks.geometry.file import GeometryBenchmark
from benchmarks.tasks.rows import patch_cells, sift_at
from diffeat.images import Source
from diffeat.targets.pairs import PairTargets
from probes.matching import MutualMatcher, NearestMatcher
from probes.matching.keypoints import distinct, sift
from probes.metrics import CornerError, pair_interval
from probes.metrics.conventions import Convention
from probes.metrics.pck import PCK
from probes.pairs import Pairs

WINDOWS = (48, 96)
"""Sides in pixels of what dense SIFT looks at."""
DENSE = 4
"""Pixels between the places of the target that dense SIFT knows."""
Points = tuple[np.ndarray, np.ndarray]
Scores = dict[str, Any]
"""What the JSON has of a row."""


class Kind(ABC):
    """Planes, surfaces or flows.

    Args:
        benchmark: what is asked for.
        report: pairs of the report.
    """

    def __init__(self, benchmark: GeometryBenchmark, report: PairTargets):
        self.benchmark, self.report = benchmark, report
        self.source: Source = report.pictures()
        self.rows = np.stack(report.rows(self.source.ids), 1)  # (P, 2)
        self._points: dict[str, Points] = {}

    @abstractmethod
    def judge(self, bound: BoundPairs, part: np.ndarray, label: str) -> Any:
        """What chooses a cell."""

    @abstractmethod
    def of_cell(self, judge: Any, cell: CellKey) -> Scores:
        """What a cell finds of the pairs of the report."""

    @abstractmethod
    def patches(self, side: int) -> Scores:
        """Raw pixels, by patches of inputs of side × side, through the models' read-out."""

    @abstractmethod
    def floors(self) -> Iterator[tuple[str, Scores]]:
        """Rows that see no picture: label, scores."""

    @abstractmethod
    def sift(self) -> Iterator[tuple[str, Scores]]:
        """SIFT's own descriptors: label, scores."""

    def dense_sift(self, window: int) -> Callable[[int, np.ndarray], np.ndarray]:
        """What finds (n, 2) x, y of a pair's source in its target by SIFT's descriptors at the
        points and at every fourth pixel of the target, those of a window in pixels."""

        @lru_cache(1)
        def known(row: int) -> Points:
            height, width = (picture := self.picture(row)).shape[:2]
            x, y = (np.arange(DENSE // 2, side, DENSE, float) for side in (width, height))
            grid = np.stack(np.meshgrid(x, y), -1).reshape(-1, 2)
            return grid, sift_at(picture, grid, window)

        def find(pair: int, points: np.ndarray) -> np.ndarray:
            source, target = self.rows[pair].tolist()
            grid, theirs = known(target)
            ours = sift_at(self.picture(source), points, window)
            return grid[(ours @ theirs.T - (theirs**2).sum(1) / 2).argmax(1)]

        return find

    def sift_matches(self) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        """(m, 2) and (m, 2) places of each pair of the report that are each other's nearest."""
        import cv2

        known = [self.points_of(self.source, row) for row in range(len(self.source))]
        both_ways = cv2.BFMatcher(cv2.NORM_L2, crossCheck=True)
        for source, target in self.rows.tolist():
            (here, ours), (there, theirs) = known[source], known[target]
            found = both_ways.match(ours, theirs) if len(ours) and len(theirs) else ()
            rows = np.array([(one.queryIdx, one.trainIdx) for one in found], int).reshape(-1, 2)
            yield here[rows[:, 0]], there[rows[:, 1]]

    def points_of(self, source: Source, row: int) -> Points:
        """SIFT's key points and descriptors of a picture; those of each are found once."""
        name = source.ids[row]
        if name not in self._points:
            self._points[name] = sift(np.asarray(source.load(row)), self.benchmark.key_points)
        return self._points[name]

    def picture(self, row: int) -> np.ndarray:
        return np.asarray(self.source.load(row))


class Surfaces(Kind):
    """Points of RGB-D frames: recall, by the angle between the viewpoints."""

    def judge(self, bound: BoundPairs, part: np.ndarray, label: str) -> DenseRecall:
        return DenseRecall(bound, part, self.benchmark.shares, source=label)

    def of_cell(self, judge: DenseRecall, cell: CellKey) -> Scores:
        return self._scores(judge.test(cell, None), judge.bound.targets.angles[judge.part == TEST])

    def patches(self, side: int) -> Scores:
        truths = [self.report.truth(pair) for pair in range(len(self.report))]
        pairs = Pairs(*self.rows.T, [truth.source_points for truth in truths])
        cells = patch_cells(self.source, (side, side))
        return self._counted(one.points for one in NearestMatcher().match_pairs(cells, pairs))

    def floors(self) -> Iterator[tuple[str, Scores]]:
        sizes = [np.array(self.picture(row).shape[:2]) for row in range(len(self.source))]
        moved = (same_place(self.report.truth(pair).source_points, sizes[a], sizes[b])
                 for pair, (a, b) in enumerate(self.rows.tolist()))  # fmt: skip
        yield "the same place", self._counted(moved)
        height, width = sizes[0]
        values = [np.pi * (share * max(height, width)) ** 2 / (height * width)
                  for share in self.benchmark.shares]  # fmt: skip
        shares = [{"share": share, "value": float(value)}
                  for share, value in zip(self.benchmark.shares, values, strict=True)]  # fmt: skip
        yield "chance: any pixel", {"shares": shares, "bins": []}

    def sift(self) -> Iterator[tuple[str, Scores]]:
        """Each point goes along with the match that is nearest to it in the source; densely."""
        yield (
            "SIFT",
            self._counted(
                carried(self.report.truth(pair).source_points, here, there)
                for pair, (here, there) in enumerate(self.sift_matches())
            ),
        )
        for window in WINDOWS:
            find = self.dense_sift(window)
            found = (find(pair, self.report.truth(pair).source_points)
                     for pair in range(len(self.report)))  # fmt: skip
            yield f"SIFT, dense, {window} px", self._counted(found)

    def _counted(self, found: Any) -> Scores:
        pck = PCK(self.benchmark.shares, [Convention("image", "point")])
        for pair, points in enumerate(found):
            size = self.picture(int(self.rows[pair, 1])).shape[:2]
            pck.update(points, self.report.truth(pair).target_points, size=size,
                       groups=self.report.groups[pair])  # fmt: skip
        return self._scores(pck, self.report.angles)

    def _scores(self, pck: PCK, angles: np.ndarray) -> Scores:
        recall, ends = recall_of(pck, angles), pck.interval()
        bins = [{"from": low, "to": high, "values": list(shares.values())}
                for (low, high), shares in recall.by_bin().items()]  # fmt: skip
        shares = [{"share": share, "value": value, "low": ends[share].low, "high": ends[share].high}
                  for share, value in recall.compute().items()]  # fmt: skip
        return {"points": int(pck.counts()[1].sum()), "shares": shares, "bins": bins}


def carried(points: np.ndarray, here: np.ndarray, there: np.ndarray) -> np.ndarray:
    """(n, 2) points moved as the nearest of (m, 2) matches moves; where they are without any."""
    if not len(here):
        return points
    nearest = np.linalg.norm(points[:, None] - here, axis=2).argmin(1)
    return points + (there - here)[nearest]


class Planes(Kind):
    """Homographies from mutual matches of SIFT's key points."""

    def judge(self, bound: BoundPairs, part: np.ndarray, label: str) -> HomographyAccuracy:
        one, source = self.benchmark, bound.targets.pictures()
        points = {name: distinct(self.points_of(source, row)[0])
                  for row, name in enumerate(source.ids)}  # fmt: skip
        return HomographyAccuracy(bound, part, one.chooses_within, "percent", "matches",
                                  points, one.key_points, source=label)  # fmt: skip

    def of_cell(self, judge: HomographyAccuracy, cell: CellKey) -> Scores:
        rows = np.flatnonzero(judge.part == TEST)
        planes = judge.planes(cell, rows)
        return self._scores([planes[row] for row in rows.tolist()])

    def patches(self, side: int) -> Scores:
        cells = patch_cells(self.source, (side, side))
        rows = {pair: tuple(both) for pair, both in enumerate(self.rows.tolist())}
        most = self.benchmark.key_points

        def points(row: int) -> np.ndarray:
            return distinct(self.points_of(self.source, row)[0])

        found = dict(match_planes(self.report, rows, cells.maps, points, MutualMatcher(), most))
        return self._scores([found[pair] for pair in range(len(self.report))])

    def floors(self) -> Iterator[tuple[str, Scores]]:
        planes = [unmoved(self.report, pair) for pair in range(len(self.report))]
        yield "the same place (nothing moves)", self._scores(planes)

    def sift(self) -> Iterator[tuple[str, Scores]]:
        yield "SIFT", self._scores([
            plane_of(here, there, self.report, pair)
            for pair, (here, there) in enumerate(self.sift_matches())
        ])  # fmt: skip

    def _scores(self, planes: Sequence[Plane]) -> Scores:
        limits, report = self.benchmark.limits, self.report
        errors = CornerError(limits, limits)
        for pair, one in enumerate(planes):
            size, other = report.sizes[pair]
            errors.update(one.matrix, report.homography(pair), size, target_size=other,
                          name=report.groups[pair][0])  # fmt: skip
        pixels, percents = errors.hits()
        found = {
            "pairs": len(planes), "failures": int(np.isinf(errors.errors).sum()),
            "pixels": [self._share(limit, pixels[:, k]) for k, limit in enumerate(limits)],
            "percent": [self._share(limit, percents[:, k]) for k, limit in enumerate(limits)],
            "kinds": {kind: {"pairs": one["pairs"], "pixels": list(one["pixels"].values())}
                      for kind, one in errors.compute().items() if kind != "overall"},
        }  # fmt: skip
        if any(one.matches for one in planes):
            found["matches"] = float(np.median([one.matches for one in planes]))
            within = self.benchmark.chooses_within
            shares = [(one.share(3.0), one.share(within, "percent")) for one in planes]
            found["right"], found["right_percent"] = np.mean(shares, 0).tolist()
        return found

    def _share(self, limit: float, hits: np.ndarray) -> Scores:
        """How many pairs, and the interval of the share where scenes are drawn anew."""
        groups, one = self.report.groups, {}
        if len({name for both in groups for name in both}) > 1:
            ends = pair_interval(hits.astype(float), np.ones(len(hits)), groups)
            one = {"low": ends.low, "high": ends.high}
        return {"limit": limit, "right": int(hits.sum()), "value": float(hits.mean()), **one}
