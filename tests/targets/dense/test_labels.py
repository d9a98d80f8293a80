"""Masks and lists of classes: numbers and colours become indices."""

from __future__ import annotations

import json
import struct
import zlib

import numpy as np
import pytest
from PIL import Image

from diffeat.errors import PictureError, SourceError
from diffeat.targets.dense import open_dense
from diffeat.targets.dense.class_lists import read_classes
from tests.targets.dense.layouts import SIZE, mask, numbers, picture, write

COLOURS = {"sky": (0, 0, 255), "road": (128, 64, 128)}


@pytest.fixture
def opened(tmp_path):
    """Opens one picture with a mask, and a list of classes beside it, by its name and text."""

    def opens(values, name="a.png", listed=None, **options):
        picture(tmp_path / "images/a.jpg")
        mask(tmp_path / f"masks/{name}", values)
        if listed is not None:
            write(tmp_path / listed[0], listed[1])
        return open_dense(tmp_path, **options)

    return opens


class TestFilesOfNumbers:
    def test_sixteen_bits(self, opened):
        values = numbers(0, 300, dtype=np.uint16)
        found = opened(values, listed=("classes.csv", "id,name\n0,a\n300,b\n"))
        np.testing.assert_array_equal(found[0], values // 300)
        assert found[0].dtype == np.uint8

    @pytest.mark.parametrize("dtype", ["<u2", ">u2", "u1"])
    def test_tiff(self, opened, dtype):
        found = opened(numbers(0, 2, dtype=np.dtype(dtype)), "a.tif", classes=["x", "y", "z"])
        np.testing.assert_array_equal(found[0], numbers(0, 2))

    def test_one_bit(self, opened):
        found = opened(numbers(0, 1, dtype=bool))
        assert found.classes == ("0", "1")
        np.testing.assert_array_equal(found[0], numbers(0, 1))

    def test_indexed_with_its_palette(self, tmp_path):
        picture(tmp_path / "images/a.jpg")
        palette = [10, 20, 30, 40, 50, 60, *[0] * 762]
        mask(tmp_path / "masks/a.png", numbers(0, 1), palette)
        found = open_dense(tmp_path)
        np.testing.assert_array_equal(found[0], numbers(0, 1))
        assert found.palette.tolist() == [[10, 20, 30], [40, 50, 60]]

    def test_npz(self, opened, tmp_path):
        opened(numbers(0))
        (tmp_path / "masks/a.png").unlink()
        np.savez_compressed(tmp_path / "masks/a.npz", numbers(0, 3))
        assert open_dense(tmp_path).classes == ("0", "1", "2", "3")
        np.savez(tmp_path / "masks/a.npz", a=numbers(0), b=numbers(0))
        with pytest.raises(PictureError, match="2 arrays; expected one"):
            open_dense(tmp_path)

    def test_more_than_255_classes(self, opened):
        values = numbers(0, 255, 299, 299, dtype=np.uint16)
        found = opened(values, classes=[str(k) for k in range(300)])
        assert found.ignore == -1
        assert found[0].dtype == np.int16
        np.testing.assert_array_equal(found[0], values)

    def test_255_may_be_a_class(self, opened):
        found = opened(numbers(0, 255), listed=("classes.txt", "0 ground\n255 object\n"))
        assert (found.classes, found.ignore) == (("ground", "object"), 255)
        np.testing.assert_array_equal(found[0], numbers(0, 1))


class TestWithoutAList:
    def test_numbers_that_occur_are_classes(self, opened):
        found = opened(numbers(0, 3, 255))
        assert found.classes == ("0", "1", "2", "3")
        np.testing.assert_array_equal(found[0], numbers(0, 3, 255))

    @pytest.mark.parametrize("values", [(0, 255), (255,)])
    def test_whether_255_counts_is_not_guessed(self, opened, values):
        with pytest.raises(SourceError, match=r'255 alone, and whether .* "255 object"'):
            opened(numbers(*values))

    def test_numbers_far_apart_are_not_guessed(self, opened):
        with pytest.raises(SourceError, match=r"2 numbers between 0 and 128, too far apart"):
            opened(numbers(0, 128))


class TestLists:
    @pytest.mark.parametrize(
        ("name", "text"),
        [
            ("classes.txt", "# ours\n0 sky: blue, above\n3 road\n\n255 ignore: all else\n"),
            ("classes.txt", "0,sky,0,0,255\n3,road,128,64,128\n"),
            ("classes.txt", "3\troad\n0\tsky\n"),
            ("classes.csv", "id,name,r,g,b\n0,sky,0,0,255\n3,road,128,64,128\n"),
            ("classes.csv", "name;id\nsky;0\nroad;3\n"),
            ("classes.json", '{"classes": [{"id": 3, "name": "road", "color": [128, 64, 128]}, '
             '{"id": 0, "name": "sky", "color": [0, 0, 255]}], "ignore": 255}'),
            ("classes.json", '{"0": "sky", "3": "road"}'),
        ],
    )  # fmt: skip
    def test_numbers_with_gaps(self, opened, name, text):
        found = opened(numbers(0, 3, 255), listed=(name, text))
        assert found.classes == ("sky", "road")
        np.testing.assert_array_equal(found[0], numbers(0, 1, 255))
        if "128" in text:
            assert found.palette.tolist() == [list(one) for one in COLOURS.values()]

    @pytest.mark.parametrize(
        ("name", "text"),
        [("c.txt", "sky\nold road\n"), ("c.json", '["sky", "old road"]'),
         ("c.csv", "name\nsky\nold road\n"), ("c.txt", "1 2 3 sky\n4 5 6 old road\n")],
    )  # fmt: skip
    def test_names_alone_are_numbered(self, tmp_path, name, text):
        write(tmp_path / name, text)
        found = read_classes(tmp_path / name)
        assert [(one.id, one.name) for one in found.entries] == [(0, "sky"), (1, "old road")]

    def test_void_does_not_count(self, opened):
        found = opened(numbers(0, 1, 2), classes=["a", "void", "b"])
        assert found.classes == ("a", "b")
        np.testing.assert_array_equal(found[0], numbers(0, 255, 1))

    def test_a_list_by_path_comes_before_that_beside(self, opened, tmp_path):
        write(tmp_path / "other.txt", "x\ny\n")
        found = opened(numbers(0, 1), listed=("classes.txt", "a\nb\n"),
                       classes=tmp_path / "other.txt")  # fmt: skip
        assert found.classes == ("x", "y")
        assert opened(numbers(0, 1)).classes == ("a", "b")

    def test_further_numbers_that_do_not_count(self, opened):
        found = opened(numbers(0, 1, 200), classes=["a", "b"], ignore=200)
        np.testing.assert_array_equal(found[0], numbers(0, 1, 255))
        with pytest.raises(SourceError, match="ignore=0, which classes calls 'a'"):
            opened(numbers(0, 1), classes=["a", "b"], ignore=0)

    def test_numbers_that_nobody_knows(self, opened):
        found = opened(numbers(0, 1, 7, 9), classes=["a", "b"])
        with pytest.raises(
            PictureError, match=r"a\.png.*holds 7, 9, of which .*2 classes.*'b'.*add a row"
        ):
            found.target(0)

    def test_a_whole_file_of_ours_comes_back(self, opened, tmp_path):
        said = {
            "classes": [
                {"id": k, "name": name, "color": list(colour)}
                for k, (name, colour) in enumerate(COLOURS.items())
            ],
            "ignore": 255,
        }
        found = opened(numbers(0, 1), listed=("masks/classes.json", json.dumps(said)))  # fmt: skip
        assert found.classes == tuple(COLOURS)
        assert found.palette.tolist() == [list(one) for one in COLOURS.values()]

    def test_a_list_changes_the_fingerprint(self, opened):
        one, two = (opened(numbers(0, 1), classes=names) for names in (["a", "b"], ["a", "c"]))
        assert one.fingerprint != two.fingerprint

    @pytest.mark.parametrize(
        ("name", "text", "message"),
        [
            ("c.txt", "0 a\nb\n", "line 2: 'b' has no number"),
            ("c.txt", "0 a\n0 b\n", "the number 0 is there twice"),
            ("c.txt", "0 a\n1 a\n", "the name 'a' is there twice"),
            ("c.txt", "", "no classes"),
            ("c.txt", "0 ignore\n", "no classes"),
            ("c.txt", "70000 a\n", "has the number 70000; expected 0"),
            ("c.csv", "id,label\n0,a\n", "expected name and"),
            ("c.csv", "id,name\nx,a\n", "expected whole numbers"),
            ("c.csv", "name,r,g,b\na,1,2,300\n", "expected three numbers"),
            ("c.csv", "name,r,g,b\na,1,2,3\nb,1,2,3\n", r"the colour \(1, 2, 3\) is there twice"),
            ("c.json", "{", "expected lines such as"),
            ("c.json", "3", "expected lines such as"),
            ("c.json", '{"classes": [{"id": 0}]}', "expected lines such as"),
            ("c.json", '{"classes": [{"name": "a", "color": [1, 2]}]}', "expected three numbers"),
        ],
    )
    def test_bad_lists(self, tmp_path, name, text, message):
        write(tmp_path / name, text)
        with pytest.raises(SourceError, match=message):
            read_classes(tmp_path / name)

    def test_no_list(self, tmp_path):
        with pytest.raises(SourceError, match="expected a list of classes"):
            read_classes(tmp_path / "none.txt")


class TestColours:
    TABLE = "classes.csv", "id,name,r,g,b\n0,sky,0,0,255\n3,road,128,64,128\n9,void,0,0,0\n"

    def image(self, *colours):
        return np.resize(np.array(colours, np.uint8), (*SIZE, len(colours[0])))

    @pytest.mark.parametrize("alpha", [(), (255,)])
    def test_through_a_table(self, opened, alpha):
        values = self.image(*((*one, *alpha) for one in (*COLOURS.values(), (0, 0, 0))))
        found = opened(values, listed=self.TABLE)
        np.testing.assert_array_equal(found[0], numbers(0, 1, 255))

    def test_numbers_go_by_the_same_table(self, opened):
        np.testing.assert_array_equal(
            opened(numbers(0, 3, 9), listed=self.TABLE)[0], numbers(0, 1, 255)
        )

    @pytest.mark.parametrize("options", [{}, {"classes": ["a", "b"]}])
    def test_without_a_table(self, opened, options):
        with pytest.raises(PictureError, match=r"holds colours; name a list .*id, name, r, g, b"):
            opened(self.image(*COLOURS.values()), **options).target(0)

    def test_a_colour_that_nobody_knows(self, opened):
        found = opened(self.image(COLOURS["sky"], (1, 2, 3)), listed=self.TABLE)
        with pytest.raises(PictureError, match=r"holds \(1, 2, 3\), of which"):
            found.target(0)

    def test_transparent_and_lossy_ones(self, opened):
        found = opened(self.image((*COLOURS["sky"], 100)), listed=self.TABLE)
        with pytest.raises(PictureError, match="transparent in places"):
            found.target(0)

    def test_jpeg(self, tmp_path):
        picture(tmp_path / "images/a.png")
        picture(tmp_path / "masks/a.jpg")
        write(tmp_path / "classes.csv", self.TABLE[1])
        with pytest.raises(PictureError, match="JPEG changes colours"):
            open_dense(tmp_path).target(0)
        Image.fromarray(numbers(0, 1)).save(tmp_path / "masks/a.jpg")
        with pytest.raises(PictureError, match="JPEG, which changes labels"):
            open_dense(tmp_path).target(0)


def bomb(path, side=30_000):
    """A PNG whose header promises `side`² pixels."""

    def chunk(kind, data):
        return (
            struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
        )

    head = struct.pack(">IIBBBBB", side, side, 8, 0, 0, 0, 0)
    body = chunk(b"IHDR", head) + chunk(b"IDAT", zlib.compress(b"\0")) + chunk(b"IEND", b"")
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + body)


