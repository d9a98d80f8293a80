"""Features that were computed once, kept in a .safetensors file."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from diffeat.errors import StoreError
from diffeat.hashing import fingerprint
from diffeat.images import Seen
from diffeat.store.format.atomic import explained, write_synced

FORMAT = "diffeat-vision-1"
WORDS = {"model": "another model, precision or pool", "pictures": "other pictures"}


def kept_rule(path: Path) -> int | None:
    """By which rule the pictures of kept features were read; None if there is no such file."""
    noted = _noted(path)
    return None if noted is None else int(noted.get("reading", "1") == "2") + 1


def kept_seen(path: Path, ids: Sequence[str]) -> Seen | None:
    """What kept features know of pictures with these ids (see `diffeat.images.look`)."""
    from safetensors import safe_open

    noted = _noted(path)
    if noted is None or noted.get("ids") != fingerprint(list(ids)):
        return None
    try:
        with safe_open(path, framework="numpy") as file:
            digests, stats = file.get_tensor("digests"), file.get_tensor("file_stats")
    except Exception:  # whoever reads the features says what is wrong
        return None
    count = len(ids)
    sound = (digests.shape, digests.dtype) == ((count, 16), np.uint8)
    sound &= (stats.shape, stats.dtype) == ((count, 4), np.int64)
    when = noted.get("when", "0")
    return Seen(ids, digests, stats, int(when)) if sound and when.isdecimal() else None


def _noted(path: Path) -> dict[str, str] | None:
    from safetensors import safe_open

    try:
        with safe_open(path, framework="numpy") as file:
            noted = file.metadata() or {}
    except Exception:  # whoever reads the features says what is wrong
        return None
    return noted if noted.get("format") == FORMAT else None


def read_kept(path: Path, wanted: dict[str, str], count: int) -> np.ndarray | None:
    """(N, D) float32 that were kept for the same model and pictures; None if there is no file.

    Args:
        path: the file.
        wanted: "model" and "pictures", fingerprints.
        count: N.

    Raises:
        StoreError: the file is damaged, or of another model or other pictures.
    """
    from safetensors import safe_open

    if not path.exists():
        return None
    try:
        with safe_open(path, framework="numpy") as file:
            noted, values = file.metadata() or {}, file.get_tensor("features")
    except Exception as error:  # the reader raises errors of its own
        raise StoreError(
            f"{path}: not a file of kept features ({error}); delete it or choose another name"
        ) from error
    if noted.get("format") != FORMAT:
        raise StoreError(f"{path}: not a file of kept features; choose another name")
    for key, words in WORDS.items():
        if noted.get(key) != wanted[key]:
            raise StoreError(
                f"{path} keeps the features of {words} ({noted.get('name', '?')}, {len(values)} "
                "pictures); delete it or choose another name"
            )
    whole = values.ndim == 2 and len(values) == count and values.dtype == np.float32
    if not whole or not np.isfinite(values).all():
        raise StoreError(f"{path}: damaged; delete it, and the features are computed again")
    return values


def write_kept(
    path: Path, values: np.ndarray, noted: dict[str, str], seen: Seen | None = None
) -> None:
    """Write (N, D) features with what they are of; the file appears when it is whole.

    Args:
        seen: what is known of the pictures, so that the next run need not read them.

    Raises:
        StoreError: it cannot be written.
    """
    from safetensors.numpy import save

    arrays = {"features": np.ascontiguousarray(values)}
    if seen is not None:
        ids = fingerprint(list(seen.ids))
        noted = {**noted, "reading": "2", "ids": ids, "when": str(seen.when)}
        arrays["digests"] = seen.digests
        if seen.stats is not None:
            arrays["file_stats"] = seen.stats
    data = save(arrays, {"format": FORMAT, **noted})
    with explained(path):
        write_synced(path, data)
