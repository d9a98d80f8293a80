"""Lists of pictures: paths, paths with labels, tables; what is ambiguous is refused."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image

from diffeat.errors import SourceError
from diffeat.images import check_there, found_text, open_source, tables
from diffeat.images.found import column_text

NAMES = ("a.png", "my cat.png", "c,d.png")


@pytest.fixture
def save(tmp_path):
    """Writes a list beside three pictures."""
    for name in NAMES:
        Image.new("RGB", (2, 2)).save(tmp_path / name)

    def write(name, text):
        (tmp_path / name).write_bytes(text.encode())
        return tmp_path / name

    return write


def told(source):
    return source.ids, source.class_names, source.labels.tolist()


CSV = '"a.png",dog\n"my cat.png",cat\n"c,d.png",dog\n'
EXPECTED = (NAMES, ("cat", "dog"), [1, 0, 1])


class TestForms:
    @pytest.mark.parametrize(
        ("name", "text"),
        [
            ("t.csv", "path,label\n" + CSV),
            ("t.csv", CSV),  # no header
            ("t.csv", ("\ufeffpath,label\n# all\n" + CSV).replace("\n", "\r\n")),
            ("t.csv", 'class,id,File_Name\ndog,1,a.png\ncat,2,my cat.png\ndog,3,"c,d.png"\n'),
            ("t.csv", "path;label\na.png;dog\nmy cat.png;cat\nc,d.png;dog\n"),
            ("t.tsv", "path\tlabel\na.png\tdog\nmy cat.png\tcat\nc,d.png\tdog\n"),
            ("t.txt", "a.png\tdog\nmy cat.png\tcat\nc,d.png\tdog\n"),
            ("t.txt", CSV),
            ("t.txt", "a.png dog\nmy cat.png cat\n# no more\nc,d.png   dog\n"),
            ("t.jsonl", '{"id": 1, "path": "a.png", "label": "dog"}\n'
                        '{"id": 2, "path": "my cat.png", "label": "cat"}\n'
                        '{"id": 3, "path": "c,d.png", "label": "dog"}\n'),
        ],
    )  # fmt: skip
    def test_the_same_in_all_of_them(self, save, name, text):
        assert told(open_source(save(name, text))) == EXPECTED

    def test_imagenet_s_numbers_are_in_their_order(self, save):
        source = open_source(save("val.txt", "a.png 10\nmy cat.png 9\n"))
        assert (source.class_names, source.labels.tolist()) == (("9", "10"), [1, 0])

    def test_words_after_a_path(self, save):
        source = open_source(save("t.txt", "a.png golden retriever\nmy cat.png tabby cat\n"))
        assert source.class_names == ("golden retriever", "tabby cat")

    @pytest.mark.parametrize("name", ["t.txt", "t.csv"])
    def test_what_is_there_as_a_whole_is_a_path(self, save, name):
        source = open_source(save(name, "\n".join(NAMES)))
        assert (source.ids, source.labels) == (NAMES, None)

    def test_a_table_of_paths_alone(self, save):
        assert open_source(save("t.csv", "path\na.png\nmy cat.png\n")).ids == NAMES[:2]

    def test_pictures_that_are_missing_are_paths_as_before(self, save):
        assert open_source(save("t.txt", "gone b.png\nx,y.png\n")).ids == ("gone b.png", "x,y.png")
        source = open_source(save("t.csv", "path,label\ngone.png,x\n../up.png,y\n"))
        assert source.ids == ("gone.png", "../up.png")

    def test_a_picture_without_a_label(self, save):
        source = open_source(save("t.csv", "path,label\na.png,x\nmy cat.png,\n"))
        assert source.labels.tolist() == [0, -1]
        assert found_text(source) == "2 pictures, 1 class: x 1, 1 picture without"


class TestColumns:
    TEXT = (
        "path,label,age,tags,striped,person,split,caption,notes\n"
        "a.png,dog,1.5,x|y,1,p,train,one,n1\n"
        "my cat.png,cat,,y,0,q,test,two,n2\n"
    )

    def test_further_ones_are_targets(self, save):
        source = open_source(save("t.csv", self.TEXT))
        assert told(source) == (NAMES[:2], ("cat", "dog"), [1, 0])
        assert source.captions == ("one", "two")
        found = {name: (one.kind, one.names) for name, one in source.targets.items()}
        assert found == {
            "age": ("number", ()), "tags": ("labels", ("x", "y")), "striped": ("class", ("0", "1")),
            "person": ("class", ("p", "q")), "split": ("class", ("test", "train")),
            "notes": ("class", ("n1", "n2")),
        }  # fmt: skip
        np.testing.assert_array_equal(source.targets["age"].values, [1.5, np.nan])
        assert source.targets["tags"].values.tolist() == [[1, 1], [0, 1]]
        assert found_text(source).splitlines()[1:3] == [
            "  age: numbers, 1.5 to 1.5, 1 picture without", "  tags: 2 labels: x 1, y 2",
        ]  # fmt: skip

    def test_they_go_with_their_pictures(self, save):
        source = open_source(save("t.csv", self.TEXT))
        taken = source.take([1])
        assert taken.targets["tags"].values.tolist() == [[0, 1]]
        assert np.isnan(taken.targets["age"].values).all()
        assert taken.fingerprint() != open_source(
            save("u.csv", self.TEXT.replace("y,0,q", "x,0,q"))
        ).take([1]).fingerprint()  # fmt: skip

    def test_those_that_are_asked_for(self, save):
        source = open_source(save("t.csv", self.TEXT), ("striped", "age"))
        assert (source.class_names, list(source.targets)) == (("0", "1"), ["age"])
        with pytest.raises(SourceError, match=r"no column 'ages' \(did you mean 'age'"):
            open_source(save("t.csv", self.TEXT), ("ages",))
        with pytest.raises(SourceError, match="columns age of what is no list"):
            open_source("digits", ("age",))

    def test_the_only_column_of_classes_is_the_label_whatever_its_name(self, save):
        text = "path,species,split,person,weight\na.png,x,train,p,1.5\nmy cat.png,y,test,q,2\n"
        source = open_source(save("t.csv", text))
        assert (source.class_names, list(source.targets)) == (
            ("x", "y"), ["split", "person", "weight"],
        )  # fmt: skip

    def test_notes_of_every_picture_are_no_classes(self, save, tmp_path):
        rows = "".join(f"{k}.png,c{k % 2},http://x/{k},{k}\n" for k in range(12))
        source = open_source(save("t.csv", "path,label,url,number\n" + rows))
        assert {name: one.kind for name, one in source.targets.items()} == {"number": "number"}

    def test_folders_are_classes_where_no_column_is(self, save):
        text = "path,age\nx/a.png,1.5\nx/b.png,2\ny/a.png,3\n"
        source = open_source(save("t.csv", text))
        assert (source.class_names, list(source.targets)) == (("x", "y"), ["age"])


class TestRefused:
    @pytest.mark.parametrize(
        ("name", "text", "match"),
        [
            ("t.txt", "a.png b.png\n", r"line 1: two pictures, 'a\.png' and 'b\.png'"),
            ("t.txt", "a.png 3 5\n", r"line 1: 2 numbers after 'a\.png'.*3\|5"),
            ("t.txt", "a\0.png\n", "line 1: a NUL byte"),
            ("t.csv", "path,label\n", "a header and no rows"),
            ("t.csv", "path,label\n,x\n", "line 2: no path"),
            ("t.csv", "path,label\na.png\n", "line 2: 1 fields; expected 2"),
            ("t.csv", 'path,label\n"a.png,x\n', "line 2: unexpected end of data"),
            ("t.csv", "path,label\na.png,x\na.png,y\n", r"more than once, first 'a\.png'"),
            ("t.csv", "path,a/b\na.png,x\n", "column 'a/b' has a name that a feature file cannot"),
            ("t.csv", "path,label,label\na.png,x,y\n", "two columns of one name"),
            ("t.csv", "path,label\na.png," + "x" * 200_000, "field larger than field limit"),
        ],
    )
    def test_with_the_place(self, save, name, text, match):
        with pytest.raises(SourceError, match=match):
            open_source(save(name, text))

    def test_a_line_that_may_be_two_things(self, save, tmp_path):
        Image.new("RGB", (2, 2)).save(tmp_path / "a.png 5", "PNG")
        with pytest.raises(SourceError, match=r"line 1: 'a\.png 5' may be one path, or a path and"):
            open_source(save("t.txt", "a.png 5\nmy cat.png 5\n"))

    def test_a_list_that_is_too_long(self, save, monkeypatch):
        monkeypatch.setattr(tables, "MOST_BYTES", 10)
        with pytest.raises(SourceError, match="16 bytes; expected a list of pictures, of at most"):
            open_source(save("t.txt", "a.png\nmy cat.png"))

    def test_too_many_classes(self, save, monkeypatch):
        monkeypatch.setattr("diffeat.images.columns.MOST_NAMES", 1)
        with pytest.raises(SourceError, match="column 'label' has 2 classes or labels; expected"):
            open_source(save("t.csv", "path,label\na.png,x\nmy cat.png,y\n"))

    def test_another_encoding_names_its_line(self, save, tmp_path):
        (tmp_path / "t.csv").write_bytes("path,label\na.png,h\xfcnd\n".encode("latin-1"))
        with pytest.raises(SourceError, match=r"t\.csv, line 2: .*not a list of pictures"):
            open_source(tmp_path / "t.csv")


class TestTablesThatProgramsWrite:
    """What lies in wild tables beside paths and labels."""

    @pytest.fixture
    def root(self, tmp_path):
        for k in range(4):
            Image.new("RGB", (8, 8), (k, 0, 0)).save(tmp_path / f"{k}.png")
        return tmp_path

    def labels(self, root, text: str) -> list[str]:
        (root / "t.csv").write_text(text, "utf-8")
        source = open_source(root / "t.csv")
        assert source.ids == ("0.png", "1.png", "2.png", "3.png")
        return [source.class_names[k] for k in source.labels]

    def test_row_numbers_without_a_name(self, root):
        text = ",path,label\n0,0.png,a\n1,1.png,b\n2,2.png,a\n3,3.png,b\n"
        assert self.labels(root, text) == ["a", "b", "a", "b"]

    def test_a_header_of_other_names(self, root):
        text = "idx,Bild,Klasse\n1,0.png,a\n2,1.png,b\n3,2.png,a\n4,3.png,b\n"
        (root / "t.csv").write_text(text, "utf-8")
        source = open_source(root / "t.csv", ["Klasse"])
        assert source.ids == ("0.png", "1.png", "2.png", "3.png")
        assert [source.class_names[k] for k in source.labels] == ["a", "b", "a", "b"]
        assert self.labels(root, text.replace("idx,", "").replace("Klasse", "label")
                           .replace("1,0", "0").replace("2,1", "1").replace("3,2", "2")
                           .replace("4,3", "3")) == ["a", "b", "a", "b"]  # fmt: skip

    def test_pictures_that_lie_elsewhere(self, root):
        (root / "far").mkdir()
        (root / "far" / "t.csv").write_text("path,label\n0.png,a\n1.png,b\n", "utf-8")
        with pytest.raises(SourceError, match=r"none of its 2 pictures.*--labels .*t\.csv"):
            check_there(open_source(root / "far" / "t.csv"))
        check_there(open_source(root))

    @pytest.mark.parametrize(("each", "hint"), [(1, True), (10, False)])
    def test_whole_numbers_of_few_pictures_each_are_hinted_at(self, each, hint):
        values = np.repeat(np.arange(30), each)
        told = column_text("class", [str(18 + k) for k in range(30)], values)
        assert told.startswith(f"30 classes: 18 {each}, 19 {each}, ")
        assert told.endswith("unless --task regression takes them as numbers") == hint
