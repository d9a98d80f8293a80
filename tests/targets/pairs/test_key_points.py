"""People's own key points, of which pairs are made."""

from __future__ import annotations

import pytest

from diffeat.errors import SourceError
from diffeat.targets.pairs import key_points, open_pairs
from tests.targets.pairs.layouts import picture, write


@pytest.fixture
def folder(tmp_path):
    for name in ("a.png", "b.png", "c.png"):
        picture(tmp_path / name)
    return tmp_path


def opened(folder, *rows: str, header: str = "picture,point,x,y"):
    write(folder / "points.csv", "\n".join([header, *rows]) + "\n")
    return open_pairs(folder / "points.csv")


ROWS = ("a.png,nose,1,2", "b.png,ear,3,4", "b.png,nose,5,6", "a.png,ear,7,8", "c.png,nose,9,10")


def test_every_two_pictures_are_two_pairs(folder):
    pairs = opened(folder, *ROWS)
    found = {
        (a, b): (t.names, t.source_points.tolist(), t.target_points.tolist())
        for a, b, t in zip(pairs.source, pairs.target, pairs.truths, strict=True)
    }
    assert len(found) == len(pairs) == 6
    assert found["a.png", "b.png"] == (("nose", "ear"), [[1, 2], [7, 8]], [[5, 6], [3, 4]])
    assert found["b.png", "a.png"] == (("ear", "nose"), [[3, 4], [5, 6]], [[7, 8], [1, 2]])
    assert found["c.png", "a.png"] == (("nose",), [[9, 10]], [[1, 2]])
    assert pairs.groups[0] == (pairs.source[0], pairs.target[0])


def test_categories_and_groups(folder):
    rows = ("a.png,nose,1,2,cat,Ann", "b.png,nose,3,4,cat,Bob", "c.png,nose,5,6,dog,Bob")
    pairs = opened(folder, *rows, header="picture,point,x,y,category,group")
    assert set(zip(pairs.source, pairs.target, strict=True)) == {
        ("a.png", "b.png"), ("b.png", "a.png")
    }  # fmt: skip
    assert set(pairs.groups) == {("Ann", "Bob"), ("Bob", "Ann")}
    assert pairs.categories == ("cat", "cat")


def test_pictures_that_share_no_point_are_counted(folder):
    pairs = opened(folder, *ROWS[:4], "c.png,tail,9,10")
    assert len(pairs) == 2
    assert pairs.left_out == {"pairs without common points": 4}


@pytest.mark.parametrize(
    ("rows", "header", "message"),
    [
        (("a.png,nose,1,2", "a.png,nose,3,4"), "picture,point,x,y", r"line 3: point 'nose' a sec"),
        (("a.png,,1,2",), "picture,point,x,y", r"line 2: a point without a name"),
        (("a.png,nose,1;5,2",), "picture,point,x,y", r"line 2: x is '1;5'"),
        (("a.png,nose,nan,2",), "picture,point,x,y", r"line 2: x is nan"),
        (("a.png,nose,999,2", "b.png,nose,1,1"), "picture,point,x,y", r"lie outside the source"),
        (("z.png,nose,1,2",), "picture,point,x,y", r"z\.png"),
        (("../a.png,nose,1,2",), "picture,point,x,y", r"\.\./a\.png"),
        (("a.png,nose,1",), "picture,point,x", r"lacks y"),
        (("a.png,nose,1,2,3",), "picture,point,x,y,z", r"names 'z'"),
        (("a.png,nose,1,2,u", "a.png,ear,3,4,v"), "picture,point,x,y,group", r"another categ"),
        ((), "picture,point,x,y", r"no pairs with points"),
    ],
)  # fmt: skip
def test_what_is_refused(folder, rows, header, message):
    with pytest.raises(SourceError, match=message):
        opened(folder, *rows, header=header)


def test_swapped_coordinates_are_suspected(folder):
    picture(folder / "wide.png", (64, 16))
    rows = ("wide.png,nose,10,50", "wide.png,ear,12,9", "a.png,nose,1,1", "a.png,ear,2,2")
    with pytest.raises(SourceError, match=r"1 of 2 points lie outside.*x and y seem to be swapped"):
        opened(folder, *rows)


def test_too_many_pairs_are_refused(folder, monkeypatch):
    monkeypatch.setattr(key_points, "MOST", 5)
    with pytest.raises(SourceError, match="3 pictures make 6 pairs; expected 5 at most"):
        opened(folder, *ROWS)


def test_a_picture_with_itself_is_noted(folder):
    write(
        folder / "p.csv", "source,target,source_x,source_y,target_x,target_y\na.png,a.png,1,2,1,2\n"
    )
    assert open_pairs(folder / "p.csv").noted == {"pairs of a picture with itself": 1}
