"""Reading many rows as fast as the disk gives them, with every checksum looked at.

HDF5 reads, checks and copies chunk after chunk in one thread at a time. Where rows lie in
chunks that are unbroken pieces of them and went through no filter but the checksum, the chunks
are read by several threads straight to where they belong, and checked there.

    Fletcher-32 over n big-endian words w: s1 = Σ w_i, s2 = Σ (n - i) w_i, both mod 65535

Source: Fletcher (1982), "An arithmetic checksum for serial transmissions"; HDF5's variant of it.
"""

from __future__ import annotations

import math
import os
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import product
from operator import floordiv, mul

import h5py
import numpy as np

from diffeat.errors import StoreError

FLETCHER32 = 3
COLUMNS, ROWS = 256, 128
"""Bytes are summed as matrices of 64-bit numbers, each four words; they fit in a cache."""
GROUP_BYTES = 4 << 20
"""What one thread takes at a time."""
AHEAD = 2
"""Groups per thread that wait, already announced to the disk."""
WORTHWHILE = 2 << 20
"""Less than this is left to HDF5."""
PART = 64
"""A read of less than 1 / PART of the rows is not worth a list of all chunks."""
MODULUS = 65535
EVEN_WORDS = np.uint64(0x0000FFFF0000FFFF)
SIXTEEN = np.uint64(16)
EVEN_PLACES = np.arange(0, 4 * COLUMNS, 2, dtype=np.float64)
ODD_PLACES = EVEN_PLACES + 1
ROW_PLACES = 4 * COLUMNS * np.repeat(np.arange(ROWS, dtype=np.float64), 2)
_scratch = threading.local()


