"""The pages as a person has them: opened as files in a real browser, clicked, read."""

from __future__ import annotations

import re
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest
from PIL import Image
from sklearn.datasets import load_sample_image

import diffeat
from diffeat.search import Grid
from diffeat.search.mistakes import Mistake
from diffeat.viz import contrast, write_pair_page, write_surface_page
from probes.cells import Cells
from probes.maps import Maps
from probes.matching import NearestMatcher
from tests.viz.browser import PROGRAM, Browser
from tests.viz.test_pair_page import data_of, maps_of, picture, unpacked

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(PROGRAM is None, reason="no chromium here (apt-get install chromium)"),
]
ANSWER = re.compile(
    r"(.+) at x (-?[\d.]+), y (-?[\d.]+) → (.+) at x (-?[\d.]+), y (-?[\d.]+): cosine (-?[\d.]+)"
)
EVIL = ("</script><script>document.title = 'run'</script>", '<img src="http://example.com/x.png">')


NAMES = ("whole.jpg", "cut.jpg")


class Read(NamedTuple):
    source: str
    point: tuple[float, float]
    target: str
    match: tuple[float, float]
    score: float


@pytest.fixture(scope="module")
def browser(tmp_path_factory):
    with Browser(tmp_path_factory.mktemp("profile")) as opened:
        yield opened


@pytest.fixture
def tab(browser):
    """The browser, which has nothing to complain of afterwards and has fetched nothing."""
    browser.complaints.clear()
    browser.requests.clear()
    yield browser
    browser.run("1")  # whatever is under way is told before this
    assert browser.complaints == []
    assert not [one[:80] for one in browser.requests if not re.match("file:|data:", one)]


def read(tab) -> Read:
    found = ANSWER.fullmatch(tab.text("answer"))
    assert found, tab.text("answer")
    source, *point, target, x, y, score = found.groups()
    return Read(source, tuple(map(float, point)), target, (float(x), float(y)), float(score))


def click(tab, side: str, across: float, down: float) -> Read:
    box = tab.box(f"#{side}")
    tab.click(box["x"] + across * box["width"], box["y"] + down * box["height"])
    return read(tab)


def choose(tab, name: str, value: str) -> None:
    tab.run(
        f"(() => {{ const e = document.getElementById('{name}'); e.value = "
        f"[...e.options].find((one) => one.text === '{value}').value; "
        "e.dispatchEvent(new Event('change')); })()"
    )


def heat(tab) -> np.ndarray:
    """(H, W, 4) uint8 that lies over the right picture."""
    found = tab.run(
        "(() => { const c = document.getElementById('right-heat'); "
        "const copy = new OffscreenCanvas(c.width, c.height).getContext('2d'); "
        "copy.drawImage(c, 0, 0); "
        "return [c.height, c.width, [...copy.getImageData(0, 0, c.width, c.height).data]]; })()"
    )
    return np.array(found[2], np.uint8).reshape(*found[:2], 4)


@pytest.fixture(scope="module")
def photographs() -> tuple[list[np.ndarray], list[Maps]]:
    """A photograph, and a smaller cut-out of it that is shown smaller, with a model's maps."""
    whole = load_sample_image("china.jpg")  # 640 × 427
    cut = np.asarray(Image.fromarray(whole[60:400, 120:620]).resize((350, 238)))
    backbone = diffeat.load("unet-cifar10", device="cpu", dtype="float32")
    spec = diffeat.ExtractSpec(timesteps=(20, 100), blocks=("up.0.attn.0", "up.1"), dtype="float32")
    features = diffeat.extract(backbone, [whole, cut], spec, ids=["whole.jpg", "cut.jpg"])
    cells = Cells(dict(features), sizes=features.sizes, placements=features.placements,
                  input_size=backbone.native_size)  # fmt: skip
    return [whole, cut], [cells.maps(0), cells.maps(1)]


