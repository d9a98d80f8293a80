"""Tasks and feature files whose best cell is known by construction."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from PIL import Image

from diffeat.images import ArraySource
from diffeat.search import Task, split_by_hash
from diffeat.specs import ExtractSpec
from diffeat.store import Column, FeatureStore, Manifest, StoreWriter

CLASSES = 3
STRENGTH = {("a", 10): 0.2, ("a", 50): 0.0, ("b", 10): 1.2, ("b", 50): 0.4}
"""How far the classes lie apart in each cell: ("b", 10) is the best, ("a", 50) is noise."""
BEST = ("b", 10)


def labels_of(count: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, CLASSES, count)


def features_of(labels: np.ndarray, strength: float, width: int, seed: int) -> np.ndarray:
    """(N, D) float32: class means of the given strength under unit noise."""
    rng = np.random.default_rng(seed)
    means = strength * np.random.default_rng(99).normal(size=(CLASSES, width))
    return (means[labels] + rng.normal(size=(len(labels), width))).astype(np.float32)


def arrays_of(labels: np.ndarray, width: int = 6, strength=STRENGTH) -> dict:
    return {
        cell: features_of(labels, value, width, seed)
        for seed, (cell, value) in enumerate(strength.items())
    }


def task_of(count: int = 400, width: int = 6, strength=STRENGTH, arrays=None, **changes) -> Task:
    labels = labels_of(count)
    arrays = arrays_of(labels, width, strength) if arrays is None else arrays
    ids = tuple(f"p{k}" for k in range(count))
    fields = {
        "name": "made", "labels": labels, "part": split_by_hash(ids), "cells": tuple(arrays),
        "read": lambda block, t: arrays[block, t], "identity": "made", "ids": ids,
    }  # fmt: skip
    return Task(**{**fields, **changes})


def write_store(
    path: Path, arrays: dict, labels=None, classes: int = CLASSES, **how
) -> FeatureStore:
    """A feature file of arrays {(block, t): (N, …)}; float16, maps where they are 4-D.

    `how`: further fields of the spec.
    """
    blocks = tuple(dict.fromkeys(block for block, _ in arrays))
    steps = tuple(dict.fromkeys(t for _, t in arrays))
    first = next(iter(arrays.values()))
    count = len(first)
    source = ArraySource(
        "made", tuple(f"p{k}" for k in range(count)), labels,
        tuple(map(str, range(classes))) if labels is not None else (),
        np.zeros((count, 2, 2), np.uint8),
    )  # fmt: skip
    spec = ExtractSpec(steps, blocks, pool="none" if first.ndim == 4 else "1x1", **how)
    facts = {"name": "toy", "family": "toy", "fingerprint": "m0", "dtype": "float32"}
    pictures = {"name": "made", "count": count, "fingerprint": source.fingerprint(), "reading": 2}
    attrs = {
        "alpha": 0.9,
        "sigma": 0.4,
        "log_snr": 1.6,
        "layout": "NCHW",
        "stride": 8,
        "channels": 1,
    }
    fields = [
        Column(f"features/{b}/t{t}", values.shape[1:], "float16", {"block": b, "t": t, **attrs})
        for (b, t), values in arrays.items()
    ]
    with StoreWriter(path, Manifest(spec.to_dict(), facts, pictures), source, fields) as writer:
        for start, stop in writer.remaining(count):
            rows = {
                f"features/{block}/t{t}": values[start:stop].astype("float16")
                for (block, t), values in arrays.items()
            }
            writer.add((start, stop), list(range(start, stop)), rows, [])
        writer.finish()
    return FeatureStore(path)


def dark_and_bright(folder: Path) -> Path:
    """Two classes of small pictures, in folders 0 and 1."""
    rng = np.random.default_rng(0)
    for index in range(40):
        place = folder / str(index % 2)
        place.mkdir(parents=True, exist_ok=True)
        pixels = rng.integers(0, 130, (16, 16, 3)) + 120 * (index % 2)
        Image.fromarray(pixels.astype(np.uint8)).save(place / f"{index}.png")
    return folder
