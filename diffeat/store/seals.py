"""Checksums of whole data sets, taken while their rows go by.

HDF5 can keep a checksum with every chunk, but then compares it at every read, which halves the
speed of reading. So every data set, compressed or not, has one checksum, also the lists of
skipped pictures; `verify` compares all of them, and whatever copies features on compares theirs.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

import h5py
import numpy as np

from diffeat.errors import StoreError

ATTRIBUTE = "blake2b"


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


def check_seal(seal: Seal, data: h5py.Dataset) -> None:
    """StoreError if the rows that went by are not those that were written."""
    if seal.broken(data):
        raise StoreError(
            f"{data.file.filename}: {data.name.lstrip('/')} has another checksum than when it was "
            "written; the disk or a copy has damaged it: make the file again"
        )
