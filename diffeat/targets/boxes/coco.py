"""Boxes in COCO's layout: one JSON of images, annotations and categories.

    annotations/instances_<split>.json      and the pictures in <split>/

A box is x, y, width, height; category ids are sorted and become 0 … K − 1.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from diffeat.errors import SourceError
from diffeat.images.below import Below, read_json_object
from diffeat.images.paired import by_category
from diffeat.targets.boxes.base import BoxTargets

PARTS = ("images", "annotations", "categories")
MOST = 2.0
"""Pixels by which a box may stand out of its picture: rounding; what is further out is refused."""


def open_coco(path: str | Path, pictures: str | Path | None = None) -> BoxTargets:
    """Boxes and pictures of one JSON in COCO's layout.

    Args:
        path: the JSON; or "FOLDER:SPLIT", which is FOLDER/annotations/instances_SPLIT.json with the
            pictures in FOLDER/SPLIT.
        pictures: the folder of the pictures; ids are paths below it. None: as for "FOLDER:SPLIT".

    Raises:
        SourceError: no such file or folder, JSON of another form, categories or pictures that are
            not listed, boxes outside of their pictures.
    """
    path, folder = _places(str(path), pictures)
    data = read_json_object(path, path.parent, PARTS)
    for part in PARTS:
        if not isinstance(data[part], list) or not all(isinstance(x, Mapping) for x in data[part]):
            raise SourceError(f"{path}: {part} is no list of objects; expected COCO's layout")
    read = _Read(path, Below(folder))
    try:
        return read.targets(data)
    except (KeyError, TypeError, ValueError) as error:
        if isinstance(error, SourceError):
            raise
        raise SourceError(
            f"{path}: {type(error).__name__} {error}; expected COCO's fields id, file_name, width, "
            "height, image_id, category_id, bbox"
        ) from error


def _places(text: str, pictures: str | Path | None) -> tuple[Path, Path]:
    """The JSON and the folder of the pictures."""
    path = Path(text)
    if not path.is_file() and ":" in text:
        folder, _, split = text.rpartition(":")
        path = Path(folder) / "annotations" / f"instances_{split}.json"
        pictures = Path(folder) / split if pictures is None else pictures
    if not path.is_file():
        raise SourceError(f"{path}: no such file; expected COCO's instances_*.json")
    if pictures is None:
        split = path.stem.removeprefix("instances_")
        pictures = path.parent.parent / split
    if not Path(pictures).is_dir():
        raise SourceError(f"{pictures}: no such folder; expected the pictures of {path.name}")
    return path, Path(pictures)


@dataclass
class _Read:
    """What has been read of one file.

    Attributes:
        path: of the JSON. below: the folder of the pictures.
        left_out: why → how many.
    """

    path: Path
    below: Below
    left_out: Counter[str] = field(default_factory=Counter)

    def targets(self, data: Mapping[str, Any]) -> BoxTargets:
        order = sorted(data["categories"], key=lambda one: one["id"])
        index = {one["id"]: k for k, one in enumerate(order)}
        names = {}
        for one in data["images"]:
            where = f"{self.path}, image {one['id']}"
            names[one["id"]] = self.below.picture(str(one["file_name"]), where)
        rows: dict[Any, list] = {one["id"]: [] for one in data["images"]}
        sizes = {one["id"]: (float(one["width"]), float(one["height"])) for one in data["images"]}
        for one in data["annotations"]:
            if (row := self._row(one, index, sizes)) is not None:
                rows[one["image_id"]].append(row)
        return self._made(names, rows, tuple(str(one["name"]) for one in order))

    def _row(self, one: Mapping[str, Any], index: Mapping, sizes: Mapping) -> tuple | None:
        """x1, y1, x2, y2, label, crowd; None of a box without extent."""
        where = f"{self.path}, annotation {one.get('id')}"
        if one["category_id"] not in index or one["image_id"] not in sizes:
            raise SourceError(f"{where}: category {one['category_id']} or image {one['image_id']} "
                              "is not listed; fetch the file again")  # fmt: skip
        x, y, w, h = (float(number) for number in one["bbox"])
        if not np.isfinite([x, y, w, h]).all():
            raise SourceError(f"{where}: box {one['bbox']}; expected finite numbers")
        if w <= 0 or h <= 0:
            self.left_out["boxes without extent"] += 1
            return None
        width, height = sizes[one["image_id"]]
        if min(x, y) < -MOST or x + w > width + MOST or y + h > height + MOST:
            raise SourceError(f"{where}: box {one['bbox']} (x, y, width, height) stands out of "
                              f"its picture of {width:g}×{height:g}")  # fmt: skip
        box = max(x, 0.0), max(y, 0.0), min(x + w, width), min(y + h, height)
        if box[2] <= box[0] or box[3] <= box[1]:
            self.left_out["boxes without extent"] += 1
            return None
        return *box, index[one["category_id"]], bool(one.get("iscrowd", 0))

    def _made(self, names: Mapping, rows: Mapping, classes: tuple[str, ...]) -> BoxTargets:
        if not names:
            raise SourceError(f"{self.path}: no images; expected COCO's layout")
        order = sorted(names, key=names.get)
        ids = tuple(names[one] for one in order)
        if len(set(ids)) != len(ids):
            raise SourceError(f"{self.path}: lists a picture twice; expected each once")
        tables = [np.array(rows[one], np.float64).reshape(-1, 6) for one in order]
        of = {name: {""} for name in ids}
        name = self.path.name
        return BoxTargets(
            name, ids, tuple(one[:, :4] for one in tables),
            tuple(one[:, 4].astype(np.int64) for one in tables),
            tuple(one[:, 5].astype(bool) for one in tables), classes, ids,
            lambda: by_category(name, self.below, of), dict(self.left_out),
        )  # fmt: skip
