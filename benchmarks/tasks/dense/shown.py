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


def write_sheet(
    benchmark: DenseBenchmark, sets: Sets, kept: Mapping[str, Sequence[np.ndarray]], path: Path
) -> None:
    """Write what was kept of the first test pictures beside input and truth; nothing of nothing."""
    count = min((len(maps) for maps in kept.values()), default=0)
    if not count:
        return
    source, depth = sets.test.pictures(), sets.test.kind == "depth"
    rows = []
    for place in range(count):
        size = next(iter(kept.values()))[place].shape
        picture = source.load(place).convert("RGB")
        row: dict[str, Any] = {"input": np.asarray(picture.resize(size[::-1], Image.BICUBIC))}
        row["truth"] = _at(np.asarray(sets.test.target(place)), size)
        rows.append(row | {name: maps[place] for name, maps in kept.items()})
    limits = {}
    if depth:  # on one scale
        known = np.concatenate([row["truth"][np.isfinite(row["truth"])] for row in rows])
        limits = dict.fromkeys([name for name in rows[0] if name != "input"],
                               (float(known.min()), float(known.max())))  # fmt: skip
    mask_sheet(
        rows, path, names=() if depth else list(sets.test.classes),
        colours=getattr(sets.test, "palette", None), heads=list(sets.test.ids[:count]),
        limits=limits, title=benchmark.title,
    )  # fmt: skip


def _at(values: np.ndarray, size: tuple[int, ...]) -> np.ndarray:
    """(H, W) nearest of another size."""
    rows, columns = ((np.arange(new) + 0.5) * old / new for new, old in
                     zip(size, values.shape, strict=True))  # fmt: skip
    return values[rows.astype(int)][:, columns.astype(int)]
