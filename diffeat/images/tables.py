"""Tables that people write, read strictly: CSV, TSV and JSON lines, each row with its line."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from diffeat.errors import SourceError

SEPARATORS = {".csv": ",", ".tsv": "\t"}
JSON_LINES = (".jsonl", ".ndjson")
TABLES = (*SEPARATORS, *JSON_LINES)
ID_COLUMNS = ("id", "file_name", "path")


def text_of(path: Path, expected: str = "a table") -> str:
    """The text of a file in UTF-8, without a byte order mark.

    Raises:
        SourceError: no such file, or other bytes; names the line.
    """
    try:
        raw = path.read_bytes()
        return raw.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = raw[: error.start].count(b"\n") + 1
        raise SourceError(f"{path}, line {line}: {error}; expected UTF-8 text") from error
    except OSError as error:
        raise SourceError(f"{path}: {error.strerror}; expected {expected}") from error


def table_rows(path: Path, text: str) -> Iterator[tuple[int, list[str]]]:
    """(line, fields) of a .csv or .tsv without its empty lines.

    The line is the last one of a row that spans several.
    """
    delimiter = SEPARATORS[path.suffix.lower()]
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
