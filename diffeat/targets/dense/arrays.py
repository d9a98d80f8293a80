"""Arrays of numbers in .npy and .npz files, read as data alone."""

from __future__ import annotations

import zipfile
from pathlib import Path

import numpy as np

from diffeat.errors import PictureError
from diffeat.images.decode import MAX_PIXELS

ARRAYS = (".npy", ".npz")
MOST_BYTES = 8 * MAX_PIXELS


def read_array(path: Path) -> np.ndarray:
    """(H, W) numbers of an .npy, or of the one array of an .npz.

    Raises:
        PictureError: it cannot be read, holds objects (which would run code), several arrays, or
            more than Pillow would take of a picture.
    """
    try:
        found = _of_archive(path) if path.suffix.lower() == ".npz" else np.load(
            path, mmap_mode="r", allow_pickle=False
        )  # fmt: skip
        if not isinstance(found, np.ndarray) or found.ndim != 2 or found.dtype.kind not in "iubf":
            shape, dtype = (getattr(found, name, "?") for name in ("shape", "dtype"))
            raise ValueError(f"an array of {shape}, {dtype}; expected (H, W) numbers")
        if found.size > MAX_PIXELS:
            raise ValueError(f"{found.size:,} numbers, more than {MAX_PIXELS:,}")
    except (OSError, ValueError, EOFError, KeyError, zipfile.BadZipFile) as error:
        raise PictureError(str(path), f"no array that can be read ({error})") from error
    return np.array(found)


def shape_of(path: Path) -> tuple[int, ...]:
    """The shape of an .npy, from its header; () where it cannot be read."""
    try:
        return np.load(path, mmap_mode="r", allow_pickle=False).shape
    except (OSError, ValueError, EOFError):
        return ()


def _of_archive(path: Path) -> np.ndarray:
    with zipfile.ZipFile(path) as archive:
        names = archive.infolist()
        if len(names) != 1:
            raise ValueError(f"{len(names)} arrays; expected one")
        if names[0].file_size > MOST_BYTES:
            raise ValueError(f"{names[0].file_size:,} bytes unpacked, more than {MOST_BYTES:,}")
    with np.load(path, allow_pickle=False) as archive:
        return archive[archive.files[0]]
