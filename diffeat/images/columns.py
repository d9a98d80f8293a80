"""What the columns of a table say of pictures: classes, numbers, or several labels each."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from diffeat.errors import SourceError, nearest
from diffeat.images.classes import WHOLE, numbered, sort_classes
from diffeat.images.folders import are_splits
from diffeat.images.tables import GROUPS, NUMBER, TARGETS, Table
from diffeat.images.walk import nfc

KINDS = {"class": -1, "number": np.nan, "labels": -1}
"""Kind → what stands for a target that is missing."""
SEPARATORS = re.compile("[|;]")
"""Between several labels in one field."""
LONGEST = 200
"""Bytes of a column's name."""
MOST_NAMES = 1 << 19
"""A column has no more classes or labels."""
FEW = 10
"""A column with as many classes as pictures, and more than these, has no classes."""


@dataclass(frozen=True, eq=False)
class TargetColumn:
    """One target per picture.

    Attributes:
        kind: "class": (N,) int64 indices; "number": (N,) float64; "labels": (N, K) int64, 0 or 1.
        names: of the classes or labels, by index; () of numbers.
        values: of the pictures; -1 or nan where one has none.
    """

    kind: str
    names: tuple[str, ...]
    values: np.ndarray

    def take(self, rows: Sequence[int] | np.ndarray) -> TargetColumn:
        """The pictures at `rows`, in that order; -1 is one without a target."""
        rows = np.asarray(rows, np.int64)
        found = np.full((len(rows), *self.values.shape[1:]), KINDS[self.kind], self.values.dtype)
        found[rows >= 0] = self.values[rows[rows >= 0]]
        return replace(self, values=found)

    @property
    def missing(self) -> np.ndarray:
        """(N,) bool: which pictures have no target."""
        return lacks(self.kind, self.values)


def lacks(kind: str, values: np.ndarray) -> np.ndarray:
    """(N,) bool: which of N values, or rows of labels, are none; see `TargetColumn`."""
    lacking = np.isnan(values) if kind == "number" else values < 0
    return lacking if lacking.ndim == 1 else lacking.any(1)


def column_of(table: Table, chosen: Sequence[str], kind: str | None = None) -> TargetColumn:
    """One target of all rows of a table, from one column, or from several of 0 and 1.

    Args:
        chosen: names of columns.
        kind: one of `KINDS`; None goes by the values: several columns, or "|" or ";" in a field,
            are labels; numbers of which one has a fraction are numbers; all else is a class.

    Raises:
        SourceError: values that are none of the kind.
    """
    places = [table.columns.index(name) for name in chosen]
    fields = [[row[place] for place in places] for _, row in table.rows]
    where = [line for line, _ in table.rows]
    kind = kind or _kind(fields)
    for line, row in zip(where, fields, strict=True):
        if any(
            isinstance(one, dict) or (isinstance(one, list) and kind != "labels") for one in row
        ):
            raise SourceError(f"{line}: {row!r:.80}; expected a text or a number")
    if kind == "labels":
        values, names = _labels(fields, where, chosen)
        return TargetColumn(kind, names, values)
    if len(chosen) > 1:
        raise SourceError(f"{table.name}: {len(chosen)} columns for kind {kind!r}; expected one")
    if kind == "number":
        return TargetColumn(kind, (), np.array(list(map(_number, fields, where)), np.float64))
    values, names = numbered([nfc(text_in(one)) for [one] in fields])
    return TargetColumn(kind, names, values)


def columns_of(
    table: Table, names: Sequence[str] = (), all_of: bool = True
) -> dict[str, TargetColumn]:
    """Columns of a table, each as one target.

    Args:
        names: which.
        all_of: False leaves out those without any value, and those that describe each picture
            in words of its own, such as notes and addresses; and what is a number of its own
            for each picture is one.

    Raises:
        SourceError: more classes than a feature file names.
    """
    found = {}
    for name in names:
        column = column_of(table, [name])
        if column.kind == "labels" and not column.names:
            continue
        if len(column.names) > MOST_NAMES:
            raise SourceError(
                f"{table.name}: column {name!r} has {len(column.names):,} classes or labels; "
                f"expected at most {MOST_NAMES:,}: name the columns that are wanted (--column)"
            )
        if not all_of and _all_different(column):
            column = as_number(column) or column
        told = all_of or name.casefold() in TARGETS
        if told or not (column.missing.all() or _in_words(column)):
            found[name] = column
    return found


def check_columns(where: str, names: Iterable[str], known: Sequence[str]) -> None:
    """SourceError for columns that are not there."""
    for name in names:
        if name not in known:
            have = ", ".join(known) or "none beside the ids"
            raise SourceError(
                f"{where} has no column {name!r}{nearest(name, known)}; it has {have}"
            )


