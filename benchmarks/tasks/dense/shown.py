"""A sheet of test pictures: input, truth, prediction, uncertainty."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from benchmarks.tasks.dense.file import DenseBenchmark
from benchmarks.tasks.dense.sets import Sets
from diffeat.viz.masks import mask_sheet
from probes.dense.framed import over_input
from probes.maps import Maps

MOST = 12
"""Test pictures of a sheet at most."""


def places_shown(benchmark: DenseBenchmark, count: int) -> np.ndarray:
    """Which of `count` test pictures a sheet shows, ascending: evenly spaced, because neighbours
    are often frames of one film."""
    shown = min(benchmark.shown, MOST, count)
    return ((np.arange(shown) + 0.5) * count / max(shown, 1)).astype(np.int64)


def write_sheet(
    benchmark: DenseBenchmark, sets: Sets, kept: Mapping[str, Sequence[np.ndarray]], path: Path
) -> None:
    """Write what was kept of some test pictures (`places_shown`) beside input and truth; nothing
    of nothing."""
    if not kept:
        return
    source, depth = sets.test.pictures(), sets.test.kind == "depth"
    places, rows = places_shown(benchmark, len(sets.test.ids)).tolist(), []
    for k, place in enumerate(places):
        size = next(iter(kept.values()))[k].shape
        picture = source.load(place).convert("RGB")
        row: dict[str, Any] = {"input": np.asarray(picture.resize(size[::-1], Image.BICUBIC))}
        truth = np.asarray(sets.test.target(place))
        row["truth"] = over_input(truth, Maps({}, truth.shape, size), size, 0)
        rows.append(row | {name: maps[k] for name, maps in kept.items()})
    limits, units = {}, {}
    if depth:  # on one scale
        known = np.concatenate([row["truth"][np.isfinite(row["truth"])] for row in rows])
        limits = dict.fromkeys([name for name in rows[0] if name != "input"],
                               (float(known.min()), float(known.max())))  # fmt: skip
        units = dict.fromkeys(limits, "m")
    mask_sheet(
        rows, path, names=() if depth else list(sets.test.classes), units=units, limits=limits,
        colours=getattr(sets.test, "palette", None), title=benchmark.title,
        heads=[sets.test.ids[place] for place in places],
    )  # fmt: skip
