"""Files that lists and annotations name: below one folder, and nowhere else."""

from __future__ import annotations

import json
import os
import posixpath
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from diffeat.coords import Size
from diffeat.errors import PictureError, SourceError
from diffeat.images.digests import check_regular
from diffeat.images.masks import stored_size
from diffeat.images.tables import separator, table_rows
from diffeat.images.walk import nfc

Records = list[tuple[str, dict[str, str]]]
"""Where a row stands, and its fields by column."""


class Below:
    """The pictures of a folder, by paths below it; each is looked at once.

    Args:
        root: the folder that ids start at.
        within: the folder that no link may lead out of, which may itself be reached by one; None
            is `root`.
    """

    def __init__(self, root: Path, within: Path | None = None):
        self.root = Path(root)
        self._real = os.path.realpath(self.root if within is None else within)
        self._known: dict[str, str] = {}
        self._paths: dict[str, str] = {}
        self._sizes: dict[str, Size] = {}

    def picture(self, name: str, where: str) -> str:
        """The id of a picture: its path below the folder, without "." and doubled slashes, in NFC.

        Args:
            name: its path, as it is written.
            where: that names it, for messages.

        Raises:
            SourceError: a path that leads out of the folder, by ".." or a link, or that is whole;
                nothing there, or what is no file.
        """
        if name not in self._known:
            path = posixpath.normpath(name) if name else ""
            self._check(name, path, where)
            key = nfc(path)
            if self._paths.setdefault(key, path) != path:
                raise SourceError(f"{where}: {path!a} and {self._paths[key]!a} are one name in two "
                                  "spellings (Unicode NFC and NFD); rename one")  # fmt: skip
            self._known[name] = key
        return self._known[name]

    def path(self, key: str) -> Path:
        """Where a picture lies, by its id."""
        return self.root / self._paths[key]

    def _check(self, name: str, path: str, where: str) -> None:
        if not path or path == ".":
            raise SourceError(f"{where}: {name!r:.120} names nothing; expected a path below "
                              f"{self.root}")  # fmt: skip
        if "\0" in path or path.startswith(("/", "../")) or path == ".." or os.path.isabs(path):
            raise SourceError(
                f"{where}: {name!r:.120} leads out of the folder; expected a path below {self.root}"
            )
        full = self.root / path
        try:
            check_regular(full)
        except FileNotFoundError as error:
            raise SourceError(
                f"{where}: {name!r:.120} is missing; expected it at {full}"
            ) from error
        except OSError as error:
            raise SourceError(f"{where}: {full}: {error}; expected a file") from error
        if not is_inside(full, self._real):
            raise SourceError(
                f"{where}: a link leads {name!r:.120} out of {self.root}; expected files in it: "
                "copy what the link leads to"
            )

    def size(self, name: str, where: str) -> Size:
        """(height, width) of the upright picture, from its header.

        Raises:
            SourceError: as for `picture`; or what cannot be read as a picture.
        """
        if name not in self._sizes:
            self.picture(name, where)
            try:
                (height, width), turn = stored_size(self.root / posixpath.normpath(name))
            except PictureError as error:
                raise SourceError(f"{where}: {error}") from error
            self._sizes[name] = (width, height) if turn >= 5 else (height, width)
        return self._sizes[name]


def is_inside(path: Path, folder: str) -> bool:
    """Whether a file lies below a folder, wherever links lead; `folder` is a real path."""
    # no pathlib: this is asked for each of twelve thousand annotations
    return os.path.realpath(path).startswith(folder.rstrip("/") + "/")


def read_below(path: Path, within: Path, expected: str) -> bytes:
    """What a file of annotations holds.

    Args:
        path: of the file.
        within: the folder that no link may lead out of.
        expected: what it is, for messages.

    Raises:
        SourceError: not there, no file (a pipe would be waited for), or a link out of the folder.
    """
    try:
        check_regular(path)
        if not is_inside(path, os.path.realpath(within)):
            raise SourceError(f"{path}: a link leads out of {within}; expected {expected} in it")
        return path.read_bytes()
    except OSError as error:
        raise SourceError(f"{path}: {error.strerror or error}; expected {expected}") from error


