"""(e) How time and peak memory grow with pictures, and time with blocks."""

from __future__ import annotations

import statistics
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch

import diffeat
from benchmarks.speed.common import in_process, in_turn, jpegs, ratios, rounded
from benchmarks.speed.settings import Settings
from benchmarks.speed.surface import evenly
from diffeat.images import Source

MODEL, TIMESTEP = "unet-cifar10", 20
TARGET = 1.10
"""Largest peak memory over the smallest."""


def measure(settings: Settings) -> dict[str, Any]:
    """Extractions to files: of more and more pictures, and of more and more blocks."""
    return {
        "model": settings.model or MODEL,
        "timestep": TIMESTEP,
        "pictures": _by_pictures(settings),
        "blocks": _by_blocks(settings),
        "target": TARGET,
    }


def _by_pictures(settings: Settings) -> dict[str, Any]:
    """Seconds and peak memory of an extraction, each in a process of its own.

    Time is that of the extraction and memory that of the whole process, from its start.
    """
    counts = settings.by_length((100, 1000, 10000), (32, 128))
    model = settings.model or MODEL
    backbone = diffeat.load(model, "meta")
    block = _first_half(backbone)
    runs = []
    with TemporaryDirectory() as folder:
        for count in counts:
            place = Path(folder) / str(count)
            place.mkdir()
            jpegs(place, count, backbone.native_size, settings.seed)
            order = {"model": model, "device": settings.device, "pictures": str(place),
                     "t": TIMESTEP, "block": block, "out": f"{folder}/{count}.h5",
                     "threads": torch.get_num_threads()}  # fmt: skip
            runs.append({"pictures": count, **_in_process(order)})
    for run in runs:
        run["pictures_per_s"] = round(run["pictures"] / run["seconds"], 2)
    peaks = [run["peak_mb"] for run in runs]
    return {
        "block": block,
        "pool": "1x1",
        "runs": runs,
        "memory_ratio": round(max(peaks) / min(peaks), 4),
    }


def _first_half(backbone) -> str:
    """A block in the middle of the network."""
    names = [block.name for block in backbone.blocks]
    return "mid" if "mid" in names else names[len(names) // 2]


def _in_process(order: dict[str, Any]) -> dict[str, Any]:
    return in_process("child", order, f"the extraction of {order['pictures']}")


def _by_blocks(settings: Settings) -> dict[str, Any]:
    """Seconds of an extraction of 1, 4 and 12 blocks that all end with the same block."""
    backbone = diffeat.load(settings.model or MODEL, settings.device)
    names = [block.name for block in backbone.blocks]
    names = names[: max(12, len(names) * 4 // 5)]
    counts = settings.by_length((1, 4, 12), (1, 4))
    with TemporaryDirectory() as folder:
        pictures = Path(folder) / "pictures"
        pictures.mkdir()
        count = settings.by_length(256, 8)
        source = jpegs(pictures, count, backbone.native_size, settings.seed)
        works = [_extraction(backbone, source, evenly(names, n), folder) for n in counts]
        found = in_turn(works, settings.by_length(5, 2), backbone.device)
    return {
        "device": str(backbone.device),
        "pictures": count,
        "pool": "1x1",
        "last": names[-1],
        "runs": [
            {
                "blocks": number,
                "seconds": rounded(times),
                "median_seconds": round(statistics.median(times), 4),
                "ratio": ratios(times, found[0]),
            }
            for number, times in zip(counts, found, strict=True)
        ],
    }


def _extraction(backbone, source: Source, blocks: list[str], folder: str):
    spec = diffeat.ExtractSpec((TIMESTEP,), tuple(blocks), pool="1x1")
    path = Path(folder) / f"{len(blocks)}.h5"
    return lambda: diffeat.extract_to_file(
        backbone, source, spec, path, overwrite=True, progress=False
    )
