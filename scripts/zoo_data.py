"""Pictures of a training run, step by step, and its log (used by train_zoo.py)."""

from __future__ import annotations

import csv
import os
from functools import lru_cache
from pathlib import Path

import numpy as np
import torch
from zoo_config import RunConfig

from diffeat.images import load_batches
from diffeat.progress import counted


def load_pixels(source, size: int, folder: Path, workers: int) -> np.ndarray:
    """All pictures as one uint8 array (N, 3, size, size), memory-mapped from a cache file.

    Decoding happens once per run folder; afterwards any number of ranks shares the pages.
    """
    path = folder / f"pixels-{source.fingerprint()[:8]}-{size}.npy"
    if not path.exists():
        spans = [(i, min(i + 256, len(source))) for i in range(0, len(source), 256)]
        partial = path.with_suffix(f".{os.getpid()}.tmp")
        shape = (len(source), 3, size, size)
        pixels = np.lib.format.open_memmap(partial, "w+", np.uint8, shape)
        batches = load_batches(source, spans, (size, size), fit="crop", workers=workers)
        with counted(len(source), desc="decode", unit="pictures") as bar:
            for batch in batches:
                pixels[slice(*batch.span)] = batch.pixels
                bar.update(len(batch.pixels))
        pixels.flush()
        os.replace(partial, path)
    return np.load(path, mmap_mode="r")


def training_batch(pixels, labels, config: RunConfig, step: int, rank: int, ranks: int):
    """The pictures of one step on one rank; depends on (seed, step, rank) alone.

    Each epoch is a fresh permutation, cut into global batches of `batch` pictures; a resumed
    run sees exactly the pictures that an undisturbed one would.

    Returns:
        x (B, 3, S, S) float32 in [-1, 1] and labels (B,) int64.
    """
    count = len(pixels)
    positions = np.arange(step * config.batch, (step + 1) * config.batch)[rank::ranks]
    indices = np.empty(len(positions), np.int64)
    for epoch in np.unique(positions // count):
        order = _permutation(config.seed, int(epoch), count)
        here = positions // count == epoch
        indices[here] = order[positions[here] % count]
    x = torch.from_numpy(pixels[indices]).float().div_(127.5).sub_(1)
    if config.flip:
        flips = np.random.default_rng([config.seed, step, 7]).random(config.batch) < 0.5
        flips = flips[rank::ranks]
        x[flips] = x[flips].flip(-1)
    return x, torch.from_numpy(labels[indices])


@lru_cache(maxsize=2)
def _permutation(seed: int, epoch: int, count: int) -> np.ndarray:
    return np.random.default_rng([seed, epoch]).permutation(count)


def append_row(path: Path, row: dict) -> None:
    fresh = not path.exists()
    with path.open("a", newline="") as file:
        writer = csv.DictWriter(file, list(row))
        if fresh:
            writer.writeheader()
        writer.writerow(row)


def read_rows(path: Path) -> list[dict[str, str]]:
    """The rows of a log."""
    with path.open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def write_rows(path: Path, rows: list[dict]) -> None:
    partial = path.with_suffix(".tmp")
    partial.unlink(missing_ok=True)
    for row in rows:
        append_row(partial, row)
    if rows:
        os.replace(partial, path)
    else:
        path.unlink()
