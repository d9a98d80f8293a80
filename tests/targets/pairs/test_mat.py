"""Arrays in .mat files, as SciPy writes and reads them."""

from __future__ import annotations

import io
import random
import struct
import zlib

import numpy as np
import pytest
from scipy.io import loadmat, savemat

from diffeat.targets.pairs import mat
from diffeat.targets.pairs.mat import read_arrays

ARRAYS = {
    "kps": np.array([[1.5, 2.0], [np.nan, np.nan], [3e5, -4.25]]),
    "bbox": np.array([[1, 2, 30, 40]], np.uint8),
    "i": np.array([[7]], np.int16),
    "single": np.linspace(0, 1, 7, dtype=np.float32)[:, None],
    "three": np.arange(24, dtype=np.int32).reshape(2, 3, 4),
    "large": np.arange(6, dtype=np.int64).reshape(3, 2) << 40,
    "empty": np.zeros((0, 2)),
}
OTHERS = {"text": "cat", "cell": np.array([1, "a"], object), "struct": {"kps": np.eye(2)},
          "complex": np.array([[1 + 2j]])}  # fmt: skip


def written(arrays: dict, **options) -> bytes:
    file = io.BytesIO()
    savemat(file, arrays, **options)
    return file.getvalue()


@pytest.mark.parametrize("packed", [False, True])
def test_arrays_are_those_that_scipy_reads(packed):
    raw = written({**OTHERS, **ARRAYS}, do_compression=packed)
    found, wanted = read_arrays(raw), loadmat(io.BytesIO(raw))
    assert set(found) == set(ARRAYS)
    for name, values in found.items():
        assert values.dtype == np.float64
        np.testing.assert_array_equal(values, wanted[name])


def test_the_other_order_of_bytes():
    name, values = b"kps", [1.0, 3.0, 2.0, 4.0]  # column by column
    body = struct.pack(">IIII", 6, 8, 6, 0) + struct.pack(">IIii", 5, 8, 2, 2)
    body += struct.pack(">II", 1, 3) + name.ljust(8, b"\0") + struct.pack(">II4d", 9, 32, *values)
    raw = b"MATLAB".ljust(124) + b"\x01\x00MI" + struct.pack(">II", 14, len(body)) + body
    assert read_arrays(raw)["kps"].tolist() == [[1, 2], [3, 4]]
    np.testing.assert_array_equal(loadmat(io.BytesIO(raw))["kps"], [[1, 2], [3, 4]])


@pytest.mark.parametrize("packed", [False, True])
def test_damaged_files_are_an_error_or_other_numbers_and_nothing_else(packed):
    raw = written(ARRAYS, do_compression=packed)
    draw = random.Random(0)
    wrong = 0
    for _ in range(1000):
        damaged = bytearray(raw)
        for _ in range(draw.randint(1, 4)):
            damaged[draw.randrange(100, len(damaged))] = draw.randrange(256)
        try:
            read_arrays(bytes(damaged[: draw.randrange(len(damaged))] if draw.random() < 0.3
                              else damaged))  # fmt: skip
        except ValueError:
            wrong += 1
    assert wrong > 200


def test_an_array_that_unpacks_without_end(monkeypatch):
    monkeypatch.setattr(mat, "MOST_BYTES", 1 << 16)
    data = zlib.compress(bytes(1 << 20))
    raw = bytes(124) + b"\0\1IM" + struct.pack("<II", 15, len(data)) + data
    with pytest.raises(ValueError, match=r"more than 65,536 bytes"):
        read_arrays(raw)
