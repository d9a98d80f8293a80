"""What is known of pictures from an earlier run: their digests, and by which stat files are known.

A finished feature file holds both for its rows (`/digests`, `/file_stats`). Among the parts of an
unfinished one lies `pictures.bin`, for all pictures, those that still wait included: the hash of
the ids (16 bytes), when the stats were taken (int64), N digests of 16 bytes, N stats of four
int64; all little-endian.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from diffeat.errors import DiffeatError
from diffeat.hashing import digest
from diffeat.images import Seen
from diffeat.store.format.atomic import read_small, write_synced
from diffeat.store.format.manifest import WHEN, parts_of
from diffeat.store.format.safety import damage_explained, read_attr
from diffeat.store.read.reader import FeatureStore

NAME = "pictures.bin"
HEAD, ROW = 16 + 8, 16 + 4 * 8


def write_seen(folder: Path, seen: Seen) -> None:
    """Leave digests and stats in a folder of parts, where a run that goes on finds them."""
    if seen.stats is not None:
        head = digest(list(seen.ids)) + seen.when.to_bytes(8, "little")
        rows = seen.digests.tobytes() + seen.stats.astype("<i8").tobytes()
        write_synced(folder / NAME, head + rows)


def seen_in(store: FeatureStore) -> Seen | None:
    """What a feature file knows of its pictures; None where it has no digests."""
    if store.digests is None:
        return None
    when = 0
    if store.file_stats is not None:
        with damage_explained(store.path, "file_stats"):
            when = int(read_attr(store.file["file_stats"], WHEN, 1) or 0)
    return Seen(store.ids, store.digests, store.file_stats, when)


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
            return seen_in(store)
    except DiffeatError:  # whoever writes or reads the file will say what is wrong with it
        return None


def _read(folder: Path, ids: Sequence[str]) -> Seen | None:
    count = len(ids)
    try:
        raw = read_small(folder / NAME, HEAD + ROW * count)
    except (DiffeatError, OSError):
        return None
    if len(raw) != HEAD + ROW * count or raw[:16] != digest(list(ids)):
        return None
    digests = np.frombuffer(raw, np.uint8, 16 * count, HEAD).reshape(count, 16)
    stats = np.frombuffer(raw, "<i8", 4 * count, HEAD + 16 * count).reshape(count, 4)
    return Seen(ids, digests, stats, int.from_bytes(raw[16:HEAD], "little"))
