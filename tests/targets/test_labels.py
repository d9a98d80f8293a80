"""Labels of sources and feature files: their own, or those of a table."""

from __future__ import annotations

import warnings
from dataclasses import replace

import numpy as np
import pytest

import diffeat
from benchmarks.features import Pictures
from benchmarks.run import run_benchmark
from benchmarks.tasks.classification.file import ClassificationBenchmark
from diffeat.errors import SourceError, SpecError
from diffeat.images import ArraySource
from diffeat.targets import labelled, labels_for, open_targets, own_targets


def source(count=4, labels=None):
    pixels = np.arange(count * 12, dtype=np.uint8).reshape(count, 2, 2, 3)
    ids = tuple(f"x/{k}.png" for k in range(count))
    names = () if labels is None else ("a", "b")
    labels = None if labels is None else np.array(labels, np.int64)
    return ArraySource("memory", ids, labels, names, pixels=pixels)


@pytest.fixture
def table(tmp_path):
    path = tmp_path / "t.csv"
    path.write_text("id,label,person\n3.png,dog,p\n0.png,cat,q\n1,dog,q\nx/2.png,cat,p\n", "utf-8")
    return path


class TestLabelsFor:
    def test_their_own(self):
        labels, names, groups = labels_for(source(labels=[0, 1, 1, 0]))
        assert (labels.tolist(), names, groups) == ([0, 1, 1, 0], ("a", "b"), None)
        with pytest.raises(SourceError, match="memory has no labels; expected one subfolder per"):
            labels_for(source())

    def test_of_a_table(self, table):
        labels, names, groups = labels_for(source(), table)
        assert (labels.tolist(), names) == ([0, 1, 0, 1], ("cat", "dog"))
        assert groups == ("q", "q", "p", "p")

    def test_of_a_feature_file(self, table, tmp_path, backbone_of):
        spec = diffeat.ExtractSpec((20,), ("mid",), pool="1x1")
        path = tmp_path / "f.h5"
        diffeat.extract_to_file(backbone_of("pixel"), source(), spec, path, progress=False)
        with diffeat.FeatureStore(path) as store:
            assert store.labels is None
            assert labels_for(store, table).labels.tolist() == [0, 1, 0, 1]
            with pytest.raises(SourceError, match=r"f\.h5 has no labels"):
                own_targets(store)

    def test_rows_of_another_part_of_a_data_set_are_told(self, tmp_path):
        path = tmp_path / "train.csv"
        path.write_text("id,label\ntrain/x/0.png,cat\ntrain/x/1.png,dog\n", "utf-8")
        pictures = source(2)
        labels_for(replace(pictures, name="data/training"), path)  # silent
        labels_for(pictures, path)
        with pytest.warns(UserWarning, match=r"rows are of train/, and the pictures of test/"):
            labels_for(replace(pictures, name="data/test"), path)

    def test_what_does_not_fit_is_said(self, table):
        with pytest.warns(UserWarning, match=r"1 of 5 pictures have no target: 'x/4\.png'"):
            labels = labels_for(source(5), table).labels
        assert labels.tolist() == [0, 1, 0, 1, -1]
        with pytest.warns(
            UserWarning, match=r"2 rows are of no picture here: '3\.png', 'x/2\.png'"
        ):
            labels_for(source(2), table)

    def test_nothing_is_said_where_all_fits(self, table):
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            labels_for(source(), table)

    def test_names_that_several_have_are_said(self, tmp_path):
        path = tmp_path / "t.csv"
        path.write_text("1.png,a\nx/0.png,b\n", "utf-8")
        pixels = np.zeros((3, 2, 2, 3), np.uint8)
        twice = ArraySource("m", ("x/0.png", "x/1.png", "y/1.png"), pixels=pixels)
        with pytest.warns(UserWarning, match=r"share their file's name with others.*write their"):
            assert labels_for(twice, path).labels.tolist() == [1, -1, -1]

    def test_another_table_altogether(self, tmp_path):
        path = tmp_path / "t.csv"
        path.write_text("id,label\ny/10.png,a\n", "utf-8")
        with pytest.raises(SourceError, match=r"none of its 1 rows is of these 4 pictures"):
            labels_for(source(), path)

    def test_the_protocol(self, table):
        targets = open_targets(table)
        assert (targets.kind, targets.names) == ("class", ("cat", "dog"))
        assert targets.missing(source(6).ids) == ("x/4.png", "x/5.png")


class TestLabelled:
    def test_a_source_takes_the_labels_of_a_table(self, table):
        with pytest.warns(UserWarning, match="1 of 5 pictures have no target"):
            found, groups = labelled(source(5), open_targets(table))
        assert found.ids == tuple(f"x/{k}.png" for k in range(4))
        assert (found.labels.tolist(), found.class_names) == ([0, 1, 0, 1], ("cat", "dog"))
        assert groups == ("q", "q", "p", "p")
        assert found.limit(2).labels.tolist() in ([0, 1], [1, 0])

    def test_numbers_are_no_classes(self, tmp_path):
        path = tmp_path / "t.csv"
        path.write_text("id,age\nx/0.png,1.5\n", "utf-8")
        with pytest.raises(SourceError, match="kind 'number'; expected classes"):
            labelled(source(), open_targets(path))


class TestBenchmark:
    def test_labels_and_groups_of_a_table(self, tmp_path):
        digits = diffeat.open_source("digits").limit(60)
        words = ["even" if k % 2 == 0 else "odd" for k in digits.labels]
        rows = [f"{name},{words[row]},{row % 20}" for row, name in enumerate(digits.ids)]
        (tmp_path / "t.csv").write_text("\n".join(["id,label,writer", *rows]), "utf-8")
        benchmark = ClassificationBenchmark(
            name="even", title="even", model="unet-cifar10", train="digits", twin={},
            labels=str(tmp_path / "t.csv"), groups="writer", penalties=(0.1,),
            extract={"timesteps": [20], "blocks": ["conv_in"], "pool": "1x1", "size": 16},
        )  # fmt: skip
        with pytest.warns(UserWarning, match="1737 of 1797 pictures have no target"):
            pictures = Pictures.open(benchmark)
        assert pictures.sources[0].class_names == ("even", "odd")
        assert pictures.groups == (tuple(str(row % 20) for row in range(60)),)
        with pytest.warns(UserWarning, match="have no target"):
            result = run_benchmark(benchmark, tmp_path / "out", "cpu")
        surface = result["surfaces"][0]
        assert surface["classes"] == 2
        assert sum(surface["counts"]) == 60
        assert all(count % 3 == 0 for count in surface["counts"])  # 20 groups of 3 pictures each

    def test_groups_need_a_table(self):
        with pytest.raises(SpecError, match=r"groups = 'person' is a column of a table"):
            ClassificationBenchmark(name="a", title="a", model="m", train="t", extract={},
                                    groups="person")  # fmt: skip
