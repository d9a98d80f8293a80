"""From the columns of a table to targets: which column is what."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from diffeat.errors import SourceError
from diffeat.images.captions import CAPTION_COLUMNS
from diffeat.images.columns import KINDS, check_columns, column_of, is_flag, text_in
from diffeat.images.tables import GROUPS, TARGETS, Table
from diffeat.images.walk import nfc
from diffeat.targets.keyed import KeyedTargets


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
    table, keys = merged_rows(table, (*chosen, *([owner] if owner else [])))
    found = column_of(table, chosen, kind)
    owners = None
    if owner is not None:
        place = table.columns.index(owner)
        owners = tuple(nfc(text_in(row[place])) for _, row in table.rows)
    return KeyedTargets(table.name, found.kind, found.names, keys, found.values, owners)


def _group_column(table: Table, columns: Sequence[str], groups: str | None) -> str | None:
    others = [name for name in table.columns[1:] if name not in columns]
    if groups is None:
        return next((name for name in others if name.casefold() in GROUPS), None)
    check_columns(table.name, [groups], table.columns[1:])
    return groups


def _target_columns(table: Table, columns: Sequence[str], owner: str | None) -> tuple[str, ...]:
    if columns:
        check_columns(table.name, columns, table.columns[1:])
        return tuple(columns)
    rest = [name for name in table.columns[1:] if name not in (owner, *CAPTION_COLUMNS)]
    named = [name for name in rest if name.casefold() in TARGETS]
    if len(rest) == 1 or len(named) == 1:
        return tuple(named or rest)
    places = [table.columns.index(name) for name in rest]
    if rest and all(is_flag(row[place]) for _, row in table.rows for place in places):
        return tuple(rest)
    raise SourceError(
        f"{table.name}: its columns are {', '.join(table.columns)}; expected the id, one with the "
        f"label (called {', '.join(TARGETS)}), and perhaps one with the group, or one column of 0 "
        "and 1 per label: say which by their names"
    )


def merged_rows(table: Table, chosen: Sequence[str]) -> tuple[Table, tuple[str, ...]]:
    """The rows, each picture once, and their keys; SourceError for two that contradict in one of
    the chosen columns."""
    places = [table.columns.index(name) for name in chosen]
    first: dict[str, tuple[str, Sequence[Any]]] = {}
    for where, row in table.rows:
        key = nfc(text_in(row[0]))
        if not key:
            raise SourceError(f"{where}: no id; expected that of a picture, or its file's name")
        before = first.setdefault(key, (where, row))
        if [before[1][place] for place in places] != [row[place] for place in places]:
            raise SourceError(
                f"{where}: {key!r} has another target or group than in {before[0]}; expected one "
                "per picture, remove one of them"
            )
    return Table(table.name, table.columns, list(first.values())), tuple(first)
