"""SPair-71k's layout, and what all key points are checked for."""

from __future__ import annotations

import json
import os

import numpy as np
import pytest
from PIL import Image

from diffeat.errors import SourceError
from diffeat.images import open_source
from diffeat.targets.pairs import open_pairs
from tests.targets.pairs.layouts import HEIGHT, WIDTH, picture, spair, spair_pair, write

FIRST = "PairAnnotation/test/000003-a-b:cat.json"


@pytest.fixture
def root(tmp_path):
    spair(tmp_path)
    return tmp_path


def opened(root, **options):
    return open_pairs(root, split="test", **options)


def change(root, **fields) -> None:
    """Other fields of the first annotation."""
    write(root / FIRST, spair_pair(mirror=1) | fields)


def test_pairs_stand_in_the_order_of_the_list(root):
    pairs = opened(root)
    assert pairs.source == ("cat/a.jpg", "cat/b.jpg", "dog/a.jpg", "dog/c.jpg")
    assert pairs.target == ("cat/b.jpg", "cat/a.jpg", "dog/c.jpg", "dog/b.jpg")
    assert pairs.categories == ("cat", "cat", "dog", "dog")
    assert pairs.groups[0] == ("Ann", "cat/b.jpg")
    assert pairs.groups[1] == ("cat/b.jpg", "Ann")
    assert (pairs.left_out, pairs.noted) == ({}, {})


def test_points_boxes_and_names_are_those_of_the_annotation(root):
    truth = opened(root).truth(0)
    assert truth.source_points.tolist() == [[3, 4], [20.5, 10]]
    assert truth.target_points.tolist() == [[5, 6], [22, 12.25]]
    assert truth.names == ("0", "7")
    assert truth.source_box.tolist() == [1, 2, 30, 25]
    assert truth.target_box.tolist() == [2, 3, 36, 28]


def test_the_small_list(root):
    assert opened(root, size="small").source == ("cat/a.jpg", "cat/b.jpg", "dog/a.jpg")
    with pytest.raises(SourceError, match=r"small/val\.txt: missing"):
        open_pairs(root, split="val", size="small")


def test_without_a_list_all_annotations_count_by_name(root):
    (root / "Layout/large/test.txt").unlink()
    assert opened(root).source == ("dog/a.jpg", "cat/b.jpg", "dog/c.jpg", "cat/a.jpg")


def test_labels_are_categories(root):
    pictures = opened(root).pictures()
    assert pictures.class_names == ("cat", "dog")
    assert [pictures.class_names[k] for k in pictures.labels] == [
        one.partition("/")[0] for one in pictures.ids
    ]
    folder = open_source(root / "JPEGImages")
    assert folder.class_names == pictures.class_names


def test_a_prompt_with_the_class_reads_the_category(root, monkeypatch):
    (root / "set").mkdir()
    spair(root / "set" / "spair")
    monkeypatch.setenv("DIFFEAT_DATA", str(root / "set"))
    source = open_source("spair:test")
    assert source.ids == opened(root).pictures().ids
    assert source.class_names == ("cat", "dog")


@pytest.mark.parametrize("number", [float("nan"), None, float("inf")])
def test_points_that_are_no_place(root, number):
    change(root, src_kps=[[1, 2], [number, 3]])
    with pytest.raises(SourceError, match=r"000003.*point 1 of the source.*expected finite"):
        opened(root)


@pytest.mark.parametrize("points", [[[1, 2, 3], [4, 5, 6]], [1, 2], [["a", 1], [1, 2]], [[1], [2]],
                                    [[1, 2], [3]], {"0": [1, 2]}, "12"])  # fmt: skip
def test_points_of_another_form(root, points):
    change(root, trg_kps=points)
    with pytest.raises(SourceError, match=r"000003.*points of the target.*expected"):
        opened(root)


def test_points_outside_are_refused_or_left_out(root):
    change(root, trg_kps=[[5, 6], [WIDTH + 3, 7]])
    with pytest.raises(SourceError, match=rf"1 of 2 points lie outside the target.*{WIDTH}x"
                                          rf"{HEIGHT} pixels, first \[43\.0, 7\.0\]"):  # fmt: skip
        opened(root)
    pairs = opened(root, outside="drop")
    assert pairs.truth(0).source_points.tolist() == [[3, 4]]
    assert pairs.truth(0).target_points.tolist() == [[5, 6]]
    assert pairs.truth(0).names == ("0",)
    assert pairs.left_out == {"points outside their picture": 1}


