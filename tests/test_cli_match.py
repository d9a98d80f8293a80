"""`diffeat match` of two pictures: a texture, and the same texture moved by whole pixels."""

from __future__ import annotations

import csv
import json
import re
import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tests.viz.test_page import Reader
from tests.viz.test_pair_page import data_of

MODEL = "unet-cifar10"
MOVED = (5, 3)
"""x, y in pixels by which the texture of b.png lies further than that of a.png."""
CLEAN = ("-t", 0, "-b", "conv_in", "--noise", "none", "--dtype", "float32")
"""Features of 3×3 patches, the same wherever a patch lies; the forward ends after one layer."""


def texture(seed: int, moved: tuple[int, int] = (0, 0)) -> np.ndarray:
    found = np.random.default_rng(seed).integers(0, 256, (32, 32, 3), np.uint8)
    return np.roll(found, moved[::-1], (0, 1))


@pytest.fixture(scope="module")
def pictures(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("match") / "pictures"
    folder.mkdir()
    Image.fromarray(texture(0)).save(folder / "a.png")
    Image.fromarray(texture(0, MOVED)).save(folder / "b.png")
    Image.fromarray(texture(1)).save(folder / "c.png")
    return folder


@pytest.fixture
def two(pictures) -> tuple[object, ...]:
    return "match", MODEL, pictures / "a.png", pictures / "b.png", *CLEAN


@pytest.fixture
def file(diffeat, pictures, tmp_path) -> Path:
    answer = diffeat("extract", MODEL, pictures, "-o", tmp_path / "f.h5", *CLEAN)
    assert answer.code == 0, answer.err
    return tmp_path / "f.h5"


def rows_of(path: Path) -> list[dict[str, str]]:
    with open(path, newline="", encoding="utf-8") as opened:
        return list(csv.DictReader(opened))


def found_of(rows) -> np.ndarray:
    """(n, 4) source_x, source_y, target_x, target_y."""
    names = ("source_x", "source_y", "target_x", "target_y")
    return np.array([[float(row[name]) for name in names] for row in rows])


class TestTwoPictures:
    def test_points_are_found_where_they_were_moved_to(self, diffeat, two, tmp_path):
        answer = diffeat(*two, "--points", "8,9 10,20;20.0,11", "-o", tmp_path / "m.csv")
        assert answer.code == 0, answer.err
        rows = rows_of(tmp_path / "m.csv")
        assert list(rows[0]) == ["source", "target", "source_x", "source_y", "target_x",
                                 "target_y", "score", "valid"]  # fmt: skip
        expected = [(8, 9, 13, 12), (10, 20, 15, 23), (20, 11, 25, 14)]
        np.testing.assert_array_equal(found_of(rows), expected)
        assert [row["valid"] for row in rows] == ["1", "1", "1"]
        assert all(abs(float(row["score"]) - 1) < 1e-5 for row in rows)
        assert "a.png (32×32) → b.png (32×32): 3 points, 3 valid" in answer.out
        assert "metric=cosine" in answer.out

    def test_a_file_says_the_same_as_the_model(self, diffeat, two, file):
        asked = ("--points", "8,9 10,20", "--json")
        one = json.loads(diffeat(*two, *asked).out)
        for names in (("a.png", "b.png"), ("a", "b")):
            other = diffeat("match", file, *names, *asked)
            assert other.code == 0, other.err
            found = json.loads(other.out)["matches"]
            np.testing.assert_array_equal(found_of(found), found_of(one["matches"]))
            assert [row["score"] for row in found] == pytest.approx([1, 1], abs=1e-5)
        assert one["cells"] == [{"block": "conv_in", "t": 0}]
        assert one["matcher"] == "NearestMatcher"

    def test_named_points_of_a_table(self, diffeat, two, tmp_path):
        (tmp_path / "p.csv").write_text("point,x,y\nnose,8,9\n,10,20\n")
        answer = diffeat(*two, "--points-file", tmp_path / "p.csv", "-o", tmp_path / "m.csv")
        assert answer.code == 0, answer.err
        rows = rows_of(tmp_path / "m.csv")
        assert [row["point"] for row in rows] == ["nose", ""]
        np.testing.assert_array_equal(found_of(rows)[:, 2:], [(13, 12), (15, 23)])

    def test_a_grid_is_what_is_asked_without_points(self, diffeat, two):
        eight, four = (json.loads(diffeat(*two, *some, "--json").out)["matches"]
                       for some in ((), ("--grid", 4)))  # fmt: skip
        assert len(eight) == 64
        centres = [3.5, 11.5, 19.5, 27.5]
        assert [row["source_x"] for row in four] == 4 * centres

    def test_a_region_and_a_way_back(self, diffeat, two):
        asked = ("--points", "8,9 20,11", "--region", "10,10,16,16", "--check", 0.5, "--json")
        first, second = json.loads(diffeat(*two, *asked).out)["matches"]
        assert (first["target_x"], first["target_y"], first["valid"]) == (13, 12, True)
        assert 10 <= second["target_x"] <= 16
        assert not second["valid"]

    @pytest.mark.parametrize("given", [
        ("mutual",), ("soft-argmax", "--temperature", 0.001), ("kernel", "--sigma", 3),
        ("window", "--radius", 2, "--temperature", 0.001), ("nearest", "--ratio", 0.9),
        ("nearest", "--metric", "l2", "--resolution", "site"),
    ])  # fmt: skip
    def test_every_matcher(self, diffeat, two, given):
        asked = ("--points", "8,9 20,11", "--json", "--matcher", *given)
        rows = json.loads(diffeat(*two, *asked).out)["matches"]
        # of a kernel's mean only the neighbourhood is known
        near = 3 if given[0] == "kernel" else 0.1
        np.testing.assert_allclose(found_of(rows)[:, 2:], [(13, 12), (25, 14)], atol=near)

    def test_several_cells_are_asked_for_by_name(self, diffeat, two):
        more = (*two, "-b", "down.0.res.0", "--points", "14,14")
        answer = diffeat(*more)
        assert answer.code == 2
        assert "conv_in at t=0, down.0.res.0 at t=0" in answer.err
        assert "--combine" in answer.err
        found = json.loads(diffeat(*more, "--combine", "sum", "--json").out)
        assert len(found["cells"]) == 2
        assert found["matches"][0]["score"] == pytest.approx(2, abs=0.1)

    def test_points_that_a_crop_does_not_show(self, diffeat, pictures, tmp_path):
        Image.fromarray(np.tile(texture(0), (1, 2, 1))).save(tmp_path / "wide.png")
        pair = ("match", MODEL, tmp_path / "wide.png", pictures / "b.png", *CLEAN, "--fit", "crop")
        answer = diffeat(*pair, "--points", "3,3 30,9")
        assert answer.code == 2
        assert "1 of 2 points, the first 3,3, lie where the crop shows nothing" in answer.err
        kept = json.loads(diffeat(*pair, "--grid", 8, "--json").out)["matches"]
        assert 0 < len(kept) < 32  # of a grid only what is shown

    def test_what_a_prompt_asks_for(self, diffeat, two):
        answer = diffeat(*two, "--prompt", "a photo of a {class}")
        assert (answer.code, "--category" in answer.err) == (2, True)
        answer = diffeat(*two, "--category", "horse")
        assert (answer.code, "no prompt asks for it" in answer.err) == (2, True)


class TestDrawn:
    def test_lines_and_heat(self, diffeat, two, tmp_path):
        lines, heat = tmp_path / "new" / "lines.png", tmp_path / "heat.png"
        answer = diffeat(*two, "--grid", 3, "--png", lines, "--heat", heat)
        assert answer.code == 0, answer.err
        assert "of the first 7 of 9 points" in answer.err
        for path in (lines, heat):
            with Image.open(path) as picture:
                assert len(picture.convert("RGB").getcolors(1 << 24)) > 50

    def test_a_mask_is_carried_over(self, diffeat, two, tmp_path):
        mask = np.zeros((32, 32), np.uint8)
        mask[6:20, 8:22] = 2
        Image.fromarray(mask).save(tmp_path / "mask.png")
        out, sheet = tmp_path / "out.png", tmp_path / "sheet.png"
        answer = diffeat(*two, "--mask", tmp_path / "mask.png", "--stride", 1, "--warp", out,
                         "--warp-sheet", sheet)  # fmt: skip
        assert answer.code == 0, answer.err
        with Image.open(out) as found:
            assert found.mode == "L"
            carried = np.asarray(found)
        moved = np.roll(mask, MOVED[::-1], (0, 1))
        np.testing.assert_array_equal(carried[6:28, 6:28], moved[6:28, 6:28])
        assert sheet.stat().st_size > 1000

    def test_a_picture_is_carried_over(self, diffeat, two, pictures, tmp_path):
        answer = diffeat(*two, "--stride", 1, "--warp", tmp_path / "out.png")
        assert answer.code == 0, answer.err
        with Image.open(tmp_path / "out.png") as found:
            np.testing.assert_array_equal(np.asarray(found)[6:28, 6:28],
                                          texture(0, MOVED)[6:28, 6:28])  # fmt: skip

    def test_a_palette_stays(self, diffeat, two, tmp_path):
        mask = Image.fromarray(np.full((32, 32), 1, np.uint8), "P")
        mask.putpalette([0, 0, 0, 200, 30, 10])
        mask.save(tmp_path / "mask.png")
        out = tmp_path / "out.png"
        assert diffeat(*two, "--mask", tmp_path / "mask.png", "--warp", out).code == 0
        with Image.open(out) as found:
            assert found.mode == "P"
            assert found.convert("RGB").getpixel((16, 16)) == (200, 30, 10)

    def test_pictures_that_are_gone(self, diffeat, file, pictures, tmp_path):
        moved = file.rename(tmp_path.parent / f"{tmp_path.name}.h5")
        answer = diffeat("match", moved, "a", "b", "--png", tmp_path / "l.png", "--pictures",
                         tmp_path / "nowhere")  # fmt: skip
        assert answer.code == 1
        assert "nowhere" in answer.err
        assert diffeat("match", moved, "a", "b", "--png", tmp_path / "l.png", "--pictures",
                       pictures).code == 0  # fmt: skip


class TestRefused:
    @pytest.mark.parametrize(("given", "said"), [
        (("--points", "8,9 40,3"), "1 of 2 points, the first 40,3, lie outside"),
        (("--points", "8"), "expected x,y in pixels"),
        (("--points", "8,nan"), "expected x and y in pixels"),
        (("--points", "8,9", "--grid", 4), "expected one of them"),
        (("--region", "9,9,4,4"), "expected x1,y1,x2,y2"),
        (("--region", "60,60,70,70"), "lies outside b.png"),
        (("--temperature", 0.1), "--matcher nearest has no use for --temperature"),
        (("--pool", "2x2"), "No such option"),
        (("--alphas", "0.1"), "--alphas: not for two pictures"),
        (("--mask", "m.png"), "--warp OUT.png"),
        (("--stride", 0), "expected pixels such as 4, or site"),
    ])  # fmt: skip
    def test_before_anything_is_computed_or_written(self, diffeat, two, tmp_path, given, said):
        answer = diffeat(*two, *given, "-o", tmp_path / "m.csv")
        assert answer.code == 2, answer.err
        assert said in answer.err
        assert not (tmp_path / "m.csv").exists() or not (tmp_path / "m.csv").stat().st_size

    def test_one_picture_or_three(self, diffeat, two, pictures):
        assert "what is to be followed through" in diffeat(*two[:3], *CLEAN).err  # it may be a clip
        assert "got 3" in diffeat(*two, pictures / "c.png").err

    def test_a_folder_is_no_picture(self, diffeat, pictures):
        answer = diffeat("match", MODEL, pictures, pictures / "b.png", *CLEAN)
        assert (answer.code, "holds 3 pictures" in answer.err) == (2, True)

    def test_no_such_picture(self, diffeat, file, pictures):
        answer = diffeat("match", file, "a.png", "bb.png")
        assert answer.code == 2
        assert "no picture 'bb.png'" in answer.err
        assert "did you mean 'b.png'" in answer.err
        assert diffeat("match", MODEL, pictures / "a.png", pictures / "z.png", *CLEAN).code == 1

    def test_a_picture_that_is_another_one_by_now(self, diffeat, pictures, tmp_path):
        folder, path = tmp_path / "pictures", tmp_path / "f.h5"
        shutil.copytree(pictures, folder)
        assert diffeat("extract", MODEL, folder, "-o", path, *CLEAN).code == 0
        assert diffeat("match", path, "a.png", "b.png").code == 0
        Image.fromarray(texture(9)).save(folder / "b.png")
        answer = diffeat("match", path, "a.png", "b.png")  # nothing is drawn of it
        assert answer.code == 1
        assert "b.png changed since" in answer.err
        assert diffeat("match", path, "a.png", "c.png").code == 0
        shutil.rmtree(folder)  # of pictures that are not at hand nothing can be said
        assert diffeat("match", path, "a.png", "b.png").code == 0

    def test_options_of_models_beside_a_file(self, diffeat, file):
        answer = diffeat("match", file, "a", "b", "--size", 64)
        assert (answer.code, "are made already" in answer.err) == (2, True)

    def test_a_file_of_vectors(self, diffeat, pictures, tmp_path):
        path = tmp_path / "v.h5"
        diffeat("extract", MODEL, pictures, "-o", path, *CLEAN, "--pool", "2x2")
        answer = diffeat("match", path, "a", "b")
        assert answer.code == 2
        assert "vectors" in answer.err

    def test_a_mask_of_another_picture(self, diffeat, two, tmp_path):
        for array, said in ((np.zeros((8, 8), np.uint8), "is 8×8"), (texture(0), "holds colours")):
            Image.fromarray(array).save(tmp_path / "mask.png")
            answer = diffeat(*two, "--mask", tmp_path / "mask.png", "--warp", tmp_path / "o.png")
            assert answer.code in (1, 2)
            assert said in answer.err

    def test_outputs_that_cannot_be_written(self, diffeat, two):
        answer = diffeat(*two, "-o", "/proc/none/m.csv")
        assert (answer.code, "nothing can be written there" in answer.err) == (2, True)


TWO_T = ("-t", "0,20", "-b", "conv_in", "--dtype", "float32")


def page_of(path: Path) -> dict:
    text = path.read_text("utf-8")
    Reader(text)
    return data_of(text)


class TestPage:
    def test_a_page_beside_the_matches(self, diffeat, two, tmp_path):
        asked = ("--points", "8,9 10,20", "--html", tmp_path / "p.html")
        answer = diffeat(*two, *asked)
        assert answer.code == 0, answer.err
        assert "2 points, 2 valid" in answer.out
        assert f"wrote {tmp_path / 'p.html'}" in answer.out
        assert re.search(
            r"conv_in at t=0: int8, all \d+ channels: best match within 1 s", answer.out
        )
        data = page_of(tmp_path / "p.html")
        assert [one["name"] for one in data["pictures"]] == ["a.png", "b.png"]
        assert data["start"] == [8, 9]
        found = json.loads(diffeat(*two, *asked, "--json").out)
        np.testing.assert_array_equal(found_of(found["matches"])[:, 2:], [(13, 12), (15, 23)])
        [cell] = found["page"]["cells"]
        assert (cell["block"], cell["t"], cell["kept"]) == ("conv_in", 0, cell["channels"])
        assert cell["same"] > 0.97
        assert found["page"]["bytes"] == (tmp_path / "p.html").stat().st_size

    def test_several_cells_and_pictures_make_a_page_alone(self, diffeat, pictures, tmp_path):
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

    def test_of_a_file_by_id(self, diffeat, file, tmp_path):
        answer = diffeat("match", file, "a", "b", "c.png", "--html", tmp_path / "p.html")
        assert answer.code == 0, answer.err
        assert len(page_of(tmp_path / "p.html")["pictures"]) == 3

    def test_pictures_that_are_not_at_hand(self, diffeat, file, pictures, tmp_path):
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
    def test_what_does_not_go_together(self, diffeat, pictures, tmp_path, names, more, told):
        three = ("match", MODEL, *(pictures / f"{name}.png" for name in names))
        answer = diffeat(*three, *TWO_T, "--html", tmp_path / "p.html", *more)
        assert (answer.code, told in answer.err) == (2, True), answer.err

    def test_without_a_page_two_are_expected(self, diffeat, pictures):
        answer = diffeat("match", MODEL, *(pictures / f"{name}.png" for name in "abc"), *CLEAN)
        assert (answer.code, "expected two pictures" in answer.err) == (2, True)
        answer = diffeat("match", MODEL, "--pairs", "l.csv", *CLEAN, "--html", "p.html")
        assert (answer.code, "--html: not for lists of pairs" in answer.err) == (2, True)
