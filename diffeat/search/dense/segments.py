"""Pictures in segments, as files in COCO's panoptic layout.

    FOLDER/panoptic.json            images, annotations with segments_info, categories
    FOLDER/panoptic/ID.png          colours: a segment's id is R + 256·G + 256²·B; 0 is none
    FOLDER/overlays/ID.jpg          the picture under its segments, with names

`diffeat.targets.panoptic.open_panoptic(FOLDER/panoptic.json, PICTURES)` reads it again, and so does
COCO's own panopticapi.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from diffeat._version import __version__
from diffeat.errors import SpecError
from diffeat.search.dense.written import MAKER, OVERLAYS, QUALITY, _put, check_free, file_names
from diffeat.targets.panoptic.coco import as_colours

NOTE, COLOURS = "panoptic.json", "panoptic"
"""What says which segments there are, and the folder of their PNGs beside it."""


@dataclass
class SegmentFolder:
    """A folder in which pictures in segments are written, one by one; the JSON at the end.

    Args:
        folder: it is there.
        ids: of all pictures.
        classes: K names. things: numbers of those that can be counted.
        draw: (picture, segmented) → (h, w, 3) uint8, how it looks; None: no overlays.
        made_by: plain values that say what made the files.
        of: the pictures, as they were named.

    Attributes:
        names: of the files, without an ending.
    """

    folder: Path
    ids: Sequence[str]
    classes: Sequence[str]
    things: frozenset[int]
    draw: Callable[..., np.ndarray] | None = None
    made_by: Mapping[str, Any] = field(default_factory=dict)
    of: str = ""
    names: list[str] = field(init=False)
    _images: list[dict[str, Any]] = field(init=False, default_factory=list)
    _annotations: list[dict[str, Any]] = field(init=False, default_factory=list)

    def __post_init__(self) -> None:
        self.names = file_names(self.ids)

    def begin(self, overwrite: bool = False) -> None:
        """Refuse a folder that others are using; write what classes there will be.

        Raises:
            SpecError: it holds other files, or those of another model, and not `overwrite`.
        """
        note = self.folder / NOTE
        if not overwrite:
            check_free(self.folder, note, self.made_by)
        self.finish()

    def file(self, row: int) -> str:
        """Name of the PNG of a picture, in the folder."""
        return f"{COLOURS}/{self.names[row]}.png"

    def add(
        self,
        row: int,
        segmented: tuple[np.ndarray, Sequence[Mapping[str, Any]]],
        picture: np.ndarray | None = None,
    ) -> None:
        """Write one picture's segments.

        Args:
            row: of the picture.
            segmented: (H, W) ids below 2²⁴, 0 of none; "id", "class", "score" and "area" of each.
            picture: (H, W, 3) uint8, for the overlay.

        Raises:
            StoreError: a file cannot be written. SpecError: more segments than ids.
        """
        ids, segments = segmented
        if ids.max(initial=0) >= 1 << 24:
            raise SpecError(f"{self.ids[row]}: ids up to {ids.max()}; a PNG holds those below 2²⁴")
        name = self.names[row]
        path = self.folder / self.file(row)
        _put(path, lambda beside: Image.fromarray(as_colours(ids)).save(beside, "PNG"))
        if self.draw is not None and picture is not None:
            looks = Image.fromarray(self.draw(picture, segmented))
            path = self.folder / OVERLAYS / f"{name}.jpg"
            _put(path, lambda beside: looks.save(beside, "JPEG", **QUALITY))
        height, width = ids.shape
        self._images.append(
            {"id": row, "file_name": self.ids[row], "height": height, "width": width}
        )
        self._annotations.append({
            "image_id": row, "file_name": f"{name}.png",
            "segments_info": [_info(ids, one) for one in segments],
        })  # fmt: skip

    def finish(self) -> None:
        """Write the JSON of all that was added."""
        categories = [{"id": k + 1, "name": str(name), "isthing": int(k in self.things)}
                      for k, name in enumerate(self.classes)]  # fmt: skip
        said = {
            "images": self._images, "annotations": self._annotations, "categories": categories,
            MAKER: {"diffeat": __version__, "of": self.of, **self.made_by},
        }  # fmt: skip
        text = json.dumps(said, ensure_ascii=False)
        _put(self.folder / NOTE, lambda path: path.write_text(text, "utf-8"))


def _info(ids: np.ndarray, one: Mapping[str, Any]) -> dict[str, Any]:
    """A segment as COCO has it; the box is x, y, width, height."""
    rows, columns = np.nonzero(ids == one["id"])
    box = [columns.min(), rows.min(), np.ptp(columns) + 1, np.ptp(rows) + 1]
    return {"id": int(one["id"]), "category_id": one["class"] + 1, "iscrowd": 0,
            "area": len(rows), "bbox": [int(edge) for edge in box],
            "score": round(float(one.get("score", 1.0)), 6)}  # fmt: skip
