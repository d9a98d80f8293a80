"""A small run of label-free numbers beside probes: pictures of two colours, squares as masks."""

from __future__ import annotations

import csv

import numpy as np
import pytest
from scipy import stats

import diffeat
from benchmarks.catalogue import open_benchmark
from benchmarks.page import page
from benchmarks.report import markdown
from benchmarks.run import run_benchmark
from benchmarks.tasks import task_named
from benchmarks.tasks.label_free.file import FreeBenchmark, FreeTask
from benchmarks.tasks.label_free.tables import plain_line, summary
from diffeat.errors import ModelError, SpecError
from diffeat.search.label_free import live_free_scores
from diffeat.specs import ExtractSpec
from tests.benchmarks import dense_sets

CELLS = {"timesteps": [20, 300], "blocks": ["conv_in", "mid", "up.1"]}


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    root = tmp_path_factory.mktemp("data")
    dense_sets.horses(root / "horses")
    for number in range(40):
        rng = np.random.default_rng(number)
        colour = [200, 40, 40] if number % 2 else [40, 40, 200]
        pixels = (np.full((16, 16, 3), colour) + rng.integers(-30, 30, (16, 16, 3))).clip(0, 255)
        kind = "red" if number % 2 else "blue"
        dense_sets.save(root / "classes" / kind / f"{number}.png", pixels.astype(np.uint8))
    return root


@pytest.fixture(autouse=True)
def _there(data, monkeypatch):
    monkeypatch.setenv("DIFFEAT_DATA", str(data))


@pytest.fixture(scope="module")
def model(folder_of):
    return str(folder_of("pixel"))


def small(data, model, **fields) -> FreeBenchmark:
    tasks = (
        FreeTask("colours", "classification", model, str(data / "classes"),
                 extract={"pool": "1x1", "size": [16, 16]}),
        FreeTask("square", "segmentation", model, "horses:train", held=0.4,
                 extract={"size": [16, 16]}),
        FreeTask("nothing", "segmentation", "./zoo/none", "horses:train"),
    )  # fmt: skip
    plain = {"name": "free", "title": "Free", "task": "label-free", "tasks": tasks,
             "extract": CELLS, "pictures": 6, "ratio": 3.0}  # fmt: skip
    return FreeBenchmark(**{**plain, **fields})


@pytest.fixture(scope="module")
def run(tmp_path_factory, data, model):
    folder = tmp_path_factory.mktemp("run")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("DIFFEAT_DATA", str(data))
        return folder, run_benchmark(small(data, model), folder, "cpu")


def test_every_cell_has_its_score_and_its_numbers(run, data, model):
    _, result = run
    names = [(row["task"], row["label"], row["random"]) for row in result["rows"]]
    assert names == [
        ("colours", "pixel", False),
        ("colours", "pixel@random", True),
        ("square", "pixel", False),
        ("square", "pixel@random", True),
    ]
    assert list(result["missing"]) == ["none"]
    square = result["rows"][2]
    assert [(c["block"], c["t"]) for c in square["cells"]] == [
        (block, t) for block in CELLS["blocks"] for t in CELLS["timesteps"]
    ]
    whole = diffeat.load(model)
    for depth, name in enumerate(CELLS["blocks"]):
        [block] = [one for one in whole.blocks if one.name == name]
        shapes = {(c["depth"], c["channels"], c["sites"]) for c in square["cells"]
                  if c["block"] == name}  # fmt: skip
        assert shapes == {(depth, block.channels, (16 // block.stride) ** 2)}
    spec = ExtractSpec.from_dict({**CELLS, "size": [16, 16], "dtype": "float32"})
    source = diffeat.open_source(str(data / "horses/horse"))
    train = [row for row, name in enumerate(source.ids) if int(name[5:8]) < 100]
    plain = live_free_scores(whole, source.take(train), spec, ["rank"],
                             pictures=6)  # fmt: skip
    for cell in square["cells"]:
        expected = plain.cells[cell["block"], cell["t"]]["rank"]
        assert cell["rank"] == pytest.approx(expected, rel=0.2)  # ids seed other noise
    assert square["counts"][2] == 0


def test_correlations_are_of_what_stands_there(run):
    _, result = run
    for row in result["rows"]:
        good = [cell["validation"] for cell in row["cells"]]
        for one in row["trust"]:
            numbers = [cell[one["score"]] for cell in row["cells"]]
            if one["rho"] is not None:
                expected = stats.spearmanr(numbers, good).statistic
                assert one["rho"] == pytest.approx(expected)
                assert one["low"] <= one["rho"] <= one["high"]
            chosen = next(c for c in row["cells"] if [c["block"], c["t"]] == one["cell"])
            assert one["lost"] == pytest.approx(max(good) - chosen["validation"])


def test_what_is_written(run):
    folder, result = run
    with open(folder / "free.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 24
    assert float(rows[0]["lds"]) == pytest.approx(result["rows"][0]["cells"][0]["lds"])
    assert (folder / "free.png").is_file()
    text = markdown(folder)
    assert "| effective rank |" in text
    assert "what shapes alone give" in text
    assert "colours, pixel: every cell" in text
    assert "Left out: none" in text
    assert "validation accuracy" in page(folder)
    assert "| a random cell (mean) |" in text
    assert "every cell" not in summary(result)
    assert plain_line(result["rows"][:1]).startswith("The largest correlation by task")


def test_a_second_run_computes_nothing(run, data, model):
    folder, first = run
    again = run_benchmark(small(data, model), folder, "cpu")
    assert again["finished"]["computed"] == 0
    assert again["rows"] == first["rows"]


def test_what_cannot_be_meant(data, model, tmp_path):
    with pytest.raises(SpecError, match="one and more, each with its name"):
        small(data, model, tasks=())
    with pytest.raises(SpecError, match="which all tasks share"):
        small(data, model, extract={"timesteps": [1]})
    with pytest.raises(SpecError, match="two pictures at least"):
        small(data, model, pictures=1)
    with pytest.raises(SpecError, match="kind = 'guess'"):
        FreeTask("x", "guess", "m", "a")
    with pytest.raises(SpecError, match="expected H"):
        FreeTask("x", "segmentation", "m", "a", frame=(3,))
    with pytest.raises(SpecError, match=r"extract has blocks"):
        FreeTask("x", "segmentation", "m", "a", extract={"blocks": ["mid"]})
    depth = FreeTask("x", "depth", model, "horses:train")
    with pytest.raises(SpecError, match="holds masks; expected depth"):
        run_benchmark(small(data, model, tasks=(depth,)), tmp_path, "cpu")
    nowhere = FreeTask("x", "segmentation", "./zoo/none", "horses:train")
    with pytest.raises(ModelError, match="none of its models is on this machine"):
        run_benchmark(small(data, model, tasks=(nowhere,)), tmp_path, "cpu")


def test_the_file():
    one = open_benchmark("free-scores")
    task_named("label-free").check(one)
    assert {task.kind for task in one.tasks} == {"classification", "segmentation", "matching"}
