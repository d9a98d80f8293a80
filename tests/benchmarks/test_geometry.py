"""Geometry benchmarks: rows by hand, whole runs on small planes and a rendered room."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from PIL import Image

import diffeat
from benchmarks.catalogue import benchmark_names, open_benchmark
from benchmarks.page import page
from benchmarks.report import markdown
from benchmarks.run import run_benchmark
from benchmarks.tasks.geometry.file import GeometryBenchmark
from benchmarks.tasks.geometry.kinds import carried
from benchmarks.tasks.geometry.sets import Chosen
from benchmarks.tasks.matching.file import Measured
from diffeat.errors import SpecError
from diffeat.extraction import Plan
from diffeat.specs import ExtractSpec
from tests.targets.rooms import write_room
from tests.twins import twin

SHIFT = np.array([[1, 0, 6], [0, 1, 4], [0, 0, 1.0]])
"""What the second picture of every plane but the last has moved by, in pixels."""


def write_planes(folder) -> None:
    """Four planes with many corners; pictures of 96 × 112, the second moved by whole pixels."""
    rng = np.random.default_rng(0)
    for k, kind in enumerate("vvii"):
        small = rng.integers(0, 255, (34, 38, 3), np.uint8)
        whole = np.asarray(Image.fromarray(small).resize((152, 136), Image.Resampling.BICUBIC))
        scene = folder / f"{kind}_{k}"
        scene.mkdir(parents=True)
        by = (0, 0) if k == 3 else (4, 6)
        Image.fromarray(whole[20:116, 20:132]).save(scene / "1.png")
        Image.fromarray(whole[20 - by[0] : 116 - by[0], 20 - by[1] : 132 - by[1]]).save(
            scene / "2.png"
        )
        np.savetxt(scene / "H_1_2", np.eye(3) if k == 3 else SHIFT)


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    root = tmp_path_factory.mktemp("data")
    write_planes(root / "planes")
    write_room(root / "room")
    return root


@pytest.fixture(autouse=True)
def _there(data, monkeypatch):
    monkeypatch.setenv("DIFFEAT_DATA", str(data))


PLAIN = {
    "title": "Small", "task": "geometry", "models": (Measured("unet-cifar10"),),
    "extract": {"timesteps": [20], "blocks": ["up.1", "up.1.res.0"], "size": 32},
    "patches": (32,), "points": 20, "key_points": 200,
}  # fmt: skip


def planes(**fields) -> GeometryBenchmark:
    own = {"name": "planes", "pairs": "planes:all", "choose": ("v_0", "i_2")}
    return GeometryBenchmark(**{**PLAIN, **own, **fields})


def room(**fields) -> GeometryBenchmark:
    own = {"name": "room", "pairs": "room:val", "select": "room:trn"}
    return GeometryBenchmark(**{**PLAIN, **own, **fields})


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("run")


@pytest.fixture(scope="module")
def results(folder, data):
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("DIFFEAT_DATA", str(data))
        return {one.name: run_benchmark(one, folder, "cpu") for one in (planes(), room())}


def row_of(result, label: str) -> dict:
    return next(row for row in result["rows"] if row["label"].startswith(label))


class TestFile:
    @pytest.mark.parametrize(
        ("fields", "message"),
        [
            ({"select": "planes:all"}, "choose and select"),
            ({"shares": (0.0,)}, "shares"),
            ({"limits": ()}, "limits"),
            ({"key_points": 3}, "key_points = 3"),
            ({"models": ()}, "no models"),
        ],
    )
    def test_what_cannot_be_meant(self, fields, message):
        with pytest.raises(SpecError, match=message):
            planes(**fields)

    def test_scenes_that_are_not_there(self):
        with pytest.raises(SpecError, match="no scene 'v_9'"):
            Chosen.open(planes(choose=("v_9",)))

    def test_frames_on_both_sides(self):
        with pytest.raises(SpecError, match=r"3 pictures, such as .* are in room:val"):
            Chosen.open(room(select="room:val"))

    def test_scenes_are_on_one_side(self):
        chosen = Chosen.open(planes())
        assert {name for both in chosen.chooses.groups for name in both} == {"v_0", "i_2"}
        assert {name for both in chosen.report.groups for name in both} == {"v_1", "i_3"}

    def test_points_are_as_many_as_asked_for(self):
        chosen = Chosen.open(room(points=7))
        assert {len(chosen.targets.truth(k).source_points) for k in range(len(chosen.part))} == {7}


class TestPlanes:
    def test_rows(self, results):
        labels = [row["label"] for row in results["planes"]["rows"]]
        pixels, floor = "raw pixels, 7×7 patches at 32×32", "the same place (nothing moves)"
        assert labels == ["unet-cifar10", "unet-cifar10@random", "SIFT", pixels, floor]

    def test_nothing_moves_by_hand(self, results):
        scores = row_of(results["planes"], "the same")["scores"]
        # one pair of two has not moved; the other's corners are off by |(6, 4)| = 7.2 px, 6.4 %
        assert [one["right"] for one in scores["pixels"]] == [1, 1, 1]
        assert [one["right"] for one in scores["percent"]] == [1, 1, 1]
        assert scores["failures"] == 0
        assert scores["kinds"]["illumination"] == {"pairs": 1, "pixels": [1, 1, 1]}
        assert scores["kinds"]["viewpoint"] == {"pairs": 1, "pixels": [0, 0, 0]}

    def test_sift_finds_planes_that_only_shift(self, results):
        scores = row_of(results["planes"], "SIFT")["scores"]
        assert [one["right"] for one in scores["pixels"]] == [2, 2, 2]
        assert scores["right"] > 0.5

    def test_the_cell_is_the_best_of_the_pairs_that_choose(self, results):
        result = results["planes"]
        row, surface = result["rows"][0], result["surfaces"][0]
        best = max(surface["cells"], key=lambda cell: cell["validation"])
        assert row["cell"] == [best["block"], best["t"]]
        assert row["selected"] == best["validation"]
        assert result["chosen_on"]["pairs"] == result["pairs"]["pairs"] == 2


class TestRoom:
    def test_the_same_place_by_hand(self, results):
        report = Chosen.open(room()).report
        off = np.concatenate([
            np.linalg.norm(truth.source_points - truth.target_points, axis=1)
            for truth in map(report.truth, range(len(report)))
        ])  # fmt: skip
        scores = row_of(results["room"], "the same place")["scores"]
        for one in scores["shares"]:
            assert one["value"] == pytest.approx((off <= one["share"] * 160).mean())
        assert scores["points"] == 20 * len(report)

    def test_chance_is_a_disc_in_a_picture(self, results):
        shares = row_of(results["room"], "chance")["scores"]["shares"]
        assert shares[0]["value"] == pytest.approx(np.pi * 3.2**2 / (120 * 160))

    def test_bins_are_of_all_points(self, results):
        for row in results["room"]["rows"][:3]:
            shares = {one["share"]: one["value"] for one in row["scores"]["shares"]}
            values = [one["values"][0] for one in row["scores"]["bins"]]
            assert min(values) <= shares[0.02] <= max(values)

    def test_points_go_along_with_the_nearest_match(self):
        here, there = np.array([[0.0, 0], [50, 50]]), np.array([[5.0, 1], [40, 50]])
        found = carried(np.array([[2.0, 3], [49, 40]]), here, there)
        np.testing.assert_array_equal(found, [[7, 4], [39, 40]])
        np.testing.assert_array_equal(carried(here, here[:0], there[:0]), here)


class TestBoth:
    def test_a_second_run_judges_nothing(self, results, folder):
        again = run_benchmark(planes(), folder, "cpu")
        assert again["finished"]["computed"] == 0
        assert again["rows"] == results["planes"]["rows"]

    def test_the_report(self, results, folder):
        text = markdown(folder)
        assert "| features | block and t | chosen at % | ≤ 1 px |" in text
        assert "| features | 10 to 20° | 20 to 30° |" in text
        assert "the mutual match of SIFT's own descriptors" in text
        assert "By viewpoint" in page(folder)
        for name in ("planes", "room"):
            assert (folder / f"{name}.png").is_file()
            assert (folder / f"{name}.csv").read_text().count("\n") == 1 + 2 * 2

    def test_the_twin_of_a_model_that_is_not_there_is_left_out(self, tmp_path):
        only = planes(models=(Measured("./zoo/none"), *PLAIN["models"]))
        result = run_benchmark(replace(only, patches=(), sift=False), tmp_path, "cpu")
        assert set(result["missing"]) == {"none"}

    def test_several_cells_and_nothing_that_chooses(self, tmp_path):
        with pytest.raises(SpecError, match="2 cells and no pairs choose among them"):
            run_benchmark(planes(choose=()), tmp_path, "cpu")


@pytest.mark.parametrize("name", benchmark_names())
def test_every_table_has_rows_to_compare_with(name):
    one = open_benchmark(name)
    if one.task == "geometry":
        assert one.patches
        assert one.vision
        assert one.sift
        assert all(model.twin for model in one.models)


@pytest.mark.parametrize("name", ["dift-homography", "dift-kitchen"])
def test_blocks_of_the_bundled_models(name):
    one = open_benchmark(name)
    backbone = diffeat.load("unet-cifar10", "cpu")
    for twins in ({}, one.twin):
        Plan(backbone, ExtractSpec.from_dict({**one.extract, **twins}))


@pytest.mark.parametrize(
    ("name", "recipe", "model"),
    [("hpatches-dift-sd21", "dift-sd21-hpatches", "sd21"),
     ("hpatches-dift-adm", "dift-adm-hpatches", "adm-256")],
)  # fmt: skip
def test_published_set_ups_run_on_shrunk_twins(name, recipe, model, tmp_path):
    one = open_benchmark(name)
    assert ExtractSpec.from_dict(one.extract) == diffeat.load_recipe(recipe).spec
    twin(model, tmp_path / model)
    models = (replace(one.models[0], name=str(tmp_path / model), twin=False, label=model),)
    shrunk = replace(one, models=models, vision=(), pairs="planes:all", patches=(16,),
                     extract={**one.extract, "size": 64, "ensemble": 2})  # fmt: skip
    result = run_benchmark(shrunk, tmp_path / "run", "cpu")
    assert [row["label"] for row in result["rows"]] == [
        model, "SIFT", "raw pixels, 7×7 patches at 16×16", "the same place (nothing moves)"
    ]  # fmt: skip
    scores = result["rows"][0]["scores"]
    assert scores["pairs"] == 4
    assert set(scores["kinds"]) == {"illumination", "viewpoint"}
    assert result["rows"][0]["cell"][1] == one.extract["timesteps"][0]
    assert "[1] DIFT (Tang et al. 2023)" in markdown(tmp_path / "run")
