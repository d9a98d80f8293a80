"""What an interrupted run finished is kept when it goes on with other pictures."""

from __future__ import annotations

from pathlib import Path

from diffeat.images import Seen
from diffeat.store.format.atomic import explained
from diffeat.store.format.manifest import NAME, Manifest
from diffeat.store.write.folder import ShardFolder
from diffeat.store.write.growth import HELD, changes_of, fields_that_differ
from diffeat.store.write.merge import merge_shards


def seal_parts(path: Path, request: Manifest, seen: Seen) -> bool:
    """Make of shards that were begun with other pictures a feature file of what is finished.

    It lies in the folder of shards until all is joined (`growth_of`).

    Args:
        path: the file that the user named.
        request: what is to be made of the pictures of today.
        seen: their digests.

    Returns:
        Whether that was needed and could be done. Where it could not (another spec, pictures that
        changed or are gone, captions), whoever goes on from the parts will say so.

    Raises:
        StoreError: another process is writing, a shard is damaged, or there is no room.
    """
    folder = ShardFolder(path)
    if not folder.exists():
        return False
    found = Manifest.read(folder.path)
    if found is None or found.columns is None or found.fingerprint == request.fingerprint:
        return False
    told_alike = found.pictures.get("conditions") == request.pictures.get("conditions")
    if not told_alike or fields_that_differ(found, request):
        return False
    ids, digests = folder.known(found)
    changes = changes_of(ids, digests, seen)
    if not ids or digests is None or changes.changed or changes.gone:
        return False
    with explained(path), folder.lock():
        number = sum(1 for _ in folder.path.glob(HELD.format("*")))
        merge_shards(folder, found, "none", out=folder.path / HELD.format(f"{number:04d}"))
        for shard in folder.files():
            folder.forget(shard)
        (folder.path / NAME).unlink(missing_ok=True)
    return True
