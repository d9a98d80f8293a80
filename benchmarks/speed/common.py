"""Clocks, pictures and figures that the parts of the speed suite share."""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

import diffeat
from diffeat.errors import DiffeatError
from diffeat.images import Source

Work = Callable[[], Any]


def seconds(work: Work, device: torch.device) -> float:
    """Time of `work` with everything that it started on the device."""
    synchronize(device)
    began = time.perf_counter()
    work()
    synchronize(device)
    return time.perf_counter() - began


def synchronize(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def in_turn(works: Sequence[Work], repeats: int, device: torch.device) -> list[list[float]]:
    """Seconds of every work in every repeat: after one warm-up each, taken in turn.

    Whatever slows the machine down for a while so meets all of them alike.

    Returns:
        One list of `repeats` seconds per work.
    """
    for work in works:
        work()
    rounds = [[seconds(work, device) for work in works] for _ in range(repeats)]
    return [list(column) for column in zip(*rounds, strict=True)]


def ratios(above: Sequence[float], below: Sequence[float]) -> dict[str, Any]:
    """Ratios of two lists of seconds, pair by pair, with median, smallest and largest."""
    each = [a / b for a, b in zip(above, below, strict=True)]
    return {
        "each": rounded(each),
        "median": round(statistics.median(each), 4),
        "min": round(min(each), 4),
        "max": round(max(each), 4),
    }


def in_process(module: str, order: dict[str, Any], what: str) -> dict[str, Any]:
    """The JSON that a module of the suite prints last, given an order, in a process of its own.

    Raises:
        DiffeatError: it failed; `what` says of what it was to do.
    """
    root = str(Path(__file__).parents[2])
    paths = os.pathsep.join([root, *filter(None, [os.environ.get("PYTHONPATH")])])
    done = subprocess.run(
        [sys.executable, "-m", f"benchmarks.speed.{module}", json.dumps(order)],
        capture_output=True, text=True, env={**os.environ, "PYTHONPATH": paths}, check=False,
    )  # fmt: skip
    if done.returncode:
        raise DiffeatError(f"{what} ended with exit code {done.returncode}; expected 0. It said: "
                           f"{done.stderr[-2000:]}")  # fmt: skip
    return json.loads(done.stdout.splitlines()[-1])


def rounded(values: Sequence[float]) -> list[float]:
    """Seconds and ratios to five significant digits, as they are kept in JSON."""
    return [float(f"{value:.5g}") for value in values]


def jpegs(folder: Path, count: int, size: tuple[int, int], seed: int) -> Source:
    """Smooth JPEG files of (H, W) pixels, so that they are of usual weight."""
    pixels = np.random.default_rng(seed).integers(0, 256, (count, 8, 8, 3), np.uint8)
    for index, array in enumerate(pixels):
        picture = Image.fromarray(array).resize(size[::-1], Image.Resampling.BICUBIC)
        picture.save(folder / f"{index:06d}.jpg", quality=92)
    return diffeat.open_source(folder)


def tensors(count: int, size: tuple[int, int], seed: int) -> torch.Tensor:
    """Pictures (N, 3, H, W) of even noise in [0, 1]."""
    return torch.rand(count, 3, *size, generator=torch.Generator().manual_seed(seed))
