"""What every reader of pairs keeps to, whatever the layout."""

from __future__ import annotations

import numpy as np
import pytest

from diffeat.errors import SourceError, SpecError
from diffeat.images import open_source
from diffeat.images.paired import PAIRED
from diffeat.targets.pairs import open_pairs
from diffeat.targets.pairs.opened import READERS
from tests.targets.pairs.layouts import LAYOUTS, geoaware, picture, write

KINDS = {"tss": "flow", "hpatches": "homography"}


@pytest.fixture(params=LAYOUTS)
def layout(request, tmp_path, monkeypatch):
    """(name, its folder, split, folder of the pictures)."""
    builder, split, inner = LAYOUTS[request.param]
    root = tmp_path / "sets" / PAIRED[request.param].folders[0]
    root.mkdir(parents=True)
    builder(root)
    monkeypatch.setenv("DIFFEAT_DATA", str(tmp_path / "sets"))
    return request.param, root, split, root / inner


def test_names_folders_and_the_argument_mean_the_same_pairs(layout):
    name, root, split, _ = layout
    one = open_pairs(f"{name}:{split}")
    others = [open_pairs(f"{root}:{split}"), open_pairs(root, split=split),
              open_pairs(name, split)]  # fmt: skip
    assert one.name == f"{name}:{split}"
    assert one.kind == KINDS.get(name, "points")
    assert len({one.fingerprint, *(other.fingerprint for other in others)}) == 1
    assert others[0].name == f"{root}:{split}"


def test_pictures_are_those_of_the_pairs_and_can_be_read(layout):
    name, _, split, _ = layout
    pairs = open_pairs(name, split)
    pictures = pairs.pictures()
    assert set(pictures.ids) == {*pairs.source, *pairs.target}
    assert pictures.ids == tuple(sorted(pictures.ids))
    assert [pictures.load(k).height for k in range(len(pictures))] == [30] * len(pictures)


def test_extraction_of_the_name_or_the_folder_finds_every_pair(layout):
    name, root, split, inner = layout
    pairs = open_pairs(name, split)
    for source in (open_source(f"{name}:{split}"), open_source(inner), open_source(root)):
        rows = pairs.rows(source.ids)
        for found, wanted in zip(rows, (pairs.source, pairs.target), strict=True):
            assert [source.ids[row][-len(one) :] for row, one in zip(found, wanted, strict=True)
                    ] == list(wanted)  # fmt: skip


def test_extraction_of_the_name_has_the_same_ids_and_labels(layout):
    name, _, split, _ = layout
    pictures, source = open_pairs(name, split).pictures(), open_source(f"{name}:{split}")
    rows = [source.ids.index(one) for one in pictures.ids]
    if name != "ap10k":  # where a picture of two species has none
        assert source.class_names == pictures.class_names
        assert np.array_equal(source.labels[rows], pictures.labels)
    if name not in ("cub", "ap10k"):  # pairs are drawn from the pictures of a split
        assert source.ids == pictures.ids


def test_points_lie_in_the_pictures(layout):
    name, _, split, _ = layout
    pairs = open_pairs(name, split)
    pictures = pairs.pictures()
    sizes = {one: pictures.load(k).size for k, one in enumerate(pictures.ids)}
    for pair in range(len(pairs)):
        truth = pairs.truth(pair)
        assert truth.source_points.shape == truth.target_points.shape
        assert len(truth.source_points) > 0
        assert len(truth.names) in (0, len(truth.source_points))
        for points, one in ((truth.source_points, pairs.source[pair]),
                            (truth.target_points, pairs.target[pair])):  # fmt: skip
            assert points.dtype == np.float64
            assert (points >= -0.5).all()
            assert (points <= np.array(sizes[one]) - 0.5).all()


def test_some_of_the_pairs(layout):
    name, _, split, _ = layout
    pairs = open_pairs(name, split)
    order = list(range(len(pairs)))[::-1]
    taken = pairs.take(order)
    assert taken.source == pairs.source[::-1]
    assert taken.groups == pairs.groups[::-1]
    assert taken.categories == pairs.categories[::-1]
    assert np.array_equal(taken.truth(0).target_points, pairs.truth(order[0]).target_points)
    assert taken.take(order).fingerprint == pairs.fingerprint
    if len(pairs) > 1:
        assert taken.fingerprint != pairs.fingerprint
    assert len(pairs.take(np.arange(len(pairs)) < 1)) == 1


