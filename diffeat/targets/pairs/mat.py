"""Plain arrays of numbers out of a .mat (MATLAB's level 5), and nothing else.

Read here and not by SciPy, whose reader crashes the process on some damaged files. Structures,
cells, objects and functions are passed over; nothing in a file is run.

Source: "MAT-File Format", MathWorks, level 5: a header of 128 bytes, then elements of type, number
of bytes and data, padded to eight bytes; small ones have both in one word.
"""

from __future__ import annotations

import math
import struct
import zlib
from collections.abc import Iterator

import numpy as np

HEADER = 128
NUMBERS = {1: "i1", 2: "u1", 3: "i2", 4: "u2", 5: "i4", 6: "u4", 7: "f4", 9: "f8", 12: "i8",
           13: "u8"}  # fmt: skip
"""Types of elements with numbers."""
MATRIX, COMPRESSED = 14, 15
PLAIN = range(6, 16)
"""Classes of arrays that are of numbers: double, single, int8 … uint64."""
MOST_BYTES = 1 << 26
"""No element is larger when it is unpacked."""


def read_arrays(raw: bytes) -> dict[str, np.ndarray]:
    """Name → array, of all arrays of real numbers in a file.

    Raises:
        ValueError: not such a file, or a damaged one.
    """
    order = {b"IM": "<", b"MI": ">"}.get(raw[126:128])
    if order is None or len(raw) < HEADER:
        raise ValueError("no .mat of MATLAB's level 5 (versions 5 to 7.2)")
    found = {}
    for kind, data in _elements(raw[HEADER:], order):
        if kind == COMPRESSED:
            kind, data = next(_elements(_unpacked(data), order), (0, b""))
        if kind == MATRIX and (one := _array(data, order)) is not None:
            found[one[0]] = one[1]
    return found


def _unpacked(data: bytes) -> bytes:
    try:
        unpacked = zlib.decompressobj().decompress(data, MOST_BYTES)
    except zlib.error as error:
        raise ValueError(f"cannot be unpacked ({error})") from error
    if len(unpacked) == MOST_BYTES:
        raise ValueError(f"an array of more than {MOST_BYTES:,} bytes")
    return unpacked


def _elements(data: bytes, order: str) -> Iterator[tuple[int, bytes]]:
    """(type, data) of the elements in a row."""
    at = 0
    while at + 8 <= len(data):
        kind, count = struct.unpack_from(f"{order}II", data, at)
        start, stop = at + 8, at + 8 + count
        if kind >> 16:  # a small element
            count, kind = kind >> 16, kind & 0xFFFF
            start, stop = at + 4, at + 4 + count
            if count > 4:
                raise ValueError(f"a small element of {count} bytes")
        if stop > len(data):
            raise ValueError(
                f"truncated: an element of {count:,} bytes, {len(data) - start:,} left"
            )
        yield kind, data[start:stop]
        at = stop if kind == COMPRESSED else at + 8 if start == at + 4 else stop + -stop % 8


def _array(data: bytes, order: str) -> tuple[str, np.ndarray] | None:
    """Name and values of a matrix; None where it is not of real numbers."""
    parts = []
    for one in _elements(data, order):  # what comes later may be nested
        parts.append(one)
        if len(parts) == 4 or (len(parts) == 1 and not _is_plain(one[1], order)):
            break
    if len(parts) < 4:
        return None
    (_, _), (_, sizes), (_, name), (kind, values) = parts
    if kind not in NUMBERS or len(sizes) % 4:
        raise ValueError("an array without numbers")
    shape = np.frombuffer(sizes, f"{order}i4").tolist()
    numbers = np.frombuffer(values, order + NUMBERS[kind])
    if len(shape) < 2 or min(shape) < 0 or math.prod(shape) != len(numbers):
        raise ValueError(f"an array of {shape} with {len(numbers)} numbers")
    return name.decode("ascii", "replace"), numbers.reshape(shape, order="F").astype(np.float64)


def _is_plain(flags: bytes, order: str) -> bool:
    if len(flags) < 8:
        return False
    (word,) = struct.unpack_from(f"{order}I", flags)
    return (word & 0xFF) in PLAIN and not word & 0x0800  # the latter is complex
