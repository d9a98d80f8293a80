"""Captions of pictures, one per id, from a table or a file of JSON lines."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import islice
from pathlib import Path

from diffeat.errors import SourceError, nearest
from diffeat.images.walk import nfc

ID_COLUMNS = ("id", "file_name", "path")
CAPTION_COLUMNS = ("caption", "prompt", "text")
EXPECTED = f"a column {' or '.join(ID_COLUMNS)} and a column {' or '.join(CAPTION_COLUMNS)}"
COMPARED = 5000  # ids among which a mistyped one is looked for; comparing is slow

Row = tuple[int, str, str]
"""(line, id, caption)."""


def read_captions(path: str | Path) -> dict[str, str]:
    """Captions by picture id, from .csv, .tsv or .jsonl (.ndjson), in UTF-8.

    A table has a header line, JSON lines are objects. The id is under `id`, else `file_name`,
    else `path`; the caption under `caption`, else `prompt`, else `text`. Empty lines and other
    columns do not matter. An empty caption is one, the empty text.

    Raises:
        SourceError: no such file, another format, a line without id or caption, or two
            different captions for one id. It names the file and the line.
    """
    path = Path(path)
    readers = {".csv": _table, ".tsv": _table, ".jsonl": _json_lines, ".ndjson": _json_lines}
    reader = readers.get(path.suffix.lower())
    if reader is None:
        raise SourceError(
            f"{path}: a caption file ends in {', '.join(readers)}; rename or convert it"
        )
    captions: dict[str, str] = {}
    lines: dict[str, int] = {}
    for line, name, caption in reader(path, _text(path)):
        if captions.setdefault(name, caption) != caption:
            raise SourceError(
                f"{path}, line {line}: another caption for {name!r} than in line {lines[name]}; "
                "expected one per id, remove one of them"
            )
        lines.setdefault(name, line)
    if not captions:
        raise SourceError(f"{path}: no captions; expected {EXPECTED}, one row per picture")
    return captions


def captions_for(
    source_ids: Sequence[str], captions: Mapping[str, str], where: str | Path
) -> list[str]:
    """The caption of every picture, in the order of `source_ids`; ids must agree exactly.

    Args:
        source_ids: N picture ids.
        captions: from `read_captions`; may hold more pictures.
        where: the caption file, for messages.

    Raises:
        SourceError: some pictures have no caption.
    """
    spelled = {nfc(name): caption for name, caption in captions.items()}  # as ids are
    captions = {**spelled, **captions}
    missing = [name for name in source_ids if name not in captions]
    if missing:
        raise SourceError(
            f"{where}: no caption for {len(missing)} of {len(source_ids)} pictures, first "
            f"{missing[0]!r}{_nearest_id(missing[0], captions)}; expected one row per picture, "
            "with its id as the source has it"
        )
    return [captions[name] for name in source_ids]


def _nearest_id(name: str, known: Iterable[str]) -> str:
    """As `nearest`, but first among the ids of files with the same name, wherever they lie."""
    known = list(known)
    alike = [key for key in known if _stem(key) == _stem(name)]
    return nearest(name, alike[:COMPARED]) or nearest(name, islice(known, COMPARED))


def _stem(name: str) -> str:
    return name.rpartition("/")[2].partition(".")[0]


def _text(path: Path) -> str:
    try:
        raw = path.read_bytes()
        return raw.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = raw[: error.start].count(b"\n") + 1
        raise SourceError(f"{path}, line {line}: {error}; expected UTF-8 text") from error
    except OSError as error:
        raise SourceError(f"{path}: {error.strerror}; expected a file of captions") from error


def _table(path: Path, text: str) -> Iterator[Row]:
    """Rows of a .csv or .tsv; the line is the last one of a row that spans several."""
    delimiter = "\t" if path.suffix.lower() == ".tsv" else ","
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter, strict=True)
    try:
        header = [name.strip() for name in next(reader, [])]
        columns = _column(header, ID_COLUMNS), _column(header, CAPTION_COLUMNS)
        if None in columns:
            raise SourceError(
                f"{path}, line 1: the header names {', '.join(header) or 'no columns'}; "
                f"expected {EXPECTED}"
            )
        for row in reader:
            if row and len(row) != len(header):
                raise SourceError(
                    f"{path}, line {reader.line_num}: {len(row)} fields; expected {len(header)} "
                    "as in the header (put a caption that contains the separator in quotes)"
                )
            if row:
                yield _row(path, reader.line_num, *(row[column] for column in columns))
    except csv.Error as error:
        raise SourceError(
            f"{path}, line {reader.line_num}: {error}; expected fields separated by "
            f"{delimiter!r}, in closed double quotes where needed"
        ) from error


def _json_lines(path: Path, text: str) -> Iterator[Row]:
    # not splitlines: JSON texts may contain U+2028 and its like
    for number, line in enumerate(text.split("\n"), start=1):
        if not line.strip():
            continue
        try:
            record = json.loads(line)
        except (ValueError, RecursionError) as error:
            raise SourceError(
                f"{path}, line {number}: {error}; expected one JSON object a line"
            ) from error
        record = record if isinstance(record, dict) else {}
        names = [key for key in ID_COLUMNS if key in record]
        texts = [key for key in CAPTION_COLUMNS if key in record]
        if not names or not texts:
            raise SourceError(f"{path}, line {number}: expected a JSON object with {EXPECTED}")
        yield _row(path, number, record[names[0]], record[texts[0]])


def _column(header: list[str], wanted: Sequence[str]) -> int | None:
    """Where the first of the wanted columns stands."""
    return next((header.index(name) for name in wanted if name in header), None)


def _row(path: Path, line: int, name: object, caption: object) -> Row:
    if not isinstance(name, str) or not isinstance(caption, str) or not name:
        raise SourceError(
            f"{path}, line {line}: id {name!r:.80} with caption {caption!r:.80}; expected two "
            "texts, the id not empty"
        )
    return line, name, caption
