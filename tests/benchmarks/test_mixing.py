"""Mixing: whole runs on small pictures, against matching's own rows; published set-ups on twins."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest

from benchmarks.catalogue import benchmark_names, open_benchmark
from benchmarks.page import page
from benchmarks.report import markdown
from benchmarks.run import run_benchmark
from benchmarks.tasks import task_named
from benchmarks.tasks.matching.file import Measured
from benchmarks.tasks.mixing.file import MixingBenchmark, System
from benchmarks.tasks.mixing.systems import METHODS, chosen_cells
from diffeat.errors import SpecError
from diffeat.images.paired import PAIRED
from diffeat.recipes import load_recipe
from diffeat.specs import ExtractSpec
from tests.benchmarks.test_matching import write_pairs

NAMES = [name for name in benchmark_names() if open_benchmark(name).task == "mixing"]
PUBLISHED = [name for name in NAMES if name.endswith("-spair")]
LONG = ("geoaware-spair", "hyperfeatures-spair")
RUN = [pytest.param(name, marks=pytest.mark.slow) if name in LONG else name for name in PUBLISHED]
SHORT = {"width": 8, "size": 4, "steps": 4, "epochs": 2}
SYSTEMS = (
    System("same", "cells", cells="best"),
    System("sum", "sum", cells="best block"),
    System("axes", "pca", arguments={"components": 3}),
    System("axes of pairs", "co-pca", arguments={"components": 3, "scope": "pair"}),
    System("mixer", "hyperfeatures", arguments=SHORT, seeds=(0, 1)),
    System("mixed twin", "hyperfeatures", of=("unet-cifar10@random",), arguments=SHORT),
    System("mixed pixels", "hyperfeatures", of=("pixels",), arguments=SHORT),
    System("two", "fusion", of=("unet-cifar10", "unet-cifar10@random"), cells=("best", "best"),
           choose={"weights": [[1.0, 0.0], [0.0, 1.0]]}),
    System("posed", "pose", cells="best", arguments={"partners": {"0": "1", "1": "0"}}),
    System("softly", "cells", cells="best", matcher={"kind": "WindowSoftArgmaxMatcher"},
           choose={"matcher.radius": [1, 2]}),
)  # fmt: skip


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """Three splits of other persons; pictures are moved by 2 pixels each."""
    root = tmp_path_factory.mktemp("data")
    for split, letter in (("trn", "a"), ("sel", "c"), ("val", "b")):
        write_pairs(root / "faces", split, [f"{letter}{k}" for k in range(5)], shift=2)
    return root


@pytest.fixture(autouse=True)
def _there(data, monkeypatch):
    monkeypatch.setenv("DIFFEAT_DATA", str(data))


def small(**fields) -> MixingBenchmark:
    plain = {
        "name": "small", "title": "Small <b>", "task": "mixing", "pairs": "faces:val",
        "select": "faces:sel", "train": "faces:trn", "models": (Measured("unet-cifar10"),),
        "twin": {"timesteps": [20]}, "patches": (32,), "sets": 2, "systems": SYSTEMS,
        "extract": {"timesteps": [20, 60], "blocks": ["mid", "up.0.res.0"], "size": 32},
    }  # fmt: skip
    return MixingBenchmark(**{**plain, **fields})


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("mixing")


@pytest.fixture(scope="module")
def result(folder, data):
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("DIFFEAT_DATA", str(data))
        return run_benchmark(small(), folder, "cpu")


@pytest.fixture
def rows(result):
    return {row["label"]: row for row in result["rows"]}


def share(row: dict, alpha: float = 0.1) -> float:
    return next(one["value"] for one in row["scores"]["faces:val"]
                if (one["aggregate"], one["alpha"]) == ("point", alpha))  # fmt: skip


class TestRun:
    def test_every_system_is_a_row_behind_the_models(self, result):
        labels = [row["label"] for row in result["rows"]]
        assert labels[0] == "unet-cifar10"
        places = [labels.index(one.name) for one in SYSTEMS]
        assert places == sorted(places)
        assert labels.index("unet-cifar10@random") < places[0]
        assert labels[-1].startswith("mean place")

    def test_cells_as_they_are_score_as_matching_has_them(self, rows):
        assert rows["same"]["scores"] == rows["unet-cifar10"]["scores"]
        assert rows["same"]["cells"] == rows["unet-cifar10"]["cells"]
        assert rows["same"]["selected"] == pytest.approx(rows["unet-cifar10"]["selected"])
        ends = rows["same"]["against"]["faces:val"]["unet-cifar10"]
        assert all(one["difference"] == one["low"] == one["high"] == 0 for one in ends)

    def test_a_weight_of_zero_leaves_the_other(self, rows):
        """The pairs that choose say which of two features is taken, and it is taken alone."""
        one, other = rows["unet-cifar10"], rows["unet-cifar10@random"]
        (chosen,) = rows["two"]["chosen"]
        taken = one if chosen == {"weights": [1.0, 0.0]} else other
        assert rows["two"]["selected"] == max(one["selected"], other["selected"])
        assert share(rows["two"]) == pytest.approx(share(taken), abs=0.1)

    def test_seeds_are_counted_together(self, rows):
        mixer = rows["mixer"]
        alone = [next(n["value"] for n in one if (n["aggregate"], n["alpha"]) == ("point", 0.1))
                 for one in mixer["alone"]]  # fmt: skip
        assert len(alone) == 2
        assert share(mixer) == pytest.approx(np.mean(alone))
        gap = mixer["against"]["faces:val"]["unet-cifar10"][0]
        assert gap["difference"] == pytest.approx(share(mixer) - share(rows["unet-cifar10"]))
        assert gap["low"] <= gap["difference"] <= gap["high"]

    def test_what_was_learnt_is_said(self, rows, result):
        mixer = rows["mixer"]
        assert [len(one["history"]) for one in mixer["fits"]] == [2, 2]
        assert sum(weight for *_, weight in mixer["fits"][0]["weights"]) == pytest.approx(1)
        assert len(mixer["cells"]) == 4
        assert result["trained_on"] == {"name": "faces:trn", "pairs": 4, "groups": 5}
        assert rows["softly"]["chosen"][0]["matcher.radius"] in (1, 2)
        assert rows["softly"]["matcher"]["matcher"] == "WindowSoftArgmaxMatcher"

    def test_a_second_run_computes_nothing(self, result, folder):
        again = run_benchmark(small(), folder, "cpu")
        assert again["finished"]["computed"] == 0
        assert again["rows"] == result["rows"]
        assert not list(folder.glob("training-*"))

    def test_tables(self, result, folder):
        text = task_named("mixing").summary(result)
        assert "differences per point in points of PCK" in text
        assert "mixer: " in text
        assert "parameters, epochs kept" in text
        report = markdown(folder)
        assert "Trained on 4 pairs of 5 groups" in report
        assert "0.0] by the pairs that choose" in report or "1.0] by the pairs" in report
        html = page(folder)
        assert "mixer: softmax weights, %" in html
        assert "Small <b>" not in html
        json.dumps(result)


class TestFile:
    @pytest.mark.parametrize(
        ("fields", "message"),
        [
            ({"systems": ()}, "no systems"),
            ({"systems": (SYSTEMS[0], SYSTEMS[0])}, "two systems of the same name"),
            ({"select": "", "sets": 0}, "asks for what single cells choose"),
            ({"systems": (System("x", "sum", of=("y",)),)}, "is of 'y'; expected pixels"),
        ],
    )
    def test_what_cannot_be_meant(self, fields, message):
        with pytest.raises(SpecError, match=message):
            small(**fields)

    @pytest.mark.parametrize(
        ("fields", "message"),
        [
            ({"cells": "some"}, "cells 'some'"),
            ({"cells": ("best", "all")}, "2 cells for 1 kinds"),
            ({"seeds": ()}, "no seeds"),
            ({"choose": {"a": [1]}}, "two values at least"),
            ({"choose": {"a": [1, 2], "b": [1, 2]}}, "expected one argument"),
        ],
    )
    def test_systems(self, fields, message):
        with pytest.raises(SpecError, match=message):
            System("x", "sum", **fields)

    @pytest.mark.parametrize(
        ("system", "message"),
        [
            (System("x", "stir"), "method 'stir' is unknown"),
            (System("x", "sum", arguments={"speed": 3}), "system 'x': .*speed"),
            (System("x", "cells", arguments={"speed": 3}), "arguments speed of cells"),
            (System("x", "sum", matcher={"kind": "Guess"}), "matcher 'Guess'"),
        ],
    )
    def test_before_anything_is_computed(self, system, message, tmp_path):
        with pytest.raises(SpecError, match=message):
            run_benchmark(small(systems=(system,)), tmp_path, "cpu")
        assert not list(tmp_path.iterdir())

    def test_persons_on_both_sides(self, tmp_path):
        with pytest.raises(SpecError, match="5 groups, such as 'b0', are in the pairs that are"):
            run_benchmark(small(train="faces:val"), tmp_path, "cpu")

    def test_cells_that_are_not_there(self):
        keys = [("a", 1), ("a", 2), ("b", 1)]
        best, among = ("a", 2), [("b", 1)]
        found = {spec: chosen_cells(spec, keys, best, among)
                 for spec in ("all", "best", "best block", "best t", "set")}  # fmt: skip
        assert found == {"all": keys, "best": [best], "best block": keys[:2], "best t": [best],
                         "set": among}  # fmt: skip
        assert chosen_cells({"timesteps": [1]}, keys, None, ()) == [keys[0], keys[2]]
        with pytest.raises(SpecError, match="are none of"):
            chosen_cells({"blocks": ["c"]}, keys, None, ())


@pytest.mark.parametrize("name", NAMES)
def test_files_can_be_meant(name):
    one = open_benchmark(name)
    task_named("mixing").check(one)
    assert {system.method for system in one.systems} <= set(METHODS)
    groups = one.pairs, one.select, one.train
    assert one.pairs not in groups[1:]
    if name in PUBLISHED:
        assert one.pairs.partition(":")[0] in PAIRED


@pytest.mark.parametrize("name", PUBLISHED)
def test_settings_are_those_of_the_recipe(name):
    recipe = {"hyperfeatures-spair": "hyperfeatures", "sd-dino-spair": "sd-dino",
              "geoaware-spair": "geoaware", "sd4match-spair": "sd4match",
              "uscsd-spair": "uscsd"}[name]  # fmt: skip
    spec = load_recipe(recipe).spec
    if name == "uscsd-spair":  # which token attends is said where the prompts are optimised
        spec = replace(spec, tokens=None)
    assert ExtractSpec.from_dict(open_benchmark(name).extract) == spec


@pytest.mark.parametrize("name", RUN)
def test_published_set_ups_run_on_shrunk_twins(name, model_of, tmp_path):
    one = open_benchmark(name)
    known = one.models[0].name
    model = replace(one.models[0], name=model_of(known), label=known)
    less = {"size": 64, "ensemble": min(2, one.extract.get("ensemble", 1))}
    if one.extract.get("tile"):
        less |= {"size": 128, "tile": 64}
    if one.extract.get("steps"):
        less |= {"steps": 50, "timesteps": [-1, 60]}
    few = {"hyperfeatures": SHORT, "bottleneck": SHORT,
           "prompt": {"t": 261, "tokens": 4, "epochs": 1},
           "point-prompts": {"t": 140, "contexts": 1, "steps": 1, "crops": 1}}  # fmt: skip
    vision = {name.rpartition(":")[2] for name in one.vision}
    systems = [
        replace(
            system, arguments=few.get(system.method, {}),
            of=tuple("again" if label in vision else label for label in system.of),
        )
        for system in one.systems
    ]  # fmt: skip
    again = replace(model, label="again", extract={"seed": 7})  # in place of the vision model
    shrunk = replace(
        one, models=(model, again) if vision else (model,), vision=(), places="",
        pairs="faces:val", select="faces:sel" if one.select else "",
        train="faces:trn" if one.train else "", patches=(16,), systems=tuple(systems),
        extract={**one.extract, **less},
    )  # fmt: skip
    result = run_benchmark(shrunk, tmp_path, "cpu")
    rows = {row["label"]: row for row in result["rows"]}
    for system in systems:
        numbers = rows[system.name]["scores"]["faces:val"]
        assert len(numbers) == 2 * len(one.references) * len(one.alphas)
        assert all(np.isfinite(number["value"]) for number in numbers)
    assert run_benchmark(shrunk, tmp_path, "cpu")["finished"]["computed"] == 0
    text = markdown(tmp_path)
    for number, figure in enumerate(one.published, start=1):
        assert text.count(f" {figure.value:.2f} [{number}] |") == 1
