"""The read side of shards: which pictures are finished, and whether the shards are sound."""

from __future__ import annotations

import hashlib
import itertools
import os
import re
import shutil
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import h5py
import numpy as np

from diffeat.errors import DiffeatError, StoreError
from diffeat.store.format.atomic import is_regular
from diffeat.store.format.layout import stored
from diffeat.store.format.manifest import Column, Note, parts_of
from diffeat.store.format.safety import check_links, check_texts, open_part, read_attr, read_text
from diffeat.store.write.shards import SHARD_SPANS, Span, columns_hash

DIGESTS_AHEAD = 2
SHARD_ROWS = 1 << 24
"""No shard covers more pictures."""
NAME = re.compile(r"shard-(\d{10,12})-(\d{10,12})-([0-9a-f]{32})\.h5")


@dataclass(frozen=True)
class Shard:
    """A finished shard, as far as its attributes tell.

    Attributes:
        path: where it lies.
        spans: ranges of pictures that it covers, ascending.
    """

    path: Path
    spans: tuple[Span, ...]


class Parts:
    """The folder of parts of one feature file; looks at the disk anew with each call.

    Args:
        path: the feature file that the user named.
    """

    def __init__(self, path: str | Path):
        self.path = Path(path)
        self.folder = parts_of(self.path)
        self._known: dict[str, Shard | None] = {}

    def exist(self) -> bool:
        """Whether there is a folder of parts."""
        if self.folder.is_symlink():
            raise StoreError(f"{self.folder} is a link; expected a folder: remove it")
        return self.folder.is_dir()

    def files(self) -> list[Path]:
        """Everything that has a shard's name, ascending."""
        return sorted(p for p in self.folder.glob("shard-*.h5") if NAME.fullmatch(p.name))

    def shards(self, note: Note) -> list[Shard]:
        """The shards that were made for a request, ascending; others are passed over."""
        found = []
        for path in self.files():
            if path.name not in self._known:
                shard = _look_at(path, note)
                if shard is None:  # not kept: the next one of that name may be sound
                    continue
                self._known[path.name] = shard
            found.append(self._known[path.name])
        return [shard for shard in found if shard is not None]

    def covered(self, note: Note) -> list[Span]:
        """Ranges of pictures that are in shards: ascending, apart, none twice."""
        return union(span for shard in self.shards(note) for span in shard.spans)

    def forget(self, path: Path) -> None:
        """Remove a shard."""
        path.unlink(missing_ok=True)
        self._known.pop(path.name, None)

    def ignore(self, shard: Shard) -> None:
        """Count a shard as not there."""
        self._known[shard.path.name] = None

    def remove(self) -> None:
        """Remove the folder, with the shards of whoever may still be writing.

        Shards go first: killed in between, it leaves no shard without the note of its request.
        """
        with suppress(OSError):
            for path in self.files():
                path.unlink()
        shutil.rmtree(self.folder, ignore_errors=True)


def union(spans: Iterable[Span]) -> list[Span]:
    """Ranges that overlap or touch are joined; the result ascends."""
    joined: list[Span] = []
    for start, stop in sorted(spans):
        if joined and start <= joined[-1][1]:
            joined[-1] = (joined[-1][0], max(stop, joined[-1][1]))
        else:
            joined.append((start, stop))
    return joined


def missing_spans(covered: Sequence[Span], count: int) -> list[Span]:
    """The ranges of 0 … count that are not covered."""
    edges = [0, *(edge for span in covered for edge in span), count]
    pairs = zip(edges[::2], edges[1::2], strict=True)
    return [(start, stop) for start, stop in pairs if start < stop]


def _look_at(path: Path, note: Note) -> Shard | None:
    """A shard by its attributes alone, or None if it is not one of this request.

    Nothing but attributes is touched, so that no link can be followed.
    """
    with suppress(Exception):  # h5py lets nearly every kind of error through
        if not is_regular(path):
            return None
        with open_part(path) as file:
            if read_text(file, "request") not in ("", note.request.fingerprint):
                return None
            if read_text(file, "columns") != columns_hash(note.columns or ()):
                return None
            spans = read_attr(file, "spans", 2 * SHARD_SPANS)
        spans = [(int(start), int(stop)) for start, stop in spans]
        sound = all(0 <= start < stop <= note.count for start, stop in spans)
        apart = all(a[1] <= b[0] for a, b in itertools.pairwise(spans))
        few = sum(stop - start for start, stop in spans) <= SHARD_ROWS
        if spans and sound and apart and few:
            return Shard(path, tuple(spans))
    return None


