"""Geometry benchmarks: rows by hand, whole runs on small planes and a rendered room."""

from __future__ import annotations

from dataclasses import replace

import h5py
import numpy as np
import pytest
import torch
from PIL import Image
from scipy.interpolate import RegularGridInterpolator

import diffeat
from benchmarks.catalogue import benchmark_names, open_benchmark
from benchmarks.page import page
from benchmarks.report import markdown
from benchmarks.run import run_benchmark
from benchmarks.tasks.geometry.file import GeometryBenchmark
from benchmarks.tasks.geometry.flows import dense
from benchmarks.tasks.geometry.kinds import carried
from benchmarks.tasks.geometry.sets import Chosen
from benchmarks.tasks.matching.file import Measured
from benchmarks.tasks.rows import sift_at
from diffeat.errors import SpecError
from diffeat.extraction import Plan
from diffeat.specs import ExtractSpec
from tests.targets.pairs.layouts import flo
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


def write_flows(folder) -> None:
    """TSS's layout: two folders of pictures of 40 × 48, the second moved by 3 and 2 pixels."""
    rng = np.random.default_rng(1)
    for scene in ("JODS/a", "PASCAL/b"):
        small = rng.integers(0, 255, (12, 14, 3), np.uint8)
        whole = np.asarray(Image.fromarray(small).resize((56, 48), Image.Resampling.BICUBIC))
        (folder / scene).mkdir(parents=True)
        Image.fromarray(whole[4:44, 4:52]).save(folder / scene / "image1.png")
        Image.fromarray(whole[2:42, 1:49]).save(folder / scene / "image2.png")
        mask = np.zeros((40, 48), np.uint8)
        mask[8:30, 9:33] = 255
        for number, sign in ((1, 1), (2, -1)):
            flo(folder / scene / f"flow{number}.flo", np.full((40, 48, 2), (3.0, 2.0)) * sign)
            Image.fromarray(mask).save(folder / scene / f"mask{number}.png")


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    root = tmp_path_factory.mktemp("data")
    write_planes(root / "planes")
    write_room(root / "room")
    write_flows(root / "flows")
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


def flows(**fields) -> GeometryBenchmark:
    own = {"name": "flows", "pairs": "flows:all", "shares": (0.05, 0.1), "stride": 3, "sift": False}
    own["extract"] = {"timesteps": [20], "blocks": ["up.1"], "size": 32}
    return GeometryBenchmark(**{**PLAIN, **own, **fields})


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("run")


@pytest.fixture(scope="module")
def results(folder, data):
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("DIFFEAT_DATA", str(data))
        every = planes(), room(), flows()
        return {one.name: run_benchmark(one, folder, "cpu") for one in every}


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

    def test_dense_sift_finds_what_shifts(self):
        rng = np.random.default_rng(3)
        small = rng.integers(0, 255, (16, 16, 3), np.uint8)
        whole = np.asarray(Image.fromarray(small).resize((128, 128), Image.Resampling.BICUBIC))
        points = np.array([[50.0, 50], [62, 70]])
        ours = sift_at(whole[:, :120], points, 24)
        theirs = sift_at(whole[:, 8:], np.array([[30.0, 30], [54, 70], [42, 50]]), 24)
        near = np.linalg.norm(ours[:, None] - theirs, axis=2)
        assert near.argmin(1).tolist() == [2, 1]
        assert near.min(1).max() < 0.05 * near.max()

    def test_dense_sift_is_a_row(self, results):
        labels = [row["label"] for row in results["room"]["rows"] if row["kind"] == "sift"]
        assert labels == ["SIFT", "SIFT, dense, 48 px", "SIFT, dense, 96 px"]
        for label in labels[1:]:  # chance is 0.002
            shares = row_of(results["room"], label)["scores"]["shares"]
            assert shares[0]["value"] > 0.05

    def test_points_go_along_with_the_nearest_match(self):
        here, there = np.array([[0.0, 0], [50, 50]]), np.array([[5.0, 1], [40, 50]])
        found = carried(np.array([[2.0, 3], [49, 40]]), here, there)
        np.testing.assert_array_equal(found, [[7, 4], [39, 40]])
        np.testing.assert_array_equal(carried(here, here[:0], there[:0]), here)


