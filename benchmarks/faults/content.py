"""Whether two feature files hold the same, read without diffeat."""

from __future__ import annotations

import hashlib
from pathlib import Path

import h5py


def hashes(path: Path) -> dict[str, str]:
    """SHA-256 of every data set with its type and shape: ids, labels, features, skipped, …"""
    found: dict[str, str] = {}

    def look(name: str, item: h5py.Dataset | h5py.Group) -> None:
        if not isinstance(item, h5py.Dataset):
            return
        hasher = hashlib.sha256(repr((str(item.dtype), item.shape)).encode())
        if item.dtype.kind == "O":
            hasher.update(repr(item.asstr()[:].tolist()).encode())
        else:
            for start in range(0, len(item), 64):
                hasher.update(item[start : start + 64].tobytes())
        found[name] = hasher.hexdigest()

    with h5py.File(path, "r") as file:
        file.visititems(look)
        found["complete"] = str(bool(file.attrs["complete"]))
        found["fingerprint"] = str(file.attrs["fingerprint"])
    return found


def digest(found: dict[str, str]) -> str:
    """One SHA-256 of all of them."""
    return hashlib.sha256(repr(sorted(found.items())).encode()).hexdigest()
