"""Another task runs, is listed and reported with none of the three being told of it."""

from __future__ import annotations

import ast
import json
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner
from PIL import Image

import benchmarks
import diffeat
from benchmarks.__main__ import cli
from benchmarks.catalogue import open_benchmark
from benchmarks.files import Benchmark, FeatureBenchmark
from benchmarks.machine import Stages
from benchmarks.page import page
from benchmarks.report import markdown
from benchmarks.run import run_benchmark
from benchmarks.sections import Beside, Heat, Picture, Table
from benchmarks.tasks import TASKS, Place, Task, task_named
from benchmarks.tasks.classification.file import ClassificationBenchmark
from benchmarks.tasks.classification.heads import HEADS
from diffeat.errors import SpecError


@dataclass(frozen=True, kw_only=True)
class LightBenchmark(Benchmark):
    pictures: str
    limit: float = 0.5


class Light(Task):
    """How many pictures are lighter than a limit."""

    fields = LightBenchmark

    def measure(self, benchmark, place):
        source = diffeat.open_source(benchmark.pictures)
        means = [float(np.asarray(source.load(k)).mean() / 255) for k in range(len(source))]
        Image.new("RGB", (4, 4)).save(place.out / f"{benchmark.name}.png")
        return {"light": sum(mean > benchmark.limit for mean in means), "means": means}

    def summary(self, result):
        return f"{result['light']} light pictures"

    def sections(self, result):
        rows = [[str(k), f"{mean:.2f}"] for k, mean in enumerate(result["means"])]
        yield Table(["picture", "mean"], rows, "Every picture:")
        values = {("mean", str(k)): mean for k, mean in enumerate(result["means"])}
        yield Beside([Heat("light", values, ("mean", "0"), 0, 1)])
        yield Picture("nothing")


@pytest.fixture
def file(tmp_path, monkeypatch):
    monkeypatch.setitem(TASKS, "light", Light())
    for number, value in enumerate((10, 100, 200, 250)):
        Image.new("RGB", (3, 3), (value,) * 3).save(tmp_path / f"{number}.png")
    folder = tmp_path / "files"
    folder.mkdir()
    text = f'title = "Toy"\ntask = "light"\npictures = "{tmp_path.as_posix()}/*.png"\nlimit = 0.6\n'
    (folder / "toy.toml").write_text(text, "utf-8")
    monkeypatch.setattr("benchmarks.catalogue.FOLDER", folder)
    return folder / "toy.toml"


class TestAnotherTask:
    def test_it_is_listed(self, file):
        shown = CliRunner().invoke(cli, ["list"])
        assert shown.output.splitlines()[0].split() == ["toy", "Toy"]

    def test_it_runs_and_is_reported(self, file, tmp_path):
        out = tmp_path / "out"
        shown = CliRunner().invoke(cli, ["run", str(file), "--out", str(out)])
        assert shown.exception is None, shown.output
        assert "Toy\n2 light pictures\n" in shown.output
        stored = json.loads((out / "toy.json").read_text("utf-8"))
        assert stored["benchmark"]["task"] == "light"
        assert stored["light"] == 2  # 200 and 250 of 255 are above 0.6
        text = markdown(out)
        assert "## Toy" in text
        assert "Every picture:\n\n| picture | mean |\n|---|---|\n| 0 | 0.04 |" in text
        assert text.endswith("![nothing](toy.png)")
        assert "<td>0.98</td>" in page(out)
        assert '<td class="best"' in page(out)

    def test_fields_of_other_tasks_are_unknown(self, file):
        text = file.read_text("utf-8")
        file.write_text(text + "penalties = [1.0]\n", "utf-8")
        with pytest.raises(SpecError, match=r"toy\.toml: unknown fields penalties"):
            open_benchmark("toy")

    def test_a_task_without_vision_models(self, file, tmp_path):
        arguments = ["run", str(file), "--out", str(tmp_path / "out"), "--vision", "timm:resnet18"]
        shown = CliRunner().invoke(cli, arguments)
        assert "light compares with no vision models" in shown.output
        assert not (tmp_path / "out").exists()

    def test_a_task_that_is_unknown(self, file):
        file.write_text('title = "Toy"\ntask = "lihgt"\n', "utf-8")
        with pytest.raises(SpecError, match=r"toy\.toml: task 'lihgt' is unknown.*'light'"):
            open_benchmark("toy")
        file.write_text('title = "Toy"\ntask = 3\n', "utf-8")
        with pytest.raises(SpecError, match="task 3 is unknown; expected one of classification, "):
            open_benchmark("toy")

    def test_a_result_of_an_unknown_task(self, tmp_path):
        (tmp_path / "a.json").write_text('{"benchmark": {"task": "b", "title": "t", "name": "a"}}')
        with pytest.raises(SpecError, match=r"a\.json: task 'b' is unknown"):
            markdown(tmp_path)


