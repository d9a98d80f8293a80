"""What is known of the pictures of an unfinished feature file: `pictures.bin` beside its shards.

It holds all pictures, those that still wait included: the hash of the ids (16 bytes), when the
stats were taken (int64), N digests of 16 bytes, N stats of four int64; all little-endian. A
finished file has both for its rows (`/digests`, `/file_stats`).
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from diffeat.errors import DiffeatError
from diffeat.hashing import digest
from diffeat.images import Seen
from diffeat.store.format.atomic import read_small, write_synced

NAME = "pictures.bin"
HEAD, ROW = 16 + 8, 16 + 4 * 8


def write_seen(folder: Path, seen: Seen) -> None:
    """Leave digests and stats in a folder of shards, where a run that goes on finds them."""
    if seen.stats is not None:
        head = digest(list(seen.ids)) + seen.when.to_bytes(8, "little")
        rows = seen.digests.tobytes() + seen.stats.astype("<i8").tobytes()
        write_synced(folder / NAME, head + rows)


def read_seen(folder: Path, ids: Sequence[str]) -> Seen | None:
    """What was left in a folder of shards; None if nothing, or not of these pictures."""
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
