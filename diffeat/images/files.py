"""Pictures that are files: below a folder, by a glob, in a list, or named one by one."""

from __future__ import annotations

import glob as globbing
import os
import warnings
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np

from diffeat.errors import SourceError
from diffeat.images.captions import CAPTION_COLUMNS
from diffeat.images.classes import numbered
from diffeat.images.columns import (
    TargetColumn,
    check_columns,
    class_column,
    columns_of,
    text_in,
    unfit,
)
from diffeat.images.folders import classes_alike, classes_below
from diffeat.images.lists import read_list
from diffeat.images.reading import READING, glob_1, pictures_1
from diffeat.images.sources import FileSource, Source
from diffeat.images.tables import IDS, Table
from diffeat.images.videos import is_video
from diffeat.images.walk import escaped, nfc, walk, walk_glob


def from_folder(folder: Path, reading: int = READING) -> FileSource:
    """All pictures below a folder; the first folder level becomes the label if all lie in one.

    Where that level is `train`, `test` and the like, the next one does, or none.
    """
    if reading == 1:
        names, left_out = pictures_1(folder), Counter()
    else:
        names, _, left_out = walk(folder)
    if not names and any(is_video(kind) for kind in left_out):
        raise SourceError(f"{folder}: no pictures, but videos; name one, or clips:{folder} for all")
    depths = {"/" in name for name in names}
    if depths == {True, False}:
        warnings.warn(
            f"{folder}: pictures lie both in it and in its subfolders, so no labels are taken",
            stacklevel=3,
        )
    found = _files(str(folder), names, folder, reading, left_out)
    if depths == {True}:
        texts = names if reading == 1 else names_as_text(names)[0]
        first = [text.partition("/")[0] for text in texts]
        labels, class_names = numbered(first, reading)
        found = replace(found, labels=labels, class_names=class_names)
        if reading > 1 and (classes := classes_below(str(folder), texts)) != first:
            found = found.labelled(*_numbered(classes), instead=True)
    return _with_earlier(found, partial(from_folder, folder, 1))


def _numbered(classes: Sequence[str] | None) -> tuple[np.ndarray | None, tuple[str, ...]]:
    return (None, ()) if classes is None else numbered(classes)


def _with_earlier(found: FileSource, earlier: Callable[[], Source]) -> FileSource:
    return replace(found, earlier=earlier) if found.reading > 1 else found


def from_file(path: Path) -> FileSource:
    """One picture; its id is its name."""
    return _files(str(path), [path.name], path.parent)


def from_glob(pattern: str, reading: int = READING) -> FileSource:
    """Pictures that match a glob (`**` goes down); ids start at its first wildcard folder.

    Folders that look like classes are the labels (`classes_alike`).
    """
    parts = Path(pattern).parts
    first = next(k for k, part in enumerate(parts) if globbing.has_magic(part))
    root, rest = Path(*parts[:first]), "/".join(parts[first:])
    if reading == 1:
        names = [path.relative_to(root).as_posix() for path in glob_1(pattern)]
        return _files(pattern, names, root, 1)
    if ".." in parts[first:]:
        raise SourceError(
            f"{pattern}: '..' behind a wildcard; expected a glob that only leads down"
        )
    names, _, left_out = walk_glob(root, rest) if root.is_dir() else ([], [], Counter())
    found = _files(pattern, names, root, left_out=left_out)
    return by_folders(_with_earlier(found, partial(from_glob, pattern, 1)))


SAMPLE = 1000
"""Pictures of a list that are looked for."""


def from_list(path: Path, columns: Sequence[str] = ()) -> FileSource:
    """A text file with one path a line, a path and a label, or a table; see `read_list`.

    Ids are paths relative to the list's folder, whatever form the lines have. Labels are those of
    the list's column of classes; of a list without one, the folders that look like classes.

    Args:
        columns: only these, as labels and targets.
    """
    table = read_list(path)
    names = [text_in(row[0]) for _, row in table.rows]
    for (where, _), name in zip(table.rows, names, strict=True):
        if not name:
            raise SourceError(f"{where}: no path; expected that of a picture")
    paths = tuple(path.parent / name for name in names)
    ids = tuple(Path(os.path.relpath(target, path.parent)).as_posix() for target in paths)
    return with_table(FileSource(name=str(path), ids=ids, paths=paths), table, columns)