def test_results_of_earlier_versions_are_of_classification(tmp_path):
    benchmark = {"name": "a", "title": "A title", "published": [], "train": "digits"}
    cell = {"block": "mid", "t": 20, "validation": 0.5, "C": 0.1, "test": 0.25}
    surface = {"name": "m", "cells": [cell], "counts": [6, 2, 2], "classes": 2, "best": cell}
    result = {
        "recipe": benchmark, "spec": {"pool": "1x1", "noise": "per-image", "seed": 0,
                                      "size": [8, 8]},
        "surfaces": [surface, {**surface, "name": "m@random"}], "chance": 0.5, "seconds": 1.0,
        "environment": {"cores": 2, "processor": "p"},
    }  # fmt: skip
    (tmp_path / "a.json").write_text(json.dumps(result), "utf-8")
    assert "| m | mid | 20 | 50.0 | 25.0 |" in markdown(tmp_path)
    assert "<td>25.0</td>" in page(tmp_path)


def test_classification_is_the_default():
    assert task_named(open_benchmark("digits").task) is TASKS["classification"]
    assert isinstance(open_benchmark("digits"), ClassificationBenchmark)


def test_every_head_says_what_it_takes():
    for name, head in HEADS.items():
        if name != "greedy":  # which needs to know how many
            head.check({})
        with pytest.raises((ValueError, TypeError)):
            head.check({"no_such_argument": 1})


class TestDuplicates:
    @pytest.fixture
    def twice(self, tmp_path):
        """40 pictures of two classes; one of each class stands in test too."""
        rng = np.random.default_rng(0)
        for part, count in (("train", 20), ("test", 4)):
            for label, low in (("dark", 0), ("light", 150)):
                (tmp_path / part / label).mkdir(parents=True)
                for number in range(count):
                    pixels = rng.integers(low, low + 100, (8, 8, 3), np.uint8)
                    Image.fromarray(pixels).save(tmp_path / part / label / f"{part}{number}.png")
        for label in ("dark", "light"):
            copy = (tmp_path / "test" / label / "test0.png").read_bytes()
            (tmp_path / "train" / label / "copy.png").write_bytes(copy)
        return ClassificationBenchmark(
            name="twice", title="twice", model="unet-cifar10", train=str(tmp_path / "train"),
            test=str(tmp_path / "test"), extract={"timesteps": [20], "blocks": ["conv_in"]},
            probe_pool="1x1",
        )  # fmt: skip

    def test_copies_are_warned_of_or_dropped(self, twice, tmp_path):
        with pytest.warns(UserWarning, match=r"2 test pictures are in training or validation too"):
            kept = run_benchmark(twice, tmp_path / "out", "cpu")
        with pytest.warns(UserWarning, match="the copies were left out"):
            dropped = run_benchmark(replace(twice, duplicates="drop"), tmp_path / "out", "cpu")
        assert sum(kept["surfaces"][0]["counts"]) == 50
        counts = [surface["counts"] for surface in dropped["surfaces"]]
        assert sum(counts[0]) == 48  # those in test stay
        assert counts[0][2] == 8
        assert counts[0] == counts[1] == counts[2]
        assert dropped["finished"]["computed"] > 0  # other parts are other work
        assert "Copies of pictures were left out." in markdown(tmp_path / "out")

    def test_another_word(self):
        with pytest.raises(SpecError, match=r"duplicates = 'keep'; expected 'warn' or 'drop'"):
            FeatureBenchmark(name="a", title="a", model="m", train="t", extract={},
                             duplicates="keep")  # fmt: skip


def test_one_module_knows_the_search():
    folder = Path(benchmarks.__file__).parent
    found = {
        path.relative_to(folder).as_posix()
        for path in folder.rglob("*.py")
        for node in ast.walk(ast.parse(path.read_text("utf-8")))
        if isinstance(node, ast.ImportFrom) and node.module.startswith("diffeat.search")
    }
    assert found == {"searching.py"}


def test_constructors_and_checks_touch_no_disk(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Place(tmp_path / "a", tmp_path / "b", "cpu", None, 1, Stages(tmp_path / "a" / "stages.json"))
    task_named("classification").check(open_benchmark("digits-heads"))
    assert list(tmp_path.iterdir()) == []
