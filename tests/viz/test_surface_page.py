"""The page of a surface: everything in it, as text, and nothing from outside."""

from __future__ import annotations

import base64
import hashlib
import re

import numpy as np
import pytest
from PIL import Image

from diffeat.errors import SpecError
from diffeat.search import Classification, Grid, Measure, repeat_surface, search_surface
from diffeat.search.mistakes import Mistake
from diffeat.viz import Scale, cell_facts, contrast, thumbnails, write_surface_page
from tests.search.common import BEST, task_of
from tests.viz.test_page import EVIL, Reader
from tests.viz.test_pair_page import data_of

VALUES = {("a", 10): 0.5, ("a", 50): 0.25, ("b", 10): 0.75, ("b", 50): float("nan")}


def page_of(tmp_path, grid, *args, **options) -> tuple[Reader, str]:
    write_surface_page(tmp_path / "s.html", grid, *args, **options)
    text = (tmp_path / "s.html").read_text("utf-8")
    return Reader(text), text


def cells_of(text: str) -> dict:
    return {one["name"]: one for one in data_of(text)["cells"]}


class TestPage:
    def test_every_cell_is_there_with_its_rank(self, tmp_path):
        read, text = page_of(tmp_path, Grid("g", VALUES, what="validation accuracy"))
        cells = cells_of(text)
        assert cells["b t=10"]["facts"] == {"validation accuracy": "75.0 %", "rank": "1 of 3"}
        assert cells["a t=50"]["facts"] == {"validation accuracy": "25.0 %", "rank": "3 of 3"}
        assert cells["b t=50"]["facts"] == {"validation accuracy": "nan"}
        assert read.tags.count("button") == 4
        assert re.findall(r'<button[^>]*data-best="yes"[^>]*aria-label="(.*?)"', text) == [
            "b t=10: 75.0 %"
        ]
        assert "Best: b t=10, 75.0 %" in read.text

    def test_where_lower_is_better(self, tmp_path):
        grid = Grid("g", VALUES, Measure("error", "px", higher_is_better=False))
        _, text = page_of(tmp_path, grid)
        assert cells_of(text)["a t=50"]["facts"]["rank"] == "1 of 3 (lower is better)"
        assert 'data-best="yes" aria-label="a t=50: 0.25 px"' in text

    def test_cells_that_are_missing_are_empty(self, tmp_path):
        some = {cell: value for cell, value in VALUES.items() if cell != ("a", 50)}
        read, text = page_of(tmp_path, Grid("g", some))
        assert read.tags.count("button") == 3
        assert text.count("<td></td>") == 1

    def test_colours_are_those_of_the_scale_and_ink_is_read_on_them(self, tmp_path):
        _, text = page_of(tmp_path, Grid("g", VALUES))
        rules = dict(re.findall(r"\.(c\d+) \{ background: (#\w{6}); color: \w+; \}", text))
        inks = dict(re.findall(r"\.(c\d+) \{ background: #\w{6}; color: (\w+); \}", text))
        for name, colour in rules.items():
            shown = [int(colour[k : k + 2], 16) / 255 for k in (1, 3, 5)]
            assert contrast(shown, [float(inks[name] == "white")] * 3) >= 4.5
        place = Scale.of([100 * one for one in VALUES.values()]).places(50.0)
        wanted = Scale(0, 1).colours(round(float(place) * 31) / 31)
        used = re.search(r'<button type="button" class="(c\d+)" data-cell="0"', text)[1]
        found = [int(rules[used][k : k + 2], 16) for k in (1, 3, 5)]
        assert np.abs(255 * np.array(wanted[:3]) - found).max() <= 1

    def test_policy_and_texts(self, tmp_path):
        values = {(EVIL[0], 1.0): 0.5, (EVIL[1], 1.0): 0.4}
        mistakes = {(EVIL[0], 1.0): (1, [(EVIL[1], Mistake(0, EVIL[0], 0.5, EVIL[1]))])}
        read, text = page_of(
            tmp_path, Grid(EVIL[0], values, mark="<hr>"), {(EVIL[0], 1.0): {"<u>": EVIL[1]}},
            title=EVIL[1], facts={"<i>": EVIL[0]}, notes=[EVIL[0]], lines=[EVIL[1]],
            mistakes=mistakes, picture=lambda name: None,
        )  # fmt: skip
        assert read.tags.count("script") == 2
        assert not {"u", "hr", "img"} & {*read.tags}
        assert read.tags.count("style") == 1
        for element, rule in (("script", "script-src"), ("style", "style-src")):
            inner = re.findall(f"<{element}>(.*?)</{element}>", text, re.S)
            digest = base64.b64encode(hashlib.sha256(inner[0].encode()).digest()).decode()
            assert f"{rule} 'sha256-{digest}'" in text
        bare = re.sub(r"base64,[A-Za-z0-9+/=]+", "", text)
        assert not re.search(r"https?:|url\(|@import|<link|<iframe|\sstyle=", bare)
        assert cells_of(text)[f"{EVIL[0]} t=1"]["pictures"][0]["truth"] == EVIL[1]

    def test_each_picture_is_there_once_and_few_in_all(self, tmp_path, monkeypatch):
        monkeypatch.setattr(thumbnails, "MOST", 3)
        some = [(f"{k}.png", Mistake(k, "cat", 0.9, "dog")) for k in range(5)]
        mistakes = dict.fromkeys(VALUES, (9, some))
        read, text = page_of(tmp_path, Grid("g", VALUES), mistakes=mistakes,
                             picture=lambda name: Image.new("RGB", (300, 200)))  # fmt: skip
        data = data_of(text)
        assert [(one["width"], one["height"]) for one in data["thumbnails"]] == [(112, 75)] * 3
        for cell in data["cells"]:
            assert [one["thumbnail"] for one in cell["pictures"]] == [0, 1, 2, None, None]
            assert cell["wrong"] == "9 validation pictures wrong; the 5 surest:"
        assert "Only 3 pictures are shown" in read.text

    def test_a_grid_without_a_number(self, tmp_path):
        with pytest.raises(SpecError, match="no number"):
            page_of(tmp_path, Grid("g", {("a", 1): float("nan")}))