def unfit(name: str) -> str:
    """Why a column cannot be kept in a feature file by its name; "" if it can."""
    if name in ("", ".", "..") or "/" in name or not name.isprintable():
        return "has a name that a feature file cannot hold (a slash, or what cannot be printed)"
    return "" if len(name.encode(errors="replace")) <= LONGEST else "has a very long name"


def _in_words(column: TargetColumn) -> bool:
    """Whether a column has a text of its own for every picture."""
    return _all_different(column) and not all(map(WHOLE.fullmatch, column.names))


def _all_different(column: TargetColumn) -> bool:
    known = len(column.values) - int(column.missing.sum())
    return column.kind == "class" and FEW < len(column.names) == known


def class_column(columns: Mapping[str, TargetColumn]) -> str | None:
    """Which column has the class of each picture: the one with a name of `TARGETS`, else the only
    one of classes that is none of groups or of parts of a data set; None if there is no telling."""
    classes = {name.casefold(): name for name, one in columns.items() if one.kind == "class"}
    for known in TARGETS:
        if known in classes:
            return classes[known]
    others = [
        name
        for folded, name in classes.items()
        if folded not in GROUPS
        and not are_splits(columns[name].names)
        and not _all_different(columns[name])
    ]
    return others[0] if len(others) == 1 else None


def are_flags(columns: Mapping[str, TargetColumn]) -> bool:
    """Whether there are columns, and each has 0 and 1 alone."""
    return bool(columns) and all(
        one.kind == "class" and all(map(is_flag, one.names)) for one in columns.values()
    )


def flags_of(columns: Mapping[str, TargetColumn]) -> TargetColumn:
    """Several columns of 0 and 1 as one label each; see `are_flags`."""
    values = []
    for one in columns.values():
        on = np.array([name.casefold() in ("1", "true") for name in one.names] + [False])
        values.append(np.where(one.missing, -1, on[one.values]))
    known = np.stack(values, axis=1).astype(np.int64).reshape(-1, len(columns))
    known[(known < 0).any(1)] = -1  # a picture of which not all is known
    return TargetColumn("labels", tuple(columns), known)


def as_number(column: TargetColumn) -> TargetColumn | None:
    """A column of classes that are all numbers as numbers; None for any other."""
    if column.kind == "number":
        return column
    if column.kind != "class" or not all(map(NUMBER.fullmatch, column.names)):
        return None
    known = np.array([*map(float, column.names), math.nan])
    return TargetColumn("number", (), known[column.values])


def _kind(fields: Sequence[Sequence[Any]]) -> str:
    if fields and len(fields[0]) > 1:
        return "labels"
    values = [one for [one] in fields]
    if any(isinstance(one, list) or SEPARATORS.search(text_in(one)) for one in values):
        return "labels"
    known = [text for text in map(text_in, values) if text]
    numbers = all(NUMBER.fullmatch(text) for text in known)
    return "number" if numbers and not all(map(WHOLE.fullmatch, known)) else "class"


def text_in(value: Any) -> str:
    """A field as text; "" for one that is empty."""
    return "" if value is None else str(value).strip()


def is_flag(value: Any) -> bool:
    return text_in(value).casefold() in ("0", "1", "true", "false")


def _number(fields: Sequence[Any], where: str) -> float:
    text = text_in(fields[0])
    if not text:
        return math.nan
    if isinstance(fields[0], (list, dict)) or not NUMBER.fullmatch(text):
        raise SourceError(f"{where}: {text[:40]!r}; expected a number such as 3.5")
    if not math.isfinite(float(text)):
        raise SourceError(f"{where}: {text[:40]!r}; expected a finite number")
    return float(text)


def _labels(
    fields: Sequence[Sequence[Any]], where: Sequence[str], chosen: Sequence[str]
) -> tuple[np.ndarray, tuple[str, ...]]:
    """(R, K) of 0 and 1, and the names: one column each, or those of a column, in order."""
    if len(chosen) > 1:
        return np.array([_flags(row, line) for row, line in zip(fields, where, strict=True)],
                        np.int64).reshape(-1, len(chosen)), tuple(chosen)  # fmt: skip
    sets = [_set(one) for [one] in fields]
    names = sort_classes({name for found in sets for name in found})
    values = np.array([[name in found for name in names] for found in sets], np.int64)
    return values.reshape(len(sets), len(names)), names


def _set(value: Any) -> set[str]:
    """The labels of one field; an empty one has none."""
    parts = map(text_in, value) if isinstance(value, list) else SEPARATORS.split(text_in(value))
    return {nfc(part.strip()) for part in parts if part.strip()}


def _flags(row: Sequence[Any], where: str) -> list[int]:
    if not all(map(text_in, row)):
        return [-1] * len(row)  # a picture of which not all is known
    for value in row:
        if not is_flag(value):
            raise SourceError(f"{where}: {text_in(value)[:40]!r}; expected 0 or 1")
    return [int(text_in(value).casefold() in ("1", "true")) for value in row]
