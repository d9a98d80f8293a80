"""Sets of pictures: folders, globs, list files and arrays, all seen as one `Source`.

An id is the path below the folder that the user named, with forward slashes. It seeds the
picture's noise, so it must not depend on the machine or on where the folder lies.
"""

from __future__ import annotations

import glob as globbing
import hashlib
import os
import warnings
from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from PIL import Image

from diffeat.errors import SourceError
from diffeat.hashing import fingerprint, unit_interval
from diffeat.images.decode import decode

SUFFIXES = frozenset(
    (".jpg", ".jpeg", ".png", ".webp", ".bmp", ".gif", ".tif", ".tiff", ".ppm", ".pgm", ".pbm",
     ".jp2", ".avif")
)  # fmt: skip

SAMPLE = 1 << 15  # bytes of either end of a file that go into its hash


@dataclass(frozen=True, repr=False)
class Source(ABC):
    """A fixed, ordered set of pictures.

    Attributes:
        name: what the user typed.
        ids: N distinct strings.
        labels: (N,) int64 class indices, or None.
        class_names: names of the classes, by index.
        captions: one text per picture, or None.
    """

    name: str
    ids: tuple[str, ...]
    labels: np.ndarray | None = None
    class_names: tuple[str, ...] = ()
    captions: tuple[str, ...] | None = field(default=None, kw_only=True)

    def __post_init__(self) -> None:
        if not self.ids:
            raise SourceError(
                f"{self.name}: no pictures found; expected files ending in "
                f"{', '.join(sorted(SUFFIXES))}, flat or in one subfolder per class"
            )
        twice = [name for name, count in Counter(self.ids).items() if count > 1]
        if twice:
            raise SourceError(
                f"{self.name}: {len(twice)} pictures occur more than once, first {twice[0]!r}; "
                "every picture needs its own id, so list each file once"
            )

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

    def fingerprint(self) -> str:
        """Hash of the ids, the labels and the contents, in order; captions need not be used."""
        labels = None if self.labels is None else self.labels.tolist()
        return fingerprint(self.ids, labels, self.class_names, self.content())

    @abstractmethod
    def content(self) -> str:
        """Hash of what the pictures hold; changes when a picture is replaced."""

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
            return self.take(sorted(order[:count]))
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
            advice = f"ask for at most {most} (--limit)" if most else "leave that class out"
            raise SourceError(
                f"{self.name}: class {self.class_names[classes[short[0]]]!r} has too few "
                f"pictures ({have[short[0]]}) for a class-balanced subset of {count}; {advice}"
            )
        return self.take(sorted(chosen))

    def _selection(self, indices: Sequence[int] | np.ndarray) -> dict:
        picked = [int(index) for index in indices]
        return {
            "name": self.name,
            "ids": tuple(self.ids[i] for i in picked),
            "labels": None if self.labels is None else self.labels[picked],
            "class_names": self.class_names,
            "captions": None if self.captions is None else tuple(self.captions[i] for i in picked),
        }


@dataclass(frozen=True, repr=False)
class FileSource(Source):
    """Pictures that are files. `paths` runs parallel to `ids`."""

    paths: tuple[Path, ...] = field(default=(), repr=False)

    def content(self) -> str:
        """Hash of every file's size, first and last 32 KiB; missing files count as such."""
        hasher = hashlib.blake2b(digest_size=16)
        for path in self.paths:
            hasher.update(sample_file(path))
        return hasher.hexdigest()

    def load(self, index: int) -> Image.Image:
        return decode(lambda: str(self.paths[index]), self.ids[index])

    def take(self, indices: Sequence[int] | np.ndarray) -> FileSource:
        paths = tuple(self.paths[int(index)] for index in indices)
        return FileSource(**self._selection(indices), paths=paths)