class TestFlows:
    def test_nothing_moves_by_hand(self, results):
        scores = row_of(results["flows"], "the same place")["scores"]
        # every pixel is off by |(3, 2)| = 3.6; of 48 pixels .05 are 2.4 and .1 are 4.8
        assert [one["value"] for one in scores["shares"]] == [0, 1]
        assert scores["parts"] == {"JODS": [0, 1], "PASCAL": [0, 1]}
        assert scores["smoothness"] == 0

    def test_the_truth_is_as_smooth_as_its_edge(self, results):
        # of 22 × 24 pixels both components change by 5 at each of four edges
        smoothness = row_of(results["flows"], "the truth")["scores"]["smoothness"]
        assert smoothness == pytest.approx(5 * 2 * (22 + 24) / (22 * 24))

    def test_the_model_by_upsampled_features(self, results, folder):
        with h5py.File(next(folder.glob("unet-cifar10-flows-all-*.h5"))) as file:
            place = {name.decode(): k for k, name in enumerate(file["ids"][:])}
            maps = torch.from_numpy(file["features/up.1/t20"][:]).double()
        wide = torch.nn.functional.interpolate(maps, (40, 48), mode="bilinear")
        wide = torch.nn.functional.normalize(wide, dim=1).flatten(2)
        y, x = np.array([*range(0, 40, 3)]), np.array([*range(0, 48, 3), 47])
        shares = []
        for scene in ("JODS/a", "PASCAL/b"):
            for a, b, sign in ((1, 2, 1), (2, 1, -1)):
                one, two = (wide[place[f"{scene}/image{k}.png"]] for k in (a, b))
                best = (one.T @ two).argmax(1).numpy().reshape(40, 48)[np.ix_(y, x)]
                moved = np.stack([best % 48 - x, best // 48 - y[:, None]], -1)
                grid = np.stack(np.meshgrid(np.arange(8, 30), np.arange(9, 33), indexing="ij"), -1)
                off = RegularGridInterpolator((y, x), moved)(grid) - np.array([3, 2]) * sign
                shares.append([(np.linalg.norm(off, axis=2) <= far).mean() for far in (2.4, 4.8)])
        found = [one["value"] for one in results["flows"]["rows"][0]["scores"]["shares"]]
        np.testing.assert_allclose(found, np.mean(shares, 0), atol=0.01)  # near ties of float32

    @pytest.mark.parametrize("stride", [1, 4, 50])
    def test_flows_between_matches_are_interpolated(self, stride):
        def find(points):
            return points * (1.5, 0.75) + (points[:, ::-1] * 0.25 + 2)

        y, x = np.mgrid[:9, :13]
        found = dense(find, (9, 13), stride)
        wanted = np.stack([0.5 * x + 0.25 * y + 2, -0.25 * y + 0.25 * x + 2], -1)
        np.testing.assert_allclose(found, wanted, atol=1e-12)

    def test_nothing_chooses(self):
        with pytest.raises(SpecError, match="nothing chooses a cell by flows"):
            Chosen.open(flows(select="flows:all"))


class TestBoth:
    def test_a_second_run_judges_nothing(self, results, folder):
        again = run_benchmark(planes(), folder, "cpu")
        assert again["finished"]["computed"] == 0
        assert again["rows"] == results["planes"]["rows"]

    def test_the_report(self, results, folder):
        text = markdown(folder)
        assert "| features | block and t | chosen at % | ≤ 1 px |" in text
        assert "| features | 10 to 20° | 20 to 30° |" in text
        assert "Dense rows have SIFT's descriptors" in text
        assert "By viewpoint" in page(folder)
        assert "| JODS 5 % | JODS 10 % | PASCAL 5 % | PASCAL 10 % | smoothness |" in text
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
    [("tss-dift-sd21", "dift-sd21", "sd21"), ("hpatches-dift-sd21", "dift-sd21-hpatches", "sd21"),
     ("hpatches-dift-adm", "dift-adm-hpatches", "adm-256")],
)  # fmt: skip
def test_published_set_ups_run_on_shrunk_twins(name, recipe, model, tmp_path):
    one = open_benchmark(name)
    wanted, planar = diffeat.load_recipe(recipe).spec, name.startswith("hpatches")
    if not planar:  # TSS names no classes
        wanted = replace(wanted, prompt="")
    assert ExtractSpec.from_dict(one.extract) == wanted
    twin(model, tmp_path / model)
    models = (replace(one.models[0], name=str(tmp_path / model), twin=False, label=model),)
    shrunk = replace(one, models=models, vision=(), patches=(16,),
                     pairs="planes:all" if planar else "flows:all",
                     extract={**one.extract, "size": 64, "ensemble": 2})  # fmt: skip
    result = run_benchmark(shrunk, tmp_path / "run", "cpu")
    floors = ["the same place (nothing moves)"] if planar else ["the same place", "the truth"]
    sift = ["SIFT"] if planar else ["SIFT", "SIFT, dense, 48 px", "SIFT, dense, 96 px"]
    assert [row["label"] for row in result["rows"]] == [
        model, *sift, "raw pixels, 7×7 patches at 16×16", *floors
    ]  # fmt: skip
    assert result["rows"][0]["cell"][1] == one.extract["timesteps"][0]
    if not planar:
        return
    scores = result["rows"][0]["scores"]
    assert scores["pairs"] == 4
    assert set(scores["kinds"]) == {"illumination", "viewpoint"}
    assert "[1] DIFT (Tang et al. 2023)" in markdown(tmp_path / "run")
