"""Features that were told their targets are not scored, or only under a mark."""

from __future__ import annotations

import csv
import json
from dataclasses import replace

import h5py
import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import save_file

import diffeat as package
from benchmarks.tasks.classification.checks import check
from benchmarks.tasks.classification.file import ClassificationBenchmark, System
from diffeat.adapt import FineTuning
from diffeat.conditioned import conditioned
from diffeat.errors import SpecError
from diffeat.extraction.learned_prompts import embedding_rows
from diffeat.images import ArraySource
from diffeat.search import (
    Classification,
    LiveFeatures,
    live_task,
    search_surface,
    task_from_store,
)
from diffeat.store import FeatureStore
from tests.search.common import arrays_of, labels_of, write_store

MARK = "features conditioned on their own targets (label=class): not a measure of recognition"


def tell(path, spec, pictures=()):
    """Change what a file says it is made of."""
    with h5py.File(path, "r+") as file:
        for name, values in (("spec", spec), ("pictures", dict(pictures))):
            file.attrs[name] = json.dumps({**json.loads(file.attrs[name]), **values})
    return path


@pytest.fixture
def file(tmp_path):
    labels = labels_of(120)
    write_store(tmp_path / "a.h5", arrays_of(labels), labels).close()
    return tmp_path / "a.h5"


@pytest.mark.parametrize(
    ("fields", "pictures", "why"),
    [
        ({}, {}, ""),
        ({"label": 3}, {}, ""),
        ({"prompt": "a photo"}, {}, ""),
        ({"embeddings": "e.safetensors"}, {"embedding rows": 1}, ""),
        ({"label": "class"}, {}, "label=class"),
        ({"prompt": "a {category}"}, {}, "{category} in the prompt"),
        ({"prompt": "a {class}", "label": "class"}, {}, "label=class, {class} in the prompt"),
        ({"captions": "c.csv"}, {}, "captions"),
        ({"captions": "pictures"}, {}, "captions"),
        ({"embeddings": "e.safetensors"}, {}, "embeddings per picture"),
        ({"embeddings": "e.safetensors"}, {"embedding rows": 3}, "embeddings per picture"),
        ({"embeddings": "e.safetensors"}, {"embedding rows": True}, "embeddings per picture"),
    ],
)
def test_what_counts_as_told(fields, pictures, why):
    assert conditioned(package.ExtractSpec(20, "mid", **fields), pictures) == why


def test_rows_of_embeddings(tmp_path):
    path = tmp_path / "e.safetensors"
    for shapes, rows in (
        ({"encoder_hidden_states": (7, 4)}, 1),
        ({"encoder_hidden_states": (1, 7, 4), "text_embeds": (1, 4)}, 1),
        ({"encoder_hidden_states": (5, 7, 4), "text_embeds": (5, 4)}, 5),
        ({"encoder_hidden_states": (1, 7, 4), "pooled_projections": (5, 4)}, 5),
    ):
        save_file({name: torch.zeros(shape) for name, shape in shapes.items()}, path)
        assert embedding_rows(path) == rows


# --- files ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "told", [{"label": "class"}, {"prompt": "a {class}"}, {"captions": "c"}, {"embeddings": "e"}]
)
def test_files_are_refused(file, told):
    with FeatureStore(tell(file, told)) as store:
        with pytest.raises(SpecError, match=r"conditioned on their own targets.*allow-conditioned"):
            task_from_store(store)
        task = task_from_store(store, allow_conditioned=True)
        assert task.conditioned
        assert (
            search_surface(Classification(task, "knn"))
            .table()
            .startswith("features conditioned on")
        )


@pytest.mark.parametrize("verb", [("probe",), ("search",), ("search", "--halving")])
def test_commands_refuse_or_mark(diffeat, file, tmp_path, verb):
    verb, *more = verb
    plain = diffeat(verb, file, *more)
    assert plain.code == 0
    assert "conditioned" not in plain.out
    tell(file, {"label": "class"})
    refused = diffeat(verb, file, *more)
    assert refused.code == 2
    assert "(label=class)" in refused.err
    assert "--allow-conditioned" in refused.err
    outputs = ["--csv", tmp_path / "t.csv"]
    if verb == "search":
        outputs += ["--spec", tmp_path / "best.toml"]
    marked = diffeat(verb, file, *more, "--allow-conditioned", *outputs)
    assert marked.code == 0, marked.err
    assert MARK in marked.out
    with open(tmp_path / "t.csv", newline="", encoding="utf-8") as table:
        assert {row["conditioned"] for row in csv.DictReader(table)} == {MARK}
    if verb == "search":
        assert f"# {MARK}" in (tmp_path / "best.toml").read_text("utf-8")
    as_json = json.loads(diffeat(verb, file, *more, "--allow-conditioned", "--json").out)
    assert as_json["conditioned"] == MARK


