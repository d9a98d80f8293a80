"""Segments in COCO's panoptic layout, which ADE20K's comes in, too.

    annotations/panoptic_<split>.json       images, annotations with segments_info, categories with
                                            isthing; the pictures in <split>/
    annotations/panoptic_<split>/NAME.png   colours: a segment's id is R + 256·G + 256²·B; 0 is void
    ade20k_panoptic_<split>.json            the same of ADE20K: PNGs in ade20k_panoptic_<split>/,
                                            pictures in images/training/ and images/validation/

Category ids are sorted and become 0 … K − 1.

Source: Kirillov et al. 2019, "Panoptic Segmentation", and COCO's panopticapi.
"""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from diffeat.coords import Size
from diffeat.errors import PictureError, SourceError
from diffeat.hashing import fingerprint
from diffeat.images import Source
from diffeat.images.below import Below, read_json_object
from diffeat.images.digests import digest_of_file
from diffeat.images.paired import by_category
from diffeat.targets.panoptic.base import PanopticTargets, Segmented

PARTS = ("images", "annotations", "categories")
SPLITS = {"train": "training", "val": "validation"}
"""ADE20K's split → the folder of its pictures."""
FIELDS = ("COCO's panoptic fields id, file_name, image_id, segments_info with id and category_id, "
          "categories with id, name and isthing")  # fmt: skip


@dataclass(frozen=True, eq=False)
class CocoPanoptic(PanopticTargets):
    """Segments of a JSON and its folder of PNGs.

    Attributes:
        below: the folder of the pictures. colours: that of the PNGs.
        files: N names of PNGs.
        listed: of each picture, its segments, with areas as the JSON has them, or 0.
    """

    name: str
    ids: tuple[str, ...]
    classes: tuple[str, ...]
    things: frozenset[int]
    below: Below
    colours: Below
    files: tuple[str, ...]
    listed: tuple[tuple[dict[str, Any], ...], ...]
    left_out: Mapping[str, int] = field(default_factory=dict)

    @property
    def groups(self) -> tuple[str, ...]:
        return self.ids

    def pictures(self) -> Source:
        source = by_category(self.name, self.below, {one: {""} for one in self.ids})
        row_of = {one: row for row, one in enumerate(source.ids)}
        return source.take([row_of[one] for one in self.ids])

    def size(self, row: int) -> Size:
        return self.below.size(self.ids[row], self.name)

    def segmented(self, row: int) -> Segmented:
        path = self.colours.path(self.files[row])
        ids = read_ids(path)
        if ids.shape != tuple(self.size(row)):
            shown = ["×".join(map(str, size)) for size in (ids.shape, self.size(row))]
            raise PictureError(self.ids[row], f"{path} is {shown[0]}, the picture {shown[1]}; it "
                               "belongs to another picture, or was resized")  # fmt: skip
        names, areas = np.unique(ids, return_counts=True)
        area = dict(zip(names.tolist(), areas.tolist(), strict=True))
        area.pop(0, None)
        known = {one["id"] for one in self.listed[row]}
        if odd := sorted(set(area) ^ known):
            where = "the PNG" if odd[0] in area else "the JSON"
            raise PictureError(self.ids[row], f"segment {odd[0]} stands in {where} alone ({path}); "
                               "PNG and JSON are of different versions: fetch both "
                               "again")  # fmt: skip
        return Segmented(ids, [{**one, "area": area[one["id"]]} for one in self.listed[row]])

    def pixels(self) -> np.ndarray:
        areas = [(one["class"], one["area"]) for row in self.listed for one in row]
        if not all(area > 0 for _, area in areas):
            return super().pixels()
        classes, counts = np.array(areas, np.int64).reshape(-1, 2).T
        found = np.zeros(len(self.classes), np.int64)
        np.add.at(found, classes, counts)
        return found

    @cached_property
    def fingerprint(self) -> str:
        digests = [digest_of_file(self.colours.path(one)).hex() for one in self.files]
        marks = [[[one["id"], one["class"], one["crowd"]] for one in row] for row in self.listed]
        return fingerprint(self.ids, digests, marks, self.classes, sorted(self.things))

    def take(self, rows: Sequence[int] | np.ndarray) -> CocoPanoptic:
        rows = np.arange(len(self))[np.asarray(rows)].tolist()
        some = {name: tuple(getattr(self, name)[row] for row in rows)
                for name in ("ids", "files", "listed")}  # fmt: skip
        return replace(self, **some)


def open_panoptic(
    path: str | Path, pictures: str | Path | None = None, colours: str | Path | None = None
) -> CocoPanoptic:
    """Segments and pictures of one JSON in COCO's panoptic layout.

    Args:
        path: the JSON; or "FOLDER:SPLIT", which is FOLDER/annotations/panoptic_SPLIT.json of COCO
            (pictures in FOLDER/SPLIT) or FOLDER/ade20k_panoptic_SPLIT.json of ADE20K (pictures in
            FOLDER/images/validation).
        pictures: the folder of the pictures; ids are paths below it. None: as for "FOLDER:SPLIT".
        colours: the folder of the PNGs; None: called as the JSON is.

    Returns:
        The targets, by ascending picture id; PNGs are read when they are asked for.

    Raises:
        SourceError: no such file or folder, JSON of another form, categories, pictures or PNGs
            that are missing or lead out of their folders, ids twice.
    """
    path, folder = _places(str(path), pictures)
    colours = path.with_suffix("") if colours is None else Path(colours)
    for one, what in ((folder, "the pictures"), (colours, "the PNGs of segments")):
        if not one.is_dir():
            raise SourceError(f"{one}: no such folder; expected {what} of {path.name}")
    data = read_json_object(path, path.parent, PARTS)
    for part in PARTS:
        if not isinstance(data[part], list) or not all(isinstance(x, Mapping) for x in data[part]):
            raise SourceError(f"{path}: {part} is no list of objects; expected {FIELDS}")
    try:
        return _read(path, data, Below(folder), Below(colours))
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        if isinstance(error, SourceError):
            raise
        raise SourceError(f"{path}: {type(error).__name__} {error}; expected {FIELDS}") from error