class TestDamage:
    @pytest.mark.parametrize("listed", [True, False])
    def test_a_bomb_among_masks(self, opened, tmp_path, listed):
        opened(numbers(0))
        bomb(tmp_path / "masks/a.png")
        with pytest.raises(PictureError, match=r"a\.png.*exceeds limit"):
            open_dense(tmp_path, classes=["a"] if listed else None).target(0)

    def test_a_bomb_of_colours(self, opened, tmp_path):
        opened(numbers(0), listed=TestColours.TABLE)
        bomb(tmp_path / "masks/a.png")
        with pytest.raises(PictureError, match="exceeds limit"):
            open_dense(tmp_path).target(0)

    @pytest.mark.parametrize("content", [b"", b"x", b"\x89PNG\r\n\x1a\n"])
    def test_what_is_no_picture(self, opened, tmp_path, content):
        found = opened(numbers(0, 1), classes=["a", "b"])
        found.files[0].write_bytes(content)
        with pytest.raises(PictureError, match="no mask that can be read"):
            found.target(0)

    def test_arrays_with_huge_headers(self, opened, tmp_path):
        found = opened(numbers(0, dtype=np.uint8), "a.npy", classes=["a"])
        raw = found.files[0].read_bytes()
        found.files[0].write_bytes(raw.replace(b"(6, 8), ", b"(99999, 99999), ")[: len(raw)])
        with pytest.raises(PictureError, match="no array that can be read"):
            found.target(0)
