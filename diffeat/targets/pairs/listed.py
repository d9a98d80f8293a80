"""People's own pairs, in a CSV: one point a row.

    source,target,source_x,source_y,target_x,target_y
    a.jpg,b.jpg,120.5,80,131,77.25

Further columns may be `point` (its name), `category`, `source_group` and `target_group` (person,
scene), and `source_x1,source_y1,source_x2,source_y2` and `target_x1` … of boxes. Without
`target_x,target_y` the pairs have no truth. Rows of one (source, target) belong together,
wherever they stand. Paths are relative to the list's folder, which all pictures lie below.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path

from diffeat.errors import SourceError, nearest
from diffeat.images.below import Below, Records, read_records
from diffeat.targets.pairs.base import PointPairs
from diffeat.targets.pairs.building import Said, point_pairs

NEEDED = ("source", "target", "source_x", "source_y")
TRUTH = ("target_x", "target_y")
BOXES = tuple(
    tuple(f"{side}_{corner}" for corner in ("x1", "y1", "x2", "y2"))
    for side in ("source", "target")
)
GROUPS = ("source_group", "target_group")
COLUMNS = (*NEEDED, *TRUTH, "point", "category", *GROUPS, *BOXES[0], *BOXES[1])


def open_list(path: Path, outside: str = "refuse") -> PointPairs:
    """The pairs of a list.

    Args:
        path: a .csv, or a .tsv with tabs.
        outside: of `point_pairs`.

    Raises:
        SourceError: other columns, fields that are no numbers (such as those with decimal
            commas), rows of a pair that contradict, a point twice, pictures that are missing or
            outside of the list's folder.
    """
    columns, rows = read_records(path, path.parent, _check_columns)
    if not rows:
        raise SourceError(f"{path}: a header and no rows; expected a point a row")
    pairs: dict[tuple[str, str], Records] = {}
    below = Below(path.parent)
    for where, row in rows:
        key = tuple(below.picture(row[name].strip(), where) for name in ("source", "target"))
        pairs.setdefault(key, []).append((where, row))
    said = (_said(key, found, columns) for key, found in pairs.items())
    return point_pairs(str(path), below, said, outside=outside, place=str(path.parent))


def _check_columns(path: Path, columns: Sequence[str]) -> None:
    needed = [*NEEDED]
    for some in (TRUTH, *BOXES):
        needed += some if set(some) & set(columns) else ()
    lacking = [name for name in needed if name not in columns]
    strange = [name for name in columns if name not in COLUMNS]
    twice = len(set(columns)) < len(columns)
    if lacking or strange or twice:
        wrong = f"lacks {', '.join(lacking)}" if lacking else "names one column twice"
        if strange and not lacking:
            wrong = f"names {strange[0]!r:.60}{nearest(strange[0], COLUMNS)}"
        raise SourceError(
            f"{path}: the header ({', '.join(columns)[:200] or 'empty'}) {wrong}; expected "
            f"{','.join((*NEEDED, *TRUTH))} and, if known, point, category, source_group, "
            "target_group, source_x1,source_y1,source_x2,source_y2, target_x1,…"
        )


def _said(key: tuple[str, str], rows: Records, columns: Sequence[str]) -> Said:
    """What the rows of a pair say."""
    names = _names(rows) if "point" in columns else ()
    boxes = [_alike(rows, [name for name in box if name in columns]) for box in BOXES]
    groups = [_alike(rows, [name])[0] if name in columns else None for name in GROUPS]
    category = _alike(rows, ["category"])[0] if "category" in columns else ""
    if "category" in columns and not category:
        raise SourceError(f"{rows[0][0]}: an empty category; expected one in each row, or no such "
                          "column")  # fmt: skip
    points = [[_number(row[name], where, name) for name in ("source_x", "source_y")]
              for where, row in rows]  # fmt: skip
    truths = [[_number(row[name], where, name) for name in TRUTH]
              for where, row in rows] if TRUTH[0] in columns else None  # fmt: skip
    _check_points(rows, points, truths)
    corners = (
        [_number(text, rows[0][0], name) for text, name in zip(texts, box, strict=True)]
        if any(texts) else None for texts, box in zip(boxes, BOXES, strict=False)
    )  # fmt: skip
    return Said(rows[0][0], *key, points, truths, names, tuple(corners), category,
                tuple(one or None for one in groups))  # fmt: skip


def _number(text: str, where: str, column: str) -> float:
    """A number; a comma in it, or what is none, is an error."""
    try:
        value = float(text)
    except ValueError:
        value = None
    if value is None or "_" in text or not text.isascii():
        hint = " with a decimal point: 12.5" if "," in text else " of pixels"
        raise SourceError(f"{where}: {column} is {text!r:.60}; expected a number{hint}")
    if not math.isfinite(value):
        raise SourceError(f"{where}: {column} is {text.strip()}; expected finite pixels")
    return value


def _alike(rows: Records, names: Sequence[str]) -> tuple[str, ...]:
    """Fields that all rows of a pair must have in common."""
    first = tuple(rows[0][1][name].strip() for name in names)
    for where, row in rows[1:]:
        if tuple(row[name].strip() for name in names) != first:
            raise SourceError(f"{where}: another {', '.join(names)} than in {rows[0][0]}, of the "
                              "same pair; expected the same in all rows of a pair")  # fmt: skip
    return first


def _names(rows: Records) -> tuple[str, ...]:
    names = tuple(row["point"].strip() for _, row in rows)
    known: dict[str, str] = {}
    for (where, _), name in zip(rows, names, strict=True):
        if not name or known.setdefault(name, where) != where:
            wrong = f"point {name!r:.60} of this pair is in {known[name]}, too" if name else (
                "a point without a name")  # fmt: skip
            raise SourceError(f"{where}: {wrong}; expected a name of its own for each point of a "
                              "pair, or no such column")  # fmt: skip
    return names


def _check_points(rows: Records, points: list, truths: list | None) -> None:
    """SourceError where a row says again what another row of the pair says."""
    known: dict[tuple, str] = {}
    for place, (where, _) in enumerate(rows):
        key = (*points[place], *(truths[place] if truths else ()))
        if known.setdefault(key, where) != where:
            raise SourceError(f"{where}: the same points as in {known[key]}; expected each point "
                              "of a pair once: remove one of them")  # fmt: skip
