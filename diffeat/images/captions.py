"""Captions of pictures, one per id, from a table or a file of JSON lines."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from itertools import islice
from pathlib import Path

from diffeat.errors import SourceError, nearest
from diffeat.images.tables import ID_COLUMNS, TABLES, read_columns, text_of
from diffeat.images.walk import nfc

CAPTION_COLUMNS = ("caption", "prompt", "text")
EXPECTED = f"a column {' or '.join(ID_COLUMNS)} and a column {' or '.join(CAPTION_COLUMNS)}"
COMPARED = 5000  # ids among which a mistyped one is looked for; comparing is slow


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
    if path.suffix.lower() not in TABLES:
        raise SourceError(
            f"{path}: a caption file ends in {', '.join(TABLES)}; rename or convert it"
        )
    text = text_of(path, "a file of captions")
    captions: dict[str, str] = {}
    lines: dict[str, int] = {}
    for line, row in read_columns(path, text, (ID_COLUMNS, CAPTION_COLUMNS), EXPECTED):
        name, caption = _checked(path, line, *row)
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
            f"{missing[0]!r}{nearest_id(missing[0], captions)}; expected one row per picture, "
            "with its id as the source has it"
        )
    return [captions[name] for name in source_ids]


def nearest_id(name: str, known: Iterable[str]) -> str:
    """As `nearest`, but first among the ids of files with the same name, wherever they lie."""
    known = list(known)
    alike = [key for key in known if _stem(key) == _stem(name)]
    return nearest(name, alike[:COMPARED]) or nearest(name, islice(known, COMPARED))


def _stem(name: str) -> str:
    return name.rpartition("/")[2].partition(".")[0]


def _checked(path: Path, line: int, name: object, caption: object) -> tuple[str, str]:
    if not isinstance(name, str) or not isinstance(caption, str) or not name:
        raise SourceError(
            f"{path}, line {line}: id {name!r:.80} with caption {caption!r:.80}; expected two "
            "texts, the id not empty"
        )
    return name, caption
