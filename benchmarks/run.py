"""Run a benchmark: its task measures, the JSON holds what came out."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

from benchmarks.files import Benchmark
from benchmarks.machine import Stages, environment, peak_memory_mb
from benchmarks.searching import MEMORY
from benchmarks.tasks import Place, task_named
from diffeat.backbones.loading import pick_device
from diffeat.store.atomic import write_synced


def run_benchmark(
    benchmark: Benchmark,
    out: Path,
    device: str = "auto",
    features: Path | None = None,
    processes: int | None = None,
    memory: int = MEMORY,
) -> dict[str, Any]:
    """Measure a benchmark; writes <name>.json (everything) and what its task writes beside it.

    Args:
        out: folder of tables and pictures; made if need be.
        device: of the models and the heads.
        features: folder for feature files and finished work; None is `out`.
        processes: copies of the model while features are extracted.
        memory: bytes for features while they are fitted; pixels may take 8 GiB.

    Returns:
        What the JSON holds.

    Raises:
        SpecError: a file that cannot be meant, before anything is computed.
    """
    task = task_named(benchmark.task)
    task.check(benchmark)
    features = features or out
    for folder in (out, features):
        folder.mkdir(parents=True, exist_ok=True)
    stages = Stages.open(out / "stages.json")
    place = Place(out, features, str(pick_device(device)), processes, memory, stages)
    measured = task.measure(benchmark, place)
    result = {
        "benchmark": asdict(benchmark),
        **measured,
        "device": place.device,
        "stages": stages.done,
        "seconds": round(sum(stage["seconds"] for stage in stages.done), 1),
        "peak_memory_mb": max([one["peak_memory_mb"] for one in stages.done] or [peak_memory_mb()]),
        "environment": environment(),
    }
    write_synced(out / f"{benchmark.name}.json", (json.dumps(result, indent=1) + "\n").encode())
    return result
