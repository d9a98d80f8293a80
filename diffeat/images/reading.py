"""By which rule pictures are read, and the rule of files that were made before version 0.7.

Rule 2 is today's: ids and class names are NFC, colours are brought to sRGB, every byte counts.
Rule 1 took ids as the file system gave them, ignored colour profiles, and looked at the first
and last 32 KiB of a file only. A feature file from before 0.7, or what is left of an
interrupted run, is compared and gone on with by rule 1; nothing else needs this module.
"""

from __future__ import annotations

import glob as globbing
import hashlib
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

READING = 2
"""The rule of new files; stands in their request as pictures.reading."""
SUFFIXES_1 = frozenset(
    (".jpg", ".jpeg", ".png", ".webp", ".bmp", ".gif", ".tif", ".tiff", ".ppm", ".pgm", ".pbm",
     ".jp2", ".avif")
)  # fmt: skip
SAMPLE = 1 << 15
"""Bytes of either end of a file that went into its hash."""
SAMPLED = 64
"""Records of a data set whose bytes went into its hash, next to the library's fingerprint."""


def rule_of(pictures: dict[str, Any]) -> int:
    """The rule that a file's description of its pictures names."""
    found = pictures.get("reading", 1)
    return found if type(found) is int else 1


# contents


def content_1(source: Any) -> str:
    """Hash of what the pictures of a source hold, as far as rule 1 looked."""
    if hasattr(source, "pixels"):
        return hashlib.blake2b(np.ascontiguousarray(source.pixels), digest_size=16).hexdigest()
    if hasattr(source, "table"):
        return _content_of_table(source)
    hasher = hashlib.blake2b(digest_size=16)
    for place in source.places if hasattr(source, "places") else ((p,) for p in source.paths):
        hasher.update(sample_file(*place))
    return hasher.hexdigest()


def _content_of_table(source: Any) -> str:
    hasher = hashlib.blake2b(source.revision.encode(), digest_size=16)
    chosen = np.unique(np.linspace(0, len(source) - 1, SAMPLED).round().astype(int))
    for index in chosen:
        raw, path = source.record(index)
        if raw is None:
            hasher.update(sample_file(Path(path)) if path else b"nothing")
        else:
            hasher.update(str(len(raw)).encode() + raw[:SAMPLE] + raw[SAMPLE:][-SAMPLE:])
    return hasher.hexdigest()


def sample_file(path: Path, start: int = 0, length: int | None = None) -> bytes:
    """A file's size with its first and last bytes.

    Args:
        path: the file; one that cannot be read gives b"unreadable".
        start, length: take only this part of it, in bytes.
    """
    try:
        with open(path, "rb") as file:
            total = file.seek(0, os.SEEK_END) - start if length is None else length
            file.seek(start)
            first = file.read(min(SAMPLE, total))
            file.seek(start + max(SAMPLE, total - SAMPLE))
            return str(total).encode() + first + file.read(max(0, min(SAMPLE, total - SAMPLE)))
    except OSError:
        return b"unreadable"


# folders


def pictures_1(folder: Path) -> list[str]:
    """Paths below a folder: linked folders counted, loops of links did not."""
    found = (Path(parent, name) for parent, names in _walk(folder) for name in names)
    relative = (path.relative_to(folder) for path in found)
    return sorted(path.as_posix() for path in relative if _is_picture(path))


def _walk(folder: Path) -> Iterator[tuple[str, list[str]]]:
    for parent, folders, names in os.walk(folder, followlinks=True):
        here = Path(parent).resolve()
        folders[:] = [n for n in folders if not here.is_relative_to(Path(parent, n).resolve())]
        yield parent, names


def glob_1(pattern: str) -> list[Path]:
    """The pictures that match a glob."""
    found = [Path(hit) for hit in sorted(globbing.glob(pattern, recursive=True))]
    return [path for path in found if path.is_file() and _is_picture(Path(path.name))]


def _is_picture(relative: Path) -> bool:
    hidden = any(part.startswith(".") for part in relative.parts)
    return relative.suffix.lower() in SUFFIXES_1 and not hidden
