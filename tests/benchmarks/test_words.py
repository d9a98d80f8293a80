"""Benchmarks of words: whole runs on shrunk twins and tiny sets, against truth told and floors."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from benchmarks.catalogue import open_benchmark
from benchmarks.page import page
from benchmarks.report import markdown
from benchmarks.run import run_benchmark
from benchmarks.tasks import task_named
from benchmarks.tasks.matching.file import Measured
from benchmarks.tasks.words import measure
from benchmarks.tasks.words.file import System
from diffeat.errors import SpecError
from diffeat.targets.panoptic import open_panoptic
from tests.panoptic_sets import coco
from tests.twins import twin

RECIPES = ("daam-coco", "seg4diff-voc")
TWINS = {"daam-coco": "sd21", "seg4diff-voc": "sd3-medium"}


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    root = tmp_path_factory.mktemp("data")
    coco(root / "coco", "train2017", range(100, 106))
    coco(root / "coco", "val2017", range(4))
    for name in TWINS.values():
        twin(name, root / "twins" / name)
    return root


@pytest.fixture(autouse=True)
def _there(data, monkeypatch):
    monkeypatch.setenv("DIFFEAT_DATA", str(data))


def small(name: str, **changes):
    """A recipe at a small size, on its twin and the tiny set."""
    one = open_benchmark(name)
    plain = {
        "models": (Measured(f"./twins/{TWINS[name]}"),), "words": (),
        "train": "panoptic:./coco:train2017", "test": "panoptic:./coco:val2017", "test_limit": 3,
        "extract": {**one.extract, "size": [64, 64], "timesteps": one.extract["timesteps"][:1]},
    }  # fmt: skip
    return replace(one, **{**plain, **changes})


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("run")


@pytest.fixture(scope="module")
def result(data, folder):
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("DIFFEAT_DATA", str(data))
        return run_benchmark(small("daam-coco"), folder, "cpu")


def row_of(result, label: str) -> dict:
    return next(one for one in result["rows"] if one["label"] == label)


class TestARun:
    def test_every_system_has_its_row(self, result):
        assert [one["label"] for one in result["rows"]] == [
            one.name for one in open_benchmark("daam-coco").systems
        ]
        assert result["words"] == ["cat", "dog"]
        assert result["pictures"] == [6, 3]

    def test_background_alone_by_hand(self, result, data):
        """Its IoU is the share of background among the pixels that are known."""
        truth = measure.Truth.open("panoptic:./coco:val2017", (), 3)
        panoptic = open_panoptic(f"{data}/coco:val2017").of(list(truth.targets.ids))
        stuff = [k for k, name in enumerate(panoptic.classes) if name in ("sky", "grass")]
        labels = [panoptic.labels(row) for row in range(3)]
        known = sum((one != panoptic.ignore).sum() for one in labels)
        share = sum(np.isin(one, stuff).sum() for one in labels) / known
        row = row_of(result, "background alone")
        assert row["IoU"] == pytest.approx({"background": share, "dog": 0, "cat": 0})
        assert row["value"] == pytest.approx(share / 3)

    def test_told_words_are_marked(self, result, folder):
        assert "not a measure of recognition" in row_of(result, "words that are there")["told"]
        assert not row_of(result, "chance")["told"]
        text = task_named("words").summary(result)
        assert "words that are there*" in text
        assert "mean mask" in text
        assert "not a measure of recognition" in markdown(folder)
        assert "background alone" in page(folder)

    def test_gains_are_to_the_first_row(self, result):
        first, *others = result["rows"]
        assert "beside" not in first
        for row in others:
            gain = row["beside"]["value"]
            assert gain == pytest.approx(row["value"] - first["value"])


def test_heat_that_is_the_truth_is_nearly_perfect(data, tmp_path, monkeypatch):
    """Attention planted by the true masks, found again through every step but the network."""
    truth = measure.Truth.open("panoptic:./coco:val2017", (), 3)
    where = {one: k for k, one in enumerate(truth.targets.ids)}

    def planted(self, batch, runs):
        side = 128
        found = torch.zeros(len(batch), 2, side, side)
        for k, name in enumerate(batch.ids):
            mask = truth.mask(where[name])
            down, across = (np.arange(side) * n // side for n in mask.shape)
            for word in range(2):
                found[k, word] = torch.from_numpy(mask[down[:, None], across] == word + 1)
        return found

    monkeypatch.setattr(measure.WordHeat, "__call__", planted)
    systems = (System("heat", "heat"), System("otsu", "heat", masks={"background": "otsu"}),
               System("chance", "chance"))  # fmt: skip
    result = run_benchmark(small("daam-coco", systems=systems), tmp_path, "cpu")
    heat, otsu, chance = (row["value"] for row in result["rows"])
    assert min(heat, otsu) > 0.93
    assert chance < 0.3


def test_one_joint_block_on_a_twin(data, tmp_path):
    """The other recipe, all words in one prompt; a model that is not there is left out."""
    few = tuple(one for one in open_benchmark("seg4diff-voc").systems if "random" not in one.name)
    models = (Measured("./twins/sd3-medium", twin=False), Measured("./twins/none", twin=False))
    one = small("seg4diff-voc", systems=few, models=models)
    one = replace(one, extract={**one.extract, "prompt": "{words}"})  # its T5 reads 16 tokens
    result = run_benchmark(one, tmp_path, "cpu")
    assert len(result["rows"]) == len(few)
    assert list(result["missing"]) == ["none"]
    spec = result["about"]["all words"]["spec"]
    assert spec["blocks"] == ["block.9:cross.map"]


def test_a_picture_without_words_is_background(data, tmp_path, monkeypatch):
    monkeypatch.setattr(measure.Truth, "there", lambda self, row: [])
    systems = (System("heat", "heat", told=True), System("background", "background"))
    result = run_benchmark(small("daam-coco", systems=systems), tmp_path, "cpu")
    heat, background = (row["value"] for row in result["rows"])
    assert heat == background


@pytest.mark.parametrize("name", RECIPES)
def test_recipes_say_what_can_be_meant(name):
    one = open_benchmark(name)
    assert {"background", "mean-mask", "chance"} < {system.by for system in one.systems}
    assert any(system.of.endswith("@random") for system in one.systems)
    one.check_specs()
    for system in one.systems:
        measure.options_of(system.heat)


def test_files_that_cannot_be_meant():
    for systems, said in (
        ((System("a", "eye"),), "by = 'eye'; expected heat"),
        ((System("a", "heat", of="sd9"),), "of = 'sd9'; expected sd21"),
        ((System("a", "chance", told=True),), "go with by = 'heat'"),
        ((System("a", "heat", masks={"colour": "red"}),), "masks have colour"),
        ((), "no systems"),
    ):
        with pytest.raises(SpecError, match=said):
            small("daam-coco", systems=systems)
    with pytest.raises(SpecError, match="heat has size"):
        measure.options_of({"size": 3})
    with pytest.raises(SpecError, match="3 words, and 2 classes"):
        measure.Truth.open("panoptic:./coco:val2017", ("a", "b", "c"), None)


def test_words_among_others():
    run = measure.WordRun("a cat", ((3, 4),), (1, 3, 4))
    assert measure.among(run, (2,), 3).keys == ((), (), (3, 4))
