"""(j) Points matched by features at every pixel: DIFT's way, ours, and rates of a feature file."""

from __future__ import annotations

from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import h5py
import torch

from benchmarks.speed.common import in_process
from benchmarks.speed.match_child import pictures
from benchmarks.speed.settings import Settings

TARGETS = {
    "ratio": 300, "memory": 20, "apart": 1e-5, "site": 20_000, "picture": 800, "growth": 1.05,
}  # fmt: skip


def measure(settings: Settings) -> dict[str, Any]:
    """Every figure from a process of its own; features are noise, smoothed a little."""
    shared = {"threads": torch.get_num_threads(), "seed": settings.seed,
              "size": list(settings.size or settings.by_length((375, 500), (36, 48)))}  # fmt: skip
    return {
        "targets": TARGETS,
        "size": shared["size"],
        "against": _against({**shared, **settings.by_length(
            {"shape": [1280, 48, 48], "points": 15}, {"shape": [16, 6, 6], "points": 3})},
            settings),
        "file": _of_a_file({**shared, "points": 15}, settings),
    }  # fmt: skip


def _against(order: dict[str, Any], settings: Settings) -> dict[str, Any]:
    """Seconds a point and memory above what the maps hold: features upsampled, and ours.

    Equal is the same pixel, or similarities, both by the features upsampled, that close: of
    2 pairs, which ours has among its first.
    """
    few, many = settings.by_length((2, 20), (1, 2))
    ours = in_process("match_child", {**order, "work": "ours", "pairs": few}, "matching")
    whole = in_process("match_child", {**order, "work": "ours", "pairs": many}, "matching")
    theirs = in_process(
        "match_child",
        {**order, "work": "upsampled", "pairs": few, "asked": ours["found"]},
        "matching on upsampled features",
    )
    same = [a == list(map(int, b)) for a, b in zip(theirs["found"], ours["found"], strict=True)]
    at_ours = theirs["others"]
    apart = [abs(at_ours[k] - other[k]) for other in (theirs["score"], ours["score"])
             for k in range(len(at_ours))]  # fmt: skip
    return {
        "shape": order["shape"],
        "same_pixel": sum(same),
        "apart": max(apart),
        "upsampled": _short(theirs),
        "ours": _short(whole),
        "ratio": round(whole["points_per_s"] / theirs["points_per_s"], 2),
        "memory_ratio": round(_above(theirs) / max(_above(whole), 0.1), 2),
    }


def _short(run: dict[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in run.items() if not isinstance(value, list)}


def _above(run: dict[str, Any]) -> float:
    return run["peak_mb"] - run["loaded_mb"]


def _of_a_file(order: dict[str, Any], settings: Settings) -> dict[str, Any]:
    """Points a second at sites and at pixels, and how memory grows with the pairs."""
    count, shape = settings.by_length((60, [256, 32, 32]), (4, [16, 6, 6]))
    pairs = settings.by_length({"site": 1000, "picture": 200}, {"site": 5, "picture": 3})
    more = settings.by_length((1000, 10_000), (5, 20))
    with TemporaryDirectory() as folder:
        path = Path(folder) / "maps.h5"
        with h5py.File(path, "w") as data:
            data["maps"] = pictures(count, shape, settings.seed)
        order = {**order, "work": "file", "file": str(path)}
        rates = {
            name: in_process("match_child", {**order, "resolution": name, "pairs": number},
                             "matching a file") for name, number in pairs.items()
        }  # fmt: skip
        grown = [in_process("match_child", {**order, "resolution": "site", "pairs": number},
                            "matching a file") for number in more]  # fmt: skip
    return {
        "pictures": count,
        "shape": shape,
        "rates": rates,
        "growth": grown,
        "memory_ratio": round(grown[-1]["peak_mb"] / grown[0]["peak_mb"], 4),
    }
