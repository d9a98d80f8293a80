"""The protocol that all readers of masks and of depth maps follow, and files, which most are."""

from __future__ import annotations

import warnings
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from types import MappingProxyType
from typing import Protocol

import numpy as np

from diffeat.coords import Placement, Size
from diffeat.errors import PictureError, SourceError, SpecError
from diffeat.hashing import fingerprint
from diffeat.images import Source, move_mask, stored_size, upright_mask
from diffeat.images.below import is_inside
from diffeat.images.digests import digest_of_file
from diffeat.images.masks import is_unclear
from diffeat.progress import counted
from diffeat.targets.by_id import match_ids


class DenseTargets(ABC):
    """What is known of every pixel of N pictures, by picture id.

    Attributes:
        name: where they come from, for messages: "camvid:train", "masks/".
        kind: "masks" (a class a pixel) or "depth" (metres).
        classes: K names of classes, by index; () of depth.
        ignore: label of pixels that do not count; 255, or -1 where there are more classes.
        palette: (K, 3) uint8 colours of the classes; None where nothing is said.
        ids: N picture ids; those of `pictures()`.
        groups: N names of what a picture belongs to (drive, scene, city); its id if to nothing.
        left_out: what was found and not taken, and why ("pictures without a mask" → how many).
        noted: what was taken though it is odd.
    """

    name: str
    kind: str
    classes: tuple[str, ...]
    ignore: int
    palette: np.ndarray | None
    ids: tuple[str, ...]
    groups: tuple[str, ...]
    left_out: Mapping[str, int]
    noted: Mapping[str, int] = MappingProxyType({})

    def __len__(self) -> int:
        return len(self.ids)

    def __getitem__(self, row: int) -> np.ndarray:
        return self.target(row)

    @abstractmethod
    def pictures(self) -> Source:
        """The pictures, in this order.

        Raises:
            SourceError: they are known by their ids alone.
        """

    @abstractmethod
    def target(self, row: int) -> np.ndarray:
        """What is known of one picture's pixels, upright; read when it is asked for.

        Returns:
            (H, W) uint8 class indices, and `ignore` (int16 where that is -1); or (H, W) float32
            metres, nan where nothing is known.

        Raises:
            PictureError: a file that cannot be read as that, or of another size.
        """

    @abstractmethod
    def size(self, row: int) -> Size:
        """(H, W) of one upright picture, from its header, or its mask's where it is not there."""

    @property
    def sizes(self) -> np.ndarray:
        """(N, 2) int32 heights and widths of the upright pictures; headers are read."""
        return np.array([self.size(row) for row in range(len(self))], np.int32).reshape(-1, 2)

    @property
    @abstractmethod
    def fingerprint(self) -> str:
        """Hash of the ids, of the files and of what their numbers mean, for work that is kept."""

    @abstractmethod
    def take(self, rows: Sequence[int] | np.ndarray) -> DenseTargets:
        """Some of the pictures, by index."""

    def rows(self, ids: Sequence[str]) -> np.ndarray:
        """(N,) int64 rows of these pictures among picture ids, such as a file's; -1 if none."""
        return match_ids(self.ids, ids).rows


class Reader(Protocol):
    """From one file to numbers that mean the same in all of them.

    Attributes:
        kind, classes, ignore, palette: of `DenseTargets`.
        empty: value of what nothing is known of.
    """

    kind: str
    classes: tuple[str, ...]
    ignore: int
    palette: np.ndarray | None

    def read(self, path: Path) -> np.ndarray:
        """(H, W) as the file lies on the disk; PictureError where it cannot be read."""

    def about(self) -> list:
        """What tells readings apart, for fingerprints."""