def read_text(path: Path, within: Path, expected: str) -> str:
    """The same as UTF-8 text."""
    try:
        return read_below(path, within, expected).decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise SourceError(f"{path}: {error}; expected {expected} in UTF-8") from error


def read_matrix(path: Path, within: Path, shape: tuple[int, int]) -> np.ndarray:
    """A matrix, float64, of numbers in text with white space between them.

    Raises:
        SourceError: as for `read_below`; other words, other than so many numbers, not finite.
    """
    words = read_text(path, within, f"a matrix of {shape[0]}×{shape[1]}").split()
    try:
        values = np.array([float(word) for word in words])
    except ValueError as error:
        raise SourceError(
            f"{path}: cannot be read ({error}); expected {shape[0]}×{shape[1]} numbers"
        ) from error
    if values.size != shape[0] * shape[1] or not np.isfinite(values).all():
        raise SourceError(
            f"{path}: {values.size} numbers, {int(np.isfinite(values).sum())} of them finite; "
            f"expected {shape[0]}×{shape[1]} finite ones"
        )
    return values.reshape(shape)


def table_lines(
    path: Path, within: Path, check: Callable[[Path, tuple[str, ...]], None]
) -> tuple[tuple[str, ...], Iterator[tuple[int, dict[str, str]]]]:
    """A .csv or .tsv with a header; its rows are made one by one.

    Args:
        check: raises SourceError for a header that is wrong, before the rows are looked at.

    Returns:
        columns: their names.
        rows: in which line each stands, and its fields by column.

    Raises:
        SourceError: as for `read_below`; rows of another length than the header.
    """
    text = read_text(path, within, "a table")
    delimiter = separator(path, text.partition("\n")[0])
    lines = iter(table_rows(path, text, delimiter))
    header = next(lines, None)
    columns = tuple(name.strip() for name in header[1]) if header else ()
    check(path, columns)
    return columns, _fields(path, columns, delimiter, lines)


def _fields(
    path: Path, columns: tuple[str, ...], delimiter: str, lines: Iterator[tuple[int, list[str]]]
) -> Iterator[tuple[int, dict[str, str]]]:
    for line, row in lines:
        if len(row) != len(columns):
            raise SourceError(
                f"{path}, line {line}: {len(row)} fields; expected {len(columns)} as in the header "
                f"(numbers have a decimal point, no comma; a name with {delimiter!r} is in quotes)"
            )
        yield line, dict(zip(columns, row, strict=True))


def read_records(
    path: Path, within: Path, check: Callable[[Path, tuple[str, ...]], None]
) -> tuple[tuple[str, ...], Records]:
    """The same, all rows at once, with where each stands in words."""
    columns, rows = table_lines(path, within, check)
    return columns, [(f"{path}, line {line}", row) for line, row in rows]


def read_json_object(path: Path, within: Path, wanted: Sequence[str]) -> dict[str, Any]:
    """The same as an object in JSON.

    Args:
        wanted: what it must have.

    Raises:
        SourceError: as for `read_below`; no JSON, no object, or one that lacks something.
    """
    try:
        found = json.loads(read_below(path, within, "a file of annotations"))
    except (ValueError, RecursionError) as error:
        if isinstance(error, SourceError):
            raise
        raise SourceError(f"{path}: {error}; expected one JSON object: fetch it again") from error
    is_object = isinstance(found, dict)
    if not is_object or any(name not in found for name in wanted):
        lacking = ", ".join(name for name in wanted if not is_object or name not in found)
        raise SourceError(f"{path}: {f'has no {lacking}' if is_object else 'no object'}; expected "
                          f"a JSON object with {', '.join(wanted)}")  # fmt: skip
    return found
