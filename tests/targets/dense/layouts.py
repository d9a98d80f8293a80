"""Small data sets of masks and depth, written as the published ones lie on the disk."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
from PIL import Image

HEIGHT, WIDTH = 6, 8
SIZE = HEIGHT, WIDTH


def picture(path: Path, size: tuple[int, int] = SIZE, turn: int | None = None) -> None:
    """A picture of its own colour; `turn` is an EXIF orientation."""
    path.parent.mkdir(parents=True, exist_ok=True)
    shade = sum(path.name.encode()) * 7 % 256
    image, exif = Image.new("RGB", size[::-1], (shade, 255 - shade, 128)), Image.Exif()
    if turn is not None:
        exif[0x0112] = turn
    image.save(path, exif=exif)


def numbers(*values: int, size: tuple[int, int] = SIZE, dtype: type = np.uint8) -> np.ndarray:
    """An array that has some numbers, one after another, row by row."""
    return np.resize(np.array(values, dtype), size)


def mask(path: Path, array: np.ndarray, palette: list[int] | None = None) -> None:
    """A PNG, TIFF or .npy of an array."""
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.suffix == ".npy":
        np.save(path, array)
        return
    image = Image.fromarray(array)
    if palette is not None:
        image = image.convert("P")
        image.putdata(array.ravel().tolist())
        image.putpalette(palette)
    image.save(path)


def write(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, "utf-8")


def camvid(folder: Path) -> None:
    for name in ("0001TP_01", "0006R0_f7", "Seq05VD_f1"):
        picture(folder / f"train/{name}.jpg")
        mask(folder / f"trainannot/{name}.png", numbers(0, 10, 11))


def clothing(folder: Path) -> None:
    for name in ("0001", "0003"):
        picture(folder / f"val/{name}.jpg")
        mask(folder / f"valannot/{name}.png", numbers(0, 9, 255))


def horses(folder: Path) -> None:
    for name in ("horse001", "horse002", "horse003"):
        picture(folder / f"horse/{name}.jpg")
        mask(folder / f"mask/{name}.png", numbers(0, 1))
    write(folder / "annotation/val.txt", "horse003\nhorse001\n")


def ddpm_seg(folder: Path) -> None:
    for name in ("img_1", "img_0"):
        picture(folder / f"real/test/{name}.png")
        mask(folder / f"real/test/{name}.npy", numbers(0, 1, 14, 255, dtype=np.int64))


def bedroom(folder: Path) -> None:
    picture(folder / "real/train/a.jpg")
    mask(folder / "real/train/a.npy", numbers(0, 1, 28, dtype=np.float64))


def voc(folder: Path) -> None:
    for name in ("2007_000033", "2007_000042"):
        picture(folder / f"JPEGImages/{name}.jpg")
        mask(folder / f"SegmentationClass/{name}.png", numbers(0, 20, 255), list(range(256)) * 3)
    picture(folder / "JPEGImages/2007_000001.jpg")
    write(folder / "ImageSets/Segmentation/val.txt", "2007_000042\n2007_000033\n")


def ade20k(folder: Path) -> None:
    picture(folder / "images/validation/ADE_val_00000001.jpg")
    mask(folder / "annotations/validation/ADE_val_00000001.png", numbers(0, 1, 150))
    write(folder / "objectInfo150.txt", "Idx\n")


def cityscapes(folder: Path) -> None:
    for city in ("ulm", "bonn"):
        name = f"val/{city}/{city}_000000_000019"
        picture(folder / f"leftImg8bit/{name}_leftImg8bit.png")
        mask(folder / f"gtFine/{name}_gtFine_labelIds.png", numbers(7, 33, 0, 14, 255))


def nyuv2(folder: Path) -> None:
    lines = []
    for name in ("kitchen_0028b", "kitchen_0028a", "study_0004"):
        picture(folder / f"sync/{name}/rgb_00045.jpg")
        mask(folder / f"sync/{name}/sync_depth_00045.png", numbers(0, 1500, 65535, dtype=np.uint16))
        lines.append(f"/{name}/rgb_00045.jpg /{name}/sync_depth_00045.png 518.8579")
    write(folder / "nyudepthv2_train_files_with_gt.txt", "\n".join(lines))


def kitchen(folder: Path) -> None:
    for number in (0, 690, 700, 710):
        name = f"frame-{number:06d}"
        picture(folder / f"{name}.color.jpg")
        depth = numbers(1000 + number, size=SIZE, dtype=np.uint16)
        depth[:2] = [[0], [65535]]
        mask(folder / f"{name}.depth.png", depth)
        write(folder / f"{name}.pose.txt", "1 0 0 0\n0 1 0 0\n0 0 1 0\n0 0 0 1")


LAYOUTS: dict[str, tuple[Callable[[Path], None], str]] = {
    "camvid": (camvid, "train"),
    "clothing": (clothing, "val"),
    "horses": (horses, "val"),
    "ddpm-seg-cat15": (ddpm_seg, "test"),
    "ddpm-seg-bedroom28": (bedroom, "train"),
    "voc2012": (voc, "val"),
    "ade20k": (ade20k, "val"),
    "cityscapes": (cityscapes, "val"),
    "nyuv2": (nyuv2, "train"),
    "kitchen-rgbd": (kitchen, "test"),
}
"""Named set → what writes it, and a split of it."""
