"""Sets of pictures: folders, globs, list files and arrays, all seen as one `Source`.

An id is the path below the folder that the user named, with forward slashes. It seeds the
picture's noise, so it must not depend on the machine or on where the folder lies.
"""

from __future__ import annotations

import glob as globbing
import os
import warnings
from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from functools import partial
from pathlib import Path

import numpy as np
from PIL import Image

from diffeat.errors import PictureError, SourceError
from diffeat.hashing import fingerprint, unit_interval
from diffeat.images.classes import sort_classes
from diffeat.images.decode import decode
from diffeat.images.digests import (
    check_regular,
    digest_of_bytes,
    digest_of_file,
    digest_of_nothing,
    look,
    stats_of,
)
from diffeat.images.reading import READING, content_1, glob_1, pictures_1
from diffeat.images.walk import SUFFIXES, escaped, left_out_text, nfc, walk, walk_glob


@dataclass(frozen=True, repr=False)
class Source(ABC):
    """A fixed, ordered set of pictures.

    Attributes:
        name: what the user typed.
        ids: N distinct strings.
        labels: (N,) int64 class indices, or None.
        class_names: names of the classes, by index.
        captions: one text per picture, or None.
        left_out: how many files and folders of each sort were found and not taken.
        faults: reasons for which pictures cannot be read, by id, as far as they are known.
        reading: by which rule pictures are read (see `diffeat.images.reading`). By rule 2, ids
            and class names are NFC, so that copies of a folder on other systems have equal ids.
        earlier: gives the same source as rule 1 reads it, where that is more than the same
            pictures with the ids that they have.
    """

    name: str
    ids: tuple[str, ...]
    labels: np.ndarray | None = None
    class_names: tuple[str, ...] = ()
    captions: tuple[str, ...] | None = field(default=None, kw_only=True)
    left_out: Counter[str] = field(default_factory=Counter, kw_only=True, compare=False)
    faults: Mapping[str, str] = field(default_factory=dict, kw_only=True)
    reading: int = field(default=READING, kw_only=True)
    earlier: Callable[[], Source] | None = field(default=None, kw_only=True, compare=False)

    def __post_init__(self) -> None:
        if self.reading >= 2:
            self._normalise()
        if not self.ids:
            others = f" (left out: {left_out_text(self.left_out)})" if self.left_out else ""
            raise SourceError(
                f"{self.name}: no pictures found{others}; expected files ending in "
                f"{', '.join(sorted(SUFFIXES))}, flat or in one subfolder per class"
            )
        twice = [name for name, count in Counter(self.ids).items() if count > 1]
        if twice:
            raise SourceError(
                f"{self.name}: {len(twice)} pictures occur more than once, first {twice[0]!r}; "
                "every picture needs its own id, so list each file once"
            )

    def _normalise(self) -> None:
        """Bring ids and class names to NFC; SourceError where that makes two of them one."""
        ids, names = map(nfc, self.ids), map(nfc, self.class_names)
        found = {"ids": tuple(ids), "class_names": tuple(names)}
        if found["ids"] == tuple(self.ids) and found["class_names"] == tuple(self.class_names):
            return
        for what, values in found.items():
            before: dict[str, str] = {}
            for old, new in zip(getattr(self, what), values, strict=True):
                if before.setdefault(new, old) != old:
                    raise SourceError(
                        f"{self.name}: {before[new]!a} and {old!a} are one name in two "
                        "spellings (Unicode NFC and NFD); rename one of them"
                    )
        if self.earlier is None:
            plain = {one.name: getattr(self, one.name) for one in fields(self)}
            object.__setattr__(self, "earlier", partial(type(self), **{**plain, "reading": 1}))
        for what, values in found.items():
            object.__setattr__(self, what, values)

    def by_rule(self, reading: int) -> Source:
        """This source as another rule of reading has it (see `diffeat.images.reading`)."""
        if reading == self.reading:
            return self
        if reading != 1:
            raise SourceError(
                f"{self.name}: rule of reading {reading!r}; this version knows rules up to "
                f"{READING}: update diffeat"
            )
        return replace(self, reading=1) if self.earlier is None else self.earlier()

    def __len__(self) -> int:
        return len(self.ids)

    def __repr__(self) -> str:
        classes = f", {len(self.class_names)} classes" if self.labels is not None else ""
        return f"{type(self).__name__}({self.name!r}, {len(self)} pictures{classes})"

    @abstractmethod
    def load(self, index: int) -> Image.Image:
        """Decode picture `index` as RGB; raises PictureError."""

    @abstractmethod
    def take(self, indices: Sequence[int] | np.ndarray) -> Source:
        """The pictures at `indices`, in that order."""

    def fingerprint(self, digests: np.ndarray | None = None) -> str:
        """Hash of the ids, the labels and the contents, in order; captions need not be used.

        Args:
            digests: of `digests`, where they are known already.
        """
        labels = None if self.labels is None else self.labels.tolist()
        return fingerprint(self.ids, labels, self.class_names, self.content(digests))

    def content(self, digests: np.ndarray | None = None) -> str:
        """Hash of what the pictures hold, every byte; changes when a picture is replaced."""
        if self.reading == 1:
            return content_1(self)
        return digest_of_bytes((self.digests() if digests is None else digests).data).hex()

    def digests(self) -> np.ndarray:
        """(N, 16) uint8: BLAKE2b-128 of each picture's own bytes."""
        return look(self).digests

    def digest(self, index: int) -> bytes:
        """BLAKE2b-128 of one picture's bytes; by default of its pixels, as they are decoded.

        A picture that cannot be read has a digest of its own.
        """
        try:
            pixels = np.asarray(self.load(index))
        except PictureError:
            return digest_of_nothing(self.ids[index])
        return digest_of_array(pixels)

    def stats(self) -> np.ndarray | None:
        """(N, 4) int64 of the files that hold the pictures (`diffeat.images.digests.STAT`).

        Zeros where it is not known, None where no picture lies in a file.
        """
        return None

    def limit(self, count: int, seed: int = 0) -> Source:
        """A subset of `count` pictures chosen by a stable hash of their ids, in source order.

        With labels it is class-balanced: each of the K classes that occur gives count / K
        pictures (the first ones one more where that does not divide), so none may have fewer.

        Raises:
            SourceError: there are fewer pictures (in total, or in a class) than asked for.
        """
        if not 0 < count <= len(self):
            raise SourceError(f"{self.name}: {count} pictures asked for, it has {len(self)}")
        order = sorted(range(len(self)), key=lambda i: unit_interval("limit", seed, self.ids[i]))
        labelled = () if self.labels is None else self.labels[self.labels >= 0]
        if not len(labelled):
            return self._limited(order[:count], count, seed)
        # names without pictures, or gaps in the numbers of classes, take no share
        classes, have = np.unique(labelled, return_counts=True)
        share, rest = divmod(count, len(classes))
        quota = {int(k): share + (place < rest) for place, k in enumerate(classes)}
        chosen = []
        for index in order:
            label = int(self.labels[index])
            if quota.get(label, 0) > 0:
                quota[label] -= 1
                chosen.append(index)
        short = [place for place, left in enumerate(quota.values()) if left > 0]
        if short:
            # the first classes may give one more than the smallest has, up to that one
            most = have.min() * len(have) + int(np.argmin(have))
            raise SourceError(
                f"{self.name}: class {self.class_names[classes[short[0]]]!r} has too few "
                f"pictures ({have[short[0]]}) for a class-balanced subset of {count}; ask for "
                f"at most {most} (--limit)"
            )
        return self._limited(chosen, count, seed)

    def _limited(self, indices: Sequence[int], count: int, seed: int) -> Source:
        taken = self.take(sorted(indices))
        if self.earlier is None:
            return taken
        return replace(taken, earlier=partial(_limited, self.earlier, count, seed))

    def check_readable(self, index: int | None = None) -> None:
        """PictureError if a picture, or None for any, is known to be unreadable."""
        names = self.faults if index is None else (self.ids[index],)
        for name in names:
            if name in self.faults:
                raise PictureError(name, self.faults[name])

    def _selection(self, indices: Sequence[int] | np.ndarray) -> dict:
        picked = [int(index) for index in indices]
        ids = tuple(self.ids[i] for i in picked)
        return {
            "name": self.name,
            "ids": ids,
            "labels": None if self.labels is None else self.labels[picked],
            "class_names": self.class_names,
            "captions": None if self.captions is None else tuple(self.captions[i] for i in picked),
            "faults": {self.ids[i]: self.faults[self.ids[i]] for i in picked
                       if self.ids[i] in self.faults},
            "reading": self.reading,
            "earlier": self.earlier and partial(_taken, self.earlier, ids),
        }  # fmt: skip


