"""From what annotations say of pairs to `PointPairs`: all of it checked, once for all layouts."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from diffeat.coords import EDGE, Size
from diffeat.errors import SourceError
from diffeat.images.below import Below
from diffeat.images.paired import by_category
from diffeat.images.sources import FileSource
from diffeat.targets.pairs.base import PointPairs, Truth

AT_EDGE = 1.0
"""Pixels by which annotations miss the picture that count pixels from 1, or edges for pixels."""
OUTSIDE = ("refuse", "drop")
NO_POINTS = "pairs without common points"
TWICE = "pairs listed twice"
MOVED = "points up to a pixel outside their picture, taken at its edge"
DROPPED = "points outside their picture"


@dataclass(frozen=True, eq=False)
class Said:
    """What an annotation says of one pair, as it stands there.

    Attributes:
        where: the file (and line) that says it, for messages.
        source, target: paths of the pictures below their root.
        source_points, target_points: n (x, y) in pixels; None for no truth.
        names: of the n points, or ().
        boxes: (source's, target's) x1, y1, x2, y2, each may be None.
        category: "" where nothing is said.
        groups: (source's, target's); None is the picture itself.
        kinds: (source's, target's) own categories; None is the pair's.
    """

    where: str
    source: str
    target: str
    source_points: Any
    target_points: Any
    names: tuple[str, ...] = ()
    boxes: tuple[Any, Any] = (None, None)
    category: str = ""
    groups: tuple[str | None, str | None] = (None, None)
    kinds: tuple[str, str] | None = None


def point_pairs(
    name: str, below: Below, said: Iterable[Said], *, outside: str = "refuse",
    left_out: Counter[str] | None = None,
) -> PointPairs:  # fmt: skip
    """Pairs with key points, checked.

    A pair that is listed twice with the same points counts once. A point is in a picture of W
    columns from x = −.5 to W − .5; one that misses that by no more than a pixel, as annotations
    do that count from 1, is taken at the edge. Both are counted in `left_out`, as are pairs
    without points.

    Args:
        name: of the pairs.
        below: the pictures.
        said: what annotations say.
        outside: "refuse" points further outside, or "drop" (leave them out, counted).
        left_out: what has been left out before.

    Raises:
        SourceError: no pairs or none with points; points that are no numbers, not finite or
            outside; a picture that is missing or outside of the folder; one pair with two truths.
    """
    counts = Counter(left_out or {})
    kept: dict[tuple[str, str], tuple[Said, Truth]] = {}
    for one in said:
        key = below.picture(one.source, one.where), below.picture(one.target, one.where)
        truth = _truth(one, below, outside, counts)
        if not len(truth.source_points):
            counts[NO_POINTS] += 1
        elif key not in kept:
            kept[key] = one, truth
        elif _same(kept[key], (one, truth)):
            counts[TWICE] += 1
        else:
            raise SourceError(f"{one.where}: {key[0]!r} and {key[1]!r} are a pair in "
                              f"{kept[key][0].where}, too, with other points or another category; "
                              "expected each pair once: remove one of them")  # fmt: skip
    if not kept:
        found = ", ".join(f"{count:,} {what}" for what, count in counts.items())
        raise SourceError(f"{name}: no pairs with points ({found or 'nothing is listed'}); "
                          "expected one pair at least")  # fmt: skip
    return _built(name, below, kept, dict(counts))


def _built(
    name: str, below: Below, kept: dict[tuple[str, str], tuple[Said, Truth]], counts: dict[str, int]
) -> PointPairs:
    source, target = zip(*kept, strict=True)
    categories = tuple(one.category for one, _ in kept.values())
    groups = tuple(
        (one.groups[0] or a, one.groups[1] or b) for (a, b), (one, _) in kept.items()
    )  # fmt: skip
    kinds = tuple(one.kinds or (one.category, one.category) for one, _ in kept.values())
    pictures = partial(pictures_of, name, below.root, source, target, kinds)
    truths = tuple(truth for _, truth in kept.values())
    return PointPairs(name, source, target, truths, pictures, groups, categories, counts)


def pictures_of(
    name: str,
    root: Path,
    source: Sequence[str],
    target: Sequence[str],
    kinds: Sequence[tuple[str, str]],
) -> FileSource:
    """Every picture of some pairs once.

    Args:
        kinds: (source's, target's) categories of each pair.
    """
    of: dict[str, set[str]] = {}
    for a, b, (kind_a, kind_b) in zip(source, target, kinds, strict=True):
        of.setdefault(a, set()).add(kind_a)
        of.setdefault(b, set()).add(kind_b)
    return by_category(name, root, of)


def _truth(one: Said, below: Below, outside: str, counts: Counter[str]) -> Truth:
    """The points of a pair that both pictures have, and the boxes."""
    values = [_points(one, side) for side in ("source", "target")]
    if values[1] is not None and len(values[0]) != len(values[1]):
        raise SourceError(f"{one.where}: {len(values[0])} points in the source and "
                          f"{len(values[1])} in the target; expected equally many")  # fmt: skip
    if one.names and len(one.names) != len(values[0]):
        raise SourceError(f"{one.where}: {len(one.names)} names for {len(values[0])} points; "
                          "expected one for each")  # fmt: skip
    kept = np.ones(len(values[0]), bool)
    for side, points in zip(("source", "target"), values, strict=True):
        if points is not None and len(points):
            size = below.size(getattr(one, side), one.where)
            kept &= _inside(one, side, points, size, outside, counts)
    names = tuple(name for name, there in zip(one.names, kept, strict=False) if there)
    boxes = (_box(one, box) for box in one.boxes)
    return Truth(*(None if points is None else points[kept] for points in values), names, *boxes)


def _points(one: Said, side: str) -> np.ndarray | None:
    """(n, 2) float64 of one side."""
    said = getattr(one, f"{side}_points")
    if said is None:
        return None
    points = _numbers(one, said, f"points of the {side}")
    points = points.reshape(0, 2) if points.size == 0 else points
    if points.ndim != 2 or points.shape[1] != 2:
        raise SourceError(f"{one.where}: points of the {side} have shape {points.shape}; expected "
                          "(n, 2), x and y in pixels")  # fmt: skip
    if not np.isfinite(points).all():
        row = int(np.flatnonzero(~np.isfinite(points).all(1))[0])
        raise SourceError(f"{one.where}: point {row} of the {side} is {points[row].tolist()}; "
                          "expected finite x and y in pixels")  # fmt: skip
    return points


def _numbers(one: Said, said: Any, what: str) -> np.ndarray:
    try:
        return np.array(said, np.float64)  # a copy: points at the edge are moved
    except (TypeError, ValueError) as error:
        raise SourceError(f"{one.where}: {what} are {said!r:.80}; expected numbers") from error


def _inside(
    one: Said, side: str, points: np.ndarray, size: Size, outside: str, counts: Counter[str]
) -> np.ndarray:
    """(n,) bool: which points lie in the picture; those that just miss it are moved to its edge."""
    most = np.array(size[::-1]) - 0.5
    beyond = np.maximum(-0.5 - points, points - most).max(1)
    if (beyond <= EDGE).all():
        return np.ones(len(points), bool)
    far = beyond > AT_EDGE + EDGE
    if far.any() and outside == "refuse":
        first = int(np.flatnonzero(far)[0])
        height, width = size
        raise SourceError(
            f"{one.where}: {int(far.sum())} of {len(points)} points lie outside the {side} "
            f"{getattr(one, side)!r} of {width}x{height} pixels, first {points[first].tolist()}; "
            "expected x, y of the upright picture: correct them, or leave such points out "
            '(outside="drop")'
        )
    moved = (beyond > EDGE) & ~far
    points[moved] = points[moved].clip(0, most - 0.5)
    counts.update({name: n for name, n in ((MOVED, int(moved.sum())), (DROPPED, int(far.sum())))
                   if n})  # fmt: skip
    return ~far


def _box(one: Said, said: Any) -> np.ndarray | None:
    if said is None:
        return None
    box = _numbers(one, said, "corners of a box")
    if box.shape != (4,) or not np.isfinite(box).all() or (box[2:] <= box[:2]).any():
        raise SourceError(f"{one.where}: a box is {said!r:.80}; expected x1, y1, x2, y2 in pixels "
                          "with x1 < x2 and y1 < y2")  # fmt: skip
    return box


def _same(one: tuple[Said, Truth], other: tuple[Said, Truth]) -> bool:
    """Whether two annotations say the same of a pair."""
    (said, truth), (said_2, truth_2) = one, other
    return (said.category, truth.names) == (said_2.category, truth_2.names) and all(
        np.array_equal(getattr(truth, name), getattr(truth_2, name))
        for name in ("source_points", "target_points", "source_box", "target_box")
    )