def read_ids(path: Path) -> np.ndarray:
    """(H, W) int32 ids of a PNG: R + 256·G + 256²·B.

    Raises:
        PictureError: it cannot be read, holds no colours, or has lost some to compression.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error", Image.DecompressionBombWarning)
            with Image.open(path) as image:
                image.load()
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError,
            Image.DecompressionBombWarning) as error:  # fmt: skip
        raise PictureError(str(path), f"no PNG of segments that can be read ({error})") from error
    if image.mode not in ("RGB", "RGBA") or image.format != "PNG":
        raise PictureError(str(path), f"is a {image.format} of mode {image.mode}; expected a PNG "
                           "in RGB, whose colours are ids of segments")  # fmt: skip
    values = np.asarray(image.convert("RGB"), np.int32)
    return values[..., 0] + 256 * values[..., 1] + 65536 * values[..., 2]


def as_colours(ids: np.ndarray) -> np.ndarray:
    """(H, W, 3) uint8 of ids below 2²⁴, as `read_ids` reads them."""
    ids = np.asarray(ids, np.int64)
    return np.stack([ids % 256, ids // 256 % 256, ids // 65536], -1).astype(np.uint8)


def _places(text: str, pictures: str | Path | None) -> tuple[Path, Path]:
    """The JSON and the folder of the pictures."""
    path = Path(text)
    if not path.is_file() and ":" in text:
        folder, _, split = text.rpartition(":")
        tries = {
            Path(folder) / "annotations" / f"panoptic_{split}.json": Path(folder) / split,
            Path(folder) / f"ade20k_panoptic_{split}.json":
                Path(folder) / "images" / SPLITS.get(split, split),
        }  # fmt: skip
        path = next((one for one in tries if one.is_file()), next(iter(tries)))
        return _there(path), tries[path] if pictures is None else Path(pictures)
    _there(path)
    if pictures is not None:
        return path, Path(pictures)
    split = path.stem.rpartition("panoptic_")[2]
    if path.stem.startswith("ade20k"):
        return path, path.parent / "images" / SPLITS.get(split, split)
    return path, path.parent.parent / split


def _there(path: Path) -> Path:
    if not path.is_file():
        raise SourceError(f"{path}: no such file; expected COCO's panoptic_*.json, or "
                          "ade20k_panoptic_*.json")  # fmt: skip
    return path


def _read(path: Path, data: Mapping[str, Any], below: Below, colours: Below) -> CocoPanoptic:
    order = sorted(data["categories"], key=lambda one: one["id"])
    index = {one["id"]: k for k, one in enumerate(order)}
    if not order or len(index) < len(order):
        raise SourceError(f"{path}: {len(order)} categories with {len(index)} ids; expected at "
                          "least one, each with its own")  # fmt: skip
    images = {one["id"]: one for one in data["images"]}
    rows: dict[str, tuple[str, tuple[dict[str, Any], ...]]] = {}
    for one in data["annotations"]:
        where = f"{path}, image {one['image_id']}"
        if one["image_id"] not in images:
            raise SourceError(f"{where} is not listed under images; fetch the file again")
        name = below.picture(str(images[one["image_id"]]["file_name"]), where)
        if name in rows:
            raise SourceError(f"{where}: {name} is annotated twice; expected each picture once")
        rows[name] = colours.picture(str(one["file_name"]), where), _segments(one, index, where)
    if not rows:
        raise SourceError(f"{path}: no annotations; expected {FIELDS}")
    bare = len(images) - len(rows)
    ids = tuple(sorted(rows))
    return CocoPanoptic(
        path.name, ids, tuple(str(one["name"]) for one in order),
        frozenset(k for k, one in enumerate(order) if int(one["isthing"])), below, colours,
        tuple(rows[one][0] for one in ids), tuple(rows[one][1] for one in ids),
        {"pictures without an annotation": bare} if bare > 0 else {},
    )  # fmt: skip


def _segments(one: Mapping[str, Any], index: Mapping, where: str) -> tuple[dict[str, Any], ...]:
    found = []
    for segment in one["segments_info"]:
        if segment["category_id"] not in index:
            raise SourceError(f"{where}: category {segment['category_id']} is not listed; fetch "
                              "the file again")  # fmt: skip
        found.append({"id": int(segment["id"]), "class": index[segment["category_id"]],
                      "crowd": bool(segment.get("iscrowd", 0)),
                      "area": int(segment.get("area", 0))})  # fmt: skip
    names = [segment["id"] for segment in found]
    if len(set(names)) < len(names) or any(not 0 < name < 1 << 24 for name in names):
        raise SourceError(f"{where}: ids of segments {sorted(names)[:5]} …; expected different "
                          "ones from 1 to 2²⁴ − 1 (0 is void)")  # fmt: skip
    return tuple(found)
