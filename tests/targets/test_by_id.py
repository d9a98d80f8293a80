"""Which row belongs to which picture: exactly, by file name, by its stem, or by none."""

from __future__ import annotations

import unicodedata

import pytest

from diffeat.targets import match_ids


@pytest.mark.parametrize(
    ("ids", "keys", "rows", "unused"),
    [
        (["a/1.png", "b/1.png"], ["b/1.png", "a/1.png"], [1, 0], ()),  # exact, though names repeat
        (["a/1.png", "b/2.png"], ["2.png", "1.png"], [1, 0], ()),  # by file name
        (["a/1.png", "b/2.jpg"], ["2", "x/1.tif"], [1, 0], ()),  # by stem
        (["shard-0/0001", "shard-0/0002"], ["0002.jpg", "0001.jpg"], [1, 0], ()),  # of a tar
        (["v1.5", "v1.6"], ["v1.6", "v1.5.png"], [1, 0], ()),  # a dot is no ending of a picture
        (["a/1.png", "b/1.png"], ["1.png"], [-1, -1], (0,)),  # two pictures of that name
        (["a/1.png"], ["x/1.png", "y/1.png"], [-1], (0, 1)),  # two rows
        (["a/1.png", "1.png"], ["1.png"], [-1, 0], ()),  # taken by the exact one
        (["1.png", "1.jpg"], ["1"], [-1, -1], (0,)),
        (["x.png"], ["y.png"], [-1], (0,)),
        (["a\\1.png"], ["1.png"], [0], ()),
        ([], ["y.png"], [], (0,)),
        (["a/1.png", "b/1.png"], ["p/q/b/1.png", "p/q/a/1.png"], [1, 0], ()),  # from further up
        (["p/a/1.png", "p/b/1.png"], ["b/1.png", "a/1.png"], [1, 0], ()),  # from further down
        (["a/1.png", "b/1.png"], ["p/b/1.png", "q/a/1.png"], [-1, -1], (0, 1)),  # no one folder
    ],
)
def test_rows_of_pictures(ids, keys, rows, unused):
    found = match_ids(ids, keys)
    assert found.rows.tolist() == rows
    assert found.unused == unused


def test_spellings_of_one_name_are_equal():
    composed, decomposed = "ä.png", unicodedata.normalize("NFD", "ä.png")
    assert composed != decomposed
    assert match_ids([decomposed], [composed]).rows.tolist() == [0]
    assert match_ids([f"x/{composed}"], [decomposed]).rows.tolist() == [0]


def test_what_is_ambiguous_is_told():
    found = match_ids(["a/1.png", "b/1.png", "c/2.png"], ["1.png", "2.png"])
    assert found.ambiguous == {"a/1.png": ("1.png",), "b/1.png": ("1.png",)}
    assert found.by_name == 1


def test_a_row_that_is_a_picture_s_by_its_id_is_nobody_else_s():
    found = match_ids(["cat/00.png", "dog/00.png", "owl/1.png"], ["cat/00.png", "cat/01.png"])
    assert found.rows.tolist() == [0, -1, -1]
    assert found.ambiguous == {}
    mixed = match_ids(["cat/00.png", "dog/00.png"], ["cat/00.png", "x/00.png"])
    assert mixed.ambiguous == {"dog/00.png": ("x/00.png",)}


def test_many_pictures_are_quick():
    ids = [f"folder/{k}.png" for k in range(50_000)]
    keys = [f"{k}.png" for k in reversed(range(50_000))]
    assert match_ids(ids, keys).rows.tolist() == list(reversed(range(50_000)))
