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
import sys
from array import array
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from diffeat.errors import SourceError, nearest
from diffeat.images.below import Below, table_lines
from diffeat.targets.pairs.base import PointPairs
from diffeat.targets.pairs.building import Said, point_pairs

NEEDED = ("source", "target", "source_x", "source_y")
TRUTH = ("target_x", "target_y")
BOXES = tuple(
    tuple(f"{side}_{corner}" for corner in ("x1", "y1", "x2", "y2"))
    for side in ("source", "target")
)
GROUPS = ("source_group", "target_group")
SHARED = (*BOXES[0], *BOXES[1], "category", *GROUPS)
"""What all rows of a pair say alike."""
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
    columns, lines = table_lines(path, path.parent, _check_columns)
    numbers = (*NEEDED[2:], *TRUTH)[: 4 if TRUTH[0] in columns else 2]
    pairs: dict[tuple[str, str], _Rows] = {}
    below = Below(path.parent)
    for line, row in lines:
        where = f"{path}, line {line}"
        key = tuple(below.picture(row[name].strip(), where) for name in ("source", "target"))
        if key not in pairs:
            shared = {name: row[name].strip() for name in SHARED if name in columns}
            pairs[key] = _Rows(str(path), shared)
        pairs[key].add(line, row, numbers)
    if not pairs:
        raise SourceError(f"{path}: a header and no rows; expected a point a row")
    said = (_said(key, rows) for key, rows in pairs.items())
    return point_pairs(str(path), below, said, outside=outside, place=str(path.parent))


class _Rows:
    """The rows of one pair; of each its line and its numbers alone, since there are many.

    Args:
        path: of the list.
        shared: fields that all rows of a pair have in common.
    """

    def __init__(self, path: str, shared: dict[str, str]):
        self.path, self.shared = path, shared
        self.names: list[str] = []
        self._lines, self._numbers = array("q"), array("d")

    def add(self, line: int, row: dict[str, str], numbers: Sequence[str]) -> None:
        """Take a row.

        Args:
            numbers: the columns of its points.

        Raises:
            SourceError: it contradicts the first one, or has no number where one is expected.
        """
        self._lines.append(line)
        where = self.where(-1)
        for some in (*BOXES, ("category",), *((name,) for name in GROUPS)):
            if any(row[name].strip() != self.shared[name] for name in some if name in self.shared):
                raise SourceError(
                    f"{where}: another {', '.join(some)} than in {self.where(0)}, of the same "
                    "pair; expected the same in all rows of a pair"
                )
        self._numbers.extend(number_of(row[name], where, name) for name in numbers)
        if "point" in row:
            self.names.append(sys.intern(row["point"].strip()))

    def check(self) -> None:
        """SourceError where a row says what another one says, or does not name its point."""
        points, names = {}, {}
        for row, point in enumerate(map(tuple, self.points().tolist())):
            if (first := points.setdefault(point, row)) != row:
                raise SourceError(
                    f"{self.where(row)}: the same points as in {self.where(first)}; expected each "
                    "point of a pair once: remove one of them"
                )
        for row, name in enumerate(self.names):
            if not name or (first := names.setdefault(name, row)) != row:
                wrong = "a point without a name"
                if name:
                    wrong = f"point {name!r:.60} of this pair is in {self.where(first)}, too"
                raise SourceError(
                    f"{self.where(row)}: {wrong}; expected a name of its own for each point of a "
                    "pair, or no such column"
                )

    def where(self, row: int) -> str:
        """Where a row stands, for messages."""
        return f"{self.path}, line {self._lines[row]}"

    def points(self) -> np.ndarray:
        """(n, 2) or (n, 4) x, y of the source and, where it is said, of the target."""
        return np.array(self._numbers).reshape(len(self._lines), -1)


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


def _said(key: tuple[str, str], rows: _Rows) -> Said:
    """What the rows of a pair say."""
    rows.check()
    where, shared, points = rows.where(0), rows.shared, rows.points()
    if shared.get("category") == "":
        raise SourceError(f"{where}: an empty category; expected one in each row, or no such "
                          "column")  # fmt: skip
    boxes = [[shared[name] for name in box if name in shared] for box in BOXES]
    corners = tuple(
        [number_of(text, where, name) for text, name in zip(texts, box, strict=True)]
        if any(texts) else None for texts, box in zip(boxes, BOXES, strict=True)
    )  # fmt: skip
    groups = tuple(shared.get(name) or None for name in GROUPS)
    truths = points[:, 2:] if points.shape[1] == 4 else None
    return Said(where, *key, points[:, :2], truths, tuple(rows.names), corners,
                shared.get("category", ""), groups)  # fmt: skip


def number_of(text: str, where: str, column: str) -> float:
    """A field as a number; a comma in it, or what is none, is an error."""
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