def test_points_that_count_from_one_are_taken_at_the_edge(root):
    change(root, src_kps=[[WIDTH, 1], [WIDTH - 0.5, HEIGHT - 0.5]])
    pairs = opened(root)
    assert pairs.truth(0).source_points.tolist() == [[WIDTH - 1, 1], [WIDTH - 0.5, HEIGHT - 0.5]]
    assert pairs.noted == {"points up to a pixel outside their picture, taken at its edge": 1}


def test_pairs_without_points_are_left_out_and_counted(root):
    change(root, src_kps=[], trg_kps=[], kps_ids=[])
    pairs = opened(root)
    assert len(pairs) == 3
    assert pairs.left_out == {"pairs without common points": 1}


def test_no_pair_with_points_is_an_error(root):
    write(root / "Layout/large/test.txt", "000003-a-b:cat\n")
    change(root, src_kps=[], trg_kps=[], kps_ids=[])
    with pytest.raises(SourceError, match=r"no pairs with points \(1 pairs without common points"):
        opened(root)


def test_an_empty_list_is_an_error(root):
    write(root / "Layout/large/test.txt", "\n")
    with pytest.raises(SourceError, match=r"no pairs with points \(nothing is listed\)"):
        opened(root)


def test_numbers_that_differ(root):
    change(root, src_kps=[[1, 2]])
    with pytest.raises(SourceError, match="1 points in the source and 2 in the target"):
        opened(root)
    change(root, kps_ids=["1"])
    with pytest.raises(SourceError, match="1 names for 2 points"):
        opened(root)


@pytest.mark.parametrize("box", [[1, 2, 1, 9], [5, 5, 1, 9], [1, 2, 3], [1, 2, 3, float("nan")],
                                 "box", [1, 2, 3, float("inf")]])  # fmt: skip
def test_boxes_that_are_none(root, box):
    change(root, trg_bndbox=box)
    with pytest.raises(SourceError, match=r"000003.*box.*expected"):
        opened(root)


@pytest.mark.parametrize("category", ["", None, "..", ".", 3])
def test_an_empty_category(root, category):
    change(root, category=category)
    with pytest.raises(SourceError, match=r"category .*; expected the name of a folder"):
        opened(root)


def test_a_pair_that_is_listed_twice_counts_twice_and_is_noted(root):
    with open(root / "Layout/large/test.txt", "a") as file:
        file.write("000003-a-b:cat\n")
    pairs = opened(root)
    assert len(pairs) == 5
    assert pairs.noted == {"pairs listed twice, which count twice": 1}


def test_a_pair_with_two_truths_is_refused(root):
    write(root / "PairAnnotation/test/9-a-b:cat.json", spair_pair(src_kps=[[3, 4], [20, 10]]))
    with open(root / "Layout/large/test.txt", "a") as file:
        file.write("9-a-b:cat\n")
    with pytest.raises(SourceError, match=r"9-a-b.*are a pair in .*000003.*, too, with other"):
        opened(root)


def test_a_picture_of_another_size_than_annotated(root):
    picture(root / "JPEGImages/cat/a.jpg", (20, 15))
    with pytest.raises(SourceError, match=r"of 40x30 pixels, but 'cat/a.jpg' has 20x15"):
        opened(root)


def test_names_that_are_no_list(root):
    change(root, kps_ids=12)
    with pytest.raises(SourceError, match=r"000003.*kps_ids are 12; expected a list"):
        opened(root)


def test_names_of_files_in_another_spelling_of_unicode(root):
    name = "cafe\u0301.jpg"  # as some systems write é
    (root / "JPEGImages/cat/a.jpg").rename(root / "JPEGImages/cat" / name)
    for path in sorted((root / "PairAnnotation").glob("*/*:cat.json")):
        path.write_text(path.read_text().replace("a.jpg", name), "utf-8")
    pairs = opened(root)
    assert pairs.source[0] == "cat/caf\xe9.jpg"
    assert pairs.pictures().load(pairs.pictures().ids.index(pairs.source[0])).size == (40, 30)
    assert pairs.source[0] in open_source(root / "JPEGImages").ids


def test_sizes_are_of_the_upright_picture(root):
    exif = Image.Exif()
    exif[0x0112] = 6  # to be turned by a quarter
    Image.new("RGB", (HEIGHT, WIDTH)).save(root / "JPEGImages/cat/a.jpg", exif=exif)
    assert opened(root).truth(0).source_points.tolist() == [[3, 4], [20.5, 10]]


def test_a_picture_that_is_none(root):
    write(root / "JPEGImages/cat/a.jpg", "no picture")
    with pytest.raises(SourceError, match=r"000003.*not a picture"):
        opened(root)


