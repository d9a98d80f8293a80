"""CUB-200-2011 and AP-10K, whose pairs are drawn."""

from __future__ import annotations

from collections import Counter

import pytest

from diffeat.errors import SourceError
from diffeat.targets.pairs import open_pairs
from diffeat.targets.pairs.drawn import drawn_pairs
from tests.targets.pairs.layouts import CUB_PICTURES, ap10k, cub, geoaware, write


def always(_a, _b) -> bool:
    return True


class TestRule:
    def test_all_where_there_are_few(self):
        found = drawn_pairs("abc", 20, always, 0)
        assert sorted(found) == [(a, b) for a in "abc" for b in "abc" if a != b]

    def test_none_of_fewer_than_two(self):
        assert drawn_pairs("", 5, always) == drawn_pairs("a", 5, always) == []

    def test_so_many_different_ones_where_there_are_many(self):
        members = list(range(300))
        found = drawn_pairs(members, 20, always, 0, "cat")
        assert len(set(found)) == len(found) == 20
        assert all(a != b for a, b in found)
        assert drawn_pairs(members, 20, always, 0, "cat") == found
        assert drawn_pairs(members, 20, always, 1, "cat") != found
        assert drawn_pairs(members, 20, always, 0, "dog") != found
        assert drawn_pairs(members, 10, always, 0, "cat") == found[:10]

    def test_only_those_that_fit(self):
        found = drawn_pairs(list(range(300)), 20, lambda a, b: a % 2 < b % 2, 0)
        assert len(found) == 20
        assert all((a % 2, b % 2) == (0, 1) for a, b in found)

    def test_every_ordered_pair_is_as_likely(self):
        counts = Counter(
            pair for seed in range(2000) for pair in drawn_pairs("abc", 1, always, seed)
        )
        assert len(counts) == 6
        assert all(abs(count - 2000 / 6) < 4 * (2000 * 5 / 36) ** 0.5 for count in counts.values())


class TestBirds:
    @pytest.fixture
    def root(self, tmp_path):
        cub(tmp_path)
        return tmp_path

    def test_pairs_within_a_class_of_the_split(self, root):
        pairs = open_pairs(root, split="test")
        names = [name for name in CUB_PICTURES if not name.endswith("4.jpg")]
        wanted = {(a, b) for a in names for b in names if a != b and a[:3] == b[:3]}
        assert set(zip(pairs.source, pairs.target, strict=True)) == wanted
        assert Counter(pairs.categories) == {"001.Auk": 12, "002.Owl": 12}

    def test_points_boxes_and_names(self, root):
        pairs = open_pairs(root, split="test")
        place = list(zip(pairs.source, pairs.target, strict=True)).index(
            ("001.Auk/Auk_0.jpg", "001.Auk/Auk_2.jpg")
        )
        truth = pairs.truth(place)
        assert truth.source_points.tolist() == [[1 + k, 2 * k + 0.5] for k in (1, 2, 3, 4)]
        assert truth.target_points.tolist() == [[3 + k, 2 * k + 0.5] for k in (1, 2, 3, 4)]
        assert truth.names == ("back", "beak", "left eye", "tail")
        assert truth.source_box.tolist() == [2, 3, 22, 14]  # x, y, 20, 11 as x1, y1, x2, y2
        assert truth.target_box.tolist() == [2, 3, 22, 16]

    def test_parts_that_are_not_seen(self, root):
        pairs = open_pairs(root, split="test")
        owl = pairs.source.index("002.Owl/Owl_0.jpg")
        assert pairs.truth(owl).names == ("back", "left eye", "tail")

    def test_seed_and_number(self, root):
        few = open_pairs(root, split="test", per_class=3)
        assert Counter(few.categories) == {"001.Auk": 3, "002.Owl": 3}
        assert few.fingerprint == open_pairs(root, split="test", per_class=3).fingerprint
        assert few.fingerprint != open_pairs(root, split="test", per_class=3, seed=1).fingerprint

    def test_pairs_that_are_listed(self, root):
        write(root / "test_pairs.txt", "1 2\n\n001.Auk/Auk_2.jpg 6\n")
        pairs = open_pairs(root, split="test")
        assert pairs.source == ("001.Auk/Auk_0.jpg", "001.Auk/Auk_2.jpg")
        assert pairs.target == ("001.Auk/Auk_1.jpg", "002.Owl/Owl_0.jpg")
        assert pairs.pictures().class_names == ("001.Auk", "002.Owl")
        for line, wrong in (("1 5", "'5' is no picture of this split"), ("1", "1 names")):
            write(root / "test_pairs.txt", f"1 2\n{line}\n")
            with pytest.raises(SourceError, match=rf"line 2: {wrong}"):
                open_pairs(root, split="test")

    @pytest.mark.parametrize(
        ("name", "line", "wrong"),
        [
            ("images.txt", "1", "1 fields; expected 2"),
            ("bounding_boxes.txt", "1 2,0 3 4 5", r"'2,0'; expected a number"),
            ("parts/part_locs.txt", "1 1 x 3 1", r"'x'; expected a number"),
        ],
    )
    def test_damaged_tables(self, root, name, line, wrong):
        path = root / name
        write(path, path.read_text() + line + "\n")
        with pytest.raises(SourceError, match=rf"{name}, line \d+: {wrong}"):
            open_pairs(root, split="test")

    def test_tables_that_are_missing(self, root):
        (root / "bounding_boxes.txt").unlink()
        with pytest.raises(SourceError, match=r"bounding_boxes\.txt: No such file"):
            open_pairs(root, split="test")


