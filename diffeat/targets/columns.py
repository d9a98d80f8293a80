"""From the columns of a table to targets: which column is what, and what its values mean."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from diffeat.errors import SourceError, nearest
from diffeat.images.captions import CAPTION_COLUMNS
from diffeat.images.classes import WHOLE, sort_classes
from diffeat.images.tables import ID_COLUMNS
from diffeat.images.walk import nfc
from diffeat.targets.keyed import KINDS, KeyedTargets

IDS = (*ID_COLUMNS, "filename", "file", "image", "picture")
TARGETS = ("label", "labels", "class", "target", "value")
GROUPS = ("group", "person", "subject", "scene", "drive", "clip")
"""Names of columns that are known without being told."""
SEPARATORS = re.compile("[|;]")
"""Between several labels in one field."""
NUMBER = re.compile(r"[+-]?([0-9]+\.?[0-9]*|\.[0-9]+)([eE][+-]?[0-9]+)?")


@dataclass(frozen=True)
class Table:
    """A table as it was read.

    Attributes:
        name: the file, for messages.
        columns: their names, the one with the ids first.
        rows: (where, fields); a field is a text, or what JSON has: numbers, lists, None.
    """

    name: str
    columns: tuple[str, ...]
    rows: Sequence[tuple[str, Sequence[Any]]]


def targets_of(
    table: Table,
    columns: Sequence[str] = (),
    groups: str | None = None,
    kind: str | None = None,
) -> KeyedTargets:
    """Targets of a table.

    Args:
        columns: with the targets; several are one label each, 0 or 1. () finds them: all that are
            no ids, groups or captions, or the one with a name of `TARGETS`.
        groups: column with the groups; None takes one with a name of `GROUPS`.
        kind: one of `KINDS`; None goes by the values: several columns, or "|" or ";" in a field,
            are labels; numbers of which one has a fraction are numbers; all else is a class.

    Raises:
        SourceError: columns that are not there or not to be found, values that are none of the
            kind, or two rows that contradict.
    """
    if kind is not None and kind not in KINDS:
        raise SourceError(f"{table.name}: kind {kind!r}; expected {', '.join(KINDS)}")
    owner = _group_column(table, columns, groups)
    chosen = _target_columns(table, columns, owner)
    table, keys = _merged(table, chosen, owner)
    values, names, kind = _values(table, chosen, kind)
    owners = None
    if owner is not None:
        place = table.columns.index(owner)
        owners = tuple(nfc(_text(row[place])) for _, row in table.rows)
    return KeyedTargets(table.name, kind, names, keys, values, owners)


def _values(
    table: Table, chosen: Sequence[str], kind: str | None
) -> tuple[np.ndarray, tuple[str, ...], str]:
    """Targets of all rows, names of classes or labels, and the kind."""
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
        return *_labels(fields, where, chosen), kind
    if len(chosen) > 1:
        raise SourceError(f"{table.name}: {len(chosen)} columns for kind {kind!r}; expected one")
    if kind == "number":
        return np.array(list(map(_number, fields, where)), np.float64), (), kind
    return *_classes([_text(one) for [one] in fields]), kind


# --- which column is what ----------------------------------------------------------------------


def _group_column(table: Table, columns: Sequence[str], groups: str | None) -> str | None:
    others = [name for name in table.columns[1:] if name not in columns]
    if groups is None:
        return next((name for name in others if name.casefold() in GROUPS), None)
    _check_columns(table, [groups])
    return groups


def _target_columns(table: Table, columns: Sequence[str], owner: str | None) -> tuple[str, ...]:
    if columns:
        _check_columns(table, columns)
        return tuple(columns)
    rest = [name for name in table.columns[1:] if name not in (owner, *CAPTION_COLUMNS)]
    named = [name for name in rest if name.casefold() in TARGETS]
    if len(rest) == 1 or len(named) == 1:
        return tuple(named or rest)
    places = [table.columns.index(name) for name in rest]
    if rest and all(_is_flag(row[place]) for _, row in table.rows for place in places):
        return tuple(rest)
    raise SourceError(
        f"{table.name}: its columns are {', '.join(table.columns)}; expected the id, one with the "
        f"label (called {', '.join(TARGETS)}), and perhaps one with the group, or one column of 0 "
        "and 1 per label: say which by their names"
    )


def _check_columns(table: Table, names: Iterable[str]) -> None:
    for name in names:
        if name not in table.columns[1:]:
            raise SourceError(
                f"{table.name} has no column {name!r}{nearest(name, table.columns[1:])}; it has "
                f"{', '.join(table.columns[1:])}"
            )


def _merged(
    table: Table, chosen: Sequence[str], owner: str | None
) -> tuple[Table, tuple[str, ...]]:
    """The rows, each picture once, and their keys; SourceError for two that contradict."""
    places = [table.columns.index(name) for name in (*chosen, *([owner] if owner else []))]
    first: dict[str, tuple[str, Sequence[Any]]] = {}
    for where, row in table.rows:
        key = nfc(_text(row[0]))
        if not key:
            raise SourceError(f"{where}: no id; expected that of a picture, or its file's name")
        before = first.setdefault(key, (where, row))
        if [before[1][place] for place in places] != [row[place] for place in places]:
            raise SourceError(
                f"{where}: {key!r} has another target or group than in {before[0]}; expected one "
                "per picture, remove one of them"
            )
    return Table(table.name, table.columns, list(first.values())), tuple(first)


# --- what the values mean ----------------------------------------------------------------------


def _kind(fields: Sequence[Sequence[Any]]) -> str:
    if fields and len(fields[0]) > 1:
        return "labels"
    values = [one for [one] in fields]
    if any(isinstance(one, list) or SEPARATORS.search(_text(one)) for one in values):
        return "labels"
    known = [text for text in map(_text, values) if text]
    numbers = all(NUMBER.fullmatch(text) for text in known)
    return "number" if numbers and not all(map(WHOLE.fullmatch, known)) else "class"


def _text(value: Any) -> str:
    """A field as text; "" for one that is empty."""
    return "" if value is None else str(value).strip()


def _is_flag(value: Any) -> bool:
    return _text(value).casefold() in ("0", "1", "true", "false")


def _number(fields: Sequence[Any], where: str) -> float:
    text = _text(fields[0])
    if not text:
        return math.nan
    if isinstance(fields[0], (list, dict)) or not NUMBER.fullmatch(text):
        raise SourceError(f"{where}: {text[:40]!r}; expected a number such as 3.5")
    if not math.isfinite(float(text)):
        raise SourceError(f"{where}: {text[:40]!r}; expected a finite number")
    return float(text)


def _classes(texts: Sequence[str]) -> tuple[np.ndarray, tuple[str, ...]]:
    """(R,) indices, -1 for an empty field, and the names in order."""
    texts = [nfc(text) for text in texts]
    names = sort_classes(text for text in texts if text)
    index = {name: k for k, name in enumerate(names)}
    return np.array([index.get(text, -1) for text in texts], np.int64), names


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
    parts = map(_text, value) if isinstance(value, list) else SEPARATORS.split(_text(value))
    return {nfc(part.strip()) for part in parts if part.strip()}


def _flags(row: Sequence[Any], where: str) -> list[int]:
    if not all(map(_text, row)):
        return [-1] * len(row)  # a picture of which not all is known
    for value in row:
        if not _is_flag(value):
            raise SourceError(f"{where}: {_text(value)[:40]!r}; expected 0 or 1")
    return [int(_text(value).casefold() in ("1", "true")) for value in row]
