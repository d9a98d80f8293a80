"""`diffeat explain`: what linear heads go by, in tables and over pictures."""

from __future__ import annotations

import csv
import json

import numpy as np
import pytest
from click.testing import CliRunner
from PIL import Image

from diffeat.cli import cli
from diffeat.store import FeatureStore
from diffeat.viz.explained import attribution, sites_on
from probes import KNNProbe, load, save

OPTIONS = ("-t", "20,100", "-b", "up.0,up.1", "--pool", "2x2", "--size", "32")


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """p/: bright pictures and dark ones, the light in one corner; f.h5 and a head of them."""
    folder = tmp_path_factory.mktemp("explain")
    rng = np.random.default_rng(0)
    for k in range(30):
        name = ("bright", "dark")[k % 2]
        pixels = rng.integers(0, 80, (40, 30, 3))
        if name == "bright":
            pixels[20:, 15:] += 150
        (folder / "p" / name).mkdir(parents=True, exist_ok=True)
        Image.fromarray(pixels.astype(np.uint8)).save(folder / "p" / name / f"{k}.png")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        for arguments in (
            ("extract", "unet-cifar10", "p", "-o", "f.h5", *OPTIONS, "--device", "cpu"),
            ("probe", "f.h5", "-b", "up.0", "-t", "20", "--save", "one.safetensors"),
        ):
            made = CliRunner().invoke(cli, arguments)
            assert made.exit_code == 0, made.output
    return folder


@pytest.fixture(autouse=True)
def _there(place, monkeypatch):
    monkeypatch.chdir(place)


def test_values_add_up_to_the_head_s_logits(diffeat):
    answer = diffeat("explain", "one.safetensors", "f.h5", "--by", "site", "--class", "bright",
                     "--json", "--csv", "t.csv")  # fmt: skip
    assert answer.code == 0, answer.err
    said = json.loads(answer.out)
    head = load("one.safetensors")
    with FeatureStore("f.h5") as store:
        X = np.asarray(store["up.0", 20], np.float64)
    k = 0  # bright
    phi = (X - X.mean(0)) * head.coef_[k]
    logits = X @ head.coef_[k] + head.intercept_[k]
    np.testing.assert_allclose(phi.sum(1), logits - logits.mean(), atol=1e-6)
    each = phi.reshape(30, -1, 4).sum(1)  # channel-major: C × sites
    found = {row["site"]: row for row in said["groups"]}
    for site in range(4):
        row = found[f"row {site // 2}, column {site % 2}"]
        assert row["mean |phi|"] == pytest.approx(np.abs(each[:, site]).mean(), rel=1e-6)
    assert sum(row["share"] for row in said["groups"]) == pytest.approx(1)
    with open("t.csv", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 4


def test_the_light_corner_speaks_for_bright(diffeat, place):
    answer = diffeat("explain", "one.safetensors", "f.h5", "--by", "site", "--class", "true")
    assert answer.code == 0, answer.err
    first = answer.out.splitlines()[3]
    assert first.startswith("row 1, column 1")


def test_ways_and_pictures(diffeat, place):
    for by, count in (("cell", 1), ("block", 1), ("t", 1)):
        said = json.loads(diffeat("explain", "one.safetensors", "f.h5", "--by", by, "--json").out)
        assert len(said["groups"]) == count
    answer = diffeat("explain", "one.safetensors", "f.h5", "--by", "channel", "--top", "3", "-o",
                     "why", "--limit", "4")  # fmt: skip
    assert answer.code == 0, answer.err
    assert "more (--top, --csv)" in answer.out
    assert len(list((place / "why").rglob("*.png"))) == 4


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (("one.safetensors", "f.h5", "--class", "brigth"), "'bright'"),
        (("one.safetensors", "none.h5"), "none.h5"),
        (("none.safetensors", "f.h5"), "none.safetensors"),
    ],
)
def test_bad_input(diffeat, arguments, told):
    answer = diffeat("explain", *arguments)
    assert answer.code in (1, 2)
    assert told in " ".join(answer.err.split())


def test_a_head_of_another_kind(diffeat, place):
    with FeatureStore("f.h5") as store:
        X, y = np.asarray(store["up.0", 20], np.float32), np.asarray(store.labels)
    about = load("one.safetensors").about_
    save(KNNProbe().fit(X, y), "knn.safetensors", about)
    answer = diffeat("explain", "knn.safetensors", "f.h5")
    assert answer.code == 2
    assert "not linear" in answer.err


def test_sites_lie_where_the_input_does():
    values = np.array([[1.0, 2], [3, 4]])
    found = sites_on(values, (4, 8), (16, 16))  # squashed
    np.testing.assert_array_equal(found[:2, :4], 1)
    np.testing.assert_array_equal(found[2:, 4:], 4)
    mirrored = sites_on(values, (4, 8), (16, 16), (-2.0, 16.0, 4.0, 0.0))
    np.testing.assert_array_equal(mirrored[:2, :4], 2)
    part = sites_on(values, (4, 8), (4, 4), (1.0, -2.0, 1.0, 0.0))  # columns 2 … 5 are shown
    np.testing.assert_array_equal(part[0], [0, 0, 1, 1, 2, 2, 0, 0])


def test_colours_say_for_and_against():
    picture = np.full((2, 2, 3), 128, np.uint8)
    found = attribution(picture, np.array([[1.0, -1], [0, 0]]), 1.0).astype(int)
    assert found[0, 0, 0] > found[0, 0, 2]  # red
    assert found[0, 1, 2] > found[0, 1, 0]  # blue
    np.testing.assert_array_equal(found[1, 0, 0], found[1, 0, 2])