def test_groups_are_names_of_both_sides(layout):
    name, _, split, _ = layout
    pairs = open_pairs(name, split)
    assert len(pairs.groups) == len(pairs.categories) == len(pairs)
    assert all(len(both) == 2 and all(both) for both in pairs.groups)


def test_a_set_that_is_not_there_says_where_it_comes_from(layout, tmp_path, monkeypatch):
    name, _, split, _ = layout
    monkeypatch.setenv("DIFFEAT_DATA", str(tmp_path / "nowhere"))
    for opened in (open_pairs, open_source):
        with pytest.raises(SourceError, match=r"not on this machine.*https://.*DIFFEAT_DATA"):
            opened(f"{name}:{split}")


def test_an_unknown_split_lists_those_that_are_there(layout):
    _, root, split, _ = layout
    with pytest.raises(SourceError, match=rf"no split 'tset'.*{split}"):
        open_pairs(root, split="tset")


def test_pictures_that_are_missing_are_named(layout):
    name, _, split, inner = layout
    lost = open_pairs(name, split).source[0]
    (inner / lost).unlink()
    with pytest.raises(SourceError, match=r"missing|0 pictures"):
        open_pairs(name, split)


def test_links_out_of_the_folder_are_refused(layout, tmp_path):
    name, _, split, inner = layout
    lost = inner / open_pairs(name, split).source[0]
    (tmp_path / f"elsewhere{lost.suffix}").write_bytes(lost.read_bytes())
    lost.unlink()
    lost.symlink_to(tmp_path / f"elsewhere{lost.suffix}")
    for opened in (open_pairs, open_source):
        with pytest.raises(SourceError, match="link"):
            opened(f"{name}:{split}")


def test_every_named_set_has_a_reader_and_every_reader_a_test():
    assert set(READERS) == set(PAIRED)
    assert set(READERS) - set(LAYOUTS) == {"7scenes"}  # in test_depth


def test_geoaware_is_ap10k(tmp_path):
    geoaware(tmp_path)
    pairs = open_pairs(tmp_path)
    assert pairs.source == ("Felidae/lion/a.jpg",)
    assert pairs.left_out == {"pairs with fewer than 3 common points": 1}
    assert pairs.pictures().class_names == ("lion",)


class TestNames:
    def test_neither_folder_nor_list_nor_set(self):
        with pytest.raises(SourceError, match=r"no folder, list or set.*did you mean 'spair'"):
            open_pairs("spairs:test")

    def test_a_folder_of_another_kind(self, tmp_path):
        picture(tmp_path / "a.jpg")
        with pytest.raises(SourceError, match=r"no layout of pairs.*spair:.*JPEGImages"):
            open_pairs(tmp_path)

    def test_a_folder_with_a_colon(self, tmp_path):
        LAYOUTS["spair"][0](tmp_path / "old:new")
        assert len(open_pairs(f"{tmp_path}/old:new", split="test")) == 4
        assert len(open_pairs(f"{tmp_path}/old:new:test")) == 4

    def test_two_splits_at_once(self, tmp_path):
        LAYOUTS["spair"][0](tmp_path)
        with pytest.raises(SourceError, match=r"'test' and split='val'"):
            open_pairs(f"{tmp_path}:test", split="val")

    def test_no_split_where_there_are_several(self, tmp_path):
        LAYOUTS["spair"][0](tmp_path)
        with pytest.raises(SourceError, match=r"no split is named.*test, val"):
            open_pairs(tmp_path)

    def test_other_files(self, tmp_path):
        write(tmp_path / "pairs.json", "{}")
        with pytest.raises(SourceError, match=r"expected a list of pairs, a \.csv"):
            open_pairs(tmp_path / "pairs.json")

    @pytest.mark.parametrize("option", [{"size": "small"}, {"seed": 1}, {"outside": "drop"}])
    def test_options_that_a_layout_does_not_have(self, tmp_path, option):
        LAYOUTS["tss"][0](tmp_path)
        with pytest.raises(SpecError, match="no such choice"):
            open_pairs(tmp_path, "all", **option)

    @pytest.mark.parametrize("option", [{"size": "huge"}, {"outside": "keep"}])
    def test_options_that_mean_nothing(self, tmp_path, option):
        LAYOUTS["spair"][0](tmp_path)
        with pytest.raises(SpecError, match="expected size large or small"):
            open_pairs(tmp_path, "test", **option)
