"""Tables that people write, read strictly: CSV, TSV and JSON lines, each row with its line."""

from __future__ import annotations

import csv
import io
import json
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from diffeat.errors import SourceError
from diffeat.images.walk import is_picture

SEPARATORS = {".csv": ",", ".tsv": "\t"}
JSON_LINES = (".jsonl", ".ndjson")
TABLES = (*SEPARATORS, *JSON_LINES)
ID_COLUMNS = ("id", "file_name", "path")
IDS = (*ID_COLUMNS, "filename", "file", "image", "picture")
PATHS = (*IDS[1:], "id")
"""The same where the pictures' files are wanted: of several that are there, the first."""
TARGETS = ("label", "labels", "class", "target", "value")
GROUPS = ("group", "person", "subject", "scene", "drive", "clip")
"""Names of columns that are known without being told."""
NUMBER = re.compile(r"[+-]?([0-9]+\.?[0-9]*|\.[0-9]+)([eE][+-]?[0-9]+)?")
MOST_BYTES = 1 << 30
"""No table or list is longer."""

Rows = list[tuple[int, list[str]]]
"""(line, fields) of a table."""


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


def text_of(path: Path, expected: str = "a table") -> str:
    """The text of a file in UTF-8, without a byte order mark.

    Raises:
        SourceError: no such file, one that is too long, or other bytes; names the line.
    """
    try:
        if (size := path.stat().st_size) > MOST_BYTES:
            raise SourceError(f"{path}: {size:,} bytes; expected {expected}, of at most "
                              f"{MOST_BYTES:,} bytes: cut it into several")  # fmt: skip
        raw = path.read_bytes()
        return raw.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = raw[: error.start].count(b"\n") + 1
        raise SourceError(f"{path}, line {line}: {error}; expected UTF-8 text") from error
    except OSError as error:
        raise SourceError(f"{path}: {error.strerror}; expected {expected}") from error


def table_rows(
    path: Path, text: str, delimiter: str | None = None
) -> Iterator[tuple[int, list[str]]]:
    """(line, fields) of a .csv or .tsv without its empty lines.

    The line is the last one of a row that spans several.

    Args:
        delimiter: between fields; None goes by the file's ending.
    """
    delimiter = delimiter or SEPARATORS[path.suffix.lower()]
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter, strict=True)
    try:
        for row in reader:
            if row:
                yield reader.line_num, row
    except csv.Error as error:
        raise SourceError(
            f"{path}, line {reader.line_num}: {error}; expected fields separated by "
            f"{delimiter!r}, in closed double quotes where needed"
        ) from error


def separator(path: Path, first: str) -> str:
    """What parts the fields of a .csv or .tsv, by its ending and first line.

    In a .csv it may be the semicolon that spreadsheets write where the comma is in numbers.
    """
    usual = SEPARATORS[path.suffix.lower()]
    return ";" if usual == "," and "," not in first and ";" in first else usual


def same_length(path: Path, line: int, row: Sequence[str], count: int) -> None:
    """SourceError for a row with more or fewer fields than the header."""
    if len(row) != count:
        raise SourceError(
            f"{path}, line {line}: {len(row)} fields; expected {count} as in the header (put a "
            "text that contains the separator in quotes)"
        )


def json_rows(path: Path, text: str) -> Iterator[tuple[int, Any]]:
    """(line, value) of JSON lines without the empty ones."""
    # not splitlines: JSON texts may contain U+2028 and its like
    for number, line in enumerate(text.split("\n"), start=1):
        if not line.strip():
            continue
        try:
            yield number, json.loads(line)
        except (ValueError, RecursionError) as error:
            raise SourceError(
                f"{path}, line {number}: {error}; expected one JSON object a line"
            ) from error


def read_columns(
    path: Path, text: str, wanted: Sequence[Sequence[str]], expected: str
) -> Iterator[tuple[int, list[Any]]]:
    """(line, one value for each of the wanted columns) of a table or of JSON lines.

    Args:
        wanted: the names that each column may have; the first that is there is taken.
        expected: the columns in words, for messages.

    Raises:
        SourceError: a header or an object without the columns, rows of another length, damage.
    """
    if path.suffix.lower() in JSON_LINES:
        for line, value in json_rows(path, text):
            record = value if isinstance(value, dict) else {}
            names = [_first(names, record) for names in wanted]
            if None in names:
                raise SourceError(f"{path}, line {line}: expected a JSON object with {expected}")
            yield line, [record[name] for name in names]
        return
    rows = table_rows(path, text)
    header = [name.strip() for name in next(rows, (1, []))[1]]
    names = [_first(names, header) for names in wanted]
    if None in names:
        raise SourceError(
            f"{path}, line 1: the header names {', '.join(header) or 'no columns'}; expected "
            f"{expected}"
        )
    places = [header.index(name) for name in names]
    for line, row in rows:
        same_length(path, line, row, len(header))
        yield line, [row[place] for place in places]


def _first(names: Sequence[str], known: Any) -> str | None:
    return next((name for name in names if name in known), None)


