"""Pictures and masks in folders and tables."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image

from diffeat.errors import PictureError, SourceError, SpecError
from diffeat.images import open_source
from diffeat.targets.dense import open_dense
from diffeat.targets.dense.folders import bare
from tests.targets.dense.layouts import SIZE, mask, numbers, picture, write


def pair(folder, photos="images", answers="masks", names=("a", "b"), kind="jpg"):
    """Two folders with a picture and a mask of 0 and 1 for each name."""
    for name in names:
        picture(folder / f"{photos}/{name}.{kind}")
        mask(folder / f"{answers}/{name}.png", numbers(0, 1))
    return folder


class TestLayouts:
    @pytest.mark.parametrize(
        ("photos", "answers"),
        [("images", "masks"), ("img", "labels"), ("JPEGImages", "SegmentationClass"),
         ("images", "annotations")],
    )  # fmt: skip
    def test_two_folders(self, tmp_path, photos, answers):
        found = open_dense(pair(tmp_path, photos, answers))
        assert (found.ids, found.kind) == (("a.jpg", "b.jpg"), "masks")
        assert found.pictures().ids == found.ids
        np.testing.assert_array_equal(found[1], numbers(0, 1))
        assert found.rows(open_source(tmp_path / photos).ids).tolist() == [0, 1]

    def test_a_split_lies_below_both_or_above_them(self, tmp_path):
        pair(tmp_path / "below", "images/train", "masks/train")
        pair(tmp_path / "below", "images/val", "masks/val", ("c",))
        found = open_dense(f"{tmp_path}/below:val")
        assert found.ids == ("val/c.jpg",)
        assert open_dense(tmp_path / "below").ids == ("train/a.jpg", "train/b.jpg", "val/c.jpg")
        pair(tmp_path / "above/train")
        assert open_dense(tmp_path / "above", "train").ids == ("a.jpg", "b.jpg")
        for folder in ("below", "above"):
            with pytest.raises(SourceError, match="no split 'test'; expected"):
                open_dense(tmp_path / folder, "test")

    def test_segnets_way(self, tmp_path):
        pair(tmp_path, "train", "trainannot")
        assert open_dense(tmp_path).ids == ("train/a.jpg", "train/b.jpg")
        pair(tmp_path, "val", "valannot", ("c",))
        assert open_dense(tmp_path, "val").ids == ("val/c.jpg",)
        for split, message in ((None, "no split is named"), ("test", "no split 'test'")):
            with pytest.raises(SourceError, match=f"{message}; expected one of train, val"):
                open_dense(tmp_path, split)

    @pytest.mark.parametrize("ending", ["_mask.png", "_label.png", "-seg.tif", ".gt.png", ".png"])
    def test_side_by_side(self, tmp_path, ending):
        for name in ("x/a", "b"):
            picture(tmp_path / f"{name}.jpg")
            mask(tmp_path / f"{name}{ending}", numbers(0, 1))
        found = open_dense(tmp_path)
        assert found.ids == ("b.jpg", "x/a.jpg")
        np.testing.assert_array_equal(found[0], numbers(0, 1))

    def test_arrays_beside_pictures(self, tmp_path):
        picture(tmp_path / "a.png")
        mask(tmp_path / "a.npy", numbers(0, 2, dtype=np.int32))
        assert open_dense(tmp_path).classes == ("0", "1", "2")

    def test_what_masks_are_called(self):
        assert bare("x/a_mask.png") == bare("x/a-labels.tif") == bare("x/a.jpg") == "x/a"
        assert bare("x/_mask.png") == "x/_mask"
        assert bare("mask.png") == "mask"

    def test_folders_below_do_not_matter_where_names_tell(self, tmp_path):
        pair(tmp_path, "images/cat", "masks/other")
        assert open_dense(tmp_path).ids == ("cat/a.jpg", "cat/b.jpg")

    def test_nothing_that_is_known(self, tmp_path):
        picture(tmp_path / "a.jpg")
        with pytest.raises(SourceError, match=r"no pictures with masks .* images/ beside masks/"):
            open_dense(tmp_path)
        with pytest.raises(SourceError, match="is no folder, table or set"):
            open_dense(tmp_path / "none")

    def test_two_folders_of_masks(self, tmp_path):
        pair(tmp_path)
        pair(tmp_path, answers="labels")
        with pytest.raises(SourceError, match="2 folders of masks"):
            open_dense(tmp_path, kind="masks")

    def test_masks_and_depth_beside_each_other(self, tmp_path):
        pair(tmp_path)
        for name in ("a", "b"):
            mask(tmp_path / f"depth/{name}.npy", np.full(SIZE, 2, np.float32))
        assert open_dense(tmp_path, kind="masks").kind == "masks"
        assert open_dense(tmp_path, kind="depth").kind == "depth"
        with pytest.raises(SourceError, match="2 folders of masks or depth"):
            open_dense(tmp_path)


class TestMasksOfPicturesElsewhere:
    def test_by_ids_of_a_file(self, tmp_path):
        pair(tmp_path, answers="m")
        mask(tmp_path / "m/c.png", numbers(0))
        found = open_dense(tmp_path / "m", pictures=("b.jpg", "a.jpg"))
        assert found.ids == ("b.jpg", "a.jpg")
        assert [path.name for path in found.files] == ["b.png", "a.png"]
        assert found.left_out == {"masks of no picture here": 1}
        with pytest.raises(SourceError, match="only their ids; name them"):
            found.pictures()
        assert found.size(0) == SIZE

    def test_ids_that_begin_with_folders(self, tmp_path):
        pair(tmp_path, "train", "trainannot")
        found = open_dense(tmp_path / "trainannot", pictures=("train/a.jpg", "train/b.jpg"))
        assert [path.name for path in found.files] == ["a.png", "b.png"]

    def test_a_folder_with_a_layout_gives_its_masks(self, tmp_path):
        pair(tmp_path)
        found = open_dense(tmp_path, pictures=("b.jpg",))
        assert found.files == (tmp_path / "masks/b.png",)
        pair(tmp_path / "two", "train", "trainannot")
        pair(tmp_path / "two", "val", "valannot")
        found = open_dense(tmp_path / "two", "val", pictures=("val/b.jpg",))
        assert found.files == (tmp_path / "two/valannot/b.png",)
        with pytest.raises(SourceError, match=r"several folders of masks; name one: .*trainannot"):
            open_dense(tmp_path / "two", pictures=("val/b.jpg",))

    def test_pictures_may_lie_beside_them(self, tmp_path):
        for name in ("a", "b"):
            picture(tmp_path / f"{name}.jpg")
            mask(tmp_path / f"{name}_mask.png", numbers(0, 1))
        found = open_dense(tmp_path, pictures=("b.jpg",))
        assert found.files == (tmp_path / "b_mask.png",)

    def test_of_a_source_exif_is_known(self, tmp_path):
        picture(tmp_path / "p/a.jpg", (6, 8), turn=6)
        stored = np.arange(48, dtype=np.uint8).reshape(6, 8)
        mask(tmp_path / "m/a.png", stored)
        found = open_dense(tmp_path / "m", pictures=open_source(tmp_path / "p"))
        upright = np.asarray(Image.fromarray(stored).transpose(Image.Transpose.ROTATE_270))
        np.testing.assert_array_equal(found[0], upright)
        assert found.size(0) == (8, 6)
        known = open_dense(tmp_path / "m", pictures=("a.jpg",), sizes={"a.jpg": (8, 6)})
        with pytest.raises(PictureError, match="a picture that EXIF turns: name the pictures"):
            known.target(0)

    def test_names_that_do_not_tell(self, tmp_path):
        for part in ("x", "y"):
            mask(tmp_path / f"{part}/a.png", numbers(0))
        with pytest.raises(SourceError, match=r"may have the mask 'x/a' or 'y/a'"):
            open_dense(tmp_path, pictures=("a.jpg",))


class TestMissing:
    def test_the_first_three_and_how_many(self, tmp_path):
        pair(tmp_path, names="abcdef")
        for name in "bcdf":
            (tmp_path / f"masks/{name}.png").unlink()
        with pytest.raises(SourceError, match=r"4 of 6 pictures .*'b.jpg', 'c.jpg', 'd.jpg', ….*"
                           "missing='leave-out', --missing leave-out"):  # fmt: skip
            open_dense(tmp_path)
        found = open_dense(tmp_path, missing="leave-out")
        assert found.ids == ("a.jpg", "e.jpg") == found.pictures().ids
        assert found.left_out == {"pictures without a mask or depth map": 4}

    def test_no_masks_at_all(self, tmp_path):
        pair(tmp_path)
        with pytest.raises(SourceError, match="none of 1 pictures has a mask"):
            open_dense(tmp_path / "masks", pictures=("z.jpg",), missing="leave-out")


class TestDoubles:
    def test_masks_that_their_endings_tell_apart(self, tmp_path):
        pair(tmp_path)
        mask(tmp_path / "masks/a.tif", numbers(0))
        with pytest.raises(SourceError, match=r"the masks 'a.png' and 'a.tif' are told apart by"):
            open_dense(tmp_path)

    def test_pictures_that_their_endings_tell_apart(self, tmp_path):
        pair(tmp_path)
        picture(tmp_path / "images/a.png")
        with pytest.raises(SourceError, match=r"the pictures 'a.jpg' and 'a.png' are told apart"):
            open_dense(tmp_path)

    def test_a_name_to_the_letter_comes_first(self, tmp_path):
        pair(tmp_path, names=("a", "a_mask"))
        found = open_dense(tmp_path)
        assert [path.name for path in found.files] == ["a.png", "a_mask.png"]


class TestTables:
    def test_pictures_masks_and_groups(self, tmp_path):
        pair(tmp_path, "p", "q")
        write(tmp_path / "t.csv", "picture,mask,group\np/b.jpg,q/b.png,one\np/a.jpg,q/a.png,\n")
        for found in (open_dense(tmp_path / "t.csv"),
                      open_dense(tmp_path, table=tmp_path / "t.csv")):  # fmt: skip
            assert found.ids == ("p/b.jpg", "p/a.jpg")
            assert found.groups == ("one", "p/a.jpg")
            np.testing.assert_array_equal(found[0], numbers(0, 1))

    def test_depth_by_its_column(self, tmp_path):
        picture(tmp_path / "a.jpg")
        mask(tmp_path / "d.npy", np.full(SIZE, 1.5))
        write(tmp_path / "t.csv", "image,depth\na.jpg,d.npy\n")
        assert open_dense(tmp_path / "t.csv").kind == "depth"

    def test_a_row_without_a_mask(self, tmp_path):
        pair(tmp_path, "p", "q")
        write(tmp_path / "t.csv", "picture,mask\np/a.jpg,q/a.png\np/b.jpg,\n")
        with pytest.raises(SourceError, match="1 of 2 pictures have no mask"):
            open_dense(tmp_path / "t.csv")
        assert open_dense(tmp_path / "t.csv", missing="leave-out").ids == ("p/a.jpg",)

    @pytest.mark.parametrize(
        ("text", "message"),
        [
            ("a,b\n", "the header names a, b; expected picture and mask"),
            ("picture,mask\nz.jpg,q/a.png\n", "'z.jpg' is missing"),
            ("picture,mask\np/a.jpg,q/z.png\n", "'q/z.png' is missing"),
            ("picture,mask\n../a.jpg,q/a.png\n", "leads out of the folder"),
            ("picture,mask\np/a.jpg,q/a.png\np/a.jpg,q/a.png\n", "occur more than once"),
            ("picture,mask\n", "no pictures found"),
        ],
    )
    def test_bad_tables(self, tmp_path, text, message):
        pair(tmp_path, "p", "q")
        write(tmp_path / "t.csv", text)
        with pytest.raises(SourceError, match=message):
            open_dense(tmp_path / "t.csv")

    def test_what_is_no_table(self, tmp_path):
        pair(tmp_path)
        with pytest.raises(SourceError, match="expected a table"):
            open_dense(tmp_path / "images/a.jpg")


class TestLinks:
    @pytest.mark.parametrize("what", ["mask", "folder"])
    def test_none_leads_out(self, tmp_path, what):
        folder = pair(tmp_path / "d")
        inner = folder / "masks/b.png" if what == "mask" else folder / "masks"
        inner.rename(tmp_path / "away")
        inner.symlink_to(tmp_path / "away")
        with pytest.raises(SourceError, match=r"a link leads .* out of"):
            open_dense(folder)

    def test_none_is_made_afterwards(self, tmp_path):
        found = open_dense(pair(tmp_path / "d"))
        found.files[0].rename(tmp_path / "away.png")
        with pytest.raises(PictureError, match="missing, or no file"):
            found.target(0)
        found.files[0].symlink_to(tmp_path / "away.png")
        with pytest.raises(PictureError, match="a link leads out"):
            found.target(0)

    def test_lists_of_classes_neither(self, tmp_path):
        folder = pair(tmp_path / "d")
        write(tmp_path / "classes.txt", "0 a\n1 b\n")
        (folder / "classes.txt").symlink_to(tmp_path / "classes.txt")
        with pytest.raises(SourceError, match=r"a link leads .*classes.txt out of"):
            open_dense(folder)

    def test_the_folder_itself_may_be_one(self, tmp_path):
        pair(tmp_path / "d")
        (tmp_path / "e").symlink_to(tmp_path / "d")
        assert len(open_dense(tmp_path / "e").target(0)) == SIZE[0]


class TestExif:
    @pytest.mark.parametrize("turn", [6, 8])
    @pytest.mark.parametrize("frame", ["upright", "stored"])
    def test_masks_of_turned_pictures(self, tmp_path, turn, frame):
        picture(tmp_path / "images/a.jpg", (6, 8), turn)
        stored = np.arange(48, dtype=np.uint8).reshape(6, 8)
        method = {6: Image.Transpose.ROTATE_270, 8: Image.Transpose.ROTATE_90}[turn]
        upright = np.asarray(Image.fromarray(stored).transpose(method))
        mask(tmp_path / "masks/a.png", stored if frame == "stored" else upright)
        found = open_dense(tmp_path)
        np.testing.assert_array_equal(found[0], upright)
        assert found.sizes.tolist() == [[8, 6]]

    def test_a_turn_that_leaves_the_size(self, tmp_path):
        picture(tmp_path / "images/a.jpg", (4, 4), turn=3)
        values = np.arange(16, dtype=np.uint8).reshape(4, 4)
        mask(tmp_path / "masks/a.png", values)
        found = open_dense(tmp_path, frame="stored")
        np.testing.assert_array_equal(found[0], values[::-1, ::-1])
        with pytest.warns(UserWarning, match="cannot be told from its size"):
            open_dense(tmp_path).target(0)

    def test_of_many_such_files_is_warned_once(self, tmp_path):
        for name in "abc":
            picture(tmp_path / f"images/{name}.jpg", (4, 4), turn=3)
            mask(tmp_path / f"masks/{name}.png", np.arange(16, dtype=np.uint8).reshape(4, 4))
        found = open_dense(tmp_path)
        with pytest.warns(UserWarning, match="cannot be told from its size") as told:
            maps = [found.take([row])[0] for row in range(3)]
        assert len(told) == 1
        for one in maps:
            np.testing.assert_array_equal(one, np.arange(16).reshape(4, 4))

    def test_depth_is_turned_too(self, tmp_path):
        picture(tmp_path / "images/a.jpg", (6, 8), turn=6)
        stored = np.arange(1, 49, dtype=np.float32).reshape(6, 8)
        mask(tmp_path / "depth/a.npy", stored)
        np.testing.assert_array_equal(open_dense(tmp_path)[0], np.rot90(stored, -1))


def test_masks_of_another_size(tmp_path):
    pair(tmp_path)
    mask(tmp_path / "masks/b.png", numbers(0, 1, size=(3, 4)))
    found = open_dense(tmp_path)
    once = r"b.png is 3×4; expected 6×8, as the picture is seen: it belongs to another"
    with pytest.raises(PictureError, match=once):  # one size is not named twice
        found.target(1)
    known = open_dense(tmp_path / "masks", pictures=("b.jpg",), sizes={"b.jpg": SIZE})
    with pytest.raises(PictureError, match=r"is 3×4, its picture 6×8; it belongs to another"):
        known.target(0)


def test_options_that_do_not_go_together(tmp_path):
    pair(tmp_path)
    with pytest.raises(SpecError, match="masks have no unit"):
        open_dense(tmp_path, kind="masks", unit="mm")
    with pytest.raises(SpecError, match="depth has no classes"):
        open_dense(tmp_path / "masks", pictures=("a.jpg",), kind="depth", classes=["a"])


def test_it_shows_itself_briefly(tmp_path):
    pair(tmp_path)
    text = repr(open_dense(tmp_path))
    assert text == f"FileTargets({str(tmp_path)!r}, 2 pictures, masks, 2 classes)"
