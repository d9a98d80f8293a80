"""Tables and tars as people write them: kinds, columns, headers, and what is refused."""

from __future__ import annotations

import csv
import io
import json
import tarfile

import numpy as np
import pytest

from diffeat.errors import SourceError
from diffeat.targets import open_targets


@pytest.fixture
def write(tmp_path):
    def save(name, text):
        path = tmp_path / name
        path.write_text(text, "utf-8")
        return path

    return save


@pytest.fixture
def tar(tmp_path):
    def save(members):
        with tarfile.open(tmp_path / "s.tar", "w") as archive:
            for name, text in members.items():
                info = tarfile.TarInfo(name)
                info.size = len(text.encode())
                archive.addfile(info, io.BytesIO(text.encode()))
        return tmp_path / "s.tar"

    return save


def plain(targets, *ids):
    return targets.kind, targets.names, targets.of(ids).tolist()


class TestClasses:
    @pytest.mark.parametrize(
        "text",
        [
            "id,label\na.png,dog\nb.png,cat\n",
            "a.png,dog\nb.png,cat\n",  # no header
            "label,width,file_name\ndog,3,a.png\ncat,4,b.png\n",
            "name,class\na.png,dog\nb.png,cat\n\n",
            '"id","label"\r\n"a.png","dog"\r\n"b.png","cat"\r\n',
            "id,label\na.png,dog\na.png,dog\nb.png,cat\n",  # twice the same
        ],
    )
    def test_layouts_of_the_same(self, write, text):
        expected = ("class", ("cat", "dog"), [1, 0, -1])
        assert plain(open_targets(write("t.csv", text)), "a.png", "b.png", "c.png") == expected

    def test_tabs_and_json_lines(self, write):
        expected = ("class", ("cat", "dog"), [1, 0])
        tsv = open_targets(write("t.tsv", "id\tlabel\na.png\tdog\nb.png\tcat\n"))
        assert plain(tsv, "a.png", "b.png") == expected
        lines = [{"path": "a.png", "label": "dog", "width": 3}, {"id": "b.png", "label": "cat"}]
        found = open_targets(write("t.jsonl", "\n".join(map(json.dumps, lines))))
        assert plain(found, "a.png", "b.png") == expected

    def test_an_object(self, write):
        expected = ("class", ("cat", "dog"), [1, 0])
        found = open_targets(write("t.json", '{"a.png": "dog", "b.png": "cat"}'))
        assert plain(found, "a.png", "b.png") == expected
        text = '{"a.png": {"label": "dog", "clip": "c"}, "b.png": {"clip": "d", "label": "cat"}}'
        found = open_targets(write("t.json", text))
        assert plain(found, "a.png", "b.png") == expected
        assert found.groups(["b.png"]) == ("d",)

    def test_numbers_are_in_the_order_of_numbers(self, write):
        found = open_targets(write("t.csv", "id,label\na,10\nb,9\nc,100\n"))
        assert plain(found, "a", "b", "c") == ("class", ("9", "10", "100"), [1, 0, 2])

    def test_an_empty_field_is_no_class(self, write):
        found = open_targets(write("t.csv", "id,label\na,x\nb,\nc,y\n"))
        assert plain(found, "a", "b", "c") == ("class", ("x", "y"), [0, -1, 1])
        assert found.missing(["a", "b", "d"]) == ("b", "d")

    def test_a_column_that_is_asked_for(self, write):
        path = write("t.csv", "img,species,sex\n1.png,dog,f\n2.png,cat,m\n")
        assert open_targets(path, ("sex",)).names == ("f", "m")
        assert open_targets(path, ("species",)).of(["2"]).tolist() == [0]
        with pytest.raises(SourceError, match=r"no column 'spezies' \(did you mean 'species'"):
            open_targets(path, ("sex", "spezies"))

    def test_a_header_that_is_told(self, write):
        path = write("t.csv", "img,species\nx,dog\n")
        assert open_targets(path, header=True).keys == ("x",)
        assert open_targets(path).keys == ("img", "x")  # nothing tells it from a row


