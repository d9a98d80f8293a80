"""Matches that hold both ways."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from probes.checks import check_number
from probes.maps import EDGE, Maps
from probes.matching.nearest import NearestMatcher
from probes.matching.placed import TINY, Placed, Rule
from probes.matching.regions import Window
from probes.matching.surfaces import readied
from probes.pairs import Matches

BLOCK = 2048
"""Points of either side that are compared at a time."""


@dataclass(eq=False, repr=False, kw_only=True)
class MutualMatcher(NearestMatcher):
    """The nearest place, valid where the place's own nearest in the whole source is the point.

    Args:
        tolerance: sites of the source's finest grid, along x and along y, by which the way back
            may miss the point; half a pixel at least.
    """

    tolerance: float = 0.5

    def _rule(self, maps: Maps) -> Rule:
        check_number("tolerance", self.tolerance, self.tolerance >= 0, ">= 0, in sites")
        return super()._rule(maps)

    def _in_chunks(
        self, source: Placed, target: Placed, points: np.ndarray, window: Window
    ) -> Matches:
        there = super()._in_chunks(source, target, points, window)
        back = super()._in_chunks(target, source, there.points, Window.whole(source.answers))
        if self.resolution == "site":
            points = source.answers.snapped(points)
        limit = np.maximum(self.tolerance * source.steps(), 0.5) + EDGE
        same = (np.abs(back.points - points) <= limit).all(1)
        return Matches(there.points, there.score, there.valid & same)

    def mutual(
        self,
        source: Maps,
        target: Maps,
        *,
        stride: int | str = "site",
        points: Any = None,
        target_points: Any = None,
        most: int = 1000,
    ) -> tuple[np.ndarray, Matches]:
        """Pairs of points that are each other's nearest, such as for a homography.

        Features are compared at the points themselves, whatever the resolution. Blocks of
        similarities are in memory at a time.

        Args:
            source, target: maps of the same cells.
            stride: grid of both pictures, as `flow` takes it, where no points are given.
            points, target_points: (n, 2) and (m, 2) x, y in pixels, such as key points.
            most: of the pairs, the most similar ones, at most so many.

        Returns:
            (k, 2) points of the source, and their matches, the most similar first; all valid.

        Raises:
            ValueError: as `match`; another stride, `most` < 1.
        """
        check_number("most", most, most == int(most) and most >= 1, "that is whole and >= 1")
        rule = self._rule(source)
        a, b = Placed(source, rule), Placed(target, rule)
        here, there = self._set(a, b, points, stride), self._set(b, a, target_points, stride)
        if not len(there):  # such as a picture without key points
            here = here[:0]
        best, score, back = _nearest_both_ways(a, b, here, there)
        kept = np.flatnonzero((back[best] == np.arange(len(here))) & np.isfinite(score))
        kept = kept[np.argsort(-score[kept], kind="stable")][: int(most)]
        found = Matches(there[best[kept]], score[kept], np.ones(len(kept), bool))
        return here[kept], found

    def _set(self, placed: Placed, other: Placed, points: Any, stride: int | str) -> np.ndarray:
        """(n, 2) the points of one side, all of which its input shows."""
        if points is not None:
            return self._checked(placed, other, points)[0]
        points = placed.grid(stride).points()
        return points[placed.maps.valid(points)]


def _nearest_both_ways(
    a: Placed, b: Placed, here: np.ndarray, there: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """(n,) nearest of `there` to each of `here`, (n,) their similarities, (m,) nearest the other
    way; a zero vector has the similarity -inf to all."""
    best, score = np.zeros(len(here), np.int64), np.full(len(here), -np.inf)
    back, high = np.zeros(len(there), np.int64), np.full(len(there), -np.inf)
    for low in range(0, len(there), BLOCK):
        columns = slice(low, low + BLOCK)
        theirs = _all_ready(b, b, there[columns])
        for first in range(0, len(here), BLOCK):
            rows = slice(first, first + BLOCK)
            similar = _similar(b, _all_ready(a, b, here[rows]), theirs)
            for axis, at, found, place, start in (
                (1, rows, score, best, low), (0, columns, high, back, first),
            ):  # fmt: skip
                top, where = (one.cpu().numpy() for one in similar.max(axis))
                better = top > found[at]
                found[at] = np.where(better, top, found[at])
                place[at] = np.where(better, where + start, place[at])
    return best, score, back


Ready = list[tuple[dict[Any, torch.Tensor], torch.Tensor]]


def _all_ready(placed: Placed, target: Placed, points: np.ndarray) -> Ready:
    vectors = placed.vectors(points)
    return [readied(target, number, vectors) for number in range(len(target.groups))]


def _similar(target: Placed, ours: Ready, theirs: Ready) -> torch.Tensor:
    """(n, m) similarities; -inf where a vector is zero."""
    total: Any = 0
    for share, (a, own), (b, other) in zip(target.shares, ours, theirs, strict=True):
        dots = sum(a[cell] @ b[cell].T for cell in a)
        if target.rule.metric == "cosine":
            total = total + share * dots
        else:
            apart = (own[:, None] + other).to(dots) - 2 * dots
            total = total - share * apart.clamp_min(0).sqrt()
    if target.rule.metric == "l2":
        return total
    rows, columns = (torch.stack([own > TINY for _, own in side]).any(0) for side in (ours, theirs))
    return total.masked_fill(~(rows[:, None] & columns), -torch.inf)
