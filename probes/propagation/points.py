"""Points followed through a clip by matching."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

from probes.cells import Cells
from probes.maps import Maps
from probes.matching.base import Matcher
from probes.matching.nearest import NearestMatcher
from probes.matching.placed import Placed
from probes.pairs import Matches, as_points
from probes.propagation.context import begun


def track_points(
    frames: Cells | Iterable[Maps],
    points: Any,
    matcher: Matcher | None = None,
    *,
    chained: bool = False,
    check: float | None = None,
) -> Iterator[Matches]:
    """Find points of a clip's first frame in every frame; two frames are held at a time.

    Args:
        frames: maps of the frames in order: `Cells`, row by row, or maps as they come. Grids and
            sizes may differ.
        points: (n, 2) x, y in pixels of the first frame.
        matcher: how they are found, such as `SoftArgmaxMatcher(low_pass=1)`; None: the nearest.
        chained: from frame to frame, each time from where they were found before; else every frame
            is matched with the first.
        check: forward-backward check: pixels by which a match, matched back, may miss the point
            that it is of. None checks nothing.

    Returns:
        Matches of each frame as it is asked for, in the order of the points. The first frame has
        the points themselves, with the scores of their own places. Chained, a point that is not
        valid once is not valid afterwards.

    Raises:
        ValueError: no frames, points outside the first one; and, when a frame comes, other cells.
    """
    first, frames = begun(frames)
    points = as_points(points)
    matcher = matcher or NearestMatcher()
    own = matcher.match(first, first, points)
    start = Matches(points, own.score, first.valid(points))
    return _followed(frames, start, matcher, chained, check)


def _followed(
    frames: Iterator[Maps], start: Matches, matcher: Matcher, chained: bool, check: float | None
) -> Iterator[Matches]:
    source, known = matcher.ready(next(frames)), start
    yield start
    for maps in frames:
        target = Placed(maps, source.rule)
        found = matcher.match(source, target, known.points, check=check)
        if chained:
            found = Matches(found.points, found.score, found.valid & known.valid)
            source, known = target, found
        yield found
