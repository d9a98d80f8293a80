"""Segmentation and depth: counts against scikit-learn and arithmetic, whole runs on small sets."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace

import numpy as np
import pytest
from sklearn.metrics import accuracy_score, jaccard_score, recall_score

from benchmarks.catalogue import benchmark_names, open_benchmark
from benchmarks.page import page
from benchmarks.report import markdown
from benchmarks.run import run_benchmark
from benchmarks.tasks import task_named
from benchmarks.tasks.dense.counted import Counted, codes_of, mask_numbers
from benchmarks.tasks.dense.file import DenseBenchmark, System
from benchmarks.tasks.dense.floors import positions, raw_patches
from benchmarks.tasks.dense.sets import Draws
from benchmarks.tasks.dense.shown import places_shown
from benchmarks.tasks.matching.file import Measured
from benchmarks.tasks.regret.file import OneTask, RegretBenchmark
from benchmarks.tasks.robustness.file import RobustnessBenchmark
from diffeat.errors import SpecError
from diffeat.recipes import load_recipe
from diffeat.specs import ExtractSpec
from tests.benchmarks import dense_sets

SYSTEMS = (
    System("ridge", "ridge", cells="all", arguments={"alphas": [0.01, 1.0]}),
    System("nearest", "nearest-mean"),
    System("members", "ensemble", arguments={"members": 2, "steps": 30, "epochs": 1}, labels=(0,)),
    System("both", "nearest-mean", of=("unet-cifar10", "pixels"), cells=("all", "all")),
    System("random", "ridge", of=("unet-cifar10@random",), cells="all",
           arguments={"alphas": [0.01, 1.0]}),
    System("pixels", "ridge", of=("pixels",), choose={"alphas": [[0.01], [10.0]]}),
    System("where", "mean-mask", of=("position",)),
)  # fmt: skip
PUBLISHED = {
    "ddpm-seg-ade-bedroom30": "adm-256", "ddpm-seg-bedroom28": "adm-256",
    "ddpm-seg-cat15": "adm-256", "ddpm-seg-celeba19": "adm-256", "ddpm-seg-ffhq34": "adm-256",
    "ddpm-seg-horse21": "adm-256", "ade20k-gdf-sd15": "sd15", "cityscapes-gdf-sd15": "sd15",
    "voc2012-gdf-sd15": "sd15", "nyuv2-vpd": "sd15",
    "vpd-ade20k": "sd15", "vpd-nyu": "sd15",
}  # fmt: skip
"""Set-ups of papers → the model whose shrunk twin stands for theirs."""
QUICK = ("ddpm-seg-bedroom28",)
RUN = [name if name in QUICK else pytest.param(name, marks=pytest.mark.slow) for name in PUBLISHED]
DENSE = [name for name in benchmark_names()
         if open_benchmark(name).task in ("segmentation", "depth")]  # fmt: skip
FEW = {"ensemble": {"members": 2, "steps": 10, "epochs": 1},
       "fpn": {"width": 16, "steps": 2, "epochs": 1}, "ridge": {"alphas": [1.0]},
       "logistic": {"alphas": [0.1], "pixels": 500},
       "depth": {"width": 16, "filters": [16], "last": 16, "steps": 2, "epochs": 1},
       "vpd": {"width": 16, "filters": [16], "last": 16, "epochs": 1,
               "templates": "plain"}}  # fmt: skip
PERSONS = ("clothing", "faces", "ffhq", "celeba")


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    root = tmp_path_factory.mktemp("data")
    dense_sets.horses(root / "horses")
    dense_sets.kitchen(root / "kitchen-rgbd")
    return root


@pytest.fixture(autouse=True)
def _there(data, monkeypatch):
    monkeypatch.setenv("DIFFEAT_DATA", str(data))


def small(**fields) -> DenseBenchmark:
    plain = {
        "name": "small", "title": "Small <b>", "task": "segmentation", "train": "horses:train",
        "test": "horses:val", "models": (Measured("unet-cifar10"), Measured("./zoo/none")),
        "extract": {"timesteps": [20], "blocks": ["conv_in", "up.2"], "size": [16, 16]},
        "pixels": (16, 16), "labels": (2, 0), "draws": 2, "systems": SYSTEMS, "shown": 2,
        "uncertainty": ("members",), "boundary": ("all",), "held": 0.4,
    }  # fmt: skip
    return DenseBenchmark(**{**plain, **fields})


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("run")


@pytest.fixture(scope="module")
def result(folder, data):
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("DIFFEAT_DATA", str(data))
        return run_benchmark(small(), folder, "cpu")


@pytest.fixture
def rows(result):
    return {row["label"]: row for row in result["rows"]}


def first(row: dict, place: int = -1) -> float:
    return row["scores"][place]["numbers"][0]["value"]


class TestCounted:
    def test_masks_against_scikit_learn(self):
        rng = np.random.default_rng(0)
        truth, found = rng.integers(0, 3, (2, 5, 40))
        counts = np.zeros((5, 4, 4))  # the last class occurs nowhere
        for row, (a, b) in enumerate(zip(truth, found, strict=True)):
            counts[row, 1], counts[row, 2] = (np.bincount(one, minlength=4) for one in (a, b))
            counts[row, 0] = np.bincount(a[a == b], minlength=4)
        numbers = Counted((counts,), np.arange(5)).means()
        a, b = truth.ravel(), found.ravel()
        wanted = [jaccard_score(a, b, average="macro"), accuracy_score(a, b),
                  recall_score(a, b, average="macro")]  # fmt: skip
        np.testing.assert_allclose(numbers, wanted)
        counts[:, 3, 0] = 2  # found where the truth is ignored
        by_class = jaccard_score(a, b, average=None)
        union = counts[:, 1:3, 0].sum() - counts[:, 0, 0].sum()
        by_class[0] *= union / (union + 10)
        published = Counted((counts,), np.arange(5), "ddpm-seg").means()
        assert published[0] == pytest.approx(by_class.sum() / 4)

    def test_means_over_draws_are_not_of_sums(self):
        one, other = np.zeros((2, 4, 1)), np.zeros((2, 4, 1))
        one[:, :3, 0] = [[1, 1, 1], [0, 1, 0]]  # IoU 1/2
        other[:, :3, 0] = [[9, 9, 9], [9, 9, 9]]  # 1
        both = Counted((one, other), np.arange(2))
        assert both.means()[0] == pytest.approx(0.75)
        assert both.spread()[0] == pytest.approx(np.std([0.5, 1], ddof=1))
        ends = both.interval()[0]
        assert ends["low"] < 0.75 < ends["high"]
        assert [(one["low"], one["high"]) for one in both.interval(both)] == [(0, 0)] * 3

    def test_depth_is_a_mean_over_pictures(self):
        rng = np.random.default_rng(0)
        values = rng.uniform(size=(40, 2))
        one = Counted((values,), np.arange(40), "")
        np.testing.assert_allclose(one.means(), values.mean(0))
        ends = one.interval()[0]
        wide = 2 * 1.96 * values[:, 0].std() / np.sqrt(40)
        assert ends["high"] - ends["low"] == pytest.approx(wide, rel=0.15)

    def test_nothing_to_say(self):
        assert np.isnan(mask_numbers(np.zeros((1, 4, 2)))).all()

    def test_groups(self):
        assert codes_of(["a", "b", "a"])[1] == "groups"
        codes, drawn = codes_of(["a", "a", "a"])
        assert (codes.tolist(), drawn) == ([0, 1, 2], "pictures")


class TestFloors:
    def test_positions_and_patches(self):
        found = positions((2, 4))
        np.testing.assert_allclose(found[0, 0], [-0.75, -0.25, 0.25, 0.75])
        np.testing.assert_allclose(found[1, :, 0], [-0.5, 0.5])
        np.testing.assert_allclose(found[3], found[0] * found[1])
        pixels = np.arange(3 * 5 * 5, dtype=np.uint8).reshape(1, 3, 5, 5)
        patches = raw_patches(pixels, 3).reshape(1, 3, 3, 3, 5, 5)
        np.testing.assert_allclose(255 * patches[0, 1, :, :, 2, 2], pixels[0, 1, 1:4, 1:4])
        assert 255 * patches[0, 0, 0, 0, 0, 0] == pytest.approx(pixels[0, 0, 0, 0])  # goes on

    def test_labels_of_more_hold_those_of_fewer(self):
        draws = Draws((np.array([3, 1, 2, 0]), np.array([0, 2, 1, 3])))
        assert set(draws.rows(1, 0)) < set(draws.rows(2, 0)) < set(draws.rows(0, 0))
        assert draws.rows(0, 1).tolist() == [0, 1, 2, 3]
        assert draws.rows(1, 1).tolist() == [0]


class TestRun:
    def test_rows(self, result, rows):
        assert list(rows) == [one.name for one in SYSTEMS]
        kinds = {name: row["kind"] for name, row in rows.items()}
        assert kinds == {"ridge": "model", "nearest": "model", "members": "model", "both": "model",
                         "random": "twin", "pixels": "pixels", "where": "floor"}  # fmt: skip
        assert list(result["missing"]) == ["none"]
        assert [score["labels"] for score in rows["ridge"]["scores"]] == [2, 8]
        assert [score["draws"] for score in rows["ridge"]["scores"]] == [2, 1]

    def test_colours_tell_and_places_do_not(self, rows):
        assert first(rows["pixels"]) > 0.85
        assert first(rows["where"]) < 0.6
        gain = rows["where"]["scores"][-1]["lead_gains"]
        assert gain["value"] == pytest.approx(first(rows["ridge"]) - first(rows["where"]))
        assert gain["low"] <= gain["value"] <= gain["high"]

    def test_the_best_cell_is_that_of_the_surface(self, result, rows):
        surface = result["surfaces"][0]
        best = max(surface["cells"], key=lambda cell: cell["validation"])
        assert rows["nearest"]["cells"] == [[best["block"], best["t"]]]
        assert rows["ridge"]["cells"] == [["conv_in", 20], ["up.2", 20]]
        assert rows["both"]["cells"][0] == ["unet-cifar10: conv_in", 20]
        assert "test" not in surface["best"] or surface["best"]["test"] is None

    def test_what_was_chosen_is_said(self, rows):
        assert rows["pixels"]["scores"][-1]["chosen"][0].keys() == {"alphas", "alpha"} or (
            rows["pixels"]["scores"][-1]["chosen"][0].keys() == {"alphas"})  # fmt: skip
        assert rows["ridge"]["scores"][-1]["chosen"][0]["alpha"] in (0.01, 1.0)

    def test_uncertainty_and_contours(self, rows):
        told = rows["members"]["scores"][-1]["uncertainty"]
        assert told["oracle"] <= told["aurc"]
        assert told["random"] == pytest.approx(1 - rows["members"]["scores"][-1]["numbers"][1]
                                               ["value"])  # fmt: skip
        assert {"single", "against_single"} <= set(told)
        assert 0 < rows["pixels"]["scores"][-1]["boundary"] <= 1
        assert rows["pixels"]["scores"][0]["boundary"] is None

    def test_a_second_run_computes_nothing(self, result, folder):
        again = run_benchmark(small(), folder, "cpu")
        assert again["finished"]["computed"] == 0
        assert again["rows"] == result["rows"]

    def test_maps_are_of_the_pictures_that_are_shown(self, result, folder, tmp_path):
        shutil.copytree(folder, tmp_path / "run")
        kept = list((tmp_path / "run").rglob("maps-*.npz"))
        assert len(kept) == 2  # the one that leads, and that with uncertainty
        for path in kept:
            with np.load(path) as file:
                assert file["places"].tolist() == [1, 3]  # of 4
        before = (tmp_path / "run/small-maps.png").read_bytes()
        again = run_benchmark(small(shown=4), tmp_path / "run", "cpu")
        assert again["rows"] == result["rows"]
        assert (tmp_path / "run/small-maps.png").read_bytes() != before
        for path in kept:
            with np.load(path) as file:
                assert {f"prediction {k}" for k in range(4)} <= {*file.files}

    def test_pictures_of_a_sheet_are_evenly_spaced(self):
        assert places_shown(small(shown=4), 100).tolist() == [12, 37, 62, 87]
        assert places_shown(small(shown=50), 5).tolist() == [0, 1, 2, 3, 4]
        assert len(places_shown(small(shown=50), 100)) == 12
        assert not len(places_shown(small(shown=0), 5))
        assert not len(places_shown(small(), 0))

    def test_the_report(self, result, folder):
        text = markdown(folder)
        assert "| system | block and t | 2 labels | 8 labels |" in text
        assert "With 8 labels, by the interval of the difference, ridge is" in text
        assert "8 training pictures of 8 groups (horses:train), 4 test pictures" in text
        assert "| members |" in text.split("Area under the risk-coverage curve")[1]
        assert "Left out: none" in text
        summary = task_named("segmentation").summary(result)
        assert "minus that of other rows" in summary
        html = page(folder)
        assert "Small <b>" not in html
        assert (folder / "small-maps.png").is_file()
        assert (folder / "small.csv").is_file()
        json.dumps(result)


class TestDepth:
    def test_run(self, tmp_path):
        systems = (
            System("ridge", "ridge", of=("pixels",), arguments={"alphas": [0.01]}),
            System("mean", "mean-depth", of=("position",)),
        )
        one = small(
            task="depth", train="kitchen-rgbd:train", test="kitchen-rgbd:test", systems=systems,
            uncertainty=(), boundary=(), frame=(12, 16), models=(Measured("unet-cifar10"),),
            extract={"timesteps": [20], "blocks": ["up.2"], "size": [16, 16]},
        )  # fmt: skip
        result = run_benchmark(one, tmp_path, "cpu")
        ridge, mean = result["rows"]
        assert first(ridge) < 0.15 < first(mean)
        assert mean["scores"][-1]["lead_gains"]["high"] < 0  # the error is smaller
        text = markdown(tmp_path)
        assert "below 0 is better" in text
        assert "better |" in text
        assert "true depth without a cap, whole pictures, not aligned" in text
        assert (tmp_path / "small-maps.png").is_file()


class TestFile:
    @pytest.mark.parametrize(
        ("fields", "message"),
        [
            ({"systems": ()}, "no systems"), ({"frame": (3,)}, "expected H and W"),
            ({"train": "horses:val"}, "expected two sets"), ({"draws": 0}, "draws = 0"),
            ({"held": 1.0}, "held = 1.0"), ({"policy": "kind"}, "policy = 'kind'"),
            ({"lead": "nobody"}, "lead names 'nobody'"),
            ({"systems": (SYSTEMS[0], SYSTEMS[0])}, "two systems of the same name"),
            ({"systems": (System("x", "ridge", of=("y",)),)}, "is of 'y'; expected none, "),
        ],
    )  # fmt: skip
    def test_what_cannot_be_meant(self, fields, message):
        with pytest.raises(SpecError, match=message):
            small(**{"uncertainty": (), "boundary": (), **fields})

    @pytest.mark.parametrize(
        ("system", "message"),
        [
            (System("x", "guess"), "head 'guess' is none of masks"),
            (System("x", "mean-depth"), "none of masks"),
            (System("x", "ridge", arguments={"speed": 3}), "system 'x': .*speed"),
        ],
    )
    def test_before_anything_is_computed(self, system, message, tmp_path):
        with pytest.raises(SpecError, match=message):
            run_benchmark(small(systems=(system,), uncertainty=()), tmp_path, "cpu")
        assert not list(tmp_path.iterdir())

    @pytest.mark.parametrize(
        ("fields", "message"),
        [({"cells": "some"}, "cells 'some'"), ({"cells": ("best", "all")}, "2 cells for 1 kinds"),
         ({"choose": {"a": [1]}}, "two values at least"), ({"labels": (-1,)}, "labels = ")],
    )  # fmt: skip
    def test_systems(self, fields, message):
        with pytest.raises(SpecError, match=message):
            System("x", "ridge", **fields)

    def test_targets_of_another_kind(self, tmp_path):
        with pytest.raises(SpecError, match="holds depth; expected masks"):
            run_benchmark(small(train="kitchen-rgbd:train"), tmp_path, "cpu")


@pytest.mark.parametrize("name", DENSE)
class TestRecipes:
    def test_can_be_meant(self, name):
        one = open_benchmark(name)
        task_named(one.task).check(one)
        if any(word in f"{one.train} {one.name}" for word in PERSONS):
            assert one.shown == 0  # pictures of persons are never drawn

    def test_every_table_has_rows_to_compare_with(self, name):
        one = open_benchmark(name)
        of = {label for system in one.systems for label in system.of}
        assert {"pixels", "position"} <= of
        assert any(label.endswith("@random") for label in of)
        assert one.vision
        assert of & {name.partition("@")[0].rpartition(":")[2] for name in one.vision}
        assert 0 in one.labels or one.train_limit


@pytest.mark.parametrize("name", [name for name in PUBLISHED if name.startswith("ddpm-seg")])
def test_settings_are_those_of_the_recipe(name):
    one = open_benchmark(name)
    assert ExtractSpec.from_dict(one.extract) == load_recipe("ddpm-seg").spec
    assert one.policy == "ddpm-seg"


def test_gdf_and_vpd_are_those_of_the_recipes():
    spec = load_recipe("gdf-sd15").spec
    assert ExtractSpec.from_dict(open_benchmark("ade20k-gdf-sd15").extract) == spec
    wide = replace(spec, size=(512, 1024))
    assert ExtractSpec.from_dict(open_benchmark("cityscapes-gdf-sd15").extract) == wide
    spec = load_recipe("vpd").spec
    maps = tuple(name for name in spec.blocks if name.startswith("vpd:"))
    mine = ExtractSpec.from_dict(open_benchmark("nyuv2-vpd").extract)
    assert mine == replace(spec, blocks=maps, size=(480, 640))


def write_set(name: str, root) -> None:
    kind = name.partition(":")[0]
    if kind.startswith("ddpm-seg"):
        dense_sets.ddpm_seg(root / kind, first=int(kind.endswith("bedroom28")))
    else:
        getattr(dense_sets, kind)(root / kind)


def _words_of(system) -> dict:
    return {name: value for name, value in system.arguments.items() if name == "words"}


@pytest.mark.parametrize("name", RUN)
def test_published_set_ups_run_on_shrunk_twins(name, model_of, tmp_path, monkeypatch):
    one, known = open_benchmark(name), PUBLISHED[name]
    write_set(one.train, tmp_path / "data")
    monkeypatch.setenv("DIFFEAT_DATA", str(tmp_path / "data"))
    shown = one.models[0].shown
    vision = {label.rpartition(":")[2] for label in one.vision}
    models = (
        Measured(model_of(known), label=shown),
        Measured(model_of(known), label="again", extract={"seed": 7}, twin=False),
    )
    systems = tuple(
        replace(system, arguments=FEW.get(system.head, {}) | _words_of(system),
                of=tuple("again" if label in vision else label for label in system.of))
        for system in one.systems
    )  # fmt: skip
    shrunk = replace(
        one, models=models, vision=(), systems=systems, labels=(2,), draws=1, pixels=(8, 8),
        extract={**one.extract, "size": [64, 64]}, crop="", select=4, held=0.4,
        chooser="nearest-mean" if one.task == "segmentation" else "ridge",
    )  # fmt: skip
    result = run_benchmark(shrunk, tmp_path / "run", "cpu")
    assert [row["label"] for row in result["rows"]] == [system.name for system in systems]
    numbers = [number for row in result["rows"] for score in row["scores"]
               for number in score["numbers"]]  # fmt: skip
    assert all(np.isfinite(number["value"]) for number in numbers)
    text = markdown(tmp_path / "run")
    for number, figure in enumerate(one.published, start=1):
        assert f"[{number}] {figure.source}" in text
        if figure.value is not None:
            assert text.count(f" {figure.value:.2f} [{number}] |") == 1


class TestRegret:
    def benchmark(self, **fields) -> RegretBenchmark:
        tasks = (
            OneTask("square", "segmentation", "horses:train", "horses:val", held=0.4,
                    extract={"size": [16, 16]}),
            OneTask("distance", "depth", "kitchen-rgbd:train", "kitchen-rgbd:test", frame=(12, 16),
                    held=0.4, extract={"size": [16, 16]}),
        )  # fmt: skip
        plain = {
            "name": "regret", "title": "Regret", "task": "regret", "tasks": tasks,
            "models": (Measured("unet-cifar10"), Measured("./zoo/none")),
            "extract": {"timesteps": [20], "blocks": ["conv_in", "mid", "up.2"]},
        }  # fmt: skip
        return RegretBenchmark(**{**plain, **fields})

    def test_run(self, tmp_path):
        result = run_benchmark(self.benchmark(), tmp_path, "cpu")
        (one,) = result["matrices"]
        assert list(one["chosen"]) == ["square", "distance", "all tasks"]
        for task in one["tasks"]:
            own = next(score for score in task["scores"] if score["by"] == task["name"])
            assert own["lost"] == 0
            assert own["cell"] == task["best"]
            for score in task["scores"]:
                sign = 1 if task["measure"]["higher_is_better"] else -1
                wanted = sign * (own["value"] - score["value"])
                assert score["lost"] == pytest.approx(wanted)
                assert score["share"] == pytest.approx(wanted / own["value"])
        surfaces = {stored["name"]: stored for stored in result["surfaces"]}
        assert set(surfaces) == {"unet-cifar10: square", "unet-cifar10: distance"}
        depth = surfaces["unet-cifar10: distance"]
        least = min(depth["cells"], key=lambda cell: cell["validation"])
        assert one["chosen"]["distance"] == [least["block"], least["t"]]
        assert list(result["missing"]) == ["none"]
        text = markdown(tmp_path)
        assert "unet-cifar10, lost in % of what the task has at its own cell" in text
        assert "mean loss of the other tasks by who chose" in text
        assert "lost, % of the task" in page(tmp_path)
        assert (tmp_path / "regret.png").is_file()
        again = run_benchmark(self.benchmark(), tmp_path, "cpu")
        assert again["finished"]["computed"] == 0

    @pytest.mark.parametrize(
        ("fields", "message"),
        [({"tasks": ()}, "two and more"), ({"twin": {"timesteps": [1]}}, "expected neither"),
         ({"extract": {"timesteps": [1]}}, "which all tasks share")],
    )  # fmt: skip
    def test_what_cannot_be_meant(self, fields, message):
        with pytest.raises(SpecError, match=message):
            self.benchmark(**fields)
        with pytest.raises(SpecError, match="kind = 'guess'"):
            OneTask("x", "guess", "a", "b")

    def test_the_file(self):
        one = open_benchmark("one-model-all-tasks")
        task_named("regret").check(one)
        assert {task.kind for task in one.tasks} == {"classification", "segmentation", "depth",
                                                     "matching"}  # fmt: skip


def write_classes(folder, numbers: range) -> None:
    """Red and blue pictures of 16 × 16 pixels under noise."""
    for number in numbers:
        rng = np.random.default_rng(number)
        kind = number % 2
        pixels = np.full((16, 16, 3), [200, 40, 40] if kind else [40, 40, 200])
        pixels = (pixels + rng.integers(-30, 30, pixels.shape)).clip(0, 255).astype(np.uint8)
        dense_sets.save(folder / ("red" if kind else "blue") / f"{number}.png", pixels)


class TestRobustness:
    def benchmark(self, folder, **fields) -> RobustnessBenchmark:
        plain = {
            "name": "robust", "title": "Robust", "task": "robustness", "train": str(folder / "a"),
            "test": str(folder / "b"), "corruptions": ("contrast:1", "saturate:2"), "side": 8,
            "models": (Measured("unet-cifar10", twin=False), Measured("./zoo/none")),
            "extract": {"timesteps": [20, 50], "blocks": ["conv_in", "up.2"], "pool": "1x1",
                        "size": [16, 16]}, "held": 0.3,
        }  # fmt: skip
        return RobustnessBenchmark(**{**plain, **fields})

    def test_run(self, tmp_path):
        write_classes(tmp_path / "a", range(20))
        write_classes(tmp_path / "b", range(50, 60))
        result = run_benchmark(self.benchmark(tmp_path), tmp_path / "out", "cpu")
        rows = {row["label"]: row for row in result["rows"]}
        assert list(rows) == ["unet-cifar10, t = 20", "unet-cifar10, t = 50", "raw pixels"]
        for row in rows.values():
            values = [score["value"] for score in row["scores"]]
            assert [score["test"] for score in row["scores"]] == [
                "clean", "contrast:1", "saturate:2", "mean",
            ]  # fmt: skip
            assert values[3] == pytest.approx(np.mean(values[1:3]))
        assert rows["raw pixels"]["scores"][0]["value"] == 1
        assert rows["raw pixels"]["scores"][1]["value"] == 1  # the sides of the mean stay
        mine = rows["unet-cifar10, t = 20"]["scores"][-1]
        gain = rows["raw pixels"]["scores"][-1]["lead_gains"]["value"]
        assert gain == pytest.approx(mine["value"] - rows["raw pixels"]["scores"][-1]["value"])
        text = markdown(tmp_path / "out")
        counts = result["counts"]
        assert sum(counts[:2]) == 20
        assert f"{counts[0]} training and {counts[1]} validation pictures" in text
        assert "| mean of all corruptions |" in text
        assert "points of accuracy on the same test pictures" in text

    def test_what_cannot_be_meant(self, tmp_path):
        with pytest.raises(SpecError, match="each once"):
            self.benchmark(tmp_path, corruptions=())
        with pytest.raises(SpecError, match="corrupt"):
            run_benchmark(self.benchmark(tmp_path, corruptions=("fog:1",)), tmp_path, "cpu")
        task_named("robustness").check(open_benchmark("robust-cifar10"))
