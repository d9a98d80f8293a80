"""Pictures that are files: below a folder, by a glob, in a list, or named one by one."""

from __future__ import annotations

import glob as globbing
import os
import warnings
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np

from diffeat.errors import SourceError
from diffeat.images.classes import sort_classes
from diffeat.images.reading import READING, glob_1, pictures_1
from diffeat.images.sources import FileSource, Source
from diffeat.images.walk import escaped, nfc, walk, walk_glob


def from_folder(folder: Path, reading: int = READING) -> FileSource:
    """All pictures below a folder; the first folder level becomes the label if all lie in one."""
    if reading == 1:
        names, left_out = pictures_1(folder), Counter()
    else:
        names, _, left_out = walk(folder)
    depths = {"/" in name for name in names}
    if depths == {True, False}:
        warnings.warn(
            f"{folder}: pictures lie both in it and in its subfolders, so no labels are taken",
            stacklevel=3,
        )
    found = _files(str(folder), names, folder, depths == {True}, reading, left_out)
    return _with_earlier(found, partial(from_folder, folder, 1))


def _with_earlier(found: FileSource, earlier: Callable[[], Source]) -> FileSource:
    return replace(found, earlier=earlier) if found.reading > 1 else found


def from_file(path: Path) -> FileSource:
    """One picture; its id is its name."""
    return _files(str(path), [path.name], path.parent)


def from_glob(pattern: str, reading: int = READING) -> FileSource:
    """Pictures that match a glob (`**` goes down); ids start at its first wildcard folder."""
    parts = Path(pattern).parts
    first = next(k for k, part in enumerate(parts) if globbing.has_magic(part))
    root, rest = Path(*parts[:first]), "/".join(parts[first:])
    if reading == 1:
        names = [path.relative_to(root).as_posix() for path in glob_1(pattern)]
        return _files(pattern, names, root, reading=1)
    if ".." in parts[first:]:
        raise SourceError(
            f"{pattern}: '..' behind a wildcard; expected a glob that only leads down"
        )
    names, _, left_out = walk_glob(root, rest) if root.is_dir() else ([], [], Counter())
    found = _files(pattern, names, root, left_out=left_out)
    return _with_earlier(found, partial(from_glob, pattern, 1))


def from_list(path: Path) -> FileSource:
    """A text file with one path a line, relative to its folder; '#' starts a comment line.

    Ids are paths relative to the list's folder, whatever form the lines have.
    """
    try:
        lines = path.read_text(encoding="utf-8-sig").splitlines()
    except (UnicodeDecodeError, OSError) as error:
        raise SourceError(
            f"{path}: not a list of pictures ({error}); expected UTF-8 text, one path a line"
        ) from error
    stripped = [line.strip() for line in lines]
    names = [line for line in stripped if line and not line.startswith("#")]
    paths = tuple(path.parent / name for name in names)
    ids = tuple(Path(os.path.relpath(target, path.parent)).as_posix() for target in paths)
    return FileSource(name=str(path), ids=ids, paths=paths)


def from_paths(paths: Sequence[str | Path]) -> FileSource:
    """Paths given from Python; each is its own id, as it was written."""
    paths = tuple(Path(path) for path in paths)
    ids, faults = names_as_text([path.as_posix() for path in paths])
    return FileSource(name="paths", ids=ids, paths=paths, faults=faults)


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
    labelled: bool = False,
    reading: int = READING,
    left_out: Counter[str] | None = None,
) -> FileSource:
    """Files below `root`, by their paths there."""
    ids, faults = (tuple(relative), {}) if reading == 1 else names_as_text(relative)
    labels, class_names = None, ()
    if labelled and ids:
        class_names = sort_classes((path.partition("/")[0] for path in ids), reading)
        index = {name: k for k, name in enumerate(class_names)}
        labels = np.array([index[path.partition("/")[0]] for path in ids], dtype=np.int64)
    return FileSource(
        name=name,
        ids=ids,
        labels=labels,
        class_names=class_names,
        paths=tuple(root / path for path in relative),
        left_out=left_out or Counter(),
        faults=faults,
        reading=reading,
    )
