"""What a surface is compared with: pixels, and features of other vision models."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from benchmarks.features import Pictures, file_name
from benchmarks.searching import CellTask, one_cell
from diffeat.hashing import fingerprint
from diffeat.images import fit_picture

if TYPE_CHECKING:
    from diffeat.vision import VisionModel

MOST_PIXELS = 32
"""Side of the pictures whose raw pixels are a baseline."""


def pixel_task(pictures: Pictures, like: CellTask, spec: dict[str, Any]) -> CellTask:
    """The same pictures and parts with the pixels that the model sees as features.

    Pictures of more than 32×32 pixels are brought to that size, or a baseline of them would
    take more memory than any model.
    """
    size = tuple(min(side, MOST_PIXELS) for side in spec["size"])
    pixels = np.empty((len(pictures), 3, *size), np.uint8)
    rows = iter(pixels)
    for source in pictures.sources:
        for index in range(len(source)):
            next(rows)[:] = fit_picture(source.load(index), size, spec["fit"], spec["resample"])
    identity = fingerprint("pixels", pictures.keys, size, spec["fit"], spec["resample"])
    name = (
        "raw pixels" if list(size) == list(spec["size"]) else f"raw pixels at {size[0]}×{size[1]}"
    )
    return one_cell(like, name, "pixels", pixels, identity)


def vision_task(model: VisionModel, pictures: Pictures, like: CellTask, folder: Path) -> CellTask:
    """The same pictures and parts with the pooled features of another vision model."""
    found = []
    for source, key in zip(pictures.sources, pictures.keys, strict=True):
        mark = fingerprint(model.fingerprint, key)[:8]
        keep = folder / file_name(model.name, source.name, mark, ".safetensors")
        found.append(model.features(source, keep=keep))
    identity = fingerprint("vision", model.fingerprint, pictures.keys)
    return one_cell(like, model.name, "pooled", np.concatenate(found), identity)
