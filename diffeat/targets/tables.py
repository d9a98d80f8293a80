"""Targets in CSV, TSV, JSON and in the tars of WebDataset, read as one table."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from diffeat.errors import SourceError
from diffeat.images.tables import JSON_LINES, json_rows, same_length, table_rows, text_of
from diffeat.images.walk import is_picture
from diffeat.images.webdataset import sample_records
from diffeat.targets.columns import IDS, NUMBER, TARGETS, Table

Rows = list[tuple[int, list[str]]]


def read_table(path: Path, columns: Sequence[str] = (), header: bool | None = None) -> Table:
    """A .csv or .tsv, with a header or without.

    Without one the columns are the id, the label and, if there is a third, the group. A first line
    is a header if it names the ids (`IDS`), the label (`TARGETS`) or one of `columns`, or if it
    has no number where all others have one; a line with the name of a picture's file is none.
    Where no column is called as ids are, the first one has them.

    Args:
        columns: that the caller will ask for.
        header: whether there is one; None goes by the rule above.
    """
    rows = list(table_rows(path, text_of(path, "a table of labels")))
    rows = [(line, row) for line, row in rows if any(field.strip() for field in row)]
    if not rows:
        raise SourceError(f"{path}: no rows; expected a picture id and its label a line")
    if _has_header(rows, columns) if header is None else header:
        names = tuple(name.strip() for name in rows.pop(0)[1])
    elif len(rows[0][1]) in (2, 3):
        names = ("id", "label", "group")[: len(rows[0][1])]
    else:
        raise SourceError(
            f"{path}: {len(rows[0][1])} columns and no header; expected a first line that names "
            f"the column of the ids ({', '.join(IDS)}) and the others"
        )
    if len(set(names)) < len(names) or "" in names:
        raise SourceError(f"{path}: two columns of one name, or one without; it has {names}")
    for line, row in rows:
        same_length(path, line, row, len(names))
    return _ids_first(str(path), names, [(f"{path}, line {line}", row) for line, row in rows])


def _has_header(rows: Rows, columns: Sequence[str]) -> bool:
    names = [name.strip() for name in rows[0][1]]
    if any(map(is_picture, names)):
        return False
    folded = [name.casefold() for name in names]
    if set(names) & set(columns) or set(folded) & set(IDS) or set(folded[1:]) & set(TARGETS):
        return True
    numbers = [bool(NUMBER.fullmatch(row[1].strip())) for _, row in rows if len(row) > 1]
    return len(numbers) > 1 and not numbers[0] and all(numbers[1:])


def read_json_lines(path: Path) -> Table:
    """A .jsonl or .ndjson; every object has an id under one of `IDS`."""
    rows = []
    for line, record in json_rows(path, text_of(path, "a table of labels")):
        name = next((name for name in IDS if isinstance(record, dict) and name in record), None)
        if name is None:
            raise SourceError(
                f"{path}, line {line}: expected a JSON object with an id ({', '.join(IDS)})"
            )
        others = {key: value for key, value in record.items() if key != name}
        rows.append((f"{path}, line {line}", {"id": record[name], **others}))
    return _of_records(str(path), rows)


def read_json(path: Path) -> Table:
    """A .json with one object: id → label, or id → object with the columns."""
    text = text_of(path, "a table of labels")
    try:
        pairs = json.loads(text, object_pairs_hook=_Pairs)
    except (ValueError, RecursionError) as error:
        raise SourceError(f"{path}: {error}; expected one JSON object") from error
    if not isinstance(pairs, _Pairs):
        raise SourceError(f"{path}: expected one JSON object, picture id → label")
    rows = []
    for name, value in pairs:
        record = dict(value) if isinstance(value, _Pairs) else {"label": value}
        rows.append(
            (f"{path}, {name!r}", {"id": name} | {k: v for k, v in record.items() if k != "id"})
        )
    return _of_records(str(path), rows)


class _Pairs(list):
    """The members of a JSON object, those of one name too."""


def read_tars(text: str) -> Table:
    """WebDataset tars: fields of the .json, and the .cls as "label", else the .txt as "text".

    Where there is a .cls, "label" and "cls" of the .json are not looked at; where there is not,
    "cls" is "label".
    """
    rows = []
    for where, name, record in sample_records(text):
        label = record.pop(".cls", record.get("label", record.get("cls")))
        caption = record.pop(".txt", None)
        record = {key: value for key, value in record.items() if key not in ("cls", "label", "id")}
        record |= {} if label is None else {"label": label}
        record |= {} if caption is None else {"text": caption}
        rows.append((where, {"id": name, **record}))
    return _of_records(text, rows)


def _of_records(name: str, rows: Sequence[tuple[str, dict[str, Any]]]) -> Table:
    """Objects as rows of all columns that any of them has; what one lacks is None."""
    if not rows:
        raise SourceError(f"{name}: no rows; expected a picture id and its label in each")
    columns = tuple(dict.fromkeys(key for _, record in rows for key in record))
    return Table(
        name, columns, [(where, [record.get(key) for key in columns]) for where, record in rows]
    )


def _ids_first(name: str, columns: Sequence[str], rows: Sequence[tuple[str, list[str]]]) -> Table:
    """The column of the ids before the others."""
    place = next((k for k, one in enumerate(columns) if one.casefold() in IDS), 0)
    order = [place, *(k for k in range(len(columns)) if k != place)]
    return Table(
        name, tuple(columns[k] for k in order),
        [(where, [row[k] for k in order]) for where, row in rows],
    )  # fmt: skip


def read_any(path: str | Path, columns: Sequence[str] = (), header: bool | None = None) -> Table:
    """A table by the ending of its name."""
    text, suffix = str(path), Path(path).suffix.lower()
    if suffix in (".csv", ".tsv"):
        return read_table(Path(path), columns, header)
    if suffix in JSON_LINES:
        return read_json_lines(Path(path))
    if suffix == ".json":
        return read_json(Path(path))
    return read_tars(text)
