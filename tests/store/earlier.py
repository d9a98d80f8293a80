"""Pictures that anybody can write again bit for bit, and a feature file that 0.6 made of them.

`tests/store/data/whole.h5` and `half.h5.parts` came from version 0.6.0, by

    diffeat extract unet-cifar10 pictures -o whole.h5 OPTIONS

where `write_pictures` made `pictures`; `half` was interrupted after the first of two batches.
Names are NFD, as macOS gives them; one picture has an ICC profile, which 0.6 ignored; one is
so large that 0.6 looked at its first and last 32 KiB only.
"""

from __future__ import annotations

import struct
import zlib
from pathlib import Path

import numpy as np

DATA = Path(__file__).parent / "data"
OPTIONS = ("-t", "20", "-b", "mid", "--pool", "1x1", "--dtype", "float32", "--batch-size", "4",
           "--device", "cpu")  # fmt: skip
NAMES = (
    "cat/a.bmp", "cat/la\u0308rge.bmp", "cat/profile.png",
    "hu\u0308nd/a.bmp", "hu\u0308nd/b.bmp", "hu\u0308nd/c.png",
)  # fmt: skip
"""In NFD: "lärge" and "hünd" with the diaeresis as a letter of its own."""
LARGE = NAMES[1]
PROFILED = NAMES[2]


def bmp(pixels: np.ndarray) -> bytes:
    """(H, W, 3) uint8 as an uncompressed BMP; W must be a multiple of 4."""
    height, width, _ = pixels.shape
    body = np.ascontiguousarray(pixels[::-1, :, ::-1]).tobytes()
    header = struct.pack("<2sIHHI", b"BM", 54 + len(body), 0, 0, 54)
    fields = (40, width, height, 1, 24, 0, len(body), 0, 0, 0, 0)
    return header + struct.pack("<IiiHHIIiiII", *fields) + body


def png(pixels: np.ndarray, profile: bytes | None = None) -> bytes:
    """(H, W, 3) uint8 as a PNG without compression, below 64 KiB."""
    height, width, _ = pixels.shape
    rows = b"".join(b"\0" + row.tobytes() for row in pixels)
    chunks = [(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0))]
    if profile is not None:
        chunks.append((b"iCCP", b"made up\0\0" + _stored(profile)))
    chunks += [(b"IDAT", _stored(rows)), (b"IEND", b"")]
    return b"\x89PNG\r\n\x1a\n" + b"".join(
        struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
        for kind, data in chunks
    )


def _stored(data: bytes) -> bytes:
    """A zlib stream of one block that is stored as it is, the same with every library."""
    size = struct.pack("<HH", len(data), len(data) ^ 0xFFFF)
    return b"\x78\x01\x01" + size + data + struct.pack(">I", zlib.adler32(data))


def linear_profile(white=(0.9642, 1.0, 0.8249), primaries=None) -> bytes:
    """An ICC profile (version 2) whose samples are linear light.

    Args:
        white: of the profile connection space, D50.
        primaries: (3, 3) columns red, green, blue in XYZ under D50; by default those of sRGB.
    """
    columns = np.array(primaries if primaries is not None else [
        [0.4360747, 0.3850649, 0.1430804],
        [0.2225045, 0.7168786, 0.0606169],
        [0.0139322, 0.0971045, 0.7141733],
    ])  # fmt: skip
    fixed = lambda values: struct.pack(">3i", *(round(v * 65536) for v in values))  # noqa: E731
    xyz = lambda values: b"XYZ \0\0\0\0" + fixed(values)  # noqa: E731
    text = b"linear\0"
    tags = {
        b"desc": b"desc\0\0\0\0" + struct.pack(">I", len(text)) + text + bytes(78),
        b"cprt": b"text\0\0\0\0none\0",
        b"wtpt": xyz(white),
        b"rXYZ": xyz(columns[:, 0]), b"gXYZ": xyz(columns[:, 1]), b"bXYZ": xyz(columns[:, 2]),
        b"rTRC": b"curv\0\0\0\0" + struct.pack(">I", 0),
        b"gTRC": b"curv\0\0\0\0" + struct.pack(">I", 0),
        b"bTRC": b"curv\0\0\0\0" + struct.pack(">I", 0),
    }  # fmt: skip
    table, body, start = struct.pack(">I", len(tags)), b"", 128 + 4 + 12 * len(tags)
    for name, data in tags.items():
        data += bytes(-len(data) % 4)
        table += name + struct.pack(">II", start + len(body), len(data))
        body += data
    total = start + len(body)
    head = struct.pack(">I4sI4s4s4s", total, b"\0\0\0\0", 0x02400000, b"mntr", b"RGB ", b"XYZ ")
    head += struct.pack(">6H", 2026, 1, 1, 0, 0, 0) + b"acsp" + bytes(28) + fixed(white)
    return head + bytes(128 - len(head)) + table + body


def pixels_of(name: str) -> np.ndarray:
    """(H, W, 3) uint8, from arithmetic alone."""
    side = 256 if name == LARGE else 32
    y, x, c = np.indices((side, side, 3))
    return ((37 * NAMES.index(name) + 5 * y + 3 * x * (c + 1) + x * y) % 256).astype(np.uint8)


def write_pictures(folder: Path) -> Path:
    """The pictures of the files in `data`."""
    for name in NAMES:
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        profile = linear_profile() if name == PROFILED else None
        pixels = pixels_of(name)
        path.write_bytes(bmp(pixels) if name.endswith(".bmp") else png(pixels, profile))
    return folder