def check_there(source: Source) -> None:
    """See that some picture of a list is there, before a model is loaded.

    Raises:
        SourceError: none of those that were looked for is.
    """
    paths = getattr(source, "paths", ())
    if not paths or any(map(os.path.exists, paths[:: max(1, len(paths) // SAMPLE)])):
        return
    raise SourceError(
        f"{source.name}: none of its {len(paths):,} pictures is there; the first was looked for at "
        f"{escaped(str(paths[0]))}. Paths are relative to the list's folder; if it says the labels "
        f"of pictures that lie elsewhere, name these and give --labels {source.name}"
    )


def with_table(source: Source, table: Table, columns: Sequence[str] = ()) -> Source:
    """Pictures with the labels, targets and captions of a table that has a row for each.

    Args:
        columns: only these, as labels and targets; () takes all that are no ids or captions.
    """
    texts = next((name for name in table.columns[1:] if name in CAPTION_COLUMNS), None)
    if texts is not None:
        place = table.columns.index(texts)
        captions = tuple(text_in(row[place]) for _, row in table.rows)
        source = replace(source, captions=captions if all(captions) else None)
    return with_columns(source, table_columns(table, columns), columns)


def table_columns(table: Table, columns: Sequence[str] = ()) -> dict[str, TargetColumn]:
    """The columns of a table that say something of its pictures; see `with_table`."""
    check_columns(table.name, columns, table.columns[1:])
    known = (*CAPTION_COLUMNS, *IDS)  # a second column of ids says nothing of a picture
    others = [name for name in table.columns[1:] if name.casefold() not in known]
    return columns_of(table, columns or others, all_of=bool(columns))


def with_columns(
    source: Source, columns: Mapping[str, TargetColumn], asked: Sequence[str] = ()
) -> Source:
    """Pictures with the column of their classes as labels, and all others as targets.

    Labels are the column that `class_column` tells, else the first one of classes that is asked
    for. Where no column has classes, folders that look like such are the labels.
    """
    for name in columns:
        if bad := unfit(name):
            raise SourceError(f"{source.name}: column {name!r:.80} {bad}; rename it")
    classes = [name for name, one in columns.items() if one.kind == "class"]
    chosen = class_column(columns) or next((name for name in asked if name in classes), None)
    others = {name: column for name, column in columns.items() if name != chosen}
    if chosen is not None:
        return source.labelled(columns[chosen].values, columns[chosen].names, others)
    if source.labels is None and not classes:
        source = by_folders(source)
    return source.labelled(source.labels, source.class_names, others) if others else source


def from_paths(paths: Sequence[str | Path]) -> FileSource:
    """Paths given from Python; each is its own id, as it was written.

    Labels are taken only from folders that cannot be mistaken (`classes_alike`).
    """
    paths = tuple(Path(path) for path in paths)
    ids, faults = names_as_text([path.as_posix() for path in paths])
    found = FileSource(name="paths", ids=ids, paths=paths, faults=faults)
    return by_folders(found, strict=True)


def by_folders(source: Source, ids: Sequence[str] = (), strict: bool = False) -> Source:
    """Pictures with the folders that look like classes as labels, if there are such.

    Args:
        ids: paths to go by; () takes the ids.
        strict: of `classes_alike`.
    """
    classes = classes_alike(source.name, ids or source.ids, strict)
    return source if classes is None else source.labelled(*numbered(list(map(nfc, classes))))


def names_as_text(names: Sequence[str]) -> tuple[tuple[str, ...], dict[str, str]]:
    """Ids of files, and why some cannot be read: names that are no text are written escaped."""
    faults = {}
    found = []
    for name in names:
        text = name if name.isascii() else escaped(name)
        if text != name:
            faults[nfc(text)] = (
                "its name is no UTF-8 text (bytes that are none are shown as \\x..), so no id "
                "can be made of it; rename the file"
            )
        found.append(text)
    return tuple(found), faults


def _files(
    name: str,
    relative: Sequence[str],
    root: Path,
    reading: int = READING,
    left_out: Counter[str] | None = None,
) -> FileSource:
    """Files below `root`, by their paths there."""
    ids, faults = (tuple(relative), {}) if reading == 1 else names_as_text(relative)
    return FileSource(
        name=name,
        ids=ids,
        paths=tuple(root / path for path in relative),
        left_out=left_out or Counter(),
        faults=faults,
        reading=reading,
    )
