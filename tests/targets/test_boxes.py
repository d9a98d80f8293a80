"""Boxes in COCO's layout and of masks."""

from __future__ import annotations

import json

import numpy as np
import pytest
from PIL import Image

from diffeat.errors import SourceError
from diffeat.targets.boxes import boxes_of_masks, open_coco


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "val").mkdir()
    for name in ("b.jpg", "a.jpg"):
        Image.new("RGB", (40, 30)).save(tmp_path / "val" / name)
    return tmp_path


def written(folder, **changes):
    data = {
        "images": [{"id": 7, "file_name": "b.jpg", "width": 40, "height": 30},
                   {"id": 3, "file_name": "a.jpg", "width": 40, "height": 30}],
        "categories": [{"id": 18, "name": "dog"}, {"id": 17, "name": "cat"}],
        "annotations": [
            {"id": 1, "image_id": 7, "category_id": 18, "bbox": [1, 2, 10, 20], "iscrowd": 0},
            {"id": 2, "image_id": 7, "category_id": 17, "bbox": [-1, 0, 8, 30.5], "iscrowd": 1},
            {"id": 3, "image_id": 3, "category_id": 17, "bbox": [5, 5, 0, 3]},
        ],
    }  # fmt: skip
    (folder / "annotations").mkdir(exist_ok=True)
    path = folder / "annotations" / "instances_val.json"
    path.write_text(json.dumps(data | changes))
    return path


@pytest.mark.parametrize("by", ["split", "path"])
def test_coco(folder, by):
    path = written(folder)
    found = open_coco(f"{folder}:val" if by == "split" else path)
    assert found.ids == ("a.jpg", "b.jpg")
    assert found.classes == ("cat", "dog")
    assert [one.tolist() for one in found.boxes] == [[], [[1, 2, 11, 22], [0, 0, 7, 30]]]
    assert [one.tolist() for one in found.labels] == [[], [1, 0]]
    assert found.crowd[1].tolist() == [False, True]
    assert found.left_out == {"boxes without extent": 1}
    assert found.pictures().ids == found.ids
    again = found.of(["b.jpg"])
    assert again.ids == ("b.jpg",)
    assert again.labels[0].tolist() == [1, 0]
    assert again.fingerprint != found.fingerprint


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"categories": [{"id": 18, "name": "dog"}]}, "category 17 or image 7 is not listed"),
        ({"annotations": [{"id": 1, "image_id": 7, "category_id": 18, "bbox": [1, 2, 60, 5]}]},
         "stands out of its picture of 40×30"),
        ({"annotations": [{"id": 1, "image_id": 7, "category_id": 18}]}, "expected COCO's fields"),
        ({"annotations": {}}, "annotations is no list"),
        ({"images": [{"id": 7, "file_name": "../x.jpg", "width": 4, "height": 4}]}, "x.jpg"),
        ({"images": []}, "no images"),
    ],
)  # fmt: skip
def test_refused(folder, changes, message):
    changes = {"annotations": []} | changes if "images" in changes else changes
    with pytest.raises(SourceError, match=message):
        open_coco(written(folder, **changes))


def test_missing(folder):
    with pytest.raises(SourceError, match=r"instances_val\.json: no such file"):
        open_coco(f"{folder}:val")
    path = written(folder)
    with pytest.raises(SourceError, match="nothing is known of 1 of 1 pictures"):
        open_coco(path).of(["c.jpg"])
    with pytest.raises(SourceError, match="no such folder"):
        open_coco(path, folder / "train")


class Masks:
    name, ids, classes, groups = "toy", ("a", "b"), ("none", "cat", "dog"), ("a", "b")
    pictures = None

    def __len__(self):
        return 2

    def target(self, row):
        mask = np.zeros((6, 8), np.uint8)
        if row:
            mask[1:4, 2:7] = 2
            mask[5, 0] = 1
        return mask


def test_boxes_of_masks():
    found = boxes_of_masks(Masks())
    assert found.classes == ("cat", "dog")
    assert [one.tolist() for one in found.boxes] == [[], [[0, 5, 1, 6], [2, 1, 7, 4]]]
    assert found.labels[1].tolist() == [0, 1]
