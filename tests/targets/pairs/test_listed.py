"""People's own lists of pairs."""

from __future__ import annotations

import os
import tracemalloc

import pytest

from diffeat.errors import SourceError
from diffeat.targets.pairs import open_pairs
from tests.targets.pairs.layouts import picture, write

HEADER = "source,target,source_x,source_y,target_x,target_y"
FULL = (
    "source,target,point,category,source_group,target_group,source_x,source_y,target_x,target_y,"
    "source_x1,source_y1,source_x2,source_y2,target_x1,target_y1,target_x2,target_y2"
)


@pytest.fixture
def folder(tmp_path):
    for name in ("a.png", "b.png", "sub/c.png"):
        picture(tmp_path / name)
    return tmp_path


def listed(folder, *rows: str, header: str = HEADER, name: str = "pairs.csv", **options):
    write(folder / name, "\n".join([header, *rows]) + "\n")
    return open_pairs(folder / name, **options)


def test_rows_of_a_pair_belong_together_wherever_they_stand(folder):
    pairs = listed(folder, "a.png,b.png,1,2,3,4", "b.png,a.png,5,6,7,8", "./a.png,b.png,9,10,11,12")
    assert (pairs.source, pairs.target) == (("a.png", "b.png"), ("b.png", "a.png"))
    assert pairs.truth(0).source_points.tolist() == [[1, 2], [9, 10]]
    assert pairs.truth(0).target_points.tolist() == [[3, 4], [11, 12]]
    assert pairs.groups == (("a.png", "b.png"), ("b.png", "a.png"))
    assert pairs.kind == "points"
    assert pairs.pictures().labels is None


def test_all_columns(folder):
    pairs = listed(
        folder,
        "a.png,sub/c.png,eye,cat,Ann,Bob,1,2,3,4,0,1,20,21,2,3,22,23",
        "a.png,sub/c.png,nose,cat,Ann,Bob,5,6.5,-.25,8e0,0,1,20,21,2,3,22,23",
        header=FULL,
    )
    truth = pairs.truth(0)
    assert truth.names == ("eye", "nose")
    assert truth.target_points.tolist() == [[3, 4], [-0.25, 8]]
    assert truth.source_box.tolist() == [0, 1, 20, 21]
    assert truth.target_box.tolist() == [2, 3, 22, 23]
    assert pairs.groups == (("Ann", "Bob"),)
    assert pairs.categories == ("cat",)
    assert pairs.pictures().class_names == ("cat",)
    assert pairs.pictures().ids == ("a.png", "sub/c.png")


def test_a_picture_of_two_categories_has_no_label(folder):
    pairs = listed(folder, "a.png,b.png,cat,1,2,3,4", "a.png,sub/c.png,dog,1,2,3,4",
                   header="source,target,category,source_x,source_y,target_x,target_y")  # fmt: skip
    assert pairs.categories == ("cat", "dog")
    assert pairs.pictures().labels is None


def test_without_targets_there_is_no_truth(folder):
    pairs = listed(folder, "a.png,b.png,1,2", "a.png,b.png,3,4",
                   header="source,target,source_x,source_y")  # fmt: skip
    assert pairs.truth(0).source_points.tolist() == [[1, 2], [3, 4]]
    assert pairs.truth(0).target_points is None
    assert pairs.fingerprint != listed(folder, "a.png,b.png,1,2,3,4").fingerprint
    assert pairs.take([0]).truth(0).target_points is None


def test_tabs_semicolons_and_a_byte_order_mark(folder):
    rows = ("a.png", "b.png", "1.5", "2", "3", "4")
    for name, mark, by in (("p.tsv", "", "\t"), ("p.csv", "", ";"), ("q.csv", "\ufeff", ",")):
        header = mark + by.join(HEADER.split(","))
        pairs = listed(folder, by.join(rows), header=header, name=name)
        assert pairs.truth(0).source_points.tolist() == [[1.5, 2]]


@pytest.mark.parametrize(
    ("header", "wrong"),
    [
        ("source,target,source_x,source_y,target_x", "lacks target_y"),
        ("source,source_x,source_y", "lacks target"),
        ("", r"\(a.png, b.png, 1, 2, 3, 4\) lacks source"),
        (HEADER + ",catagory", r"names 'catagory'.*did you mean 'category'"),
        (HEADER + ",source_x1", "lacks source_y1, source_x2, source_y2"),
        (HEADER + ",source", "names one column twice"),
        (HEADER.upper(), "lacks source, target"),
    ],
)
def test_other_columns(folder, header, wrong):
    with pytest.raises(SourceError, match=rf"the header .*{wrong}.*expected source,target"):
        listed(folder, "a.png,b.png,1,2,3,4", header=header)