@dataclass(frozen=True, repr=False)
class FileSource(Source):
    """Pictures that are files. `paths` runs parallel to `ids`."""

    paths: tuple[Path, ...] = field(default=(), repr=False)

    def digest(self, index: int) -> bytes:
        try:
            return digest_of_file(self.paths[index])
        except (OSError, EOFError):
            return digest_of_nothing(self.ids[index])

    def stats(self) -> np.ndarray:
        return stats_of(self.paths)

    def load(self, index: int) -> Image.Image:
        self.check_readable(index)
        return decode(lambda: regular(self.paths[index]), self.ids[index], self.reading)

    def take(self, indices: Sequence[int] | np.ndarray) -> FileSource:
        paths = tuple(self.paths[int(index)] for index in indices)
        return FileSource(**self._selection(indices), paths=paths)


@dataclass(frozen=True, repr=False)
class ArraySource(Source):
    """Pictures that lie in memory or in a memory-mapped file: uint8, (N, H, W) or (N, H, W, 3)."""

    pixels: np.ndarray = field(default_factory=lambda: np.empty(0), repr=False)

    def digest(self, index: int) -> bytes:
        """Of the shape, the type and the values of the picture's array."""
        return digest_of_array(self.pixels[index])

    def load(self, index: int) -> Image.Image:
        return Image.fromarray(np.ascontiguousarray(self.pixels[index])).convert("RGB")

    def take(self, indices: Sequence[int] | np.ndarray) -> ArraySource:
        return ArraySource(**self._selection(indices), pixels=self.pixels[np.asarray(indices)])


def digest_of_array(pixels: np.ndarray) -> bytes:
    """BLAKE2b-128 of an array's type, shape and values, little-endian."""
    pixels = np.ascontiguousarray(pixels, pixels.dtype.newbyteorder("<"))
    return digest_of_bytes(f"{pixels.dtype.str}{pixels.shape}".encode() + pixels.tobytes())


def regular(path: Path | str) -> str:
    """A path that may be opened without waiting."""
    check_regular(path)
    return str(path)


def _taken(earlier: Callable[[], Source], ids: Sequence[str]) -> Source:
    """The pictures with these ids (in NFC) of a source as rule 1 has it."""
    source = earlier()
    place = {nfc(name): index for index, name in enumerate(source.ids)}
    lacking = next((name for name in ids if name not in place), None)
    if lacking is not None:
        raise SourceError(f"{source.name}: versions before 0.7 took no picture {lacking!r}")
    return source.take([place[name] for name in ids])


def _limited(earlier: Callable[[], Source], count: int, seed: int) -> Source:
    return earlier().limit(count, seed)


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
