"""Single rows in any order, as a shuffled training set wants them."""

from __future__ import annotations

import itertools

import h5py
import numpy as np


class RowReader:
    """Reads rows of one data set.

    What is not compressed lies in the file as one array, which is mapped into memory: a row
    then costs what its pages cost. Compressed data are read by HDF5, one chunk after the other.

    Args:
        data: (N, …) data set, checked (see `check_numbers`).
    """

    def __init__(self, data: h5py.Dataset):
        self.data = data
        offset = None if data.chunks or data.is_virtual else data.id.get_offset()
        self._map = None
        if offset is not None:  # None where the rows are so few that they lie in the header
            self._map = np.memmap(data.file.filename, data.dtype, "r", offset, data.shape)

    def read(self, rows: np.ndarray) -> np.ndarray:
        """(n, …) array of the stored dtype.

        Args:
            rows: (n,) ascending, none twice.

        Raises:
            OSError: the disk cannot be read, or a compressed chunk is damaged.
        """
        if self._map is not None:
            return np.asarray(self._map[rows])
        step = (self.data.chunks or (1,))[0]
        edges = [0, *(np.flatnonzero(np.diff(rows // step)) + 1).tolist(), len(rows)]
        out = np.empty((len(rows), *self.data.shape[1:]), self.data.dtype)
        for first, last in itertools.pairwise(edges):
            if first < last:
                start = int(rows[first])
                chunk = self.data[start : int(rows[last - 1]) + 1]
                out[first:last] = chunk[rows[first:last] - start]
        return out
