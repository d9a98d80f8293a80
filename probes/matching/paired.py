"""Any matcher, after something that is done to both pictures of a pair together."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from sklearn.base import BaseEstimator, clone

from probes.cells import Cells
from probes.maps import Maps
from probes.matching.base import Matcher, matches_of
from probes.matching.flow import Flow
from probes.matching.nearest import NearestMatcher
from probes.matching.placed import Held
from probes.pairs import Matches, Pairs


class PairTransform(Protocol):
    """What `probes.aggregate` has for pairs: `CoPCA`, `PoseAdapter`, and every aggregator."""

    def pair(self, source: Maps, target: Maps, points: Any) -> tuple[Maps, Maps, Any]:
        """The two pictures, and the source's points, as the matcher is to have them."""


@dataclass(eq=False, repr=False)
class Paired(BaseEstimator):
    """Matches pairs after both their pictures went through `transform.pair`.

        matcher = Paired(WindowSoftArgmaxMatcher(), CoPCA(components=64).fit(cells))
        list(matcher.match_pairs(cells, pairs))

    It stands where a matcher does. What does not depend on the other picture of a pair is better
    done before, once a picture: `NearestMatcher().match_pairs(mixer.transform(cells), pairs)`.

    Args:
        matcher: of this package; None is `NearestMatcher()`.
        transform: fitted, where it is to be; None changes nothing. Copies of this share it.
        outside: replaces that of the matcher; None keeps it.
        memory_mb: `match_pairs` keeps pictures, as they are read, in half of it.
    """

    matcher: Matcher | None = None
    transform: PairTransform | None = None
    outside: str | None = None
    memory_mb: float = 512

    def __sklearn_clone__(self) -> Paired:
        """With the transform that is fitted already."""
        matcher = None if self.matcher is None else clone(self.matcher)
        return Paired(matcher, self.transform, self.outside, self.memory_mb)

    def match(
        self, source: Maps, target: Maps, points: Any, *, region: Any = None, check: Any = None
    ) -> Matches:
        """Find points of the source in the target; see `Matcher.match`.

        Args:
            source, target: maps as the transform takes them.

        Raises:
            ValueError: as the matcher and the transform.
        """
        source, target, points = self._changed(source, target, points)
        return self._matcher().match(source, target, points, region=region, check=check)

    def match_pairs(self, cells: Cells, pairs: Pairs, *, check: Any = None) -> Iterator[Matches]:
        """`match` of every pair, in order; pictures are read once while memory holds them.

        Raises:
            ValueError: as `match`, naming the pair's rows; rows that are none of the pictures.
        """
        matcher, held = self._matcher(), Held(cells.maps, self.memory_mb * 2**20 / 2)

        def matched(source: Maps, target: Maps, points: Any) -> Matches:
            return matcher.match(*self._changed(source, target, points), check=check)

        yield from matches_of(cells, pairs, held, matched)

    def similarity(self, source: Maps, target: Maps, point: Any) -> np.ndarray:
        """(H, W) float32 over the target; see `Matcher.similarity`."""
        source, target, _ = self._changed(source, target, [point])
        return self._matcher().similarity(source, target, point)

    def flow(
        self,
        source: Maps,
        target: Maps,
        stride: int | str = 1,
        *,
        region: Any = None,
        check: Any = None,
    ) -> Flow:
        """Match a grid of the source's pixels, or its sites; see `Matcher.flow`."""
        source, target, _ = self._changed(source, target, [])
        return self._matcher().flow(source, target, stride, region=region, check=check)

    def _changed(self, source: Maps, target: Maps, points: Any) -> tuple[Maps, Maps, Any]:
        if self.transform is None:
            return source, target, points
        return self.transform.pair(source, target, points)

    def _matcher(self) -> Matcher:
        matcher = NearestMatcher() if self.matcher is None else self.matcher
        return matcher if self.outside is None else clone(matcher).set_params(outside=self.outside)