class TestFacts:
    def test_of_a_surface(self):
        from scipy.stats import binomtest

        judge = Classification(task_of(), "ridge")
        surface = search_surface(judge)
        found = cell_facts([surface])
        assert list(found) == list(VALUES)
        for cell in surface.cells:
            held = judge.counts[1]
            ends = binomtest(round(cell.validation * held), held).proportion_ci(method="wilson")
            wanted = f"{100 * ends.low:.1f} to {100 * ends.high:.1f} %"
            assert found[cell.key]["95 % interval"] == wanted
            assert float(found[cell.key]["setting"]) == cell.setting
            assert ("on test" in found[cell.key]) == (cell.test is not None)
        assert f"{100 * surface.best.test:.1f} %" in found[BEST]["on test"]

    def test_groups_have_no_interval_of_pictures(self):
        groups = tuple(f"g{k // 4}" for k in range(400))
        part = np.repeat(np.arange(100) % 3, 4)
        surface = search_surface(Classification(task_of(groups=groups, part=part), "ridge"))
        assert not [one for one in cell_facts([surface]).values() if "95 % interval" in one]

    def test_of_repeats(self):
        found = repeat_surface(Classification(task_of(), "ridge"), repeats=3)
        told = cell_facts([found])
        half = dict(zip(found.cells, found.half_width, strict=True))
        assert told[BEST]["± (95 %, of the splits)"] == f"{100 * half[BEST]:.1f} %"
        assert sum(int(one["best in so many splits"]) for one in told.values()) == 3
        assert "95 % interval" not in told[BEST]
