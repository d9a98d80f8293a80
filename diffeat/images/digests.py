"""What pictures hold, byte by byte, without reading again what is known.

A digest is BLAKE2b-128 of a picture's own bytes, as they lie in its file, in its archive or in
its record. Beside it goes the file's stat (size, mtime and ctime in ns, inode): a file whose
stat is as noted holds what it held, any other is read. A file that changed a moment before it was
looked at may have changed again within the same tick of its file system's clock, so its stat
tells nothing and it is read, too.
"""

from __future__ import annotations

import hashlib
import os
import stat
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from diffeat.progress import counted

if TYPE_CHECKING:
    from diffeat.images.sources import Source

PIECE = 1 << 20
THREADS = 4
"""Most threads that read and hash."""
RUN = 64
"""Pictures that a thread takes together."""
SETTLED_NS = 2_000_000_000
"""Age of a file's last change from which its stat tells it from later ones."""
STAT = ("size", "mtime_ns", "ctime_ns", "inode")


class Seen(NamedTuple):
    """What is known of pictures.

    Attributes:
        ids: N picture ids.
        digests: (N, 16) uint8.
        stats: (N, 4) int64, see STAT, of the file that holds each picture; zeros where it is
            not known. None where no picture lies in a file.
        when: ns since 1970, when the stats were taken.
    """

    ids: Sequence[str]
    digests: np.ndarray
    stats: np.ndarray | None
    when: int

    def take(self, indices: Sequence[int] | np.ndarray) -> Seen:
        """What is known of the pictures at `indices`, in that order."""
        ids = [self.ids[index] for index in indices]
        stats = None if self.stats is None else self.stats[indices]
        return Seen(ids, self.digests[indices], stats, self.when)

    def settled(self) -> np.ndarray:
        """(N,) bool: whose stat tells the file from any later state of it."""
        if self.stats is None:
            return np.zeros(len(self.ids), bool)
        return self.stats.any(1) & (self.stats[:, 1:3].max(1) < self.when - SETTLED_NS)


def look(source: Source, noted: Seen | None = None) -> Seen:
    """The digests of a source's pictures; what is noted and not changed since is not read.

    Args:
        source: N pictures.
        noted: from an earlier look, of these or other pictures.
    """
    now = time.time_ns()
    stats = source.stats()
    digests = np.zeros((len(source), 16), np.uint8)
    fresh = np.ones(len(source), bool)
    if noted is not None and noted.stats is not None and stats is not None:
        rows = _places(noted.ids, source.ids)
        known = (rows >= 0) & noted.settled()[rows]
        known[known] = (noted.stats[rows[known]] == stats[known]).all(1)
        digests[known] = noted.digests[rows[known]]
        fresh = ~known
    _hash(source, np.flatnonzero(fresh), digests)
    return Seen(source.ids, digests, stats, now)


def _places(known: Sequence[str], wanted: Sequence[str]) -> np.ndarray:
    """(N,) where each id stands among others, or -1."""
    if len(known) == len(wanted) and all(map(str.__eq__, known, wanted)):
        return np.arange(len(wanted))
    place = {name: row for row, name in enumerate(known)}
    return np.array([place.get(name, -1) for name in wanted], np.int64)


def _hash(source: Source, indices: np.ndarray, digests: np.ndarray) -> None:
    """Fill in the digests of some pictures, in threads."""
    if not len(indices):
        return
    runs = np.split(indices, range(RUN, len(indices), RUN))

    def hash_run(run: np.ndarray) -> int:
        for index in run:
            digests[index] = np.frombuffer(source.digest(int(index)), np.uint8)
        return len(run)

    threads = min(THREADS, len(os.sched_getaffinity(0)), len(runs))
    pool = ThreadPoolExecutor(threads, thread_name_prefix="diffeat-digest")
    try:  # a bar only where it takes seconds
        with counted(len(indices), desc="read", unit="pictures", delay=3) as bar:
            for done in pool.map(hash_run, runs):
                bar.update(done)
    finally:
        pool.shutdown(cancel_futures=True)


def digest_of_bytes(data: bytes | memoryview) -> bytes:
    """BLAKE2b-128."""
    return hashlib.blake2b(data, digest_size=16).digest()


def digest_of_file(path: Path, start: int = 0, length: int | None = None) -> bytes:
    """BLAKE2b-128 of a file or of a part of it, read in pieces.

    Raises:
        OSError: it cannot be read, is no regular file, or is shorter.
    """
    hasher = hashlib.blake2b(digest_size=16)
    # plain calls: for small files they cost half of what file objects do
    file = os.open(path, os.O_RDONLY | os.O_NONBLOCK)  # a pipe would be waited for
    try:
        found = os.fstat(file)
        if not stat.S_ISREG(found.st_mode):
            raise OSError("no regular file")
        stop = start + length if length is not None else found.st_size
        while start < stop:
            piece = os.pread(file, min(PIECE, stop - start), start)
            if not piece:
                raise EOFError(f"{path} has been shortened")
            hasher.update(piece)
            start += len(piece)
    finally:
        os.close(file)
    return hasher.digest()


def digest_of_nothing(name: str) -> bytes:
    """Stands for a picture that cannot be read; another one for each."""
    return digest_of_bytes(b"unreadable\0" + name.encode("utf-8", "surrogateescape"))


def check_regular(path: Path | str) -> None:
    """OSError unless it is a file: whoever opens a pipe or a device may wait for ever."""
    if not stat.S_ISREG(os.stat(path).st_mode):
        raise OSError("no regular file")


def stats_of(paths: Sequence[Path | str | None]) -> np.ndarray:
    """(N, 4) int64 of files, see STAT; zeros for what is not there. None is no file."""
    found = np.zeros((len(paths), 4), np.int64)
    last, row = None, None
    for index, path in enumerate(paths):
        if path is None:
            continue
        if path is not last:  # members of an archive share its stat
            last, row = path, _stat(path)
        if row is not None:
            found[index] = row
    return found


def _stat(path: Path | str) -> tuple[int, int, int, int] | None:
    try:
        one = os.stat(path)
    except OSError:
        return None
    return one.st_size, one.st_mtime_ns, one.st_ctime_ns, one.st_ino & (1 << 63) - 1
