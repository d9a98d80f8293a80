"""A clip propagated in a fresh process, which prints its seconds and peak memory as JSON."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Iterator
from typing import Any

import numpy as np

from benchmarks.machine import peak_memory_mb
from benchmarks.speed.match_child import held_mb

NOISE = 0.5


def clip(count: int, shape: list[int], seed: int) -> Iterator[np.ndarray]:
    """N times (C, h, w) float32: a scene that turns by a site with every frame, and noise."""
    draw = np.random.default_rng(seed)
    scene = draw.standard_normal(shape, np.float32)
    for place in range(count):
        yield np.roll(scene, -place, 2) + NOISE * draw.standard_normal(shape, np.float32)


def objects(grid: tuple[int, int]) -> np.ndarray:
    """(4, h, w) float32: background and three objects, side by side."""
    h, w = grid
    mask = np.zeros(grid, int)
    for number in (1, 2, 3):
        mask[h // 4 : -(h // 4), number * w // 5 : number * w // 5 + w // 6] = number
    return (mask == np.arange(4)[:, None, None]).astype(np.float32)


def propagate(order: dict[str, Any]) -> dict[str, Any]:
    """All frames of a clip, drawn when they are asked for, to masks of 8 pixels a site."""
    import torch

    from probes import Maps
    from probes.propagation import LabelPropagator

    torch.set_num_threads(order["threads"])
    _, h, w = order["shape"]
    size = 8 * h, 8 * w
    mask = objects((h, w)).argmax(0).repeat(8, 0).repeat(8, 1)
    frames = (Maps({"map": one}, size, size)
              for one in clip(order["frames"], order["shape"], order["seed"]))  # fmt: skip
    loaded, times, kept = held_mb(), [time.perf_counter()], 0
    for labels in LabelPropagator().propagate(frames, mask):
        times.append(time.perf_counter())
        kept += int(np.count_nonzero(labels))
    return {
        "frames": order["frames"],
        "shape": order["shape"],
        "seconds": round(times[-1] - times[0], 3),
        "last_seconds": round(times[-1] - times[-2], 3),
        "labelled": kept,
        "loaded_mb": loaded,
        "peak_mb": peak_memory_mb(),
    }


if __name__ == "__main__":
    print(json.dumps(propagate(json.loads(sys.argv[1]))))
