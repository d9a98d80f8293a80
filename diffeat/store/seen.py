"""What is known of pictures from an earlier run: their digests, and by which stat files are known.

A finished feature file holds both for its rows (`/digests`, `/file_stats`). Among the parts of an
unfinished one lies `pictures.bin`, for all pictures, those that still wait included: the hash of
the ids (16 bytes), then N digests of 16 bytes, then N stats of four int64, little-endian.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from diffeat.errors import DiffeatError
from diffeat.hashing import digest
from diffeat.images import Seen
from diffeat.store.atomic import read_small, write_synced
from diffeat.store.reader import FeatureStore
from diffeat.store.request import parts_of

NAME = "pictures.bin"
HEAD, ROW = 16, 16 + 4 * 8


def write_seen(folder: Path, seen: Seen) -> None:
    """Leave digests and stats in a folder of parts, where a run that goes on finds them."""
    if seen.settled():
        pieces = digest(list(seen.ids)), seen.digests.tobytes(), seen.stats.astype("<i8").tobytes()
        write_synced(folder / NAME, b"".join(pieces))


def seen_by(path: str | Path, ids: Sequence[str]) -> Seen | None:
    """What the unfinished or finished feature file `path` knows of pictures; None if nothing.

    Args:
        path: the file that the user named, whether it is there yet or not.
        ids: of the pictures that are asked about.
    """
    path = Path(path)
    found = _read(parts_of(path), ids)
    if found is not None or not path.is_file():
        return found
    try:
        with FeatureStore(path) as store:
            if store.digests is None or store.file_stats is None:
                return None
            return Seen(store.ids, store.digests, store.file_stats)
    except DiffeatError:  # whoever writes or reads the file will say what is wrong with it
        return None


def _read(folder: Path, ids: Sequence[str]) -> Seen | None:
    count = len(ids)
    try:
        raw = read_small(folder / NAME, HEAD + ROW * count)
    except (DiffeatError, OSError):
        return None
    if len(raw) != HEAD + ROW * count or raw[:HEAD] != digest(list(ids)):
        return None
    digests = np.frombuffer(raw, np.uint8, 16 * count, HEAD).reshape(count, 16)
    stats = np.frombuffer(raw, "<i8", 4 * count, HEAD + 16 * count).reshape(count, 4)
    return Seen(ids, digests, stats)
