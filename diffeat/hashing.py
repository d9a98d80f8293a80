"""Stable hashes: the same on every machine, in every process, in every order."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any


def digest(*parts: Any, size: int = 16) -> bytes:
    """blake2b of the parts; their JSON keeps ("a", "bc") apart from ("ab", "c")."""
    text = json.dumps(parts, ensure_ascii=True, sort_keys=True, default=str)
    return hashlib.blake2b(text.encode(), digest_size=size).digest()


def fingerprint(*parts: Any) -> str:
    """Hexadecimal form of `digest`, for people and files."""
    return digest(*parts).hex()


def unit_interval(*parts: Any) -> float:
    """A number in [0, 1) that depends on the parts alone, uniform over different parts."""
    return int.from_bytes(digest(*parts, size=7), "big") / 2**56


def files_fingerprint(paths: Iterable[Path]) -> str:
    """Hash of the names and the whole contents of files, in sorted order."""
    hasher = hashlib.blake2b(digest_size=16)
    for path in sorted(paths):
        hasher.update(path.name.encode() + b"\0")
        with open(path, "rb") as file:
            while piece := file.read(1 << 20):
                hasher.update(piece)
    return hasher.hexdigest()