class TestAnimals:
    @pytest.fixture
    def root(self, tmp_path):
        ap10k(tmp_path)
        return tmp_path

    def test_pairs_within_a_species(self, root):
        pairs = open_pairs(root, split="test")
        assert Counter(pairs.categories) == {"lion": 6, "lynx": 6, "wolf": 6}
        assert pairs.left_out == {"pictures with several animals": 1}
        assert "00099.jpg" not in {*pairs.source, *pairs.target}
        assert pairs.pictures().class_names == ("lion", "lynx", "wolf")

    def test_labelled_points_that_both_have(self, root):
        pairs = open_pairs(root, split="test")
        at = list(zip(pairs.source, pairs.target, strict=True)).index
        truth = pairs.truth(at(("00010.jpg", "00011.jpg")))
        assert truth.source_points.tolist() == [[6, 6], [9, 10], [12, 13], [20, 21]]
        assert truth.target_points.tolist() == [[6, 7], [9, 10], [12, 13], [20, 21]]
        assert truth.names == ("eye", "nose", "tail", "paw")
        assert truth.source_box.tolist() == [2, 3, 32, 23]  # x, y, 30, 20
        assert pairs.truth(at(("00010.jpg", "00012.jpg"))).names == ("eye", "nose", "paw")

    def test_pairs_of_two_species(self, root):
        pairs = open_pairs(root, split="test_cross_species")
        both = [(a[3], b[3]) for a, b in zip(pairs.source, pairs.target, strict=True)]
        assert set(both) == {("1", "2"), ("2", "1")}
        assert len(both) == len(set(zip(pairs.source, pairs.target, strict=True))) == 18
        assert set(pairs.categories) == {"Felidae"}
        assert pairs.pictures().class_names == ("lion", "lynx")

    def test_pairs_of_two_families(self, root):
        pairs = open_pairs(root, split="test_cross_family", per_class=5)
        both = {(a[3], b[3]) for a, b in zip(pairs.source, pairs.target, strict=True)}
        assert both <= {("1", "3"), ("2", "3"), ("3", "1"), ("3", "2")}
        assert len(pairs) == 10  # of each of two families

    def test_splits_are_those_that_are_there(self, root):
        with pytest.raises(SourceError, match=r"test, test_cross_species, test_cross_family"):
            open_pairs(root)

    @pytest.mark.parametrize(
        "text",
        ["[]", "{", '{"images": [], "annotations": 1, "categories": []}', '{"images": []}'],
    )
    def test_damaged_annotations(self, root, text):
        write(root / "annotations/ap10k-test-split1.json", text)
        with pytest.raises(SourceError, match=r"ap10k-test-split1\.json: .*expected"):
            open_pairs(root, split="test")

    def test_points_boxes_and_names_of_listed_pairs(self, tmp_path):
        geoaware(tmp_path)
        truth = open_pairs(tmp_path).truth(0)
        assert truth.source_points.tolist() == [[3, 4], [5, 6], [6, 7]]
        assert truth.names == ("0", "2", "3")
        assert truth.target_box.tolist() == [2, 3, 32, 23]

    @pytest.mark.parametrize("name", ["../../../x", "/etc/passwd", "Felidae/lion/z"])
    def test_paths_that_lead_out(self, tmp_path, name):
        geoaware(tmp_path)
        write(tmp_path / "PairAnnotation/test/0-a-b:lion.json",
              {"src_json_path": f"ImageAnnotation/{name}.json", "trg_json_path": name})  # fmt: skip
        with pytest.raises(SourceError, match=r"0-a-b:lion.*(leads out|is missing)"):
            open_pairs(tmp_path)
