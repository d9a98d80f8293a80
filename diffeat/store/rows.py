"""Single rows in any order, as a shuffled training set wants them."""

from __future__ import annotations

import itertools
import math
import os
import weakref

import h5py
import numpy as np

from diffeat.errors import StoreError
from diffeat.store.sequential import SequentialReader, check_chunk


class RowReader:
    """Reads rows of one data set; a chunk's checksum is compared when it is first met.

    HDF5 reads and checks a whole chunk for each of its rows, a hundred times what a short row
    takes. Here that is done once; from then on a row is read alone. Compressed data, and rows
    that are larger than a chunk, are left to HDF5.

    Args:
        data: (N, …) data set.
    """

    def __init__(self, data: h5py.Dataset):
        self.data = data
        whole_rows = bool(data.chunks) and data.chunks[1:] == data.shape[1:]
        offsets = SequentialReader(data).offsets() if whole_rows else None
        self._offsets = None if offsets is None else offsets.reshape(-1)
        if self._offsets is not None:
            self._sound = np.zeros(len(self._offsets), bool)
            self._chunk = np.empty(data.chunks, data.dtype)
            self._descriptor = os.open(data.file.filename, os.O_RDONLY)
            weakref.finalize(self, os.close, self._descriptor)

    def read(self, rows: np.ndarray) -> np.ndarray:
        """(n, …) array of the stored dtype.

        Args:
            rows: (n,) ascending, none twice.

        Raises:
            StoreError: a checksum is wrong.
            OSError: the same, found by HDF5, or the disk cannot be read.
        """
        step = (self.data.chunks or (1,))[0]
        chunks = rows // step
        edges = [0, *(np.flatnonzero(np.diff(chunks)) + 1).tolist(), len(rows)]
        out = np.empty((len(rows), *self.data.shape[1:]), self.data.dtype)
        for first, last in itertools.pairwise(edges):
            if first < last:
                self._fill(out[first:last], rows[first:last], int(chunks[first]), step)
        return out

    def _fill(self, out: np.ndarray, rows: np.ndarray, chunk: int, step: int) -> None:
        """Rows that lie in one chunk."""
        if self._offsets is None:
            start = int(rows[0])
            out[:] = self.data[start : int(rows[-1]) + 1][rows - start]
            return
        offset, size = int(self._offsets[chunk]), math.prod(out.shape[1:]) * out.itemsize
        if not self._sound[chunk]:
            check_chunk(self._descriptor, self._chunk.reshape(-1), offset, self.data)
            self._sound[chunk] = True
            out[:] = self._chunk[rows - chunk * step]
            return
        flat = out.reshape(len(out), -1).view(np.uint8)
        for target, row in zip(flat, (rows - chunk * step).tolist(), strict=True):
            if os.preadv(self._descriptor, [target], offset + row * size) != size:
                raise StoreError(f"{self.data.file.filename}: {self.data.name} ends too soon")
