"""(d) HDF5: what writing adds to the compute, and reading against the raw disk."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import diffeat
from benchmarks.speed.common import in_turn, jpegs, ratios, rounded
from benchmarks.speed.reading import read_rows, read_whole
from benchmarks.speed.settings import Settings
from diffeat.backbones import Backbone
from diffeat.extraction import Plan
from diffeat.images import PictureBatch, Source
from diffeat.store import ShardWriter
from diffeat.work import Job, Worker

MODEL = "unet-cifar10"
TIMESTEPS = (20, 60)
READ_TARGET = 0.8


def measure(settings: Settings) -> dict[str, Any]:
    """Write vectors, then maps, with and without a file; read the files back.

    Dropping means the same worker on the same pictures, decoding and drawing ahead as ever,
    with nobody who writes. Shards are written while the model computes, so their side is what
    can hide behind it. The file's side also has what cannot: the merge of the shards into one
    file, which is synced before it gets its name.
    """
    backbone = diffeat.load(settings.model or MODEL, settings.device)
    names = [block.name for block in backbone.blocks]
    blocks = tuple(name for name in names if name.startswith("up.")) or tuple(names[-4:])
    result = {
        "model": backbone.name,
        "device": str(backbone.device),
        "timesteps": list(TIMESTEPS),
        "blocks": list(blocks),
        "read_target": READ_TARGET,
    }
    with TemporaryDirectory() as folder:
        for name, pool in (("vectors", "1x1"), ("maps", "none")):
            spec = diffeat.ExtractSpec(TIMESTEPS, blocks, pool=pool, seed=settings.seed)
            plan, place = Plan(backbone, spec), Path(folder) / name
            bulk = settings.by_length(256 << 20, 8 << 20)
            vectors = settings.by_length(128, 16)
            count = math.ceil(bulk / plan.bytes_per_picture) if name == "maps" else vectors
            (place / "pictures").mkdir(parents=True)
            source = jpegs(place / "pictures", count, plan.size, settings.seed)
            file = place / "features.h5"
            result[name] = {"pictures": count, "pool": pool,
                            "write": _write(backbone, plan, source, file, settings)}  # fmt: skip
            if name == "maps":
                result[name]["read"] = read_whole(file, settings)
            result[name]["rows"] = read_rows(file, settings)
    return result


def _write(
    backbone: Backbone, plan: Plan, source: Source, path: Path, settings: Settings
) -> dict[str, Any]:
    """Seconds of an extraction to a file, to shards alone, and with its results dropped."""
    spec = plan.spec
    folder = path.with_name("unmerged.h5.parts")
    folder.mkdir()

    def to_file() -> None:
        diffeat.extract_to_file(backbone, source, spec, path, overwrite=True, progress=False)

    def compute(keep: Callable[[PictureBatch, dict], None] | None = None) -> None:
        worker = Worker(Job(backbone.request, source, spec, path), backbone)
        step = worker.settled.pictures
        spans = [(i, min(i + step, len(source))) for i in range(0, len(source), step)]
        for batch, rows in worker.batches(spans):
            if keep is not None:
                keep(batch, rows)

    columns = Worker(Job(backbone.request, source, spec, path), backbone).job.columns

    def to_shards() -> None:
        with ShardWriter(folder.with_suffix(""), columns, source) as shards:
            compute(lambda batch, rows: shards.add(batch.span, batch.indices, rows))

    works = (to_file, to_shards, compute)
    whole, unmerged, bare = in_turn(works, settings.by_length(3, 2), backbone.device)
    size = path.stat().st_size
    return {
        "megabytes": round(size / 1e6, 3),
        "to_file_seconds": rounded(whole),
        "to_shards_seconds": rounded(unmerged),
        "dropped_seconds": rounded(bare),
        "ratio": ratios(whole, bare),
        "shards_ratio": ratios(unmerged, bare),
    }
