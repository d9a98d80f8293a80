"""Features that were computed once, kept in a .safetensors file."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from diffeat.errors import StoreError
from diffeat.store.atomic import explained, write_synced

FORMAT = "diffeat-vision-1"
WORDS = {"model": "another model, precision or pool", "pictures": "other pictures"}


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


def write_kept(path: Path, values: np.ndarray, noted: dict[str, str]) -> None:
    """Write (N, D) features with what they are of; the file appears when it is whole.

    Raises:
        StoreError: it cannot be written.
    """
    from safetensors.numpy import save

    data = save({"features": np.ascontiguousarray(values)}, {"format": FORMAT, **noted})
    with explained(path):
        write_synced(path, data)
