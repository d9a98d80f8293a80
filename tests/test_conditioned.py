"""Features that were told their targets are not scored without being asked twice."""

from __future__ import annotations

import csv
import json

import numpy as np
import pytest
from PIL import Image

import diffeat
from benchmarks.recipes import Recipe
from benchmarks.run import run_recipe
from diffeat.conditioned import MARK, told_target
from diffeat.errors import SpecError
from diffeat.search import task_from_store
from diffeat.store import merge_files
from tests.command import command

CLASSES = ("cat", "dog", "frog")


@pytest.fixture
def run(monkeypatch, capsys):
    with command(monkeypatch, capsys) as run:
        yield run


@pytest.fixture(scope="module")
def pictures(tmp_path_factory):
    """60 pictures of three of CIFAR-10's classes, of noise alone."""
    folder, rng = tmp_path_factory.mktemp("noise"), np.random.default_rng(0)
    for k in range(60):
        place = folder / CLASSES[k % 3] / f"{k}.png"
        place.parent.mkdir(exist_ok=True)
        Image.fromarray(rng.integers(0, 256, (32, 32, 3), np.uint8)).save(place)
    return folder


@pytest.fixture(scope="module")
def told(pictures, tmp_path_factory):
    path = tmp_path_factory.mktemp("told") / "told.h5"
    spec = diffeat.ExtractSpec(20, "block.3", pool="1x1", label="class")
    source = diffeat.open_source(pictures)
    diffeat.extract_to_file(diffeat.load("dit-cifar10"), source, spec, path, progress=False)
    return path


@pytest.mark.parametrize(
    ("fields", "reason"),
    [
        ({}, None),
        ({"label": 3}, None),
        ({"prompt": "a photo"}, None),
        ({"label": "class"}, "label=class"),
        ({"prompt": "a {class}"}, "a {class}"),
        ({"prompt": "a {category}"}, "a {category}"),
        ({"captions": "c.csv"}, "captions"),
        ({"captions": "pictures"}, "captions"),
        ({"embeddings": "e.safetensors"}, "embeddings"),
    ],
)
def test_what_tells_a_picture_its_target(fields, reason):
    found = told_target(diffeat.ExtractSpec(20, "mid", **fields))
    assert found is None if reason is None else reason in found


def test_one_embedding_for_all_tells_nothing():
    spec = diffeat.ExtractSpec(20, "mid", embeddings="e.safetensors")
    assert told_target(spec, {"embedding_rows": 1}) is None
    assert told_target(spec, {"embedding_rows": 9}) is not None


@pytest.mark.parametrize("verb", ["probe", "search"])
def test_files_are_refused_and_marked(run, told, tmp_path, verb):
    answer = run(verb, told)
    assert answer.code == 2
    assert "label=class" in answer.err
    assert "--allow-conditioned" in answer.err
    table = tmp_path / "t.csv"
    answer = run(verb, told, "--allow-conditioned", "--csv", table, "--json")
    assert answer.code == 0, answer.err
    assert MARK in json.dumps(json.loads(answer.out))
    with open(table, newline="") as file:
        assert all(MARK in row["features"] for row in csv.DictReader(file))
    assert MARK in run(verb, told, "--allow-conditioned").out.splitlines()[0]


def test_a_search_from_the_model_is_refused_before_it_computes(run, pictures):
    options = ("-t", 20, "-b", "block.3", "--label", "class")
    answer = run("search", "dit-cifar10", pictures, *options)
    assert answer.code == 2
    assert "label=class" in answer.err
    answer = run("search", "dit-cifar10", pictures, *options, "--allow-conditioned")
    assert MARK in answer.out.splitlines()[0]


def test_a_merge_keeps_what_was_told(told, tmp_path):
    from diffeat.store import FeatureStore

    merge_files([told], tmp_path / "again.h5")
    with FeatureStore(tmp_path / "again.h5") as store, pytest.raises(SpecError, match="told"):
        task_from_store(store)


def test_a_benchmark_says_so_in_its_file(tmp_path):
    extract = {"timesteps": [20], "blocks": ["block.3"], "pool": "1x1", "label": "class"}
    recipe = Recipe("told", "t", "dit-cifar10", "digits", extract)
    with pytest.raises(SpecError, match="allow_conditioned"):
        run_recipe(recipe, tmp_path / "out", "cpu")
    assert not (tmp_path / "out").exists()


def test_extraction_says_what_such_features_are_not_for(run, pictures, tmp_path):
    options = ("-t", 20, "-b", "block.3", "--pool", "1x1", "--limit", 3)
    answer = run("extract", "dit-cifar10", pictures, "-o", tmp_path / "a.h5", *options,
                 "--label", "class")  # fmt: skip
    assert answer.code == 0, answer.err
    assert "not for a probe of these targets" in answer.err
    assert "cat → 3, dog → 5, frog → 6" in answer.err
    answer = run("extract", "dit-cifar10", pictures, "-o", tmp_path / "b.h5", *options)
    assert "probe" not in answer.err