def damage(shard: Shard, note: Note, digest: Callable[[], str] | None = None) -> str | None:
    """What is wrong with a shard, or None: its checksum, and all that it claims to hold.

    Args:
        shard, note: which, and what it is of.
        digest: gives the checksum of its bytes, where somebody takes it already.
    """
    try:
        if not is_regular(shard.path):
            return "is a link"
        if (digest or partial(_digest, shard.path))() != NAME.fullmatch(shard.path.name)[3]:
            return "has another checksum than its name says"
        with open_part(shard.path) as file:
            check_links(file, shard.path)
            check_shard(file, shard, note)
    except FileNotFoundError:
        return "is gone"
    except (DiffeatError, KeyError, RuntimeError, TypeError, ValueError, OSError) as error:
        return f"is damaged ({error})"
    return None


def _digest(path: Path) -> str:
    hasher = hashlib.blake2b(digest_size=16)
    piece = memoryview(bytearray(1 << 20))
    with open(path, "rb", buffering=0) as file:
        while size := file.readinto(piece):
            hasher.update(piece[:size])
    return hasher.hexdigest()


class DigestsAhead:
    """Checksums of files, the next ones being taken in threads while one is in use.

    `self[k]` gives what waits for file k, which raises what reading raised.
    """

    def __init__(self, paths: Sequence[Path]):
        self.paths = paths
        self._pool = ThreadPoolExecutor(DIGESTS_AHEAD, thread_name_prefix="diffeat-checksum")
        self._taken: dict[int, Future] = {}

    def __getitem__(self, number: int) -> Callable[[], str]:
        for ahead in range(number, min(number + DIGESTS_AHEAD, len(self.paths))):
            if ahead not in self._taken:
                self._taken[ahead] = self._pool.submit(_digest_of_regular, self.paths[ahead])
        return self._taken[number].result

    def close(self) -> None:
        """End the threads."""
        self._pool.shutdown(cancel_futures=True)


def _digest_of_regular(path: Path) -> str:
    """The checksum, or "" of a link, which is not followed."""
    return _digest(path) if is_regular(path) else ""


def check_shard(file: h5py.File, shard: Shard, note: Note) -> None:
    """ValueError unless an open shard holds what its attributes say, in plain sight."""
    rows = check_texts(file, "ids")
    skipped = check_texts(file, "skipped_ids")
    if check_texts(file, "skipped_reason") != skipped:
        raise ValueError("as many skipped ids as reasons were expected")
    wanted = sum(stop - start for start, stop in shard.spans)
    if rows + skipped != wanted:
        raise ValueError(f"it holds {rows + skipped} pictures of the {wanted} that it claims")
    lists = [Column("index", (), "int64", {})] + [
        Column("labels", (), "int64", {}) for _ in range(note.labelled)
    ]
    for column in (*lists, *stored(note.columns)):
        _check_plain(file[column.name], column.name, (rows, *column.shape), column.dtype)
    _check_plain(file["skipped_index"], "skipped_index", (skipped,), "int64")
    held = np.sort(np.concatenate([file["index"][:], file["skipped_index"][:]]))
    if not np.array_equal(held, np.concatenate([np.arange(*span) for span in shard.spans])):
        raise ValueError("it does not hold the pictures that it claims")
    if note.labelled and rows:
        labels = file["labels"][:]
        if labels.min() < 0 or labels.max() >= len(note.class_names):
            raise ValueError("labels lie outside their names")


def _check_plain(data, name: str, shape: tuple[int, ...], dtype: str) -> None:
    """A data set that lies in one piece in this file, of the very shape and type."""
    if not isinstance(data, h5py.Dataset) or data.shape != shape or data.dtype != np.dtype(dtype):
        raise ValueError(f"{name} is {data!r}; expected {shape} {dtype}")
    if data.chunks or data.is_virtual or data.id.get_storage_size() != data.nbytes:
        raise ValueError(f"{name} claims {data.nbytes} bytes, which it does not hold")


def sizes(shards: Iterable[Shard]) -> int:
    """Bytes of shards on the disk."""
    return sum(os.path.getsize(shard.path) for shard in shards)