class TestNumbers:
    def test_a_fraction_makes_numbers(self, write):
        found = open_targets(write("t.csv", "id,age\na,3\nb,4.5\nc,-1e2\nd,\n"))
        kind, names, values = plain(found, "a", "b", "c", "d")
        assert (kind, names) == ("number", ())
        np.testing.assert_array_equal(values, [3, 4.5, -100, np.nan])
        assert found.missing(["a", "d"]) == ("d",)

    def test_whole_numbers_are_numbers_if_told(self, write):
        path = write("t.csv", "img,age\nx,3\ny,40\n")  # the heading is no number
        assert open_targets(path, kind="number").of(["y", "x"]).tolist() == [40, 3]
        assert open_targets(path).kind == "class"

    def test_of_json(self, write):
        text = '{"id": "a", "value": 1.0}\n{"id": "b", "value": null}\n'
        found = open_targets(write("t.jsonl", text))
        assert found.kind == "number"
        np.testing.assert_array_equal(found.of(["a", "b"]), [1, np.nan])

    @pytest.mark.parametrize("value", ["nan", "inf", "abc", "1e999", "1,5"])
    def test_what_is_none(self, write, value):
        path = write("t.csv", f'id,age\na,1.5\nb,"{value}"\n')
        with pytest.raises(SourceError, match=r"t\.csv, line 3: '.*'; expected a (finite )?number"):
            open_targets(path, kind="number")


class TestSeveralLabels:
    def test_a_separator(self, write):
        found = open_targets(write("t.csv", "id,labels\na,cat|dog\nb,dog\nc,\n"))
        kind, names, values = plain(found, "a", "b", "c", "d")
        assert (kind, names) == ("labels", ("cat", "dog"))
        assert values == [[1, 1], [0, 1], [0, 0], [-1, -1]]
        assert found.missing(["c", "d"]) == ("d",)  # an empty field has no label, which is known

    def test_semicolons_and_lists(self, write):
        expected = [[1, 1], [0, 1]]
        csv_ = open_targets(write("t.csv", "id,labels\na, cat ; dog\nb,dog\n"))
        assert csv_.of(["a", "b"]).tolist() == expected
        text = '{"id": "a", "labels": ["dog", "cat"]}\n{"id": "b", "labels": ["dog"]}\n'
        assert open_targets(write("t.jsonl", text)).of(["a", "b"]).tolist() == expected

    def test_a_column_per_label(self, write):
        found = open_targets(write("t.csv", "id,striped,big\na,1,0\nb,false,TRUE\n"))
        assert plain(found, "a", "b") == ("labels", ("striped", "big"), [[1, 0], [0, 1]])

    def test_a_column_per_label_that_are_told(self, write):
        path = write("t.csv", "id,person,striped,big,note\na,p,1,0,x\nb,q,,1,y\n")
        found = open_targets(path, ("big", "striped"))
        assert plain(found, "a", "b") == ("labels", ("big", "striped"), [[0, 1], [-1, -1]])
        assert found.groups(["b", "a"]) == ("q", "p")
        with pytest.raises(SourceError, match="line 2: 'x'; expected 0 or 1"):
            open_targets(path, ("big", "note"))
        with pytest.raises(SourceError, match="2 columns for kind 'class'"):
            open_targets(path, ("big", "note"), kind="class")


class TestGroups:
    def test_a_third_column_or_a_known_name(self, write):
        plain_ = open_targets(write("t.csv", "a.png,dog,anna\nb.png,cat,ben\n"))
        named = open_targets(write("u.csv", "scene,label,id\nanna,dog,a.png\nben,cat,b.png\n"))
        for found in (plain_, named):
            assert found.groups(["b.png", "a.png", "c.png"]) == ("ben", "anna", "c.png")

    def test_a_column_that_is_told(self, write):
        path = write("t.csv", "id,label,owner\na,x,anna\nb,y,\n")
        assert open_targets(path, groups="owner").groups(["a", "b"]) == ("anna", "b")
        with pytest.raises(SourceError, match="no column 'person'"):
            open_targets(path, groups="person")
        assert open_targets(path).groups(["a"]) is None  # a note, as far as anybody knows

    def test_a_group_may_be_the_target(self, write):
        found = open_targets(write("t.csv", "id,person\na,anna\nb,ben\n"), ("person",))
        assert (found.names, found.groups(["a"])) == (("anna", "ben"), None)


