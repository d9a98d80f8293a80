"""Benchmarks of parts: a whole run on a small set, what cannot be meant, a published set-up."""

from __future__ import annotations

import csv
import json
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from sklearn.metrics import jaccard_score

from benchmarks.catalogue import benchmark_names, open_benchmark
from benchmarks.report import markdown
from benchmarks.run import run_benchmark
from benchmarks.tasks import task_named
from benchmarks.tasks.matching.file import Measured
from benchmarks.tasks.parts.file import PartsBenchmark, System
from benchmarks.tasks.parts.tables import plain_line
from diffeat.errors import SpecError
from diffeat.targets.dense import open_dense
from tests.benchmarks import dense_sets

MAPS = ("down.2.attn.0:self.map + mid.attn.0:self.map",)
SYSTEMS = (
    System("cut", "diffcut", "unet-cifar10", ("conv_in", "mid"), (20,),
           choose={"threshold": [0.3, 0.5]}),
    System("merge", "diffseg", "unet-cifar10", MAPS, (20,)),
    System("clusters", "kmeans", "unet-cifar10", ("conv_in",), (20,), arguments={"clusters": 2}),
    System("random", "kmeans", "unet-cifar10@random", ("conv_in",), (20,),
           arguments={"clusters": 2}),
    System("pixels", "kmeans", "pixels", arguments={"clusters": 2}),
    System("one", "picture-kmeans", "pixels", choose={"clusters": [2, 3]}),
    System("where", "mean-mask", "position"),
)  # fmt: skip
PARTS = [name for name in benchmark_names() if open_benchmark(name).task == "parts"]


def small(**fields) -> PartsBenchmark:
    plain = {
        "name": "small", "title": "Small", "task": "parts", "train": "horses:train",
        "test": "horses:val", "models": (Measured("unet-cifar10"), Measured("./zoo/none")),
        "extract": {"timesteps": [20], "size": [16, 16],
                    "blocks": ["conv_in", "mid", *MAPS[0].split(" + ")]},
        "pixels": (16, 16), "systems": SYSTEMS, "lead": ("cut", "clusters"), "select": 3,
    }  # fmt: skip
    return PartsBenchmark(**{**plain, **fields})


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    root = tmp_path_factory.mktemp("data")
    dense_sets.horses(root / "horses")
    return root


@pytest.fixture(scope="module")
def run(tmp_path_factory, data):
    folder = tmp_path_factory.mktemp("run")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("DIFFEAT_DATA", str(data))
        yield folder, run_benchmark(small(), folder, "cpu")


def test_rows_say_what_was_chosen(run):
    folder, result = run
    rows = {row["label"]: row for row in result["rows"]}
    assert list(rows) == [one.name for one in SYSTEMS]
    kinds = {name: row["kind"] for name, row in rows.items()}
    assert kinds == {"cut": "model", "merge": "model", "clusters": "model", "random": "twin",
                     "pixels": "pixels", "one": "pixels", "where": "floor"}  # fmt: skip
    tried = rows["cut"]["tried"]
    assert len(tried) == 4
    assert rows["cut"]["chosen"] == max(tried, key=lambda one: one["validation"])
    assert rows["clusters"]["chosen"]["validation"] is None  # there was nothing to choose
    with open(folder / "small.csv") as file:
        table = list(csv.DictReader(file))
    assert [line["system"] for line in table].count("cut") == 4
    assert sum(int(line["chosen"]) for line in table) == len(SYSTEMS)
    assert (folder / "small.png").stat().st_size > 1000


def test_colours_tell_and_more_names_help(run):
    rows = {row["label"]: row["scores"] for row in run[1]["rows"]}
    assert rows["pixels"]["set, one-to-one"]["value"] > 0.8  # bright on dark
    assert rows["where"]["set, matched on train"]["value"] < 0.6
    for scores in rows.values():
        assert scores["picture, many-to-one"]["value"] > 0
        for one in scores.values():
            assert one["low"] <= one["value"] <= one["high"]
    assert "set, one-to-one" not in rows["cut"]


def test_the_mean_mask_is_scored_as_itself(run, data, monkeypatch):
    """Against scikit-learn on masks that are counted by hand."""
    monkeypatch.setenv("DIFFEAT_DATA", str(data))
    train, test = (open_dense(f"horses:{one}") for one in ("train", "val"))
    share = np.mean([train.target(k) for k in range(len(train.ids))], 0)
    truth = np.concatenate([np.asarray(test.target(k)).ravel() for k in range(len(test.ids))])
    said = np.tile((share > 0.5).ravel(), len(test.ids)).astype(int)
    wanted = jaccard_score(truth, said, average="macro")
    rows = {row["label"]: row["scores"] for row in run[1]["rows"]}
    assert rows["where"]["set, matched on train"]["value"] == pytest.approx(wanted, abs=0.08)


