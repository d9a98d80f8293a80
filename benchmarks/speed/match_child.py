"""Matching in a fresh process, which prints its seconds, peak memory and answers as JSON."""

from __future__ import annotations

import json
import sys
import time
from typing import Any

import numpy as np

from benchmarks.machine import peak_memory_mb, reset_peak_memory


def pictures(count: int, shape: list[int], seed: int) -> np.ndarray:
    """(N, C, h, w) float32 features of even noise, with a share that neighbours have in common."""
    draw = np.random.default_rng(seed)
    values = draw.standard_normal((count, *shape), np.float32)
    for side in (2, 3):
        values += np.roll(values, 1, side)
    return values


def points_of(count: int, points: int, size: list[int], seed: int) -> np.ndarray:
    """(N, n, 2) whole x, y."""
    draw = np.random.default_rng(seed)
    return draw.integers(0, size[::-1], (count, points, 2)).astype(np.float64)


def upsampled(order: dict[str, Any]) -> dict[str, Any]:
    """DIFT's way (Tang et al. 2023, their SPair-71k evaluation), one pair after the other.

    Both maps are upsampled to the picture; for every point the whole target is normalised and
    compared. `asked` are answers of another matcher, of which the similarities are told.
    """
    import torch
    from torch.nn import functional as F

    torch.set_num_threads(order["threads"])
    maps, points = _given(order)
    height, width = order["size"]
    asked = order["asked"]
    loaded, began = held_mb(), time.perf_counter()
    found, score, others = [], [], []
    for pair in range(order["pairs"]):
        source, target = (
            F.interpolate(torch.from_numpy(maps[row : row + 1]), (height, width), mode="bilinear")
            for row in (2 * pair, 2 * pair + 1)
        )
        for place, (x, y) in enumerate(points[pair].astype(int)):
            vector = F.normalize(source[0, :, y, x], dim=0)
            flat = F.normalize(target[0].flatten(1), dim=0)
            similar = vector @ flat
            best = int(similar.argmax())
            found.append([best % width, best // width])
            score.append(float(similar[best]))
            u, v = map(int, asked[pair * len(points[pair]) + place])
            others.append(float(similar[v * width + u]))
    seconds = time.perf_counter() - began
    return {**_figures(order, seconds, loaded), "found": found, "score": score, "others": others}


def ours(order: dict[str, Any]) -> dict[str, Any]:
    """The same by `NearestMatcher`, picture by picture: nothing is kept from pair to pair."""
    import torch

    from probes import Maps
    from probes.matching import NearestMatcher

    torch.set_num_threads(order["threads"])
    maps, points = _given(order)
    size, matcher = tuple(order["size"]), NearestMatcher()
    loaded, began = held_mb(), time.perf_counter()
    found, score = [], []
    for pair in range(order["pairs"]):
        source, target = (Maps({"map": maps[row]}, size, size) for row in (2 * pair, 2 * pair + 1))
        matches = matcher.match(source, target, points[pair])
        found += matches.points.tolist()
        score += matches.score.tolist()
    seconds = time.perf_counter() - began
    return {**_figures(order, seconds, loaded), "found": found, "score": score}


def file(order: dict[str, Any]) -> dict[str, Any]:
    """Pairs of a feature file by `match_pairs`."""
    import h5py
    import torch

    from probes import Cells
    from probes.matching import NearestMatcher
    from probes.pairs import Pairs

    torch.set_num_threads(order["threads"])
    draw = np.random.default_rng(order["seed"])
    with h5py.File(order["file"]) as data:
        count = len(data["maps"])
        sizes = np.tile(order["size"], (count, 1))
        cells = Cells({("map", 0.0): data["maps"]}, sizes=sizes)
        rows = draw.integers(0, count, (2, order["pairs"]))
        points = points_of(order["pairs"], order["points"], order["size"], order["seed"])
        pairs = Pairs(*rows, list(points))
        matcher = NearestMatcher(resolution=order["resolution"])
        for _ in matcher.match_pairs(cells, pairs.take(slice(0, 10))):
            pass  # what a process does once is no part of a rate; nothing of it is kept
        loaded, began, valid = held_mb(), time.perf_counter(), 0
        for matches in matcher.match_pairs(cells, pairs):
            valid += int(matches.valid.sum())
        seconds = time.perf_counter() - began
    return {**_figures(order, seconds, loaded), "valid": valid}


def held_mb() -> float:
    """What the process holds now; its peak counts from here on."""
    reset_peak_memory()
    return peak_memory_mb()


def _given(order: dict[str, Any]) -> tuple[np.ndarray, np.ndarray]:
    maps = pictures(2 * order["pairs"], order["shape"], order["seed"])
    return maps, points_of(order["pairs"], order["points"], order["size"], order["seed"])


def _figures(order: dict[str, Any], seconds: float, loaded: float) -> dict[str, Any]:
    points = order["pairs"] * order["points"]
    return {
        "pairs": order["pairs"],
        "points": points,
        "seconds": round(seconds, 4),
        "points_per_s": round(points / seconds, 3),
        "loaded_mb": loaded,
        "peak_mb": peak_memory_mb(),
    }


WORKS = {"upsampled": upsampled, "ours": ours, "file": file}

if __name__ == "__main__":
    ORDER = json.loads(sys.argv[1])
    print(json.dumps(WORKS[ORDER["work"]](ORDER)))
