"""Every benchmark's names exist in its model; every benchmark runs, made small."""

from __future__ import annotations

import re
import tomllib
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import diffeat
from benchmarks.catalogue import FOLDER, benchmark_names, open_benchmark
from benchmarks.features import Pictures
from benchmarks.run import run_benchmark
from benchmarks.tasks.classification.file import ClassificationBenchmark
from diffeat.errors import SpecError
from diffeat.extraction import Plan
from diffeat.images.datasets import DATASETS
from diffeat.specs import ExtractSpec

DOCS = Path(__file__).parents[2] / "docs" / "benchmarks.md"
CLASSIFICATION = [n for n in benchmark_names() if open_benchmark(n).task == "classification"]
TINY = {"epochs": 1, "width": 16, "heads": 2, "batch_size": 16, "hidden": (8,), "channels": (8,)}


@pytest.mark.parametrize("name", CLASSIFICATION)
def test_blocks_and_timesteps_exist(name, model_of):
    benchmark = open_benchmark(name)
    backbone = diffeat.load(model_of(benchmark.model), "cpu")
    plan = Plan(backbone, ExtractSpec.from_dict(benchmark.extract))
    Plan(backbone, ExtractSpec.from_dict({**benchmark.extract, **benchmark.twin}))
    blocks, steps = {block.name for block in plan.blocks}, {level.t for level in plan.levels}
    for system in benchmark.systems:
        if isinstance(system.cells, dict):
            assert set(system.cells) <= {"blocks", "timesteps"}
            assert set(system.cells.get("blocks", blocks)) <= blocks
            assert set(system.cells.get("timesteps", steps)) <= steps


@pytest.mark.parametrize("name", CLASSIFICATION)
def test_data_sets_are_known(name):
    benchmark = open_benchmark(name)
    for pictures in (benchmark.train, benchmark.test or benchmark.train):
        data, _, split = pictures.partition(":")
        assert data in DATASETS
        assert not split or split in DATASETS[data][1]


def test_the_example_of_the_docs_is_a_benchmark(tmp_path, monkeypatch):
    (text,) = re.findall(r"```toml\n(.*?)```", DOCS.read_text("utf-8"), re.DOTALL)
    (tmp_path / "mine.toml").write_text(text, "utf-8")
    monkeypatch.setattr("benchmarks.catalogue.FOLDER", tmp_path)
    assert open_benchmark("mine").systems[0].seeds == (0, 1, 2)


def test_the_docs_name_every_benchmark():
    table = set(re.findall(r"`([a-z0-9-]+)`", DOCS.read_text("utf-8").split("**What is fair")[0]))
    assert set(benchmark_names()) <= table


def test_fields_that_a_system_needs(tmp_path, monkeypatch):
    text = (FOLDER / "digits.toml").read_text("utf-8") + '\n[[systems]]\nname = "a"\n'
    (tmp_path / "odd.toml").write_text(text, "utf-8")
    monkeypatch.setattr("benchmarks.catalogue.FOLDER", tmp_path)
    with pytest.raises(SpecError, match="system lacks head"):
        open_benchmark("odd")
    assert tomllib.loads(text)["systems"] == [{"name": "a"}]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("title = ", "is no TOML"),
        ('penalties = 0.1\n', "penalties = 0.1; expected tuple"),
        ('penalties = ["a"]\n', "expected tuple"),
        ('train_limit = "many"\n', "train_limit = 'many'; expected int"),
        ("train_limit = true\n", "train_limit = True"),
        ("split = [0.5, 0.5]\n", "split"),
        ('view = { pictures = "photos" }\n', "view has pictures; expected blocks"),
        ("systems = { name = 1 }\n", r"write \[\[systems\]\]"),
        ('[[systems]]\nname = "a"\nhead = "linear"\n[[systems]]\nname = "a"\nhead = "linear"\n',
         "two systems of the same name"),
        ('[[published]]\nsource = "A (2020)"\nsetup = "b"\nvalue = "12"\n', "value = '12'"),
        ('[[published]]\nsource = "A (2020)"\nsetup = "b"\nbeside = "x"\n', "beside 'x'"),
    ],
)  # fmt: skip
def test_damaged_files(tmp_path, monkeypatch, text, message):
    start = 'title = "a"\nmodel = "b"\ntrain = "c"\nextract = {}\n'
    (tmp_path / "odd.toml").write_text(start + text, "utf-8")
    monkeypatch.setattr("benchmarks.catalogue.FOLDER", tmp_path)
    with pytest.raises(SpecError, match=message):
        open_benchmark("odd")


@pytest.mark.parametrize("name", ["../recipes/digits", "elsewhere/digits", "", ".", "digits/"])
def test_names_that_lead_elsewhere(name):
    with pytest.raises(SpecError, match="is unknown"):
        open_benchmark(name)


def benchmark(**fields):
    plain = {"name": "a", "title": "a", "model": "m", "train": "digits", "extract": {}}
    return ClassificationBenchmark(**plain, **fields)


class TestPictures:
    def test_rows_of_one_part(self):
        pictures = Pictures.open(benchmark(train_limit=50))
        rows = np.zeros(50, bool)
        rows[[3, 7]] = True
        assert pictures.source_of(rows).ids == (pictures.ids[3], pictures.ids[7])

    def test_rows_of_two_sources(self):
        pictures = Pictures.open(benchmark(test="photos", train_limit=50))
        with pytest.raises(SpecError, match="rows of 2 sources"):
            pictures.source_of(np.ones(52, bool))


@pytest.mark.slow
@pytest.mark.parametrize("name", CLASSIFICATION)
def test_every_benchmark_runs(name, model_of, tmp_path):
    rng = np.random.default_rng(0)
    for part, count in (("train", 30), ("test", 10)):
        for label, low in (("dark", 0), ("light", 100)):
            (tmp_path / part / label).mkdir(parents=True)
            for number in range(count):
                pixels = rng.integers(low, low + 150, (32, 32, 3), np.uint8)
                Image.fromarray(pixels).save(tmp_path / part / label / f"{number}.png")
    one = open_benchmark(name)
    size = {"size": 64} if np.max(one.extract.get("size", 0)) > 64 else {}
    systems = tuple(
        replace(
            system,
            arguments={key: TINY.get(key, value) for key, value in system.arguments.items()}
            | ({"epochs": 1} if system.head not in ("linear", "greedy", "KNNProbe", "RidgeProbe")
               else {}),
            seeds=system.seeds[:1],
        )
        for system in one.systems
    )  # fmt: skip
    small = replace(
        one, model=model_of(one.model), model_dtype="float32", train=str(tmp_path / "train"),
        test=str(tmp_path / "test"), train_limit=None, test_limit=None, vision=(), view={},
        extract={**one.extract, **size}, systems=systems,
    )  # fmt: skip
    result = run_benchmark(small, tmp_path / "out", "cpu")
    assert [one["name"] for one in result["systems"]] == [one.name for one in one.systems]
    assert result["surfaces"][0]["counts"][2] == 20
    assert result["chance"] == 0.5