class TestTars:
    def test_cls_before_json(self, tar):
        path = tar({"a.cls": "3", "a.json": '{"label": "x"}', "b.cls": "12", "b.txt": "a cat"})
        assert plain(open_targets(path), "s/a", "s/b") == ("class", ("3", "12"), [0, 1])

    def test_fields_of_json(self, tar):
        path = tar({
            "d/a.json": '{"label": "dog", "age": 1.5, "tags": ["x", "y"], "clip": "c1"}',
            "d/b.json": '{"cls": "cat", "age": 2, "tags": [], "clip": "c2"}',
        })  # fmt: skip
        found = open_targets(path)
        assert plain(found, "s/d/a", "s/d/b") == ("class", ("cat", "dog"), [1, 0])
        assert found.groups(["s/d/b"]) == ("c2",)
        assert open_targets(path, ("age",)).of(["s/d/a", "b.png"]).tolist() == [1.5, 2]
        assert open_targets(path, ("tags",)).of(["a", "b"]).tolist() == [[1, 1], [0, 0]]

    def test_texts_if_told(self, tar):
        path = tar({"a.txt": "red", "b.txt": "blue"})
        assert open_targets(path, ("text",)).names == ("blue", "red")
        with pytest.raises(SourceError, match="its columns are id, text"):
            open_targets(path)


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("t.csv", "id,label\na,x\nb,y\na,z\n", "line 4: 'a' has another target or group than in .*"
         "line 2"),
        ("t.csv", "id,label,person\na,x,p\na,x,q\n", "line 3: 'a' has another target or group"),
        ("t.csv", "id,label\na,x\nb\n", "line 3: 1 fields; expected 2"),
        ("t.csv", "id,label\n,x\n", "line 2: no id"),
        ("t.csv", "id,one,two\na,x,y\n", "say which by their names"),
        ("t.csv", "a.png,x,y,z\n", "4 columns and no header"),
        ("t.csv", "id,label,label\na,x,y\n", "two columns of one name"),
        ("t.csv", "", "no rows"),
        ("t.csv", 'id,label\na,"x\n', "in closed double quotes"),
        ("t.jsonl", '{"label": "x"}\n', "line 1: expected a JSON object with an id"),
        ("t.jsonl", "[1]\n", "line 1: expected a JSON object with an id"),
        ("t.json", '{"a": "x", "a": "y"}', "'a' has another target or group than in"),
        ("t.json", '["a"]', "expected one JSON object, picture id → label"),
        ("t.jsonl", '{"id": "a", "label": {"x": 1}}', "line 1: .*; expected a text or a number"),
        ("t.json", "{", r"t\.json: .*expected one JSON object"),
        ("t.xlsx", "", "ends in .csv, .tsv, .jsonl, .ndjson, .json, .txt, .lst or .tar"),
    ],
)  # fmt: skip
def test_what_is_refused(write, name, text, message):
    with pytest.raises(SourceError, match=message):
        open_targets(write(name, text))


def test_what_is_not_there(tmp_path):
    with pytest.raises(SourceError, match=r"No such file.*; expected a table of labels"):
        open_targets(tmp_path / "gone.csv")
    (tmp_path / "t.jsonl").write_text('{"id": "a", "label": ["x"]}', "utf-8")
    with pytest.raises(SourceError, match=r"line 1: .*; expected a text or a number"):
        open_targets(tmp_path / "t.jsonl", kind="class")
    (tmp_path / "t.csv").write_text("id,label\na,x\n", "utf-8")
    with pytest.raises(SourceError, match="kind 'mask'; expected class, number, labels"):
        open_targets(tmp_path / "t.csv", kind="mask")


def test_a_random_table_against_the_csv_module(tmp_path):
    rng = np.random.default_rng(0)
    names = ["cat", "dog, wild", 'a "b"', "ä"]
    rows = [(f"x/{k}.png", names[rng.integers(4)], str(rng.integers(5))) for k in range(200)]
    with open(tmp_path / "t.csv", "w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows([("id", "label", "group"), *rows])
    found = open_targets(tmp_path / "t.csv")
    order = rng.permutation(200)
    ids = [rows[k][0] for k in order]
    assert [found.names[k] for k in found.of(ids)] == [rows[k][1] for k in order]
    assert list(found.groups(ids)) == [rows[k][2] for k in order]
    assert found.names == tuple(sorted(names))
