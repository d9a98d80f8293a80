"""Segments in COCO's layout, against what was written; and of masks, against counting by hand."""

from __future__ import annotations

import json

import numpy as np
import pytest
from PIL import Image

from diffeat.errors import PictureError, SourceError, SpecError
from diffeat.targets.dense import open_dense
from diffeat.targets.panoptic import open_panoptic, open_segments, panoptic_of_masks
from diffeat.targets.panoptic.coco import as_colours, read_ids
from tests.panoptic_sets import ade20k, coco, scene


class TestCoco:
    @pytest.mark.parametrize("by", ["split", "path"])
    def test_what_was_written(self, tmp_path, by):
        path = coco(tmp_path)
        found = open_panoptic(f"{tmp_path}:val2017" if by == "split" else path)
        assert found.ids == tuple(f"{k:012d}.jpg" for k in range(4))
        assert found.classes == ("cat", "dog", "sky", "grass")
        assert found.things == {0, 1}
        assert found.pictures().ids == found.ids
        for row in range(4):
            _, ids, segments = scene(row)
            one = found[row]
            assert np.array_equal(one.ids, ids)
            place = {17: 0, 18: 1, 187: 2, 193: 3}
            wanted = {s["id"]: (place[s["category_id"]], s["area"], False) for s in segments}
            assert {s["id"]: (s["class"], s["area"], s["crowd"]) for s in one.segments} == wanted

    def test_classes_and_things_of_a_picture(self, tmp_path):
        found = open_panoptic(coco(tmp_path))
        _, ids, segments = scene(1)
        labels = found.labels(1)
        assert set(labels[0].tolist()) == {255}
        for one in segments:
            label = {17: 0, 18: 1, 187: 2, 193: 3}[one["category_id"]]
            assert set(labels[ids == one["id"]].tolist()) == {label}
        masks, classes, crowd = found.instances(1)
        assert (classes.tolist(), crowd.tolist()) == ([0, 1], [False, False])
        assert np.array_equal(masks[1], ids == 4 * 70_002)

    def test_pixels_of_classes(self, tmp_path):
        """By the JSON's areas, and without them by the PNGs."""
        path = coco(tmp_path)
        wanted = np.zeros(4, int)
        for row in range(4):
            labels = open_panoptic(path).labels(row)
            wanted += np.bincount(labels[labels < 255], minlength=4)
        assert open_panoptic(path).pixels().tolist() == wanted.tolist()
        changed(path, lambda d: d["annotations"][2]["segments_info"][0].pop("area"))
        assert open_panoptic(path).pixels().tolist() == wanted.tolist()

    def test_ade20k(self, tmp_path):
        ade20k(tmp_path)
        found = open_panoptic(f"{tmp_path}:val")
        assert (len(found), found.size(0)) == (4, (24, 32))
        assert np.array_equal(found[2].ids, scene(2)[1])

    def test_taken_by_ids(self, tmp_path):
        found = open_panoptic(coco(tmp_path))
        some = found.of(["000000000003.jpg", "000000000001.jpg"])
        assert np.array_equal(some[1].ids, scene(1)[1])
        assert some.pictures().ids == ("000000000003.jpg", "000000000001.jpg")
        assert len({one.fingerprint for one in (found, some, found.take([0]))}) == 3
        with pytest.raises(SourceError, match="nothing is known of 1 of 1"):
            found.of(["other.jpg"])

    def test_crowds_and_pictures_without_annotations(self, tmp_path):
        path = coco(tmp_path)
        data = json.loads(path.read_text())
        data["annotations"][0]["segments_info"][2]["iscrowd"] = 1
        data["annotations"].pop()
        path.write_text(json.dumps(data))
        found = open_panoptic(path)
        assert found.left_out == {"pictures without an annotation": 1}
        assert [one["crowd"] for one in found[0].segments] == [False, False, True, False]

    def test_colours_hold_any_id(self, tmp_path):
        ids = np.array([[0, 255, 256], [65535, 65536, (1 << 24) - 1]])
        Image.fromarray(as_colours(ids)).save(tmp_path / "x.png")
        assert np.array_equal(read_ids(tmp_path / "x.png"), ids)


def changed(path, change):
    data = json.loads(path.read_text())
    change(data)
    path.write_text(json.dumps(data))


BROKEN = {
    "no category": (lambda d: d["categories"].pop(0), "category 18 is not listed"),
    "category twice": (lambda d: d["categories"].append(d["categories"][0]), "each with its own"),
    "no image": (lambda d: d["images"].pop(1), "image 1 is not listed under images"),
    "twice": (lambda d: d["annotations"].append(d["annotations"][0]), "annotated twice"),
    "id 0": (lambda d: d["annotations"][0]["segments_info"][0].update(id=0), "0 is void"),
    "no isthing": (lambda d: d["categories"][0].pop("isthing"), "KeyError 'isthing'; expected"),
    "out": (lambda d: d["annotations"][0].update(file_name="../x.png"), "leads out of the folder"),
    "no list": (lambda d: d.update(images={}), "images is no list of objects"),
    "nothing": (lambda d: d["annotations"].clear(), "no annotations"),
    "segments": (lambda d: d["annotations"][0].update(segments_info=[3]), "TypeError"),
}


