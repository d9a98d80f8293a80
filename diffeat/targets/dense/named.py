"""What the numbers in the files of named sets mean."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np

from diffeat.errors import SourceError
from diffeat.images import stored_size
from diffeat.images.below import is_inside
from diffeat.images.dense_layouts import DDPM_SEG
from diffeat.images.dense_sets import DENSE
from diffeat.targets.dense import names
from diffeat.targets.dense.arrays import shape_of
from diffeat.targets.dense.base import FileTargets, Reader
from diffeat.targets.dense.class_lists import Entry, made, read_classes
from diffeat.targets.dense.frames import FrameReader
from diffeat.targets.dense.labels import LabelReader
from diffeat.targets.dense.metres import DepthReader
from diffeat.targets.dense.missing import kept_rows

Files = Mapping[Path, str]
"""Mask or depth map → name of its picture."""


def labels(
    name: str,
    classes: Sequence[str] | Mapping[int, str],
    first: int = 0,
    ignored: Sequence[int] = (),
    colours: Sequence[Sequence[int]] | None = None,
) -> LabelReader:
    """A reader of numbers.

    Args:
        name: of the set.
        classes: names from the number `first` on, or by number.
        ignored: numbers that do not count, beside 255.
        colours: of the classes.
    """
    numbered = classes.items() if isinstance(classes, Mapping) else enumerate(classes, first)
    listed = made(f"the list of {name}", [Entry(k, one) for k, one in numbered])
    shades = None if colours is None else np.array(colours, np.uint8)
    return LabelReader(listed, tuple(ignored), shades)


def _camvid(folder: Path, files: Files) -> Reader:
    return labels("camvid", names.CAMVID, ignored=(11,), colours=names.CAMVID_COLOURS)


def _clothing(folder: Path, files: Files) -> Reader:
    path = folder / "classes.txt"
    if path.is_file() and is_inside(path, str(folder.resolve())):
        return LabelReader(read_classes(path))
    return labels("clothing", names.CLOTHING)


def _horses(folder: Path, files: Files) -> Reader:
    return labels("horses", names.HORSES)


def _ddpm_seg(folder: Path, files: Files, name: str) -> Reader:
    # -1 becomes 255 where the published code takes bytes
    classes = names.DDPM_SEG[name]
    if name == "bedroom28":
        return labels(name, classes, first=1, ignored=(0, -1))
    return labels(name, classes, ignored=(-1,))


def _voc(folder: Path, files: Files) -> Reader:
    return labels("voc2012", names.VOC, colours=names.voc_palette(len(names.VOC)))


def _ade20k(folder: Path, files: Files) -> Reader:
    return labels("ade20k", names.ADE20K, first=1, ignored=(0,))


def _cityscapes(folder: Path, files: Files) -> Reader:
    others = [k for k in range(34) if k not in names.CITYSCAPES]
    return labels("cityscapes", names.CITYSCAPES, ignored=others, colours=names.CITYSCAPES_COLOURS)


def _metres(folder: Path, files: Files) -> Reader:
    return DepthReader(0.001)


def _frames(folder: Path, files: Files) -> Reader:
    return FrameReader(files)


@dataclass(frozen=True)
class Meaning:
    """Of the files of a set.

    Attributes:
        reader: (the data set's folder, its files) → what reads one.
        moved: whether files may have another size than their picture.
    """

    reader: Callable[[Path, Files], Reader]
    moved: bool = False


MEANINGS: dict[str, Meaning] = {
    "camvid": Meaning(_camvid),
    "clothing": Meaning(_clothing),
    "horses": Meaning(_horses),
    **{f"ddpm-seg-{name}": Meaning(partial(_ddpm_seg, name=name), True) for name in DDPM_SEG},
    "voc2012": Meaning(_voc),
    "ade20k": Meaning(_ade20k),
    "cityscapes": Meaning(_cityscapes),
    "nyuv2": Meaning(_metres),
    "kitchen-rgbd": Meaning(_frames),
}


def open_named(
    kind: str, name: str, folder: Path, split: str, missing: str = "refuse"
) -> FileTargets:
    """The targets of a split in the layout of a named set.

    Args:
        kind: of `MEANINGS`.
        name: of the targets, for messages.
        folder: of the data set.
        split: of it.
        missing: "refuse" pictures without a mask, or "leave-out" (counted).

    Raises:
        SourceError: files that are missing, twice, or elsewhere.
    """
    one = DENSE[kind]
    below, rows = one.rows(folder, split)
    files = [folder / target for _, target, _ in rows]
    kept, left_out = kept_rows(name, [key for key, _, _ in rows], files, folder, missing)
    ids = tuple(rows[k][0] for k in kept)
    files = tuple(files[k] for k in kept)
    paths = tuple(map(below.path, ids))
    if not ids:
        raise SourceError(f"{name}: no picture has a mask or depth map; expected {one.wanted}")
    reader = MEANINGS[kind].reader(
        folder, {file: path.name for file, path in zip(files, paths, strict=True)}
    )
    return FileTargets(
        name, ids, files, reader, folder, tuple(rows[k][2] for k in kept),
        partial(one.pictures, name, folder, split), paths, left_out=left_out,
        noted=_noted(kind, split, len(rows), files, paths), moved=MEANINGS[kind].moved,
    )  # fmt: skip


def _noted(
    kind: str, split: str, count: int, files: Sequence[Path], paths: Sequence[Path]
) -> dict[str, int]:
    """Of DDPM-Seg: pictures that lack to the published number, and labels of another size."""
    if not kind.startswith("ddpm-seg-"):
        return {}
    published = DDPM_SEG[kind.removeprefix("ddpm-seg-")][1 + (split == "test")]
    pairs = zip(files, paths, strict=True)
    moved = sum(shape_of(file) not in ((), stored_size(path)[0]) for file, path in pairs)
    found = {f"pictures fewer than the published {published}": max(published - count, 0),
             "labels of another size, brought to their picture's by nearest": moved}  # fmt: skip
    return {what: number for what, number in found.items() if number}