@pytest.fixture(scope="module")
def page(photographs, tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("page") / "pair.html"
    pictures, maps = photographs
    write_pair_page(path, maps, pictures, NAMES, title="china.jpg, cut out")
    return path


class TestPair:
    @pytest.mark.parametrize("cell", [("up.0.attn.0", 20), ("up.1", 100)])
    def test_a_click_finds_what_the_matcher_finds(self, tab, page, photographs, cell):
        tab.open(page)
        choose(tab, "block", cell[0])
        choose(tab, "t", str(cell[1]))
        _, maps = photographs
        data = data_of(page.read_text("utf-8"))
        told = {(one["block"], int(one["t"])): one for one in data["cells"]}
        small = [Maps({cell: unpacked(told[cell], k)}, one.size, one.input_size, one.placement)
                 for k, one in enumerate(maps)]  # fmt: skip
        exact = [Maps({cell: one[cell]}, one.size, one.input_size, one.placement) for one in maps]
        near = 0
        places = [(0.3, 0.4), (0.52, 0.61), (0.8, 0.35), (0.66, 0.9), (0.41, 0.2), (0.1, 0.75)]
        for side, a, b in (("left", 0, 1), ("right", 1, 0)):
            for across, down in places:
                found = click(tab, side, across, down)
                assert (found.source, found.target) == (
                    ("whole.jpg", "cut.jpg")[a],
                    ("whole.jpg", "cut.jpg")[b],
                )
                size = maps[a].size
                wanted = (across * size[1] - 0.5, down * size[0] - 0.5)
                assert np.abs(np.subtract(found.point, wanted)).max() < 1.5  # a pixel of the screen
                same = NearestMatcher().match(small[a], small[b], [found.point])
                assert found.score == pytest.approx(same.score[0], abs=2e-4)
                apart = same.points[0] - found.match
                assert np.abs(apart).max() <= max(maps[b].size) / 512 + 0.06  # a pixel as shown
                best = NearestMatcher().match(exact[a], exact[b], [found.point])
                sites = exact[b].sites([best.points[0], found.match], cell)
                near += np.linalg.norm(sites[0] - sites[1]) <= 1
                assert found.score == pytest.approx(best.score[0], abs=0.01)
        assert near >= 11

    def test_the_cut_out_is_found_where_it_was_cut(self, tab, page):
        """Most points lead home within a site of the map, which is coarse."""
        tab.open(page)
        errors = []
        for across, down in ((0.4, 0.35), (0.5, 0.5), (0.6, 0.3), (0.7, 0.45), (0.5, 0.3)):
            found = click(tab, "left", across, down)
            true = (np.array(found.point) + 0.5 - (120, 60)) * 0.7 - 0.5
            errors.append(np.linalg.norm((true - found.match) / (350 / 8, 238 / 8)))
        assert np.median(errors) < 1.5

    def test_the_mark_lies_where_the_text_says(self, tab, page):
        tab.open(page)
        found = click(tab, "left", 0.25, 0.7)
        for side, at, size in (
            ("left", found.point, (640, 427)),
            ("right", found.match, (350, 238)),
        ):
            mark, stage = tab.box(f"#{side}-mark"), tab.box(f"#{side}")
            middle = (mark["x"] + mark["width"] / 2 - stage["x"],
                      mark["y"] + mark["height"] / 2 - stage["y"])  # fmt: skip
            scale = stage["width"] / size[0], stage["height"] / size[1]
            assert middle == pytest.approx([(at[k] + 0.5) * scale[k] for k in (0, 1)], abs=1.1)

    def test_dragging_and_keys(self, tab, page):
        tab.open(page)
        first = click(tab, "left", 0.5, 0.5)
        box = tab.box("#left")
        tab.mouse("Moved", box["x"] + 20, box["y"] + 20)
        assert read(tab) == first  # no button is held
        tab.mouse("Pressed", box["x"] + 20, box["y"] + 20, True)
        tab.mouse("Moved", box["x"] + 60, box["y"] + 20, True)
        tab.mouse("Released", box["x"] + 60, box["y"] + 20)
        dragged = read(tab)
        assert dragged.point[0] == pytest.approx(60.5 / box["width"] * 640 - 0.5, abs=1)
        tab.press("ArrowRight")
        tab.press("ArrowDown", shift=True)
        moved = np.subtract(read(tab).point, dragged.point)
        assert moved == pytest.approx([640 / 64, 640 / 512], abs=0.06)
        tab.run("document.getElementById('right').focus()")
        tab.press("ArrowLeft")  # from where the match lies
        assert read(tab).source == "cut.jpg"

    def test_keys_and_the_mouse_stay_inside(self, tab, page):
        tab.open(page)
        click(tab, "left", 0.001, 0.001)
        for _ in range(3):
            tab.press("ArrowLeft")
            tab.press("ArrowUp")
        assert read(tab).point == (-0.5, -0.5)

    def test_heat_is_the_similarity_and_fades(self, tab, page, photographs):
        _, maps = photographs
        tab.open(page)
        choose(tab, "block", "up.1")
        found = click(tab, "left", 0.5, 0.4)
        cell = ("up.1", float(tab.run("document.getElementById('t').selectedOptions[0].text")))
        exact = [Maps({cell: one[cell]}, one.size, one.input_size, one.placement) for one in maps]
        values = NearestMatcher().similarity(*exact, found.point)
        assert float(tab.text("low")) == pytest.approx(values.min(), abs=0.01)
        assert float(tab.text("high")) == pytest.approx(values.max(), abs=0.01)
        shown = heat(tab)
        assert (shown[..., 3] == 153).all()
        green = shown[..., 1].astype(float)  # grows along this scale
        assert np.corrcoef(green.ravel(), values.ravel())[0, 1] > 0.97
        tab.run("(() => { const e = document.getElementById('opacity'); e.value = 0; "
                "e.dispatchEvent(new Event('input')); })()")  # fmt: skip
        assert not heat(tab)[..., 3].any()

    def test_of_a_set_any_two_are_shown(self, tab, tmp_path):
        maps = [maps_of((60, 80), seed=k) for k in range(3)]
        names = ["a", *EVIL]
        write_pair_page(tmp_path / "p.html", maps, [picture(60, 80, k) for k in range(3)], names,
                        title=EVIL[0], notes=[EVIL[1]])  # fmt: skip
        tab.open(tmp_path / "p.html")
        assert tab.box("#choice")["height"] > 0
        choose(tab, "left-picture", names[2].replace("'", "\\'"))
        found = click(tab, "left", 0.3, 0.3)
        assert (found.source, found.target) == (names[2], names[1])
        best = NearestMatcher().match(maps[2], maps[1], [found.point])
        assert np.linalg.norm(best.points[0] - found.match) <= 10  # a site
        assert tab.run("document.title") == EVIL[0]
        assert tab.run("document.querySelectorAll('img').length") == 2

    def test_a_crop_that_is_mirrored(self, tab, tmp_path):
        """Sites lie where the placement says, and what the input does not show is not known."""
        crop = maps_of((60, 160), placement=(-0.8, 96.0, 0.8, 0.0))
        other = maps_of((60, 80), seed=0, placement=(0.4, 16.0, 0.4, 12.0))  # padded
        write_pair_page(tmp_path / "p.html", [crop, other], [picture(60, 160), picture(60, 80)],
                        ["crop", "pad"])  # fmt: skip
        tab.open(tmp_path / "p.html")
        for side, pair in (("left", (crop, other)), ("right", (other, crop))):
            found = click(tab, side, 0.45, 0.45)
            best = NearestMatcher().match(*pair, [found.point])
            assert found.score == pytest.approx(best.score[0], abs=0.01)
            assert np.linalg.norm(best.points[0] - found.match) <= 10
        box = tab.box("#left")
        tab.click(box["x"] + 0.03 * box["width"], box["y"] + 5)
        assert tab.text("answer").endswith("nothing: the model saw nothing there.")
        assert "none" in tab.run("document.getElementById('right-mark').className")

    def test_the_policy_is_in_force(self, browser, page):
        """What is put into the page afterwards neither runs nor is fetched."""
        browser.open(page)
        browser.complaints.clear()
        browser.run(
            "(() => { const s = document.createElement('script'); s.textContent = "
            "'document.title = \"run\"'; document.body.append(s); const i = new Image(); "
            "i.src = 'http://localhost:9/x.png'; document.body.append(i); })()"
        )
        for rule in ("script-src", "img-src"):
            browser.until(lambda rule=rule: rule in " ".join(browser.complaints))
        assert browser.run("document.title") != "run"

    @pytest.mark.parametrize("scheme", ["light", "dark"])
    @pytest.mark.parametrize("width", [400, 1000])
    def test_it_fits_and_is_read(self, tab, page, scheme, width):
        tab.open(page, width=width, scheme=scheme)
        assert tab.run("document.documentElement.scrollWidth") <= width
        colours = [
            [int(part) / 255 for part in re.findall(r"\d+", tab.run(
                f"getComputedStyle(document.body).{name}"))[:3]]
            for name in ("color", "backgroundColor")
        ]  # fmt: skip
        assert contrast(*colours) >= 7
        assert (sum(colours[1]) < 1) == (scheme == "dark")
        left, right = tab.box("#left"), tab.box("#right")
        assert (right["x"] > left["x"]) == (width == 1000)
        live = "document.getElementById('answer').getAttribute('aria-live')"
        assert tab.run(live) == "polite"


@pytest.fixture(scope="module")
def surface(tmp_path_factory) -> Path:
    values = {(f"up.{b}", t): 0.9 - 0.1 * b - 0.001 * t for b in range(3) for t in (20, 100)}
    del values["up.1", 100]
    some = [
        (EVIL[0], Mistake(3, EVIL[1], 0.91, "cat")),
        ("b.png", Mistake(4, "dog", 0.8, "owl")),
    ]
    path = tmp_path_factory.mktemp("surface") / "s.html"
    write_surface_page(
        path, Grid("g", values, what="validation accuracy"),
        {cell: {"setting": str(k)} for k, cell in enumerate(values)}, title=EVIL[0],
        mistakes={("up.0", 20): (7, some)}, lines=["as said " * 30],
        picture=lambda name: Image.fromarray(picture(60, 80)) if name != "b.png" else None,
    )  # fmt: skip
    return path


class TestSurface:
    def told(self, tab) -> tuple[str, str]:
        return tab.text("cell"), tab.text("facts")

    def test_the_best_is_shown_first_with_its_pictures(self, tab, surface):
        tab.open(surface)
        assert self.told(tab) == ("up.0 t=20", "validation accuracy88.0 %rank1 of 5setting0")
        assert tab.text("wrong") == "7 validation pictures wrong; the 2 surest:"
        shown = tab.text("pictures")
        assert f"{EVIL[1]} 0.91is cat{EVIL[0]}" in shown
        assert "no picture" in shown
        images = "[...document.querySelectorAll('#pictures img')]"
        tab.wait(f"{images}.every((one) => one.complete)")
        assert tab.run(f"{images}.map((one) => [one.naturalWidth, one.width])") == [[80, 80]]

    def test_hover_and_keys(self, tab, surface):
        tab.open(surface)
        box = tab.box("button[data-cell='4']")
        tab.mouse("Moved", box["x"] + 5, box["y"] + 5)
        assert self.told(tab)[0] == "up.2 t=100"
        assert tab.text("pictures") == ""
        tab.run("document.querySelector('button[data-cell=\"0\"]').focus()")
        for name, wanted in (("ArrowRight", "up.0 t=100"), ("ArrowDown", "up.2 t=100"),
                             ("ArrowDown", "up.2 t=100"), ("ArrowLeft", "up.2 t=20"),
                             ("ArrowUp", "up.1 t=20")):  # fmt: skip
            tab.press(name)
            assert self.told(tab)[0] == wanted
        buttons = "[...document.querySelectorAll('#map button')]"
        assert tab.run(f"{buttons}.filter((one) => one.tabIndex === 0).length") == 1

    @pytest.mark.parametrize("scheme", ["light", "dark"])
    def test_it_fits(self, tab, surface, scheme):
        tab.open(surface, width=400, scheme=scheme)
        assert tab.run("document.documentElement.scrollWidth") <= 400
        rows = tab.run("[...document.querySelectorAll('.wide table:not(#map) tr')].length")
        assert rows == 6  # the same as a table, with its heading