class TestBroken:
    @pytest.mark.parametrize("what", BROKEN)
    def test_json(self, tmp_path, what):
        path = coco(tmp_path)
        changed(path, BROKEN[what][0])
        with pytest.raises(SourceError, match=BROKEN[what][1]):
            open_panoptic(path)

    def test_missing_files(self, tmp_path):
        path = coco(tmp_path)
        with pytest.raises(SourceError, match="no such file; expected COCO's panoptic"):
            open_panoptic(f"{tmp_path}:train2017")
        with pytest.raises(SourceError, match="expected the pictures of"):
            open_panoptic(path, tmp_path / "nowhere")
        (tmp_path / "annotations/panoptic_val2017/000000000001.png").unlink()
        with pytest.raises(SourceError, match=r"000000000001\.png' is missing"):
            open_panoptic(path)
        path.write_text("{")
        with pytest.raises(SourceError, match="expected one JSON object"):
            open_panoptic(path)

    def test_pngs(self, tmp_path):
        path = coco(tmp_path)
        found = open_panoptic(path)
        folder = path.with_suffix("")
        names = [folder / one for one in found.files]
        Image.fromarray(as_colours(scene(0)[1][:, :30])).save(names[0])
        Image.fromarray(np.zeros((24, 32), np.uint8)).save(names[1])
        names[2].write_bytes(b"no picture")
        ids = scene(3)[1]
        ids[5, 5] = 9
        Image.fromarray(as_colours(ids)).save(names[3])
        said = ["is 24×30, the picture 24×32", "mode L; expected a PNG in RGB", "can be read",
                "segment 9 stands in the PNG alone"]  # fmt: skip
        for row, text in enumerate(said):
            with pytest.raises(PictureError, match=text):
                found.segmented(row)
        ids[ids == 9] = ids[5, 4]
        ids[ids == 3 * 70_004] = 0
        Image.fromarray(as_colours(ids)).save(names[3])
        with pytest.raises(PictureError, match="stands in the JSON alone"):
            found.segmented(3)


@pytest.fixture
def masks(tmp_path):
    """Two pieces of class 1 that touch by a corner, a speck of it, one of class 2; some ignored."""
    mask = np.zeros((6, 9), np.uint8)
    mask[0:2, 0:3] = mask[2:4, 3:5] = 1
    mask[5, 8] = 1
    mask[0:3, 6:8] = 2
    mask[5, 0:4] = 255
    for name, values in (("images/a.png", np.zeros((6, 9, 3), np.uint8)), ("masks/a.png", mask)):
        (tmp_path / name).parent.mkdir()
        Image.fromarray(values).save(tmp_path / name)
    return open_dense(tmp_path, classes=["ground", "cat", "dog"])


class TestOfMasks:
    def test_connected_pieces_are_things(self, masks):
        found = panoptic_of_masks(masks)
        ids, segments = found[0]
        assert [(one["class"], one["area"]) for one in segments] == [
            (0, 54 - 6 - 4 - 1 - 6 - 4), (1, 6), (1, 4), (1, 1), (2, 6)]  # fmt: skip
        assert ids[5, :4].tolist() == [0, 0, 0, 0]
        assert (ids[0, 0], ids[2, 3], ids[5, 8], ids[0, 6]) == (2, 3, 4, 5)
        assert found.things == {1, 2}
        assert np.array_equal(found.labels(0), masks.target(0))

    def test_specks_are_void_and_corners_may_join(self, masks):
        ids, segments = panoptic_of_masks(masks, ["cat"], smallest=2, corners=True)[0]
        assert [(one["class"], one["area"]) for one in segments] == [(0, 33), (1, 10), (2, 6)]
        assert ids[5, 8] == 0

    def test_of_one_picture(self, masks):
        found = panoptic_of_masks(masks)
        assert found.of(["a.png"]).pictures().ids == ("a.png",)
        assert found.fingerprint != panoptic_of_masks(masks, [1]).fingerprint
        assert (found.name, found.size(0), found.groups) == (
            f"segments of {masks.name}", (6, 9), ("a.png",))  # fmt: skip

    def test_by_name(self, masks, tmp_path):
        found = open_segments(f"masks:{tmp_path}", ["1"], smallest=2)
        assert [(one["class"], one["area"]) for one in found[0].segments] == [
            (0, 33), (1, 6), (1, 4), (2, 6)]  # fmt: skip
        coco(tmp_path / "coco")
        assert open_segments(f"{tmp_path}/coco:val2017").classes == ("cat", "dog", "sky", "grass")
        with pytest.raises(SpecError, match="its JSON says which classes are things"):
            open_segments(f"{tmp_path}/coco:val2017", ["cat"])

    def test_refusals(self, masks):
        with pytest.raises(SpecError, match="thing 'cow' is no class; expected some of ground"):
            panoptic_of_masks(masks, ["cow"])
        with pytest.raises(SpecError, match="smallest=0"):
            panoptic_of_masks(masks, smallest=0)