def fletcher32(data: np.ndarray) -> int:
    """HDF5's checksum of bytes.

    Args:
        data: one-dimensional uint8.

    A swap of the two bytes of every word multiplies both sums by 256 modulo 65535, so the
    words are summed as this machine has them.
    """
    if data.size % 2:
        data = np.append(data, np.uint8(0))
    count, total, weighted = data.size // 2, 0, 0
    whole = data.size - data.size % (8 * COLUMNS)
    matrix = data[:whole].view("<u8").reshape(-1, COLUMNS)
    for row in range(0, len(matrix), ROWS):
        here, ahead = _sums(matrix[row : row + ROWS])
        weighted += ahead + 4 * COLUMNS * row * here
        total += here
    if whole < data.size:
        tail = data[whole:].view("<u2").astype(np.uint64)
        total += int(tail.sum())
        weighted += int((tail * np.arange(whole // 2, count, dtype=np.uint64)).sum())
    return _fold(count * total - weighted) << 16 | _fold(total)


def _sums(block: np.ndarray) -> tuple[int, int]:
    """Σ w_i and Σ i·w_i over the words of at most (ROWS, COLUMNS) 64-bit numbers.

    Words 0 and 2 of each number are summed in its two halves, then words 1 and 3. The float64
    products are exact: they stay below 2^53.
    """
    if not hasattr(_scratch, "even"):
        _scratch.even, _scratch.odd = np.empty((2, ROWS, COLUMNS), np.uint64)
    even, odd = _scratch.even[: len(block)], _scratch.odd[: len(block)]
    np.bitwise_and(block, EVEN_WORDS, out=even)
    np.right_shift(block, SIXTEEN, out=odd)
    np.bitwise_and(odd, EVEN_WORDS, out=odd)
    inner = np.add.reduce(even, 0).view("<u4") @ EVEN_PLACES
    inner += np.add.reduce(odd, 0).view("<u4") @ ODD_PLACES
    np.add(even, odd, out=even)
    rows = np.add.reduce(even, 1).view("<u4").astype(np.float64)
    return int(np.add.reduce(rows)), int(inner + rows @ ROW_PLACES[: len(rows)])


def _fold(value: int) -> int:
    """A sum as ones' complement addition leaves it: 65535 rather than 0, unless all was 0."""
    return (value * 256 % MODULUS or MODULUS) if value else 0


@dataclass(frozen=True)
class _Piece:
    """A chunk: where it lies in the file, and which elements of the answer it holds.

    `first` may be negative and `first + length` beyond the end: those elements are not wanted.
    """

    offset: int
    first: int
    length: int


class SequentialReader:
    """Reads runs of rows of one data set; remembers where its chunks lie.

    Args:
        data: (N, …) data set.
    """

    def __init__(self, data: h5py.Dataset):
        self.data = data
        self._grid = tuple(-(-n // c) for n, c in zip(data.shape, data.chunks or (), strict=False))
        self._plain = _is_plain(data)
        self._offsets: np.ndarray | None = None

    def read(
        self, start: int, stop: int, threads: int | None = None, out: np.ndarray | None = None
    ) -> np.ndarray:
        """Rows start … stop; equal to `data[start:stop]`.

        Args:
            start, stop: 0 ≤ start ≤ stop ≤ N.
            threads: how many read; None is as many as there are processors, at most 8.
            out: (stop - start, …) array of the stored dtype to read into; None makes one.

        Returns:
            (stop - start, …) array of the stored dtype.

        Raises:
            StoreError: a checksum is wrong.
            OSError: the same, found by HDF5, or the disk cannot be read.
        """
        data = self.data
        size = (stop - start) * math.prod(data.shape[1:]) * data.dtype.itemsize
        if out is None:
            out = np.empty((stop - start, *data.shape[1:]), data.dtype)
        few = size < WORTHWHILE or (self._offsets is None and (stop - start) * PART < len(data))
        if few or self.offsets() is None:
            if out.size:
                data.read_direct(out, np.s_[start:stop])
            return out
        chunk = math.prod(data.chunks) * data.dtype.itemsize
        threads = threads or min(8, len(os.sched_getaffinity(0)))
        descriptor = os.open(data.file.filename, os.O_RDONLY)
        try:
            with ThreadPoolExecutor(threads, "diffeat-read") as pool:
                jobs = []
                for group in self._groups(start, stop, max(1, GROUP_BYTES // chunk)):
                    _announce(descriptor, group, chunk)
                    jobs.append(pool.submit(_read, descriptor, group, out, data))
                    if len(jobs) > AHEAD * threads:
                        jobs.pop(0).result()
                for job in jobs:
                    job.result()
        finally:
            os.close(descriptor)
        return out

    def offsets(self) -> np.ndarray | None:
        """Where each chunk begins in the file, by chunk; None if it takes HDF5 to read them.

        HDF5 only lists all chunks at once, which is not worth it for a small part of the data.
        """
        if self._plain and self._offsets is None:
            offsets = np.full(self._grid, -1, np.int64)
            chunks = self.data.chunks
            stored = math.prod(chunks) * self.data.dtype.itemsize + 4

            def note(info) -> None:
                if info.filter_mask == 0 and info.size == stored:
                    offsets[tuple(map(floordiv, info.chunk_offset, chunks))] = info.byte_offset

            self.data.id.chunk_iter(note)
            self._plain = bool((offsets >= 0).all())
            self._offsets = offsets
        return self._offsets if self._plain else None

    def _groups(self, start: int, stop: int, size: int) -> Iterator[list[_Piece]]:
        """The chunks of some rows in order, a few at a time."""
        steps, sides = self.data.chunks, (stop - start, *self.data.shape[1:])
        strides = [math.prod(sides[axis + 1 :]) for axis in range(len(sides))]
        length, found = math.prod(steps), []
        rows = range(start - start % steps[0], stop, steps[0])
        inner = (range(0, side, step) for side, step in zip(sides[1:], steps[1:], strict=True))
        offsets = self._offsets[start // steps[0] : -(-stop // steps[0])].reshape(-1).tolist()
        for corner, offset in zip(product(rows, *inner), offsets, strict=True):
            first = sum(map(mul, corner, strides)) - start * strides[0]
            found.append(_Piece(offset, first, length))
            if len(found) == size:
                yield found
                found = []
        if found:
            yield found


def _is_plain(data: h5py.Dataset) -> bool:
    """Whether chunks are unbroken pieces of the rows, with a checksum and no other filter."""
    if not data.chunks or data.is_virtual or data.dtype.byteorder == ">":
        return False
    if not hasattr(data.id, "chunk_iter"):  # h5py over an old HDF5
        return False
    properties = data.id.get_create_plist()
    filters = [properties.get_filter(k)[0] for k in range(properties.get_nfilters())]
    if filters != [FLETCHER32]:
        return False
    split = next((axis for axis, side in enumerate(data.chunks) if side > 1), data.ndim)
    return data.chunks[split + 1 :] == data.shape[split + 1 :]


def _announce(descriptor: int, pieces, chunk: int) -> None:
    """Tell the system what will be read soon, so that the disk works meanwhile."""
    if hasattr(os, "posix_fadvise"):
        first = min(piece.offset for piece in pieces)
        last = max(piece.offset for piece in pieces) + chunk + 4
        if last - first <= 2 * GROUP_BYTES:
            os.posix_fadvise(descriptor, first, last - first, os.POSIX_FADV_WILLNEED)


def check_chunk(descriptor: int, target: np.ndarray, offset: int, data: h5py.Dataset) -> None:
    """Read a chunk and compare its checksum.

    Args:
        descriptor: of the file.
        target: one-dimensional, of a chunk's size.
        offset: where the chunk begins.
        data: whose chunk it is.

    Raises:
        StoreError: the checksum is wrong, or the file ends.
    """
    raw, trailer = target.view(np.uint8), np.empty(4, np.uint8)
    if os.preadv(descriptor, [raw, trailer], offset) != raw.size + 4:
        raise StoreError(f"{data.file.filename}: {data.name} ends too soon; make the file again")
    if fletcher32(raw) != int(trailer.view("<u4")[0]):
        raise StoreError(
            f"{data.file.filename}: {data.name} has a wrong checksum at byte {offset}; the disk "
            "or a copy has damaged it: make the file again"
        )


def _read(descriptor: int, pieces, out: np.ndarray, data: h5py.Dataset) -> None:
    """Read some chunks to where they belong and compare their checksums."""
    flat, spare = out.reshape(-1), None
    split = next((axis for axis, side in enumerate(data.chunks) if side > 1), data.ndim - 1)
    # a chunk ends where the axis that it splits ends; what lies beyond is padding
    run = math.prod(data.shape[split:]) if split else flat.size
    for piece in pieces:
        first = max(piece.first, 0)
        limit = (first // run + 1) * run if split else flat.size
        last = min(piece.first + piece.length, limit)
        if last - first == piece.length:
            check_chunk(descriptor, flat[first:last], piece.offset, data)
            continue
        spare = np.empty(piece.length, out.dtype) if spare is None else spare
        check_chunk(descriptor, spare, piece.offset, data)
        flat[first:last] = spare[first - piece.first : last - piece.first]
