"""From what annotations say of pairs to `PointPairs`: all of it checked, once for all layouts."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import partial
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
TWICE = "pairs listed twice, which count twice"
ITSELF = "pairs of a picture with itself"
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


Pair = tuple[tuple[str, str], Said, Truth]
"""Ids, what was said, what of it is true."""


def point_pairs(
    name: str, below: Below, said: Iterable[Said], *, outside: str = "refuse",
    left_out: Counter[str] | None = None, place: str | None = None,
) -> PointPairs:  # fmt: skip
    """Pairs with key points, checked.

    A pair that a list names twice counts twice, as it does in published figures; it is noted, and
    may not say two different things. A point is in a picture of W columns from x = −.5 to W − .5;
    one that misses that by no more than a pixel, as annotations do that count from 1, is taken at
    the edge and noted. Pairs without points are left out and counted.

    Args:
        name: of the pairs.
        below: the pictures.
        said: what annotations say.
        outside: "refuse" points further outside, or "drop" (leave them out, counted).
        left_out: what has been left out before.
        place: where the pictures can be opened; None is `name`.

    Raises:
        SourceError: no pairs or none with points; points that are no numbers, not finite or
            outside; a picture that is missing or outside of the folder; one pair with two truths.
    """
    counts: Counter[str] = Counter()
    kept: list[Pair] = []
    first: dict[tuple[str, str], Pair] = {}
    for one in said:
        key = below.picture(one.source, one.where), below.picture(one.target, one.where)
        pair = key, one, _truth(one, below, outside, counts)
        if not len(pair[2].source_points):
            counts[NO_POINTS] += 1
            continue
        if first.setdefault(key, pair) is not pair:
            _check_same(first[key], pair)
            counts[TWICE] += 1
        counts[ITSELF] += key[0] == key[1]
        kept.append(pair)
    noted = {what: counts.pop(what) for what in (TWICE, ITSELF, MOVED) if counts[what]}
    counts += left_out or Counter()
    if not kept:
        found = ", ".join(f"{count:,} {what}" for what, count in counts.items())
        raise SourceError(f"{name}: no pairs with points ({found or 'nothing is listed'}); "
                          "expected one pair at least")  # fmt: skip
    counts = {what: n for what, n in counts.items() if n}
    return _built(name, place or name, below, kept, counts, noted)


def _built(
    name: str, place: str, below: Below, kept: list[Pair], left_out: dict[str, int],
    noted: dict[str, int],
) -> PointPairs:  # fmt: skip
    keys, said, truths = zip(*kept, strict=True)
    source, target = zip(*keys, strict=True)
    categories = tuple(one.category for one in said)
    groups = tuple(
        (one.groups[0] or a, one.groups[1] or b) for (a, b), one in zip(keys, said, strict=True)
    )
    kinds = tuple(one.kinds or (one.category, one.category) for one in said)
    pictures = partial(pictures_of, place, below, source, target, kinds)
    return PointPairs(name, source, target, truths, pictures, groups, categories, left_out,
                      noted=noted)  # fmt: skip


def pictures_of(
    name: str,
    below: Below,
    source: Sequence[str],
    target: Sequence[str],
    kinds: Sequence[tuple[str, str]],
) -> FileSource:
    """Every picture of some pairs once.

    Args:
        below: which gave their ids.
        kinds: (source's, target's) categories of each pair.
    """
    of: dict[str, set[str]] = {}
    for a, b, (kind_a, kind_b) in zip(source, target, kinds, strict=True):
        of.setdefault(a, set()).add(kind_a)
        of.setdefault(b, set()).add(kind_b)
    return by_category(name, below, of)


def _truth(one: Said, below: Below, outside: str, counts: Counter[str]) -> Truth:
    """The points of a pair that lie in both pictures, and the boxes."""
    found, kept = [], None
    for side in ("source", "target"):
        points, inside = _points(one, side, below, outside, counts)
        found.append(points)
        kept = inside if kept is None else kept if inside is None else kept & inside
    source, target = found
    if target is not None and len(source) != len(target):
        raise SourceError(f"{one.where}: {len(source)} points in the source and {len(target)} in "
                          "the target; expected equally many")  # fmt: skip
    names = one.names
    if names and len(names) != len(source):
        raise SourceError(f"{one.where}: {len(names)} names for {len(source)} points; expected "
                          "one for each")  # fmt: skip
    if kept is not None:
        names = tuple(name for name, there in zip(names, kept, strict=False) if there)
        source, target = source[kept], None if target is None else target[kept]
    return Truth(source, target, names, *(_box(one, box) for box in one.boxes))


def _points(
    one: Said, side: str, below: Below, outside: str, counts: Counter[str]
) -> tuple[np.ndarray | None, np.ndarray | None]:
    """(n, 2) float64 of one side, and (n,) bool which of them count; None where all do."""
    said = one.source_points if side == "source" else one.target_points
    if said is None:
        return None, None
    points = _numbers(one, said, f"points of the {side}")
    if points.size == 0:
        return np.empty((0, 2)), None
    if points.ndim != 2 or points.shape[1] != 2:
        raise SourceError(f"{one.where}: points of the {side} have shape {points.shape}; expected "
                          "(n, 2), x and y in pixels")  # fmt: skip
    size = below.size(one.source if side == "source" else one.target, one.where)
    right, bottom = points.max(0)  # nan fails every comparison, so it is looked at more closely
    if points.min() >= -0.5 and right <= size[1] - 0.5 and bottom <= size[0] - 0.5:
        return points, None
    return points, _inside(one, side, points, size, outside, counts)


def _numbers(one: Said, said: Any, what: str) -> np.ndarray:
    try:
        return np.array(said, np.float64)  # a copy: points at the edge are moved
    except (TypeError, ValueError) as error:
        raise SourceError(f"{one.where}: {what} are {said!r:.80}; expected numbers") from error


def _inside(
    one: Said, side: str, points: np.ndarray, size: Size, outside: str, counts: Counter[str]
) -> np.ndarray:
    """(n,) bool: which points lie in the picture; those that just miss it are moved to its edge."""
    finite = np.isfinite(points).all(1)
    if not finite.all():
        row = int(np.flatnonzero(~finite)[0])
        raise SourceError(f"{one.where}: point {row} of the {side} is {points[row].tolist()}; "
                          "expected finite x and y in pixels")  # fmt: skip
    most = np.array(size[::-1]) - 0.5
    beyond = np.maximum(-0.5 - points, points - most).max(1)
    far = beyond > AT_EDGE + EDGE
    if far.any() and outside == "refuse":
        first = int(np.flatnonzero(far)[0])
        height, width = size
        swapped = (points[:, ::-1] >= -0.5).all() and (points[:, ::-1] <= most).all()
        hint = "x and y seem to be swapped; " * bool(swapped)
        raise SourceError(
            f"{one.where}: {int(far.sum())} of {len(points)} points lie outside the {side} "
            f"{getattr(one, side)!r} of {width}x{height} pixels, first {points[first].tolist()}; "
            f"expected x, y of the upright picture: {hint}correct them, or leave such points out "
            '(outside="drop"; diffeat match --outside drop)'
        )
    moved = (beyond > EDGE) & ~far
    points[moved] = points[moved].clip(0, most - 0.5)
    counts[MOVED] += int(moved.sum())
    counts[DROPPED] += int(far.sum())
    return ~far


def _box(one: Said, said: Any) -> np.ndarray | None:
    if said is None:
        return None
    box = _numbers(one, said, "corners of a box")
    if box.shape != (4,) or not (box[0] < box[2] < np.inf and box[1] < box[3] < np.inf):
        raise SourceError(f"{one.where}: a box is {said!r:.80}; expected x1, y1, x2, y2 in pixels "
                          "with x1 < x2 and y1 < y2")  # fmt: skip
    return box


def _check_same(first: Pair, again: Pair) -> None:
    """SourceError where two annotations of a pair say different things."""
    (key, said, truth), (_, said_2, truth_2) = first, again
    arrays = ("source_points", "target_points", "source_box", "target_box")
    same = (said.category, truth.names) == (said_2.category, truth_2.names) and all(
        np.array_equal(getattr(truth, name), getattr(truth_2, name)) for name in arrays
    )
    if not same:
        raise SourceError(f"{said_2.where}: {key[0]!r} and {key[1]!r} are a pair in {said.where}, "
                          "too, with other points, boxes or another category; expected one truth "
                          "for each pair: remove one of them")  # fmt: skip
