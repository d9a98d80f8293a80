"""Tiny sets in COCO's and ADE20K's panoptic layouts: a square and a disc on sky and ground."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
from PIL import Image

SIZE = (24, 32)
CATEGORIES = (
    {"id": 18, "name": "dog", "isthing": 1}, {"id": 17, "name": "cat", "isthing": 1},
    {"id": 187, "name": "sky", "isthing": 0}, {"id": 193, "name": "grass", "isthing": 0},
)  # fmt: skip
"""Not in the order of their ids."""
SHADES = {17: (220, 80, 60), 18: (90, 60, 200), 187: (120, 190, 240), 193: (60, 150, 70)}


def scene(number: int) -> tuple[np.ndarray, np.ndarray, list[dict]]:
    """(H, W, 3) pixels, (H, W) ids of segments, which need all three bytes, and the segments."""
    rng = np.random.default_rng(number)
    rows = np.arange(SIZE[0])[:, None] + np.zeros(SIZE, int)
    step = 70_001 + number
    ids = np.where(rows < 10, step, 2 * step)
    names = {step: 187, 2 * step: 193}
    for k, category in ((3, 17), (4, 18 if number % 2 else 17)):
        top, left = rng.integers(2, 14), rng.integers(1, 10) + (k - 3) * 14
        ids[top : top + 8, left : left + 7] = k * step
        names[k * step] = category
    pixels = np.empty((*SIZE, 3))
    for name, category in names.items():
        pixels[ids == name] = SHADES[category]
    ids[0] = 0  # void
    pixels = (pixels + rng.integers(-20, 20, pixels.shape)).clip(0, 255).astype(np.uint8)
    segments = [{"id": int(name), "category_id": category, "iscrowd": 0,
                 "area": int((ids == name).sum())}
                for name, category in names.items() if (ids == name).any()]  # fmt: skip
    return pixels, ids, segments


def _written(folder: Path, path: Path, pictures: Path, numbers) -> Path:
    images, annotations = [], []
    colours = folder / path.with_suffix("")
    for one in (folder / pictures, colours):
        one.mkdir(parents=True)
    for number in numbers:
        pixels, ids, segments = scene(number)
        name = f"{number:012d}"
        Image.fromarray(pixels).save(folder / pictures / f"{name}.jpg", quality=95)
        rgb = np.stack([ids % 256, ids // 256 % 256, ids // 65536], -1).astype(np.uint8)
        Image.fromarray(rgb).save(colours / f"{name}.png")
        images.append({"id": number, "file_name": f"{name}.jpg", "width": SIZE[1],
                       "height": SIZE[0]})  # fmt: skip
        annotations.append({"image_id": number, "file_name": f"{name}.png",
                            "segments_info": segments})  # fmt: skip
    data = {"images": images, "annotations": annotations, "categories": list(CATEGORIES)}
    (folder / path).write_text(json.dumps(data))
    return folder / path


def coco(folder: Path, split: str = "val2017", numbers=range(4)) -> Path:
    return _written(folder, Path(f"annotations/panoptic_{split}.json"), Path(split), numbers)


def ade20k(folder: Path, split: str = "val", numbers=range(4)) -> Path:
    pictures = Path("images") / {"val": "validation", "train": "training"}[split]
    return _written(folder, Path(f"ade20k_panoptic_{split}.json"), pictures, numbers)
