"""Small sets of masks and depth in published layouts: a bright square on dark ground."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from PIL import Image

SIZE = (24, 32)
TRAIN, TEST = 8, 4


def scene(number: int, size: tuple[int, int] = SIZE) -> tuple[np.ndarray, np.ndarray]:
    """(H, W, 3) pixels and (H, W) 0 and 1: the square lies elsewhere in every picture."""
    rng = np.random.default_rng(number)
    height, width = size
    side = height // 2
    top, left = rng.integers(0, height - side), rng.integers(0, width - side)
    mask = np.zeros(size, np.uint8)
    mask[top : top + side, left : left + side] = 1
    pixels = np.where(mask[..., None] == 1, [210, 190, 60], [30, 60, 110])
    return (pixels + rng.integers(-20, 20, (*size, 3))).clip(0, 255).astype(np.uint8), mask


def save(path: Path, values: np.ndarray) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.suffix == ".npy":
        np.save(path, values)
    else:
        Image.fromarray(values).save(path)


def horses(folder: Path) -> None:
    for split, numbers in (("train", range(TRAIN)), ("val", range(100, 100 + TEST))):
        names = []
        for number in numbers:
            pixels, mask = scene(number)
            names.append(f"horse{number:03d}")
            save(folder / f"horse/{names[-1]}.jpg", pixels)
            save(folder / f"mask/{names[-1]}.png", mask)
        (folder / "annotation").mkdir(exist_ok=True)
        (folder / f"annotation/{split}.txt").write_text("\n".join(names) + "\n")


def kitchen(folder: Path, size: tuple[int, int] = SIZE) -> None:
    """What is bright is 1 m away, all else 2 m; one row is unknown."""
    for number in (*range(0, 600, 100), 700, 800, 900):
        pixels, mask = scene(number, size)
        name = f"frame-{number:06d}"
        save(folder / f"{name}.color.png", pixels)
        depth = np.where(mask == 1, 1000, 2000).astype(np.uint16)
        depth[0] = 0
        save(folder / f"{name}.depth.png", depth)
        (folder / f"{name}.pose.txt").write_text("1 0 0 0\n0 1 0 0\n0 0 1 0\n0 0 0 1")


def ddpm_seg(folder: Path, first: int = 0) -> None:
    for split, numbers in (("train", range(TRAIN)), ("test", range(100, 100 + TEST))):
        for number in numbers:
            pixels, mask = scene(number)
            save(folder / f"real/{split}/{number}.png", pixels)
            save(folder / f"real/{split}/{number}.npy", mask + first)


def voc2012(folder: Path) -> None:
    for split, numbers in (("train", range(TRAIN)), ("val", range(100, 100 + TEST))):
        for number in numbers:
            pixels, mask = scene(number)
            save(folder / f"JPEGImages/{number}.jpg", pixels)
            save(folder / f"SegmentationClass/{number}.png", mask)
        lists = folder / "ImageSets/Segmentation"
        lists.mkdir(parents=True, exist_ok=True)
        (lists / f"{split}.txt").write_text("\n".join(map(str, numbers)) + "\n")


def ade20k(folder: Path) -> None:
    for split, numbers in (("training", range(TRAIN)), ("validation", range(100, 100 + TEST))):
        for number in numbers:
            pixels, mask = scene(number)
            save(folder / f"images/{split}/{number}.jpg", pixels)
            save(folder / f"annotations/{split}/{number}.png", mask + 1)


def cityscapes(folder: Path) -> None:
    for split, numbers in (("train", range(TRAIN)), ("val", range(100, 100 + TEST))):
        for number in numbers:
            pixels, mask = scene(number)
            name = f"{split}/city{number % 2}{split}/{number}"
            save(folder / f"leftImg8bit/{name}_leftImg8bit.png", pixels)
            save(folder / f"gtFine/{name}_gtFine_labelIds.png", mask + 7)


def nyuv2(folder: Path) -> None:
    for split, numbers in (("train", range(TRAIN)), ("test", range(100, 100 + TEST))):
        lines, below = [], "sync" if split == "train" else "official_splits/test"
        for number in numbers:
            pixels, mask = scene(number)
            name = f"kitchen_{number % 3}{split}"
            save(folder / below / name / f"rgb_{number}.jpg", pixels)
            depth = np.where(mask == 1, 1500, 3000).astype(np.uint16)
            save(folder / below / name / f"sync_depth_{number}.png", depth)
            lines.append(f"/{name}/rgb_{number}.jpg /{name}/sync_depth_{number}.png 518.8579")
        (folder / f"nyudepthv2_{split}_files_with_gt.txt").write_text("\n".join(lines))
