"""Sets of pictures: files and arrays, all seen as one `Source`.

An id is the path below the folder that the user named, with forward slashes. It seeds the
picture's noise, so it must not depend on the machine or on where the folder lies.
"""

from __future__ import annotations

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
from diffeat.images.columns import TargetColumn
from diffeat.images.decode import decode
from diffeat.images.digests import (
    check_regular,
    digest_of_bytes,
    digest_of_file,
    digest_of_nothing,
    look,
    stats_of,
)
from diffeat.images.reading import READING, content_1
from diffeat.images.walk import SUFFIXES, left_out_text, nfc


@dataclass(frozen=True, repr=False)
class Source(ABC):
    """A fixed, ordered set of pictures.

    Attributes:
        name: what the user typed.
        ids: N distinct strings.
        labels: (N,) int64 class indices, or None.
        class_names: names of the classes, by index.
        captions: one text per picture, or None.
        targets: what else is to be predicted of the pictures, by name.
        left_out: how many files and folders of each sort were found and not taken.
        faults: reasons for which pictures cannot be read, by id, as far as they are known.
        reading: by which rule pictures are read (see `diffeat.images.reading`). By rule 2, ids
            and class names are NFC, so that copies of a folder on other systems have equal ids.
        earlier: gives the same source as rule 1 reads it, where that is more than the same
            pictures with the ids that they have.
        before: gives the same pictures with the labels, or without, that they had before
            somebody told them others; files that were made so go on so.
    """

    name: str
    ids: tuple[str, ...]
    labels: np.ndarray | None = None
    class_names: tuple[str, ...] = ()
    captions: tuple[str, ...] | None = field(default=None, kw_only=True)
    targets: Mapping[str, TargetColumn] = field(default_factory=dict, kw_only=True)
    left_out: Counter[str] = field(default_factory=Counter, kw_only=True, compare=False)
    faults: Mapping[str, str] = field(default_factory=dict, kw_only=True)
    reading: int = field(default=READING, kw_only=True)
    earlier: Callable[[], Source] | None = field(default=None, kw_only=True, compare=False)
    before: Callable[[], Source] | None = field(default=None, kw_only=True, compare=False)

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
        """Hash of ids, labels, targets and contents, in order; captions need not be used.

        Args:
            digests: of `digests`, where they are known already.
        """
        labels = None if self.labels is None else self.labels.tolist()
        targets = [(n, c.kind, c.names, c.values.tolist()) for n, c in self.targets.items()]
        others = (targets,) if targets else ()
        return fingerprint(self.ids, labels, self.class_names, self.content(digests), *others)

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
        for name in ("earlier", "before"):
            if (other := getattr(self, name)) is not None:
                taken = replace(taken, **{name: partial(_limited, other, count, seed)})
        return taken

    def labelled(
        self,
        labels: np.ndarray | None,
        class_names: Sequence[str] = (),
        targets: Mapping[str, TargetColumn] | None = None,
        instead: bool = False,
    ) -> Source:
        """The same pictures with other labels.

        Where there were none, or `instead`, a feature file that was made without them, or with
        those so far, goes on as it is (`before`).

        Args:
            labels: (N,) int64, -1 where there is none; None for no labels.
            class_names: of the classes.
            targets: further ones; None leaves them as they are.
            instead: whether the labels so far were taken wrongly.
        """
        before = self.before
        if before is None and (instead or self.labels is None):
            before = partial(_itself, self)
        targets = self.targets if targets is None else targets
        return replace(self, labels=labels, class_names=tuple(class_names), targets=targets,
                       before=before)  # fmt: skip

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
            "targets": {name: column.take(picked) for name, column in self.targets.items()},
            "faults": {self.ids[i]: self.faults[self.ids[i]] for i in picked
                       if self.ids[i] in self.faults},
            "reading": self.reading,
            "earlier": self.earlier and partial(_taken, self.earlier, ids),
            "before": self.before and partial(_taken, self.before, ids),
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


def _itself(source: Source) -> Source:
    return source


def _limited(earlier: Callable[[], Source], count: int, seed: int) -> Source:
    return earlier().limit(count, seed)