@dataclass(frozen=True, eq=False, repr=False)
class FileTargets(DenseTargets):
    """A file of its own for each picture.

    Attributes:
        files: N paths of masks or depth maps.
        reader: reads them.
        within: the folder that no link may lead out of.
        opened: gives the pictures; None where their ids alone are known.
        paths: N picture files, whose headers tell sizes and turns; () where they are not known.
        known: id → (H, W) of the upright picture, where there are no files.
        frame: "upright" or "stored" (`upright_mask`); None goes by the size.
        moved: whether files of another size than the picture are brought to it by nearest.
        unclear: the first file whose size did not tell how it was drawn, of which is warned.
    """

    name: str
    ids: tuple[str, ...]
    files: tuple[Path, ...]
    reader: Reader
    within: Path
    groups: tuple[str, ...] = ()
    opened: Callable[[], Source] | None = None
    paths: tuple[Path, ...] = ()
    known: Mapping[str, Size] = field(default_factory=dict)
    left_out: Mapping[str, int] = field(default_factory=dict)
    noted: Mapping[str, int] = field(default_factory=dict)
    frame: str | None = None
    moved: bool = False
    unclear: list[Path] = field(default_factory=list, repr=False)

    def __post_init__(self) -> None:
        groups = self.groups or ("",) * len(self.ids)
        own = tuple(group or one for group, one in zip(groups, self.ids, strict=True))
        object.__setattr__(self, "groups", own)

    def __repr__(self) -> str:
        classes = f", {len(self.classes)} classes" if self.classes else ""
        return f"{type(self).__name__}({self.name!r}, {len(self)} pictures, {self.kind}{classes})"

    @property
    def kind(self) -> str:
        return self.reader.kind

    @property
    def classes(self) -> tuple[str, ...]:
        return self.reader.classes

    @property
    def ignore(self) -> int:
        return self.reader.ignore

    @property
    def palette(self) -> np.ndarray | None:
        return self.reader.palette

    def pictures(self) -> Source:
        if self.opened is None:
            raise SourceError(f"{self.name}: where the pictures lie is not known, only their ids; "
                              "name them, too")  # fmt: skip
        source = self.opened()
        if source.ids == self.ids:
            return source
        row_of = {one: row for row, one in enumerate(source.ids)}
        return source.take([row_of[one] for one in self.ids])

    def target(self, row: int) -> np.ndarray:
        path = self.files[row]
        check_inside(path, self.within)
        found = self.reader.read(path)
        if self.moved and found.shape != self.size(row):
            return self._brought(found, self.size(row))
        try:
            if self.paths:
                stored, turn = stored_size(self.paths[row])
                frame = self.frame
                if frame is None and is_unclear(found.shape, stored, turn):
                    frame = self._seen_upright(path, turn)
                return upright_mask(found, stored, turn, frame=frame, name=str(path))
            if self.ids[row] in self.known:
                return self._of_size(found, self.known[self.ids[row]], path)
        except SpecError as error:
            raise PictureError(self.ids[row], str(error)) from error
        return found

    def _seen_upright(self, path: Path, turn: int) -> str:
        """Warns once, and not of each of many files."""
        if not self.unclear:
            self.unclear.append(path)
            warnings.warn(
                f"{path}: whether it was drawn over the picture as seen or as stored (EXIF "
                f"orientation {turn}) cannot be told from its size; as seen is assumed, of others "
                "like it too: if it was not, turn the masks, or say frame='stored' to open_dense",
                stacklevel=3,
            )
        return "upright"

    def _of_size(self, found: np.ndarray, size: Size, path: Path) -> np.ndarray:
        if found.shape == tuple(size):
            return found
        shown = ["×".join(map(str, one)) for one in (found.shape, size)]
        turned = found.shape == tuple(size)[::-1]
        way = ("it may be drawn over a picture that EXIF turns: name the pictures, too" if turned
               else "it belongs to another picture, or was resized")  # fmt: skip
        raise SpecError(f"{path} is {shown[0]}, its picture {shown[1]}; {way}")

    def _brought(self, found: np.ndarray, size: Size) -> np.ndarray:
        return move_mask(found, Placement.of_fit(found.shape, size), ignore=self.ignore)

    def size(self, row: int) -> Size:
        if self.paths:
            (height, width), turn = stored_size(self.paths[row])
            return (width, height) if turn >= 5 else (height, width)
        if self.ids[row] in self.known:
            return tuple(self.known[self.ids[row]])
        return self.target(row).shape

    @cached_property
    def fingerprint(self) -> str:
        digests = []
        with counted(len(self), desc=self.kind, unit="files", delay=3) as bar:
            for path in self.files:
                check_inside(path, self.within)
                digests.append(digest_of_file(path).hex())
                bar.update(1)
        about = self.reader.about()
        return fingerprint(self.ids, self.groups, digests, about, self.frame, self.moved)

    def take(self, rows: Sequence[int] | np.ndarray) -> FileTargets:
        rows = np.arange(len(self))[np.asarray(rows)].tolist()
        some = {name: tuple(getattr(self, name)[row] for row in rows)
                for name in ("ids", "files", "groups", "paths") if getattr(self, name)}  # fmt: skip
        return replace(self, **some)


def check_inside(path: Path, within: Path) -> None:
    """PictureError for a link that leads out of a folder, or what is no file."""
    if not path.is_file():
        raise PictureError(str(path), "missing, or no file; restore it")
    if not is_inside(path, str(within.resolve())):
        raise PictureError(str(path), f"a link leads out of {within}; copy the file there")