@pytest.mark.parametrize("text", ["{", "[1]", "", "\x00", '{"src_imname": "a.jpg"}', "[" * 5000])
def test_broken_annotations(root, text):
    write(root / FIRST, text)
    with pytest.raises(SourceError, match=r"000003-a-b:cat\.json: .*expected"):
        opened(root)
    change(root)
    write(root / "ImageAnnotation/cat/a.json", text if text[:2] != '{"' else "[]")
    with pytest.raises(SourceError, match=r"ImageAnnotation/cat/a\.json: .*expected"):
        opened(root)


def test_a_list_that_names_what_is_not_there(root):
    (root / FIRST).unlink()
    with pytest.raises(SourceError, match=r"000003-a-b:cat\.json: No such file"):
        opened(root)


class TestPathsThatLeadOut:
    @pytest.mark.parametrize("name", ["../../secret.jpg", "/etc/passwd", "../dog/../../a.jpg",
                                      "x/../../../a.jpg", "a\0.jpg"])  # fmt: skip
    def test_pictures(self, root, name):
        picture(root / "secret.jpg")
        change(root, src_imname=name)
        with pytest.raises(SourceError, match=r"000003.*(leads out|is missing)"):
            opened(root)

    def test_a_way_round_inside_is_none(self, root):
        change(root, src_imname="../cat/./a.jpg")
        assert opened(root).source[0] == "cat/a.jpg"

    def test_names_of_annotations(self, root):
        write(root / "Layout/large/test.txt", "../val/000000-c-b:cat\n")
        with pytest.raises(SourceError, match=r"test\.txt, line 1: .*leads out"):
            opened(root)

    def test_links(self, root, tmp_path_factory):
        other = tmp_path_factory.mktemp("other")
        spair(other)
        (root / FIRST).unlink()
        (root / FIRST).symlink_to(other / FIRST)
        with pytest.raises(SourceError, match="a link leads out"):
            opened(root)

    @pytest.mark.parametrize("name", ["JPEGImages", "PairAnnotation", "ImageAnnotation"])
    def test_folders_that_are_links(self, root, tmp_path_factory, name):
        other = tmp_path_factory.mktemp("other") / name
        (root / name).rename(other)
        (root / name).symlink_to(other)
        with pytest.raises(SourceError, match="a link leads"):
            opened(root)

    def test_links_inside_and_to_the_set_itself_are_followed(self, root, tmp_path_factory):
        (root / "JPEGImages/cat/a.jpg").rename(root / "JPEGImages/a.jpg")
        (root / "JPEGImages/cat/a.jpg").symlink_to("../a.jpg")
        link = tmp_path_factory.mktemp("links") / "set"
        link.symlink_to(root)
        assert opened(link).source[0] == "cat/a.jpg"

    @pytest.mark.parametrize("path", [FIRST, "JPEGImages/cat/a.jpg", "Layout/large/test.txt"])
    def test_pipes_are_not_waited_for(self, root, path):
        (root / path).unlink()
        os.mkfifo(root / path)
        if path.endswith("txt"):  # as if it were not there
            assert len(opened(root)) == 4
            return
        with pytest.raises(SourceError, match="no regular file"):
            opened(root)


def test_two_thousand_annotations_open_in_seconds(root):
    import time

    folder = root / "PairAnnotation" / "trn"
    folder.mkdir()
    text = json.dumps(spair_pair(src_kps=[[k, k] for k in range(20)], kps_ids=None,
                                 trg_kps=[[k, k + 1] for k in range(20)]))  # fmt: skip
    for k in range(2000):
        (folder / f"{k:06}-a-b:cat.json").write_text(text)
    began = time.process_time()
    pairs = open_pairs(root, split="trn")
    pairs.fingerprint  # noqa: B018
    assert time.process_time() - began < 4  # .5 s on a quiet core
    assert len(pairs) == 2000


def test_the_fingerprint_goes_by_everything_that_is_true(root):
    before = opened(root).fingerprint
    assert opened(root).fingerprint == before
    seen = {before}
    for fields in ({"trg_kps": [[5, 6], [22, 12.5]]}, {"src_kps": [[3, 4], [20, 10]]},
                   {"trg_bndbox": [2, 3, 37, 28]}, {"kps_ids": ["0", "8"]},
                   {"src_bndbox": None}):  # fmt: skip
        change(root, **fields)
        seen.add(opened(root).fingerprint)
    assert len(seen) == 6


def test_rows_of_pictures_that_a_file_does_not_have(root):
    source, target = opened(root).rows(["cat/a.jpg", "cat/b.jpg", "dog/a.jpg"])
    assert np.array_equal(source, [0, 1, 2, -1])
    assert np.array_equal(target, [1, 0, -1, -1])
