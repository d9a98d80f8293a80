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
from diffeat.backbones.devices import pick_device
from diffeat.store.format.atomic import write_synced


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
    place = _place(out, features or out, device, processes, memory)
    measured = task.measure(benchmark, place)
    result = {"benchmark": asdict(benchmark), **measured, **_cost(place)}
    write_synced(out / f"{benchmark.name}.json", (json.dumps(result, indent=1) + "\n").encode())
    return result


def _place(out: Path, features: Path, device: str, processes: int | None, memory: int) -> Place:
    """The folders, made if need be, and the device."""
    for folder in (out, features):
        folder.mkdir(parents=True, exist_ok=True)
    stages = Stages.open(out / "stages.json")
    return Place(out, features, str(pick_device(device)), processes, memory, stages)


def _cost(place: Place) -> dict[str, Any]:
    """What a run took, on what; without stages the peak is that of the process."""
    stages = place.stages.done
    peaks = [stage["peak_memory_mb"] for stage in stages] or [peak_memory_mb()]
    return {
        "device": place.device,
        "stages": stages,
        "seconds": round(sum(stage["seconds"] for stage in stages), 1),
        "peak_memory_mb": max(peaks),
        "environment": environment(),
    }
