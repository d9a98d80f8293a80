"""The page of predictions: whole, inert, and right."""

from __future__ import annotations

import base64
import re
from html.parser import HTMLParser
from io import BytesIO

import numpy as np
import pytest
from PIL import Image
from sklearn.metrics import confusion_matrix

from diffeat.errors import PictureError
from diffeat.search import Grid
from diffeat.search.applied import Predicted
from diffeat.viz import Predictions, thumbnails, write_page

EVIL = ('<img src=x onerror="alert(1)">', "</style><script>alert(2)</script>", "a'b\"&amp;.png")
NAMES = ["cat", "<b>dog</b>", "javascript:owl"]
VOID = {"meta", "img", "br", "input"}


class Reader(HTMLParser):
    """Tags and attributes; fails where tags are not closed in order."""

    def __init__(self, text: str):
        super().__init__()
        self.tags, self.attributes, self.open, self.words = [], [], [], []
        self.feed(text)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        self.attributes += attrs
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        if "style" not in self.open:
            self.words.append(data)

    @property
    def text(self) -> str:
        return " ".join(self.words)

    @property
    def pictures(self) -> list[Image.Image]:
        found = [value for name, value in self.attributes if name == "src"]
        assert all(re.match(r"data:image/(png|jpeg);base64,", value) for value in found)
        return [Image.open(BytesIO(base64.b64decode(v.partition(",")[2]))) for v in found]


def found_of(count: int = 12, truth: bool = True, ids=None) -> Predictions:
    """Added in two pieces, as batches are."""
    rng = np.random.default_rng(0)
    values = rng.dirichlet([0.4] * 3, count)
    ids = ids or [*EVIL, *(f"p/{k}.png" for k in range(count - 3))]
    found = Predictions(ids, NAMES, np.arange(count) % 3 if truth else None)
    for rows in (np.arange(5), np.arange(5, count)):
        found.update(Predicted(values[rows], values[rows].argmax(1)), rows)
    found.all_values = values
    return found


def picture(name: str) -> Image.Image:
    side = 300 if name.endswith("0.png") else 20
    return Image.new("RGB", (side, side // 2), (200, 30, 30))


def page_of(tmp_path, found, **options) -> Reader:
    options = {"title": "T <i>", "facts": {"model": "<u>m</u>"}, "picture": picture, **options}
    write_page(tmp_path / "p.html", found, **options)
    return Reader((tmp_path / "p.html").read_text("utf-8"))


class TestPredictions:
    def test_numbers_are_those_of_the_head(self):
        found = found_of()
        values = np.sort(found.all_values, 1)
        np.testing.assert_array_equal(found.classes, found.all_values.argmax(1))
        np.testing.assert_allclose(found.values, values[:, -1])
        np.testing.assert_allclose(found.margin, values[:, -1] - values[:, -2])
        np.testing.assert_array_equal(found.wrong, found.classes != np.arange(12) % 3)
        np.testing.assert_array_equal(
            found.matrix(), confusion_matrix(np.arange(12) % 3, found.classes, labels=range(3))
        )

    def test_pictures_without_a_class_count_nowhere(self):
        found = found_of()
        found.truth = np.where(np.arange(12) < 4, -1, found.truth)
        assert found.matrix().sum() == 8 == found.known.sum()
        assert not found.wrong[:4].any()


class TestPage:
    def test_it_says_what_it_does_not_show(self, tmp_path):
        def changed(name: str) -> Image.Image:
            raise PictureError(name, "changed <b>")

        found = Predictions([f"{k}.png" for k in range(20)], NAMES, np.arange(20) % 3)
        values = np.random.default_rng(1).dirichlet([0.4] * 3, 16)
        found.update(Predicted(values, values.argmax(1)), np.arange(16))
        read = page_of(tmp_path, found, picture=changed)
        assert "4 of 20 pictures have no prediction" in read.text
        assert read.text.count("changed <b>") == thumbnails.LACKING
        assert re.search(r"and \d+ more that are not shown", read.text)

    def test_ids_and_class_names_are_text(self, tmp_path):
        grid = Grid("<script>", {("<b>", 1): 0.5})
        read = page_of(tmp_path, found_of(), grid=grid, notes=["<hr>"])
        assert not {"script", "b>", "i", "u", "hr"} & {*read.tags}
        assert read.tags.count("style") == 1
        names = {name for name, _ in read.attributes}
        assert not [name for name in names if name.startswith("on")]
        assert {value for name, value in read.attributes if name == "href"} == set()
        for words in (*EVIL, *NAMES, "T <i>", "<u>m</u>", "<hr>"):
            assert words in read.text

    def test_nothing_comes_from_outside(self, tmp_path):
        page_of(tmp_path, found_of())
        text = (tmp_path / "p.html").read_text("utf-8")
        assert "default-src 'none'" in text
        bare = re.sub(r"data:image/[a-z]+;base64,[A-Za-z0-9+/=]+", "", text)
        assert not re.search(r"https?:|url\(|@import|<link|<iframe", bare)

    def test_it_says_what_is_right_and_what_is_wrong(self, tmp_path):
        found = found_of()
        read = page_of(tmp_path, found)
        share = 100 * (found.classes == np.arange(12) % 3).mean()
        assert f"{share:.1f} %" in read.text
        assert "Wilson" in read.text or "of 12" in read.text
        assert f"Wrong: {found.wrong.sum()} pictures" in read.text
        surest = max(np.flatnonzero(found.wrong), key=lambda row: found.values[row])
        first = read.text.split("Wrong:")[1].split("Surest")[1]
        assert found.ids[surest] in first.split("p/")[0] + "p/" + first.split("p/")[1]

    def test_without_classes(self, tmp_path):
        read = page_of(tmp_path, found_of(truth=False))
        assert "classes are not known" in read.text
        assert "Wrong" not in read.text
        assert "Least sure" in read.text

    def test_thumbnails_are_small_and_few(self, tmp_path, monkeypatch):
        monkeypatch.setattr(thumbnails, "MOST", 4)
        read = page_of(tmp_path, found_of())
        thumbs = [one for one in read.pictures if max(one.size) <= thumbnails.SIDE]
        assert len({one.tobytes() for one in thumbs}) >= 1
        assert {one.format for one in thumbs} <= {"JPEG", "PNG"}
        assert "Only 4 pictures are shown" in read.text
        kept = [value for name, value in read.attributes if name == "alt"]
        assert len({*kept} - {"confusion matrix"}) == 4
        assert (tmp_path / "p.html").stat().st_size < 200_000

    @pytest.mark.parametrize("given", [None, lambda name: None, "damaged"])
    def test_without_pictures(self, tmp_path, given):
        def damaged(name):
            raise PictureError(name, "is broken")

        read = page_of(tmp_path, found_of(), picture=damaged if given == "damaged" else given)
        assert len(read.pictures) == 1  # the confusion matrix
        assert ("is broken" in read.text) == (given == "damaged")

    def test_a_curve_and_a_map(self, tmp_path):
        rows = [{"epoch": k, "loss": 1.0 / k} for k in (1, 2)]
        read = page_of(tmp_path, found_of(), history=rows, chosen=2, grid=Grid("g", {("a", 1): 1}))
        alts = [value for name, value in read.attributes if name == "alt"]
        assert {"learning curve", "heat map of the search", "confusion matrix"} <= {*alts}

    def test_names_that_are_no_text(self, tmp_path):
        ids = [f"\udcff{k}" for k in range(12)]
        assert "?0" in page_of(tmp_path, found_of(ids=ids)).text