@pytest.mark.parametrize(
    ("row", "wrong"),
    [
        ('a.png,b.png,"1,5",2,3,4', r"line 2: source_x is '1,5'.*decimal point"),
        ("a.png,b.png,1,5,2,3,4", r"line 2: 7 fields; expected 6.*decimal point, no comma"),
        ("a.png,b.png,1,2,3", "line 2: 5 fields; expected 6"),
        ("a.png,b.png,one,2,3,4", r"source_x is 'one'; expected a number of pixels"),
        ("a.png,b.png,,2,3,4", "source_x is ''"),
        ("a.png,b.png,1_0,2,3,4", r"source_x is '1_0'; expected a number of pixels"),
        ("a.png,b.png,1,nan,3,4", r"source_y is nan; expected finite"),
        ("a.png,b.png,1,2,-inf,4", r"target_x is -inf; expected finite"),
        ("a.png,b.png,1,2,3,1e400", r"expected finite"),
        ("a.png,b.png,1,2,55,4", r"outside the target 'b.png' of 40x30"),
        ("a.png,b.png,1,-2,3,4", r"outside the source"),
        ("a.png,none.png,1,2,3,4", r"'none.png' is missing; expected it at"),
        ("a.png,,1,2,3,4", "names nothing"),
        ("a.png,.,1,2,3,4", "names nothing"),
        ("a.png,sub,1,2,3,4", "no regular file"),
        ("a.png,../b.png,1,2,3,4", "leads out of the folder"),
        ("a.png,sub/../../b.png,1,2,3,4", "leads out of the folder"),
        ("a.png,/etc/passwd,1,2,3,4", "leads out of the folder"),
    ],
)
def test_bad_rows(folder, row, wrong):
    with pytest.raises(SourceError, match=rf"pairs\.csv, line 2.*{wrong.removeprefix('line 2')}"):
        listed(folder, row)


def test_points_outside_may_be_left_out(folder):
    rows = ("a.png,b.png,1,2,55,4", "a.png,b.png,1,2,5,4")
    pairs = listed(folder, *rows, outside="drop")
    assert pairs.truth(0).target_points.tolist() == [[5, 4]]
    with pytest.raises(SourceError, match=r"1 pairs without common points, 1 points outside|"
                                          r"1 points outside their picture, 1 pairs"):  # fmt: skip
        listed(folder, rows[0], outside="drop")


def test_what_a_pair_has_once_must_agree(folder):
    first = "a.png,b.png,eye,cat,Ann,Bob,1,2,3,4,0,1,20,21,2,3,22,23"
    for old, new, column in (("cat", "dog", "category"), ("Bob", "Cid", "target_group"),
                             ("22,23", "22,24", "target_x1")):  # fmt: skip
        with pytest.raises(SourceError, match=rf"line 3: another .*{column}.*than in .*line 2"):
            listed(folder, first, first.replace("eye", "nose").replace(old, new), header=FULL)


def test_a_point_twice(folder):
    with pytest.raises(SourceError, match=r"line 3: the same points as in .*line 2"):
        listed(folder, "a.png,b.png,1,2,3,4", "a.png,b.png,1.0,2,3,4")
    header = HEADER + ",point"
    with pytest.raises(SourceError, match=r"line 3: point 'eye' of this pair is in .*line 2, too"):
        listed(folder, "a.png,b.png,1,2,3,4,eye", "a.png,b.png,1,2,3,5,eye", header=header)
    with pytest.raises(SourceError, match="line 2: a point without a name"):
        listed(folder, "a.png,b.png,1,2,3,4,", header=header)


def test_an_empty_category(folder):
    with pytest.raises(SourceError, match="line 2: an empty category"):
        listed(folder, "a.png,b.png,1,2,3,4, ", header=HEADER + ",category")


def test_a_header_alone(folder):
    with pytest.raises(SourceError, match="a header and no rows"):
        listed(folder)


def test_other_bytes(folder):
    (folder / "pairs.csv").write_bytes(HEADER.encode() + b"\n\xff\xfe")
    with pytest.raises(SourceError, match="UTF-8"):
        open_pairs(folder / "pairs.csv")


def test_links_out_of_the_folder(folder, tmp_path_factory):
    picture(tmp_path_factory.mktemp("other") / "b.png")
    (folder / "link").symlink_to(tmp_path_factory.getbasetemp())
    inner = next(folder.glob("link/other*/b.png")).relative_to(folder)
    with pytest.raises(SourceError, match="a link leads"):
        listed(folder, f"a.png,{inner},1,2,3,4")


def test_pipes_are_not_waited_for(folder):
    os.mkfifo(folder / "p.png")
    with pytest.raises(SourceError, match="no regular file"):
        listed(folder, "a.png,p.png,1,2,3,4")


def test_memory_of_a_long_list(folder):
    """Of a row no more is kept than its numbers; all rows as dictionaries would take 1 kB each."""
    rows = [f"{a}.png,{b}.png,{x / 9},{y / 9},{y / 9},{x / 9}\n" for x in range(60)
            for y in range(60)
            for a, b in ("ab", "ba")]  # fmt: skip
    path = folder / "long.csv"
    path.write_text(HEADER + "\n" + "".join(rows))
    open_pairs(path)
    tracemalloc.start()
    pairs = open_pairs(path)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert [len(pairs.truth(k).source_points) for k in range(2)] == [3600, 3600]
    assert peak < 700 * len(rows)
