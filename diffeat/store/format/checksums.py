"""Checksums of whole data sets, taken while their rows go by.

HDF5 can keep a checksum with every chunk, but then compares it at every read, which halves the
speed of reading. So every data set, compressed or not, has one checksum, also the lists of
skipped pictures; `verify` compares all of them, and whatever copies features on compares theirs.
"""

from __future__ import annotations

import hashlib
from collections import defaultdict, deque
from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor

import h5py
import numpy as np

from diffeat.errors import StoreError

ATTRIBUTE = "blake2b"
SEALS_AHEAD = 4
LISTS = ("ids", "labels", "skipped/ids", "skipped/reasons")
"""Data sets beside the features, which fit into memory."""


class Seal:
    """BLAKE2b over the rows of a data set, in order.

    blake2b-128 of the values as they lie in memory, row after row, little-endian;
    of texts, their UTF-8 with a NUL behind each
    """

    def __init__(self) -> None:
        self._hash = hashlib.blake2b(digest_size=16)

    def add(self, rows: np.ndarray | Sequence[str]) -> None:
        """The next rows: (n, …) numbers, or n texts as bytes or str."""
        # never an array of a list: in one of texts each would be as long as the longest
        if not isinstance(rows, np.ndarray) or rows.dtype.kind in "OU":
            for text in rows:
                self._hash.update(text if isinstance(text, bytes) else str(text).encode())
                self._hash.update(b"\0")
            return
        plain = np.ascontiguousarray(rows, rows.dtype.newbyteorder("<"))
        self._hash.update(plain.reshape(-1).view(np.uint8))

    @property
    def value(self) -> str:
        return self._hash.hexdigest()

    def write(self, data: h5py.Dataset) -> None:
        """Leave the checksum with its data set."""
        data.attrs[ATTRIBUTE] = self.value

    def broken(self, data: h5py.Dataset) -> bool:
        """Whether the data set says otherwise; those of older versions say nothing."""
        try:
            found = data.attrs.get(ATTRIBUTE)
        except Exception:  # h5py lets nearly every kind of error through
            return True
        return found is not None and found != self.value


class Seals:
    """Seals by name, taken in another thread while the next rows are fetched and written.

    A context manager. Rows that were added must not change any more.
    """

    def __init__(self) -> None:
        self._seals: defaultdict[str, Seal] = defaultdict(Seal)
        self._pool = ThreadPoolExecutor(1, thread_name_prefix="diffeat-seal")
        self._waiting: deque[Future] = deque()

    def __enter__(self) -> Seals:
        return self

    def __exit__(self, *exc) -> None:
        self._pool.shutdown(cancel_futures=True)

    def add(self, name: str, rows: np.ndarray | Sequence[str]) -> None:
        """The next rows of one data set; at most SEALS_AHEAD calls wait."""
        self._waiting.append(self._pool.submit(self._seals[name].add, rows))
        self._wait(SEALS_AHEAD)

    def write(self, file: h5py.File) -> None:
        """Leave the checksums with their data sets."""
        self._wait(0)
        for name, seal in self._seals.items():
            seal.write(file[name])

    def _wait(self, most: int) -> None:
        while len(self._waiting) > most:
            self._waiting.popleft().result()


def list_broken(data: h5py.Dataset) -> bool:
    """Whether a data set that fits into memory is not what was written."""
    seal = Seal()
    seal.add(data[:])
    return seal.broken(data)


def check_lists(file: h5py.File) -> None:
    """StoreError if ids, labels or skipped pictures of a feature file are damaged."""
    for name in LISTS:
        if name in file and list_broken(file[name]):
            raise _damaged(file[name])


def check_seal(seal: Seal, data: h5py.Dataset) -> None:
    """StoreError if the rows that went by are not those that were written."""
    if seal.broken(data):
        raise _damaged(data)


def _damaged(data: h5py.Dataset) -> StoreError:
    return StoreError(
        f"{data.file.filename}: {data.name.lstrip('/')} has another checksum than when it was "
        "written; the disk or a copy has damaged it: make the file again"
    )
