"""Targets in CSV, TSV, JSON and in the tars of WebDataset, read as one table."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

from diffeat.errors import SourceError
from diffeat.images.lists import read_list
from diffeat.images.tables import (
    JSON_LINES,
    Table,
    of_records,
    read_json_lines,
    read_table,
    text_of,
)
from diffeat.images.webdataset import sample_records

LISTS = (".txt", ".lst")
"""Of paths, with a label after each."""


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
    return of_records(str(path), rows)


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
    return of_records(text, rows)


def read_any(path: str | Path, columns: Sequence[str] = (), header: bool | None = None) -> Table:
    """A table by the ending of its name."""
    text, suffix = str(path), Path(path).suffix.lower()
    if suffix in (".csv", ".tsv"):
        return read_table(Path(path), columns, header)
    if suffix in JSON_LINES:
        return read_json_lines(Path(path))
    if suffix == ".json":
        return read_json(Path(path))
    return read_list(Path(path)) if suffix in LISTS else read_tars(text)
