"""`diffeat match --html`: what is written, and what is said of it."""

from __future__ import annotations

import json

import numpy as np
import pytest
from PIL import Image

from tests.test_cli_match import CLEAN, MODEL, file, found_of, pictures, two  # noqa: F401
from tests.viz.test_page import Reader
from tests.viz.test_pair_page import data_of

TWO_T = ("-t", "0,20", "-b", "conv_in", "--dtype", "float32")


def page_of(path) -> dict:
    text = path.read_text("utf-8")
    Reader(text)
    return data_of(text)


def test_a_page_beside_the_matches(diffeat, two, tmp_path):  # noqa: F811
    asked = ("--points", "8,9 10,20", "--html", tmp_path / "p.html")
    answer = diffeat(*two, *asked)
    assert answer.code == 0, answer.err
    assert "2 points, 2 valid" in answer.out
    assert f"wrote {tmp_path / 'p.html'}" in answer.out
    assert "conv_in at t=0: int8, all 96 channels: best match within 1 site" in answer.out
    data = page_of(tmp_path / "p.html")
    assert [one["name"] for one in data["pictures"]] == ["a.png", "b.png"]
    assert data["start"] == [8, 9]
    found = json.loads(diffeat(*two, *asked, "--json").out)
    np.testing.assert_array_equal(found_of(found["matches"])[:, 2:], [(13, 12), (15, 23)])
    [cell] = found["page"]["cells"]
    assert (cell["block"], cell["t"], cell["kept"]) == ("conv_in", 0, cell["channels"])
    assert cell["same"] > 0.97
    assert found["page"]["bytes"] == (tmp_path / "p.html").stat().st_size


def test_several_cells_and_pictures_make_a_page_alone(diffeat, pictures, tmp_path):  # noqa: F811
    three = ("match", MODEL, *(pictures / f"{name}.png" for name in "abc"))
    answer = diffeat(*three, *TWO_T, "--html", tmp_path / "p.html")
    assert answer.code == 0, answer.err
    assert "source x" not in answer.out
    data = page_of(tmp_path / "p.html")
    assert [one["name"] for one in data["pictures"]] == ["a.png", "b.png", "c.png"]
    assert [(one["block"], one["t"]) for one in data["cells"]] == [
        ("conv_in", "0"),
        ("conv_in", "20"),
    ]
    found = json.loads(diffeat(*three[:4], *TWO_T, "--html", tmp_path / "p.html", "--json").out)
    assert [one["t"] for one in found["page"]["cells"]] == [0, 20]


def test_of_a_file_by_id(diffeat, file, tmp_path):  # noqa: F811
    answer = diffeat("match", file, "a", "b", "c.png", "--html", tmp_path / "p.html")
    assert answer.code == 0, answer.err
    assert len(page_of(tmp_path / "p.html")["pictures"]) == 3


def test_pictures_that_are_not_at_hand(diffeat, file, pictures, tmp_path):  # noqa: F811
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    Image.open(pictures / "a.png").save(elsewhere / "a.png")
    answer = diffeat(
        "match", file, "a", "b", "--html", tmp_path / "p.html", "--pictures", elsewhere
    )
    assert answer.code == 1
    assert "b.png" in answer.err
    assert not (tmp_path / "p.html").exists()


@pytest.mark.parametrize(
    ("names", "more", "told"),
    [
        ("abc", ("--grid", 3), "--grid: for two pictures; of 3 --html writes the page alone"),
        ("abc", ("--metric", "l2"), "--metric: for two pictures"),
        ("a", (), "expected two pictures"),
        ("aaaaaaaaa", (), "9 pictures; expected 2 to 8"),
        ("ab", ("--png", "lines.png"), "has 2 cells here"),
    ],
)
def test_what_does_not_go_together(diffeat, pictures, tmp_path, names, more, told):  # noqa: F811
    three = ("match", MODEL, *(pictures / f"{name}.png" for name in names))
    answer = diffeat(*three, *TWO_T, "--html", tmp_path / "p.html", *more)
    assert (answer.code, told in answer.err) == (2, True), answer.err


def test_without_a_page_two_are_expected(diffeat, pictures):  # noqa: F811
    answer = diffeat("match", MODEL, *(pictures / f"{name}.png" for name in "abc"), *CLEAN)
    assert (answer.code, "expected two pictures" in answer.err) == (2, True)
    answer = diffeat("match", MODEL, "--pairs", "l.csv", *CLEAN, "--html", "p.html")
    assert (answer.code, "--html: for two pictures" in answer.err) == (2, True)