@dataclass(frozen=True, repr=False)
class ArraySource(Source):
    """Pictures that lie in memory or in a memory-mapped file: uint8, (N, H, W) or (N, H, W, 3)."""

    pixels: np.ndarray = field(default_factory=lambda: np.empty(0), repr=False)

    def content(self) -> str:
        """Hash of all pixels."""
        return hashlib.blake2b(np.ascontiguousarray(self.pixels), digest_size=16).hexdigest()

    def load(self, index: int) -> Image.Image:
        return Image.fromarray(np.ascontiguousarray(self.pixels[index])).convert("RGB")

    def take(self, indices: Sequence[int] | np.ndarray) -> ArraySource:
        return ArraySource(**self._selection(indices), pixels=self.pixels[np.asarray(indices)])


def from_folder(folder: Path) -> FileSource:
    """All pictures below a folder; the first folder level becomes the label if all lie in one."""
    found = sorted(
        (
            Path(parent, name)
            for parent, names in _walk(folder)
            for name in names
            if _is_picture(Path(parent, name).relative_to(folder))
        ),
        key=lambda path: path.relative_to(folder).as_posix(),
    )
    depths = {len(path.relative_to(folder).parts) > 1 for path in found}
    if depths == {True, False}:
        warnings.warn(
            f"{folder}: pictures lie both in it and in its subfolders, so no labels are taken",
            stacklevel=3,
        )
    return _files(str(folder), found, folder, labelled=depths == {True})


def sample_file(path: Path, start: int = 0, length: int | None = None) -> bytes:
    """A file's size with its first and last bytes: whole small pictures, cheap for large ones.

    Args:
        path: the file; one that cannot be read gives b"unreadable".
        start, length: take only this part of it, in bytes.
    """
    try:
        with open(path, "rb") as file:
            total = file.seek(0, os.SEEK_END) - start if length is None else length
            file.seek(start)
            first = file.read(min(SAMPLE, total))
            file.seek(start + max(SAMPLE, total - SAMPLE))
            return str(total).encode() + first + file.read(max(0, min(SAMPLE, total - SAMPLE)))
    except OSError:
        return b"unreadable"


def from_file(path: Path) -> FileSource:
    """One picture; its id is its name."""
    return _files(str(path), [path], path.parent)


def _walk(folder: Path) -> Iterator[tuple[str, list[str]]]:
    """Every folder below with its file names; linked folders count, loops of links do not."""
    for parent, folders, names in os.walk(folder, followlinks=True):
        here = Path(parent).resolve()
        folders[:] = [n for n in folders if not here.is_relative_to(Path(parent, n).resolve())]
        yield parent, names


def from_glob(pattern: str) -> FileSource:
    """Pictures that match a glob (`**` goes down); ids start at its first wildcard folder."""
    fixed = []
    for part in Path(pattern).parts:
        if globbing.has_magic(part):
            break
        fixed.append(part)
    found = [Path(hit) for hit in sorted(globbing.glob(pattern, recursive=True))]
    pictures = [path for path in found if path.is_file() and _is_picture(Path(path.name))]
    return _files(pattern, pictures, Path(*fixed))


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
    return FileSource(name="paths", ids=tuple(path.as_posix() for path in paths), paths=paths)


def _is_picture(relative: Path) -> bool:
    hidden = any(part.startswith(".") for part in relative.parts)
    return relative.suffix.lower() in SUFFIXES and not hidden


def _files(name: str, paths: list[Path], root: Path, labelled: bool = False) -> FileSource:
    relative = [path.relative_to(root) for path in paths]
    labels, class_names = None, ()
    if labelled and paths:
        class_names = tuple(sorted({path.parts[0] for path in relative}))
        index = {name: k for k, name in enumerate(class_names)}
        labels = np.array([index[path.parts[0]] for path in relative], dtype=np.int64)
    ids = tuple(path.as_posix() for path in relative)
    return FileSource(
        name=name, ids=ids, labels=labels, class_names=class_names, paths=tuple(paths)
    )
