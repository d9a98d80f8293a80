"""Toy pictures in coloured parts, as a folder of pictures and masks; what ODISE is tried with."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from PIL import Image

from diffeat.adapt import ODISE
from diffeat.targets.dense import open_dense

COLOURS = {"cat": (200, 60, 40), "dog": (40, 80, 200), "sky": (230, 230, 120)}
SIZE = (32, 32)
BLOCKS = ("odise:2", "odise:5", "odise:vae.1", "odise:vae-decoder.2")
SETTINGS = {
    "blocks": BLOCKS, "short": 32, "longest": 64, "divisor": 8, "strides": (2, 4), "channels": 24,
    "width": 16, "templates": ("{}", "a {}"), "epochs": 4, "batch_size": 2, "learning_rate": 1e-2,
    "progress": False,
}  # fmt: skip
WORDS = {"cat": ["kit"], "dog": [], "sky": []}


def draw(folder: Path, count: int, seed: int, size=SIZE):
    """The targets of `count` pictures: a rectangle of one class on another, with noise."""
    rng = np.random.default_rng(seed)
    (folder / "images").mkdir(parents=True)
    (folder / "masks").mkdir()
    (folder / "classes.txt").write_text("\n".join(COLOURS), "utf-8")
    for k in range(count):
        back, front = rng.permutation(3)[:2]
        mask = np.full(size, back, np.uint8)
        top, left = rng.integers(2, size[0] // 2), rng.integers(2, size[1] // 2)
        mask[top : top + size[0] // 2, left : left + size[1] // 2] = front
        pixels = np.array(list(COLOURS.values()))[mask] + rng.normal(0, 12, (*size, 3))
        name = f"{seed}-{k}.png"
        Image.fromarray(pixels.clip(0, 255).astype(np.uint8)).save(folder / "images" / name)
        Image.fromarray(mask).save(folder / "masks" / name)
    return open_dense(str(folder))


def model(backbone, clip, **more) -> ODISE:
    return ODISE(backbone, clip, WORDS, **{**SETTINGS, **more})