def test_pictures_of_tables_say_it(diffeat, file, tmp_path, monkeypatch):
    titles = []
    figure = "matplotlib.figure.Figure.suptitle"
    monkeypatch.setattr(figure, lambda _self, text, **_options: titles.append(text))
    assert diffeat("probe", file, "--png", tmp_path / "a.png").code == 0
    tell(file, {"label": "class"})
    asked = ("--png", tmp_path / "b.png", "--allow-conditioned")
    assert diffeat("probe", file, *asked).code == 0
    assert [" ".join(title.split()) for title in titles] == [
        "linear probe, a.h5",
        f"linear probe, a.h5 {MARK}",
    ]


def test_two_files_of_which_the_test_was_told(file, tmp_path):
    other = tmp_path / "b.h5"
    arrays = arrays_of(labels_of(60, 1))
    write_store(
        other, {key: values + 1 for key, values in arrays.items()}, labels_of(60, 1)
    ).close()
    tell(other, {"label": "class"})
    refused = pytest.raises(SpecError, match=r"b\.h5: features conditioned")
    with FeatureStore(file) as train, FeatureStore(other) as test, refused:
        task_from_store(train, test=test)


# --- straight from the model ----------------------------------------------------------------


@pytest.fixture(scope="module")
def backbone():
    return package.load("dit-cifar10", "cpu")


def drawn(count=20):
    labels = np.arange(count) % 2
    pixels = np.random.default_rng(0).integers(0, 99, (count, 32, 32, 3)) + 99 * labels[
        :, None, None, None]  # fmt: skip
    ids = tuple(f"{k}.png" for k in range(count))
    return ArraySource("drawn", ids, labels, ("dog", "frog"), pixels.astype(np.uint8))


def test_live_tasks(backbone):
    spec = package.ExtractSpec(20, "block.0", pool="1x1", label="class")
    features = LiveFeatures(backbone, [drawn()], spec, progress=False)
    assert features.class_map.indices == (5, 6)
    with pytest.raises(SpecError, match=r"dit-cifar10: features conditioned.*label=class"):
        live_task(features, (0.5, 0.3, 0.2))
    assert live_task(features, (0.5, 0.3, 0.2), allow_conditioned=True).conditioned == "label=class"
    null = LiveFeatures(backbone, [drawn()], replace(spec, label=None), progress=False)
    assert live_task(null, (0.5, 0.3, 0.2)).conditioned == ""


def test_the_commands_of_a_model(diffeat, tmp_path):
    source = drawn()
    for k, pixels in enumerate(source.pixels):
        place = tmp_path / "in" / source.class_names[source.labels[k]]
        place.mkdir(parents=True, exist_ok=True)
        Image.fromarray(pixels).save(place / f"{k}.png")
    asked = ("-t", "20", "-b", "block.0", "--pool", "1x1", "--label", "class")
    refused = diffeat("search", "dit-cifar10", tmp_path / "in", *asked)
    assert refused.code == 2
    assert "dit-cifar10: features conditioned on their own targets (label=class)" in refused.err
    more = ("--allow-conditioned", "--split", "0.5,0.3,0.2", "--score", "knn", "-C", "1")
    marked = diffeat("search", "dit-cifar10", tmp_path / "in", *asked, *more)
    assert marked.code == 0, marked.err
    assert MARK in marked.out
    assert "by name: dog → 5 (dog), frog → 6 (frog)" in marked.err
    made = diffeat("extract", "dit-cifar10", tmp_path / "in", "-o", tmp_path / "f.h5", *asked)
    assert made.code == 0, made.err
    assert "(label=class): good for matching, but they cannot be probed" in made.err
    assert "by name: dog → 5 (dog), frog → 6 (frog)" in made.err


def test_a_classifier_is_not_told_the_answer(backbone):
    options = {"label": "class"}
    model = FineTuning(backbone, "block.0", 20, options=options, epochs=1, progress=False)
    with pytest.raises(SpecError, match=r"conditioned on their own targets.*label=class"):
        model.fit(drawn())


# --- benchmarks -----------------------------------------------------------------------------

BENCHMARK = ClassificationBenchmark(
    name="mine", title="mine", model="dit-cifar10", train="digits", train_limit=100,
    extract={"timesteps": [20], "blocks": ["block.0"], "pool": "1x1", "label": "class"},
)  # fmt: skip


def test_benchmarks_are_refused_before_anything_is_computed():
    with pytest.raises(SpecError, match=r"benchmark mine: features conditioned.*label=class"):
        check(BENCHMARK)
    check(replace(BENCHMARK, allow_conditioned=True))
    trained = (System("tuned", "FineTuning"),)
    with pytest.raises(SpecError, match="tuned are trained on pictures"):
        check(replace(BENCHMARK, allow_conditioned=True, systems=trained))
