"""How far an unfinished extraction is, as its shards tell."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from diffeat.store.format.manifest import Manifest
from diffeat.store.write.folder import ShardFolder, damage, missing_spans
from diffeat.store.write.growth import held


@dataclass(frozen=True)
class Unfinished:
    """How far an unfinished extraction is.

    Attributes:
        manifest: what is being made.
        finished: pictures that are in sound shards, or were finished before these were begun.
        shards: number of shards of this manifest.
        problems: what is wrong with shards, one sentence each.
    """

    manifest: Manifest
    finished: int
    shards: int
    problems: list[str]


def look_at_parts(path: str | Path, thorough: bool = False) -> Unfinished | None:
    """How far the extraction of `path` is; None if no shards lie beside it.

    Args:
        path: the feature file that is being made.
        thorough: also read every shard and compare its checksum.

    Raises:
        StoreError: the folder does not say what is being made.
    """
    folder = ShardFolder(path)
    if not folder.exists():
        return None
    manifest = folder.manifest()
    shards = folder.shards(manifest)
    problems = [
        f"{file.name} is damaged or of another request"
        for file in folder.files()
        if file not in shards
    ]
    for shard, spans in shards.items() if thorough else ():
        reason = damage(shard, spans, manifest)
        if reason is not None:
            problems.append(f"{shard.name} {reason}")
            folder.ignore(shard)
    missing = missing_spans(folder.covered(manifest), manifest.count)
    finished = manifest.count - sum(stop - start for start, stop in missing) + held(manifest)
    return Unfinished(manifest, finished, len(shards), problems)
