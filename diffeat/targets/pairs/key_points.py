"""People's own key points, in a CSV: one point of one picture a row.

    picture,point,x,y
    a.jpg,nose,120.5,80
    b.jpg,nose,131,77.25

Every two pictures of a category that share points are two pairs, one each way. Further columns may
be `category` and `group` (person, scene). Paths are relative to the table's folder.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from itertools import permutations
from pathlib import Path

from diffeat.errors import SourceError, nearest
from diffeat.images.below import Below, table_lines
from diffeat.targets.pairs.base import PointPairs
from diffeat.targets.pairs.building import NO_POINTS, Said, point_pairs
from diffeat.targets.pairs.listed import number_of

NEEDED = ("picture", "point", "x", "y")
SHARED = ("category", "group")
MOST = 20_000
"""Pairs that are made of a table at most."""


@dataclass
class _Picture:
    """The rows of one picture: where the first stands, what all say alike, its points by name."""

    where: str
    shared: tuple[str, ...]
    points: dict[str, tuple[float, float]] = field(default_factory=dict)


def has_key_points(path: Path) -> bool:
    """Whether a table has a column `picture`, and so lists points and not pairs."""
    columns, _ = table_lines(path, path.parent, lambda path, columns: None)
    return "picture" in columns


def open_key_points(path: Path, outside: str = "refuse") -> PointPairs:
    """All pairs of pictures that share points.

    Args:
        path: a .csv, or a .tsv with tabs.
        outside: of `point_pairs`.

    Returns:
        The ordered pairs, in the order of the pictures; those without common points are counted.

    Raises:
        SourceError: other columns, fields that are no numbers, a point twice, rows of a picture
            that contradict, more than `MOST` pairs, pictures that are missing or outside of the
            table's folder.
    """
    columns, lines = table_lines(path, path.parent, _check_columns)
    below, left_out = Below(path.parent), Counter()
    pictures: dict[str, _Picture] = {}
    for line, row in lines:
        where = f"{path}, line {line}"
        name = below.picture(row["picture"].strip(), where)
        shared = tuple(row[column].strip() if column in columns else "" for column in SHARED)
        _add(pictures.setdefault(name, _Picture(where, shared)), row, shared, where)
    if (most := len(pictures) * (len(pictures) - 1)) > MOST:
        raise SourceError(f"{path}: {len(pictures):,} pictures make {most:,} pairs; expected "
                          f"{MOST:,} at most: list those that you want, a row for each point, "
                          "source,target,source_x,source_y,target_x,target_y")  # fmt: skip
    said = _said(pictures, left_out)
    return point_pairs(str(path), below, said, outside=outside, left_out=left_out,
                       place=str(path.parent))  # fmt: skip


def _add(picture: _Picture, row: dict[str, str], shared: tuple[str, ...], where: str) -> None:
    if picture.shared != shared:
        raise SourceError(f"{where}: another category or group than in {picture.where}, of the "
                          "same picture; expected the same in all of its rows")  # fmt: skip
    name = row["point"].strip()
    if not name or name in picture.points:
        wrong = f"point {name!r:.60} a second time" if name else "a point without a name"
        raise SourceError(f"{where}: {wrong}; expected each point of a picture once, by name")
    picture.points[name] = number_of(row["x"], where, "x"), number_of(row["y"], where, "y")


def _said(pictures: dict[str, _Picture], left_out: Counter[str]) -> Iterator[Said]:
    for (a, first), (b, second) in permutations(pictures.items(), 2):
        if first.shared[0] != second.shared[0]:
            continue
        names = tuple(name for name in first.points if name in second.points)
        if not names:
            left_out[NO_POINTS] += 1
            continue
        points = ([one.points[name] for name in names] for one in (first, second))
        groups = first.shared[1] or None, second.shared[1] or None
        yield Said(first.where, a, b, *points, names, (None, None), first.shared[0], groups)


def _check_columns(path: Path, columns: Sequence[str]) -> None:
    lacking = [name for name in NEEDED if name not in columns]
    strange = [name for name in columns if name not in (*NEEDED, *SHARED)]
    if lacking or strange or len(set(columns)) < len(columns):
        wrong = f"lacks {', '.join(lacking)}" if lacking else "names one column twice"
        if strange and not lacking:
            wrong = f"names {strange[0]!r:.60}{nearest(strange[0], (*NEEDED, *SHARED))}"
        raise SourceError(f"{path}: the header ({', '.join(columns)[:200]}) {wrong}; expected "
                          "picture,point,x,y and, if known, category, group")  # fmt: skip