def test_labels_of_test_pictures_choose_and_name_nothing(run, data, tmp_path, monkeypatch):
    """Turned round, they change what is scored, and neither what was chosen nor the parts; names
    that training pictures gave are right where they were wrong."""
    shutil.copytree(data, tmp_path / "data")
    monkeypatch.setenv("DIFFEAT_DATA", str(tmp_path / "data"))
    for name in open_dense("horses:val").ids:
        path = tmp_path / "data/horses/mask" / f"{Path(name).stem}.png"
        Image.fromarray(1 - np.asarray(Image.open(path))).save(path)
    some = tuple(one for one in SYSTEMS if one.name in ("cut", "clusters", "one"))
    turned = run_benchmark(small(systems=some), tmp_path / "run", "cpu")["rows"]
    rows = {row["label"]: row for row in run[1]["rows"]}
    for row in turned:
        before = rows[row["label"]]
        for name in ("tried", "chosen", "parts"):
            assert row[name] == before[name]
    named = "set, matched on train"
    right = [one["scores"][named]["pixel accuracy"] for one in (turned[1], rows["clusters"])]
    assert sum(right) == pytest.approx(1)
    assert turned[1]["scores"]["set, one-to-one"]["value"] == pytest.approx(
        rows["clusters"]["scores"]["set, one-to-one"]["value"]
    )


def test_gains_are_differences_and_are_said(run):
    _, result = run
    rows = {row["label"]: row for row in result["rows"]}
    lead = rows["clusters"]["scores"]["set, one-to-one"]["value"]
    pixels = rows["pixels"]["scores"]["set, one-to-one"]["value"]
    gain = rows["pixels"]["lead_gains"]["clusters"]
    assert gain["value"] == pytest.approx(lead - pixels)
    assert "clusters" not in rows["cut"]["lead_gains"]  # whose parts no set shares
    assert "By the interval of the difference, clusters is" in plain_line(result, "clusters")


def test_the_report_and_a_second_run(run, data, monkeypatch):
    folder, result = run
    text = markdown(folder)
    assert "| system | block and t | parts a picture |" in text
    assert "4 test pictures of 4 groups (horses:val)" in text
    assert "upper bounds" in text
    assert "Left out: none" in text
    assert "cut, mIoU per picture, one-to-one" in task_named("parts").summary(result)
    monkeypatch.setenv("DIFFEAT_DATA", str(data))
    again = run_benchmark(small(), folder, "cpu")
    assert again["rows"] == result["rows"]
    json.dumps(again)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"systems": ()}, "no systems"), ({"train": "horses:val"}, "expected two sets"),
        ({"lead": ("nobody",)}, "lead names 'nobody'"),
        ({"systems": (System("x", "kmeans", "y", ("mid",), (1,)),)}, "is of 'y'"),
    ],
)  # fmt: skip
def test_what_cannot_be_meant(fields, message):
    with pytest.raises(SpecError, match=message):
        small(**{"lead": (), **fields})


@pytest.mark.parametrize(
    ("fields", "message"),
    [({"way": "guess"}, "way 'guess'"), ({"of": "pixels", "blocks": ("mid",)}, "none of pixels"),
     ({"blocks": ()}, "expected blocks"), ({"choose": {"a": [1], "b": [2]}}, "one argument")],
)  # fmt: skip
def test_systems_that_cannot_be_meant(fields, message):
    plain = {"name": "x", "way": "kmeans", "of": "m", "blocks": ("mid",), "timesteps": (1,)}
    with pytest.raises(SpecError, match=message):
        System(**{**plain, **fields})


@pytest.mark.parametrize("name", PARTS)
def test_recipes_can_be_meant_and_have_floors(name):
    one = open_benchmark(name)
    task_named(one.task).check(one)
    of = {system.of for system in one.systems}
    assert {"pixels", "position"} <= of
    assert any(label.endswith("@random") for label in of)
    assert of & {label.partition("@")[0].rpartition(":")[2] for label in one.vision}


def test_a_published_set_up_runs_on_a_shrunk_twin(model_of, tmp_path, monkeypatch):
    one = open_benchmark("diffcut-voc")
    dense_sets.voc2012(tmp_path / "data" / "voc2012")
    monkeypatch.setenv("DIFFEAT_DATA", str(tmp_path / "data"))
    shown = one.models[0].shown
    blocks = ["down.0.attn.0", "down.1.attn.0"]
    vision = {label.rpartition(":")[2] for label in one.vision}
    systems = tuple(
        replace(system, blocks=system.blocks and tuple(blocks[:1]),
                timesteps=system.timesteps and (50,),
                of=shown if system.of in vision else system.of)
        for system in one.systems
    )  # fmt: skip
    shrunk = replace(
        one, models=(Measured(model_of("sd15"), label=shown),), vision=(), systems=systems,
        pixels=(8, 8), select=2, extract={"timesteps": [50], "blocks": blocks[:1],
                                          "size": [64, 64]},
    )  # fmt: skip
    result = run_benchmark(shrunk, tmp_path / "run", "cpu")
    assert [row["label"] for row in result["rows"]] == [system.name for system in systems]
    for row in result["rows"]:
        assert all(np.isfinite(score["value"]) for score in row["scores"].values())
    assert f"[1] {one.published[0].source}" in markdown(tmp_path / "run")
