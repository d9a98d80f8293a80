"""Lists of pictures: one path a line, a path and a label, or a table."""

from __future__ import annotations

import csv
import re
from collections.abc import Iterator
from pathlib import Path

from diffeat.errors import SourceError
from diffeat.images.tables import (
    IDS,
    JSON_LINES,
    PATHS,
    SEPARATORS,
    Table,
    as_table,
    read_json_lines,
    separator,
    table_rows,
    text_of,
)
from diffeat.images.walk import is_picture

LOOKED_AT = 1000
"""Lines of a long list that are looked for on the disk, to see of which kind it is."""
EXPECTED = "UTF-8 text with one path a line, path and label, or a table with a column of paths"


def read_list(path: Path) -> Table:
    """The pictures that a file lists, and what else it says of them.

    Lines that begin with "#" are comments. A .csv or .tsv, and any other file whose lines all
    have tabs or commas, is a table, with a header or without (`diffeat.images.tables.as_table`),
    a .jsonl one of objects. In all else a line is a path, or a path and a label after white
    space. Whatever is there as a whole is a path, so that paths may have spaces and commas.

    Args:
        path: the list; paths are relative to its folder.

    Returns:
        A table of paths, whose other columns may be none. A list of paths and labels has the
        columns "path" and "label".

    Raises:
        SourceError: no UTF-8 text, a damaged table, or a line that may mean two things.
    """
    if path.suffix.lower() in JSON_LINES:
        return read_json_lines(path, PATHS)
    try:
        text = text_of(path, "a list of pictures")
    except SourceError as error:
        raise SourceError(f"{error}: not a list of pictures; expected {EXPECTED}") from error
    if "\0" in text:
        line = text[: text.index("\0")].count("\n") + 1
        raise SourceError(f"{path}, line {line}: a NUL byte, so this is not a list of pictures; "
                          f"expected {EXPECTED}")  # fmt: skip
    stripped = [(k, line.strip()) for k, line in enumerate(text.splitlines(), 1)]
    lines = [(k, line) for k, line in stripped if line and line[0] != "#"]
    seen = lines[:: max(1, -(-len(lines) // LOOKED_AT))]
    there = [_there(path, line) for _, line in seen]
    if not all(there):
        unknown = [line for (_, line), found in zip(seen, there, strict=True) if not found]
        if delimiter := _delimiter(path, lines[0][1], unknown):
            rows = [(k, row) for k, row in table_rows(path, text, delimiter) if row[0][:1] != "#"]
            table = as_table(path, rows, ids=PATHS)
            if not table.rows:
                raise SourceError(f"{path}: a header and no rows; expected a picture a line")
            return table
        if path.suffix.lower() in SEPARATORS and lines[0][1].casefold() in IDS:
            return _of_paths(path, lines[1:])  # a table of one column
    if all(there) or (all(map(is_picture, (line for _, line in lines))) and not _pairs(path, seen)):
        return _of_paths(path, lines)
    rows = [(k, _parted(path, k, line, any(there))) for k, line in lines]
    if not any(len(row) > 1 for _, row in rows):
        return _of_paths(path, lines)
    full = [(f"{path}, line {k}", [*row, ""][:2]) for k, row in rows]
    return Table(str(path), ("path", "label"), full)


def _of_paths(path: Path, lines: list[tuple[int, str]]) -> Table:
    return Table(str(path), ("path",), [(f"{path}, line {k}", [line]) for k, line in lines])


def _there(path: Path, name: str) -> bool:
    """Whether a line names a file."""
    try:
        return (path.parent / name).is_file()
    except (OSError, ValueError):  # too long, or nothing that a path may be
        return False


def _delimiter(path: Path, first: str, lines: list[str]) -> str | None:
    """What parts the fields of a table; None of what is no table.

    Args:
        first: its first line.
        lines: some that are no paths as a whole.
    """
    if path.suffix.lower() in SEPARATORS:
        usual = separator(path, first)
        return usual if any(usual in line or '"' in line for line in lines) else None
    for delimiter in ("\t", ","):
        if all(delimiter in line for line in lines):
            row = next(csv.reader([lines[-1]], delimiter=delimiter), [""])
            names = next(csv.reader([first], delimiter=delimiter), [""])
            header = {name.strip().casefold() for name in names} & set(IDS)
            head = row[0].strip()
            if header or is_picture(head) or _there(path, head):
                return delimiter
    return None


def _heads(line: str) -> Iterator[tuple[str, str]]:
    """Every way to part a line in two at white space."""
    for gap in re.finditer(r"\s+", line):
        yield line[: gap.start()], line[gap.end() :]


def _pairs(path: Path, seen: list[tuple[int, str]]) -> bool:
    """Whether some line is no file, but begins with the path of one."""
    return any(
        not _there(path, line) and any(_there(path, head) for head, _ in _heads(line))
        for _, line in seen
    )


def _parted(path: Path, number: int, line: str, look: bool) -> list[str]:
    """[path] or [path, label] of a line.

    Args:
        look: whether to look for the whole line on the disk, because some of the lines that were
            looked at are there; else only where its form does not tell.
    """
    ways = list(_heads(line))
    by_form = [way for way in ways if is_picture(way[0])]
    whole = _there(path, line) if look or len(by_form) != 1 or is_picture(line) else False
    real = by_form
    if whole or len(by_form) != 1 or is_picture(line):
        real = [way for way in ways if _there(path, way[0])]
    if len(real) + whole > 1:
        raise SourceError(
            f"{path}, line {number}: {line!r:.120} may be one path, or a path and a label, since "
            "files of both names are there; write a .csv with a header, path,label"
        )
    if whole:
        return [line]
    if not real and (is_picture(line) or not by_form):
        return [line]  # a path that is missing, which will be said when it is read
    head, label = real[0] if real else by_form[-1]
    words = label.split()
    if is_picture(label):
        raise SourceError(f"{path}, line {number}: two pictures, {head!r:.80} and {label!r:.80}; "
                          "expected one path a line, or a path and a label")  # fmt: skip
    if len(words) > 1 and all(word.lstrip("-").isdecimal() for word in words):
        raise SourceError(f"{path}, line {number}: {len(words)} numbers after {head!r:.80}; "
                          "expected one label: write a .csv with a header, several labels of one "
                          "column as 3|5")  # fmt: skip
    return [head, label]
