"""Checksums of whole data sets, taken while their rows go by.

    blake2b-128 of the values as they lie in memory, row after row, little-endian;
    of texts, their UTF-8 with a NUL behind each

HDF5 can keep a checksum with every chunk, but then compares it at every read, which halves the
speed of reading. So every data set, compressed or not, has one checksum, also the lists of
skipped pictures; `verify` compares all of them, and whatever copies features on compares theirs.
"""

from __future__ import annotations

import hashlib
from collections import defaultdict, deque
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path

import h5py
import numpy as np

from diffeat.errors import StoreError

ATTRIBUTE = "blake2b"
BLOCK_BYTES = 8 << 20
"""What is copied or looked at together."""
CALLS_AHEAD = 4
LISTS = ("ids", "labels", "skipped/ids", "skipped/reasons")
"""Data sets beside the features, which fit into memory."""


def new_hash(data: bytes = b""):
    """BLAKE2b-128 of some bytes, to which more may be added."""
    return hashlib.blake2b(data, digest_size=16)


def feed(hasher, rows: np.ndarray | Sequence[str]) -> None:
    """The next rows of a data set: (n, …) numbers, or n texts as bytes or str."""
    # never an array of a list: in one of texts each would be as long as the longest
    if not isinstance(rows, np.ndarray) or rows.dtype.kind in "OU":
        for text in rows:
            hasher.update(text if isinstance(text, bytes) else str(text).encode())
            hasher.update(b"\0")
        return
    plain = np.ascontiguousarray(rows, rows.dtype.newbyteorder("<"))
    hasher.update(plain.reshape(-1).view(np.uint8))


def checksum(rows: np.ndarray | Sequence[str]) -> str:
    """The checksum of a data set that is there at once."""
    hasher = new_hash()
    feed(hasher, rows)
    return hasher.hexdigest()


def file_checksum(path: Path) -> str:
    """The same hash of a file's bytes."""
    hasher = new_hash()
    piece = memoryview(bytearray(1 << 20))
    with open(path, "rb", buffering=0) as file:
        while size := file.readinto(piece):
            hasher.update(piece[:size])
    return hasher.hexdigest()


def write_list(file: h5py.File, name: str, values: np.ndarray | Sequence[str]) -> None:
    """Fill a data set at once, and leave its checksum with it."""
    file[name][:] = values
    file[name].attrs[ATTRIBUTE] = checksum(values)


def differs(data: h5py.Dataset, found: str) -> bool:
    """Whether a data set names another checksum; those of older versions name none."""
    try:
        named = data.attrs.get(ATTRIBUTE)
    except Exception:  # h5py lets nearly every kind of error through
        return True
    return named is not None and named != found


def list_differs(data: h5py.Dataset) -> bool:
    """Whether a data set that fits into memory is not what was written."""
    return differs(data, checksum(data[:]))


def lists_in(file: h5py.File) -> tuple[str, ...]:
    """`LISTS`, and those of the further targets of a feature file that has been checked."""
    return (*LISTS, *(f"targets/{name}" for name in file.get("targets", ())))


def check_lists(file: h5py.File) -> None:
    """StoreError if ids, labels, targets or skipped pictures of a feature file are damaged."""
    for name in lists_in(file):
        if name in file and list_differs(file[name]):
            raise _damaged(file[name])


def checked_blocks(data, multiple: int | None = None) -> Iterator[tuple[int, np.ndarray]]:
    """(first row, rows) of a data set, some MiB at a time.

    Args:
        data: an h5py data set, or what has its manners, of which there is no checksum.
        multiple: of so many rows; by default of those that HDF5 keeps together.

    Raises:
        StoreError: at the end, if the rows are not those that were written.
    """
    multiple = multiple or (data.chunks or (1,))[0]
    row = max(1, data.nbytes // max(1, len(data)))
    step = max(1, BLOCK_BYTES // row // multiple) * multiple
    hasher = new_hash()
    for start in range(0, len(data), step):
        rows = data[start : start + step]
        feed(hasher, rows)
        yield start, rows
    if isinstance(data, h5py.Dataset) and differs(data, hasher.hexdigest()):
        raise _damaged(data)


def _damaged(data: h5py.Dataset) -> StoreError:
    return StoreError(
        f"{data.file.filename}: {data.name.lstrip('/')} has another checksum than when it was "
        "written; the disk or a copy has damaged it: make the file again"
    )


class Checksums:
    """Checksums by data set, taken in another thread while the next rows are fetched and written.

    A context manager. Rows that were added must not change any more.
    """

    def __init__(self) -> None:
        self._hashes: defaultdict[str, hashlib.blake2b] = defaultdict(new_hash)
        self._pool = ThreadPoolExecutor(1, thread_name_prefix="diffeat-checksum")
        self._waiting: deque[Future] = deque()

    def __enter__(self) -> Checksums:
        return self

    def __exit__(self, *exc) -> None:
        self._pool.shutdown(cancel_futures=True)

    def add(self, name: str, rows: np.ndarray | Sequence[str]) -> None:
        """The next rows of one data set; at most CALLS_AHEAD calls wait."""
        self._waiting.append(self._pool.submit(feed, self._hashes[name], rows))
        self._wait(CALLS_AHEAD)

    def write(self, file: h5py.File) -> None:
        """Leave the checksums with their data sets."""
        self._wait(0)
        for name, hasher in self._hashes.items():
            file[name].attrs[ATTRIBUTE] = hasher.hexdigest()

    def _wait(self, most: int) -> None:
        while len(self._waiting) > most:
            self._waiting.popleft().result()
