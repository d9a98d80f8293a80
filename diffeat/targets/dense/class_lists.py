"""Lists of classes: which number, or which colour, in masks means what.

    classes.txt     "0 sky", "0 sky: what it is made of" or "0,sky,128,128,128" a line; names alone
                    are numbered from 0, and so are "128 128 128 sky" (r g b name); what stands
                    behind # is passed over
    classes.csv     columns name and, if at all, id, r, g, b
    classes.json    {"classes": [{"id": 0, "name": "sky", "color": [128, 128, 128]}, …],
                    "ignore": 255}; a list of names; or names by number

Pixels of an entry called "ignore" or "void" do not count.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from diffeat.errors import SourceError
from diffeat.images.tables import SEPARATORS, same_length, separator, table_rows, text_of
from diffeat.images.walk import nfc

NAMES = ("classes.json", "classes.csv", "classes.txt")
"""What a list is called that lies beside masks, the first that is there."""
IGNORED = ("ignore", "void")
NUMBERED = re.compile(r"(\d+)\s*[\s,;:\t]\s*(\S.*)")
COLOURED = re.compile(r"(.*\S)\s*[,;\s]\s*(\d{1,3})\s*[,;\s]\s*(\d{1,3})\s*[,;\s]\s*(\d{1,3})")
COLOUR_FIRST = re.compile(r"(\d{1,3})\s+(\d{1,3})\s+(\d{1,3})\s+([^\s\d].*)")
HOW = ('expected lines such as "0 sky" or "0,sky,128,128,128", or JSON such as {"classes": '
       '[{"id": 0, "name": "sky"}], "ignore": 255}')  # fmt: skip
MOST = 1 << 16
"""Numbers in masks are below."""
MOST_CLASSES = 1 << 15


@dataclass(frozen=True)
class Entry:
    """A row of a list."""

    id: int
    name: str
    colour: tuple[int, int, int] | None = None


@dataclass(frozen=True)
class ClassList:
    """What numbers in masks mean.

    Attributes:
        name: where it comes from, for messages.
        entries: K classes by ascending id; their place is their index.
        ignored: entries of what does not count.
    """

    name: str
    entries: tuple[Entry, ...]
    ignored: tuple[Entry, ...] = ()

    @property
    def names(self) -> tuple[str, ...]:
        return tuple(one.name for one in self.entries)


def read_classes(path: str | Path) -> ClassList:
    """A list of classes, by the ending of the file.

    Raises:
        SourceError: no such file, no list, names or numbers twice.
    """
    path = Path(path)
    text = text_of(path, "a list of classes")
    if path.suffix.lower() == ".json":
        return _of_json(path, text)
    if path.suffix.lower() in SEPARATORS:
        return made(str(path), _of_table(path, text))
    return made(str(path), _of_lines(path, text))


def named(classes: Sequence[str]) -> ClassList:
    """Names, numbered from 0."""
    return made("classes", [Entry(k, str(name)) for k, name in enumerate(classes)])


def made(name: str, entries: Sequence[Entry], ignore: Sequence[int] = ()) -> ClassList:
    """A list that is checked: numbers, names and colours are there once.

    Args:
        ignore: further numbers of what does not count.
    """
    entries = [*entries, *(Entry(number, IGNORED[0]) for number in ignore)]
    counts = [one for one in entries if one.name.casefold() not in IGNORED]
    for what, values in (("number", [one.id for one in entries]),
                         ("name", [one.name for one in counts]),
                         ("colour", [one.colour for one in entries if one.colour])):  # fmt: skip
        twice = next((one for k, one in enumerate(values) if one in values[:k]), None)
        if twice is not None:
            raise SourceError(f"{name}: the {what} {twice!r} is there twice; expected each once")
    if not 0 < len(counts) < MOST_CLASSES:
        raise SourceError(f"{name}: {len(counts) or 'no'} classes; {HOW}")
    if bad := next((one for one in entries if not 0 <= one.id < MOST), None):
        raise SourceError(f"{name}: {bad.name!r} has the number {bad.id}; expected 0 … {MOST - 1}")
    kept = sorted(counts, key=lambda one: one.id)
    others = tuple(one for one in entries if one.name.casefold() in IGNORED)
    return ClassList(name, tuple(kept), others)


def _of_lines(path: Path, text: str) -> list[Entry]:
    lines = [(k, line.partition("#")[0].strip()) for k, line in enumerate(text.splitlines(), 1)]
    lines = [(k, line) for k, line in lines if line]
    matches = [COLOUR_FIRST.fullmatch(line) for _, line in lines]
    if lines and all(matches):
        colours = [_checked(path, tuple(map(int, match.groups()[:3]))) for match in matches]
        return [Entry(k, nfc(match[4].strip()), colours[k]) for k, match in enumerate(matches)]
    matches = [NUMBERED.fullmatch(line) for _, line in lines]
    if not any(matches):
        return [_entry(k, line) for k, (_, line) in enumerate(lines)]
    for (number, line), match in zip(lines, matches, strict=True):
        if match is None:
            raise SourceError(f"{path}, line {number}: {line!r:.80} has no number, others have "
                              f"one; {HOW}")  # fmt: skip
    return [_entry(int(match[1]), match[2]) for match in matches]


def _entry(number: int, text: str) -> Entry:
    """Of the rest of a line: the name, its colour if there is one, and what stands behind ":"."""
    text = text.partition(":")[0].strip()
    found = COLOURED.fullmatch(text)
    colour = tuple(int(found[k]) for k in (2, 3, 4)) if found else None
    if colour is None or max(colour) > 255:
        return Entry(number, nfc(text.strip(" ,;")))
    return Entry(number, nfc(found[1].strip(" ,;")), colour)


def _of_table(path: Path, text: str) -> list[Entry]:
    rows = table_rows(path, text, separator(path, text.partition("\n")[0]))
    header = [name.strip().casefold() for name in next(rows, (1, []))[1]]
    if "name" not in header:
        raise SourceError(f"{path}: the header names {', '.join(header) or 'nothing'}; expected "
                          "name and, if at all, id, r, g, b")  # fmt: skip
    found = []
    for line, row in rows:
        same_length(path, line, row, len(header))
        fields = dict(zip(header, (one.strip() for one in row), strict=True))
        try:
            colour = tuple(int(fields[one]) for one in "rgb") if "r" in fields else None
            number = int(fields.get("id", len(found)))
        except (KeyError, ValueError) as error:
            raise SourceError(f"{path}, line {line}: {error}; expected whole numbers under id, r, "
                              "g and b") from error  # fmt: skip
        found.append(Entry(number, nfc(fields["name"]), _checked(path, colour)))
    return found


def _of_json(path: Path, text: str) -> ClassList:
    try:
        said: Any = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise SourceError(f"{path}: {error}; {HOW}") from error
    ignore: Any = []
    if isinstance(said, Mapping) and "classes" in said:
        ignore, said = said.get("ignore", []), said["classes"]
    if isinstance(said, Mapping):
        said = [{"id": key, "name": name} for key, name in said.items()]
    ignore = [] if ignore is None else ignore if isinstance(ignore, list) else [ignore]
    try:
        entries = [_of_object(path, k, one) for k, one in enumerate(said)]
        taken = {one.id for one in entries}
        # -1 is what we write where 255 is a class: no file holds it
        more = [k for k in map(int, ignore) if k not in taken and k >= 0]
    except (KeyError, TypeError, ValueError) as error:
        raise SourceError(f"{path}: {error!r}; {HOW}") from error
    return made(str(path), entries, more)


def _of_object(path: Path, place: int, said: Any) -> Entry:
    if isinstance(said, str):
        return Entry(place, nfc(said))
    colour = said.get("color", said.get("colour"))
    colour = None if colour is None else tuple(int(one) for one in colour)
    return Entry(int(said.get("id", place)), nfc(str(said["name"])), _checked(path, colour))


def _checked(path: Path, colour: tuple[int, ...] | None) -> tuple[int, int, int] | None:
    if colour is not None and (len(colour) != 3 or min(colour) < 0 or max(colour) > 255):
        raise SourceError(f"{path}: the colour {colour}; expected three numbers 0 … 255")
    return colour