def read_table(path: Path, columns: Sequence[str] = (), header: bool | None = None) -> Table:
    """A .csv or .tsv, with a header or without; see `as_table`.

    Args:
        columns: that the caller will ask for.
        header: whether there is one; None goes by the rule of `as_table`.
    """
    text = text_of(path, "a table of labels")
    rows = list(table_rows(path, text, separator(path, text.partition("\n")[0])))
    return as_table(path, rows, columns, header)


def as_table(
    path: Path,
    rows: Rows,
    columns: Sequence[str] = (),
    header: bool | None = None,
    ids: Sequence[str] = (),
) -> Table:
    """Rows with names for their columns.

    Without a header the columns are the id, the label and, if there is a third, the group. A
    first line is a header if it names the ids (`IDS`), the label (`TARGETS`) or one of
    `columns`, if it has no number where all others have one, or no picture's file where they
    do; a line with the name of one is none. Where no column is called as ids are, the first one
    with files of pictures alone has them, else the first. Columns without a name, as programs
    write the numbers of the rows, are left out.

    Args:
        path: for messages.
        columns, header: of `read_table`.
        ids: names of the column with the ids, the best first; () takes the first of `IDS`.

    Raises:
        SourceError: no rows, rows of several lengths, columns without names or of one name.
    """
    rows = [(line, row) for line, row in rows if any(field.strip() for field in row)]
    if not rows:
        raise SourceError(f"{path}: no rows; expected a picture id and its label a line")
    if _has_header(rows, columns) if header is None else header:
        names, rows = _named(tuple(name.strip() for name in rows[0][1]), rows[1:])
    elif len(rows[0][1]) in ((1, 2, 3) if ids else (2, 3)):
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
    places = [(f"{path}, line {line}", row) for line, row in rows]
    return _ids_first(str(path), names, places, ids)


def _named(names: tuple[str, ...], rows: Rows) -> tuple[tuple[str, ...], Rows]:
    """A table without the columns that have no name, if any has one."""
    kept = [place for place, name in enumerate(names) if name]
    if len(kept) in (0, len(names)):
        return names, rows
    cut = [(line, [row[k] for k in kept] if len(row) == len(names) else row) for line, row in rows]
    return tuple(names[k] for k in kept), cut


def _pictures_alone(rows: Sequence[Sequence[str]], place: int) -> bool:
    """Whether a column holds names of pictures' files in every row."""
    return bool(rows) and all(len(row) > place and is_picture(row[place].strip()) for row in rows)


def _has_header(rows: Rows, columns: Sequence[str]) -> bool:
    names = [name.strip() for name in rows[0][1]]
    if any(map(is_picture, names)):
        return False
    folded = [name.casefold() for name in names]
    if set(names) & set(columns) or set(folded) & set(IDS) or set(folded[1:]) & set(TARGETS):
        return True
    if any(_pictures_alone([row for _, row in rows[1:]], place) for place in range(len(names))):
        return True
    numbers = [bool(NUMBER.fullmatch(row[1].strip())) for _, row in rows if len(row) > 1]
    return len(numbers) > 1 and not numbers[0] and all(numbers[1:])


def read_json_lines(path: Path, ids: Sequence[str] = IDS) -> Table:
    """A .jsonl or .ndjson; every object has an id under one of `ids`, the best first."""
    rows = []
    for line, record in json_rows(path, text_of(path, "a table of labels")):
        name = next((name for name in ids if isinstance(record, dict) and name in record), None)
        if name is None:
            raise SourceError(
                f"{path}, line {line}: expected a JSON object with an id ({', '.join(IDS)})"
            )
        others = {key: value for key, value in record.items() if key not in (name, "id")}
        rows.append((f"{path}, line {line}", {"id": record[name], **others}))
    return of_records(str(path), rows)


def of_records(name: str, rows: Sequence[tuple[str, dict[str, Any]]]) -> Table:
    """Objects as rows of all columns that any of them has; what one lacks is None."""
    if not rows:
        raise SourceError(f"{name}: no rows; expected a picture id and its label in each")
    columns = tuple(dict.fromkeys(key for _, record in rows for key in record))
    return Table(
        name, columns, [(where, [record.get(key) for key in columns]) for where, record in rows]
    )


def _ids_first(
    name: str,
    columns: Sequence[str],
    rows: Sequence[tuple[str, list[str]]],
    ids: Sequence[str] = (),
) -> Table:
    """The column of the ids before the others."""
    folded = [one.casefold() for one in columns]
    first = next((k for k, one in enumerate(folded) if one in IDS), None)
    if first is None:
        texts = [[str(field) for field in row] for _, row in rows]
        first = next((k for k in range(len(columns)) if _pictures_alone(texts, k)), 0)
    place = next((folded.index(one) for one in ids if one in folded), first)
    order = [place, *(k for k in range(len(columns)) if k != place)]
    return Table(
        name, tuple(columns[k] for k in order),
        [(where, [row[k] for k in order]) for where, row in rows],
    )  # fmt: skip
