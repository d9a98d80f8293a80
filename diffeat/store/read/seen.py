"""What a feature file, finished or not, knows of its pictures: digests, and the files' stats."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from diffeat.errors import DiffeatError
from diffeat.images import Seen
from diffeat.store.format.columns import WHEN
from diffeat.store.format.layout import shard_folder
from diffeat.store.format.safety import damage_explained, read_attr
from diffeat.store.format.seen import read_seen
from diffeat.store.read.reader import FeatureStore


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
    found = read_seen(shard_folder(path), ids)
    if found is not None or not path.is_file():
        return found
    try:
        with FeatureStore(path) as store:
            return seen_in(store)
    except DiffeatError:  # whoever writes or reads the file will say what is wrong with it
        return None
