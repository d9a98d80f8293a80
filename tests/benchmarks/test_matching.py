"""Matching: rows that need no model by hand arithmetic, whole runs on small pictures and twins."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import h5py
import numpy as np
import pytest
import torch
from PIL import Image

import diffeat
from benchmarks.catalogue import benchmark_names, open_benchmark
from benchmarks.page import page
from benchmarks.report import markdown
from benchmarks.run import run_benchmark
from benchmarks.searching import same_place
from benchmarks.tasks.matching.file import MatchingBenchmark, Measured
from benchmarks.tasks.matching.sets import Sets
from benchmarks.tasks.rows import mean_places, patches
from diffeat.errors import ModelError, SpecError
from diffeat.extraction import Plan
from diffeat.images.paired import PAIRED
from diffeat.recipes import load_recipe
from diffeat.specs import ExtractSpec

NAMES = [name for name in benchmark_names() if open_benchmark(name).task == "matching"]
TWO = (Measured("unet-cifar10"), Measured("./zoo/none"))
POINTS = np.array([[4.0, 5.0], [20.0, 9.0], [11.0, 25.0]])


def write_pairs(folder: Path, split: str, persons: list[str], shift: int = 0) -> None:
    """A picture of each person, moved to the right by `shift` from one to the next, in pairs.

    SPair-71k's layout. Points move with the pictures; boxes are 20 × 20.
    """
    noise = np.random.default_rng(0).integers(0, 255, (4, 4, 3), np.uint8)
    base = np.asarray(Image.fromarray(noise).resize((40, 32), Image.Resampling.BICUBIC))
    for name in ("JPEGImages/face", "ImageAnnotation/face", f"PairAnnotation/{split}",
                 "Layout/large"):  # fmt: skip
        (folder / name).mkdir(parents=True, exist_ok=True)
    for k, person in enumerate(persons):
        moved = np.roll(base, k * shift, 1)[:, :32]
        Image.fromarray(moved).save(folder / f"JPEGImages/face/{person}.png")
        (folder / f"ImageAnnotation/face/{person}.json").write_text(json.dumps(
            {"filename": f"{person}.png", "category": "face", "person": person}))  # fmt: skip
    lines = []
    for k, person in enumerate(persons[:-1]):
        name = f"{k:06d}-{person}-{persons[k + 1]}:face"
        lines.append(name)
        both = [(POINTS + np.array([(k + step) * shift, 0])).tolist() for step in (0, 1)]
        (folder / f"PairAnnotation/{split}/{name}.json").write_text(json.dumps({
            "src_imname": f"{person}.png", "trg_imname": f"{persons[k + 1]}.png",
            "src_imsize": [32, 32, 3], "trg_imsize": [32, 32, 3], "category": "face",
            "src_bndbox": [0, 0, 20, 20], "trg_bndbox": [0, 0, 20, 20],
            "kps_ids": ["0", "1", "2"], "src_kps": both[0], "trg_kps": both[1],
        }))  # fmt: skip
    (folder / f"Layout/large/{split}.txt").write_text("\n".join(lines) + "\n")


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """Three splits of other persons; pictures of `val` are moved by 2 pixels each."""
    root = tmp_path_factory.mktemp("data")
    write_pairs(root / "faces", "trn", [f"a{k}" for k in range(5)])
    write_pairs(root / "faces", "val", [f"b{k}" for k in range(5)], shift=2)
    return root


@pytest.fixture(autouse=True)
def _there(data, monkeypatch):
    monkeypatch.setenv("DIFFEAT_DATA", str(data))


def small(**fields) -> MatchingBenchmark:
    plain = {
        "name": "small", "title": "Small <b>", "task": "matching", "pairs": "faces:val",
        "select": "faces:trn", "models": (Measured("unet-cifar10"),), "twin": {"timesteps": [20]},
        "extract": {"timesteps": [20, 60], "blocks": ["mid", "up.1.res.0"], "size": 32},
        "patches": (32,), "sets": 2,
    }  # fmt: skip
    return MatchingBenchmark(**{**plain, **fields})


class TestRows:
    def test_patches_are_the_pixels_around(self):
        pixels = np.random.default_rng(1).integers(0, 255, (2, 3, 5, 6), np.uint8)
        found = patches(pixels, 3)
        assert found.shape == (2, 27, 5, 6)
        around = pixels[1, :, 1:4, 2:5] / 255  # of row 2, column 3
        wanted = around - around.mean((1, 2), keepdims=True)
        np.testing.assert_allclose(found[1, :, 2, 3], wanted.ravel(), atol=1e-6)

    def test_beyond_the_edges_the_outermost_pixels_go_on(self):
        pixels = np.zeros((1, 3, 3, 3), np.uint8)
        pixels[0, :, 0, 0] = 90
        found = patches(pixels, 3).reshape(3, 3, 3, 3, 3)[0]  # (side, side, H, W)
        raised = found[:, :, 0, 0] > 0  # four of nine are the corner itself
        np.testing.assert_array_equal(raised, [[1, 1, 0], [1, 1, 0], [0, 0, 0]])

    def test_same_place_keeps_half_pixels(self):
        found = same_place(np.array([[-0.5, 9.5], [4.5, 0.0]]), np.array([10, 20]),
                           np.array([20, 10]))  # fmt: skip
        np.testing.assert_allclose(found, [[-0.5, 19.5], [2.0, 0.5]])

    def test_mean_places_count_a_picture_once(self):
        pairs = Sets.open(small()).report
        sizes = {name: np.array([32, 32]) for name in pairs.pictures().ids}
        found = mean_places(pairs, sizes)
        # five pictures, each two pixels further to the right
        wanted = (POINTS + np.array([4, 0]) + 0.5) / 32
        for k in range(3):
            np.testing.assert_allclose(found["face", str(k)], wanted[k])


class TestFile:
    @pytest.mark.parametrize(
        ("fields", "message"),
        [
            ({"models": ()}, "no models"),
            ({"models": (Measured("a/x"), Measured("b/x"))}, "two models are called 'x'"),
            ({"references": ("eyes",)}, "reference='eyes'"),
            ({"references": ()}, "no references"),
            ({"alphas": (0.0,)}, "alphas"),
            ({"select_share": 0.0}, "select_share"),
            ({"sets": 1}, "sets = 1"),
            ({"sets": 2, "select": ""}, "give select"),
        ],
    )
    def test_what_cannot_be_meant(self, fields, message):
        with pytest.raises(SpecError, match=message):
            small(**fields)

    def test_persons_on_both_sides(self):
        with pytest.raises(SpecError, match="5 groups, such as 'b0', are in faces:val"):
            Sets.open(small(select="faces:val"))

    def test_several_cells_and_nothing_that_chooses(self, tmp_path):
        with pytest.raises(SpecError, match="4 cells and no pairs choose among them"):
            run_benchmark(small(select="", sets=0), tmp_path, "cpu")

    def test_no_model_is_there(self, tmp_path):
        one = small(models=(Measured("./zoo/none"),))
        with pytest.raises(ModelError, match="none of its models is on this machine"):
            run_benchmark(one, tmp_path, "cpu")


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("run")


@pytest.fixture(scope="module")
def result(folder, data):
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("DIFFEAT_DATA", str(data))
        return run_benchmark(small(models=TWO), folder, "cpu")


class TestRun:
    def test_rows(self, result):
        labels = [row["label"] for row in result["rows"]]
        assert labels[0] == "unet-cifar10"
        assert "unet-cifar10@random" in labels
        assert labels[-3:] == ["raw pixels (7×7 patches at 32×32)", "the same place",
                               "mean place of the key point in faces:trn"]  # fmt: skip
        assert set(result["missing"]) == {"none"}

    def test_the_same_place_by_hand(self, result):
        row = next(row for row in result["rows"] if row["label"] == "the same place")
        values = {(one["aggregate"], one["alpha"]): one["value"]
                  for one in row["scores"]["faces:val"]}  # fmt: skip
        # every point has moved by 2 pixels; of a box of 20 that is .1
        assert values == {("point", 0.1): 1.0, ("pair", 0.1): 1.0, ("point", 0.05): 0.0,
                          ("pair", 0.05): 0.0}  # fmt: skip

    def test_the_model_by_upsampled_features(self, result, folder):
        row, right = result["rows"][0], np.zeros(2)
        ((block, t),) = row["cells"]
        with h5py.File(next(folder.glob("unet-cifar10-faces-val-*.h5"))) as file:
            place = {name.decode(): k for k, name in enumerate(file["ids"][:])}
            maps = torch.from_numpy(file[f"features/{block}/t{t}"][:]).float()
        wide = torch.nn.functional.interpolate(maps, (32, 32), mode="bilinear")
        wide = torch.nn.functional.normalize(wide, dim=1)
        for k in range(4):
            a, b = (wide[place[f"face/b{k + step}.png"]] for step in (0, 1))
            for x, y in POINTS + np.array([2 * k, 0]):
                best = int((a[:, int(y), int(x), None, None] * b).sum(0).argmax())
                miss = np.hypot(best % 32 - (x + 2), best // 32 - y)
                right += miss <= 20 * np.array([0.1, 0.05])
        values = [one["value"] for one in row["scores"]["faces:val"] if one["aggregate"] == "point"]
        np.testing.assert_allclose(values, right / 12)

    def test_the_cell_is_the_best_of_the_pairs_that_choose(self, result):
        row, surface = result["rows"][0], result["surfaces"][0]
        best = max(surface["cells"], key=lambda cell: cell["validation"])
        assert row["cells"] == [[best["block"], best["t"]]]
        assert row["selected"] == best["validation"]
        assert {cell["t"] for cell in surface["cells"]} == {20, 60}
        assert {cell["t"] for cell in result["surfaces"][1]["cells"]} == {20}

    def test_differences_are_those_of_the_rows(self, result):
        floor = next(row for row in result["rows"] if row["label"] == result["floor"])
        for row in result["rows"]:
            for one in row["above"].get("faces:val", ()):
                values = [next(n["value"] for n in it["scores"]["faces:val"]
                               if (n["aggregate"], n["alpha"]) == ("point", one["alpha"]))
                          for it in (row, floor)]  # fmt: skip
                assert one["difference"] == pytest.approx(values[0] - values[1])

    def test_a_second_run_computes_nothing(self, result, folder):
        written = {path: path.stat().st_mtime_ns for path in folder.glob("*.h5")}
        again = run_benchmark(small(models=TWO), folder, "cpu")
        assert again["finished"]["computed"] == 0
        assert again["rows"] == result["rows"]
        assert written == {path: path.stat().st_mtime_ns for path in folder.glob("*.h5")}
        assert len(written) == 4  # two sets of pairs, the model and its twin

    def test_the_report(self, result, folder):
        text = markdown(folder)
        assert "| features | block and t | chosen at % |" in text
        assert "PCK@0.1 of the same place, which sees no picture, is 100.0 per point." in text
        assert "Left out: none: " in text
        assert "Small &lt;b&gt;" in page(folder)
        assert (folder / "small.png").is_file()
        assert (folder / "small.csv").read_text().count("\n") == 1 + 4 + 2


PUBLISHED = [name for name in NAMES if name != "dift-faces"]


def test_blocks_and_timesteps_of_the_bundled_models():
    one = open_benchmark("dift-faces")
    for model in one.models:
        if not model.name.startswith("./"):
            fields = {**one.extract, **model.extract}
            backbone = diffeat.load(model.name, "cpu")
            assert len(Plan(backbone, ExtractSpec.from_dict(fields)).levels) == 4
            Plan(backbone, ExtractSpec.from_dict({**fields, **one.twin}))


@pytest.mark.parametrize("name", PUBLISHED)
def test_settings_are_those_of_the_recipe(name):
    recipe = {"dift-spair-sd21": "dift-sd21", "dift-spair-adm": "dift-adm",
              "ditf-spair-flux": "ditf-flux", "cleandift-spair": "cleandift",
              "pf-willow-dift-sd21": "dift-sd21"}[name]  # fmt: skip
    assert ExtractSpec.from_dict(open_benchmark(name).extract) == load_recipe(recipe).spec


@pytest.mark.parametrize("name", NAMES)
def test_every_table_has_rows_to_compare_with(name):
    one = open_benchmark(name)
    assert one.patches
    assert one.vision
    assert all(model.twin for model in one.models if not (model.label or model.name[:2] == "./"))
    if one.pairs.startswith("spair"):
        assert one.places == "spair:trn"


@pytest.mark.parametrize("name", PUBLISHED)
def test_pairs_have_a_name(name):
    data, _, split = open_benchmark(name).pairs.partition(":")
    assert data in PAIRED
    assert split


@pytest.mark.parametrize("name", PUBLISHED)
def test_published_set_ups_run_on_shrunk_twins(name, model_of, data, tmp_path):
    one = open_benchmark(name)
    models = tuple(
        replace(model, name=model_of(model.name), denoiser="", twin=False, label=model.shown)
        for model in one.models
    )  # fmt: skip
    less = {"size": 64, "ensemble": min(2, one.extract.get("ensemble", 1))}
    if "flux" in name:  # its twin's text encoder takes few tokens
        less["prompt"] = "{class}"
    shrunk = replace(one, models=models, vision=(), places="", pairs="faces:val",
                     patches=(16,), extract={**one.extract, **less})  # fmt: skip
    result = run_benchmark(shrunk, tmp_path, "cpu")
    assert [row["label"] for row in result["rows"]] == [
        *(model.shown for model in one.models), "raw pixels (7×7 patches at 16×16)",
        "the same place",
    ]  # fmt: skip
    numbers = result["rows"][0]["scores"]["faces:val"]
    assert len(numbers) == 2 * len(one.references) * len(one.alphas)
    assert all(np.isfinite(number["value"]) for number in numbers)
    (cell,) = result["rows"][0]["cells"]
    assert cell[1] == one.extract["timesteps"][0]
    if "prompt" in one.extract:
        assert "prompt" in result["rows"][0]["told"]
    text = markdown(tmp_path)
    for number, figure in enumerate(one.published, start=1):  # in one row, and explained below
        assert text.count(f" {figure.value:.2f} [{number}] |") == 1
        assert f"[{number}] {figure.source}: " in text
