"""A small run of clusters: pictures of two colours, whose clusters are their classes."""

from __future__ import annotations

import csv

import numpy as np
import pytest
from PIL import Image
from sklearn.metrics import adjusted_rand_score

from benchmarks.page import page
from benchmarks.report import markdown
from benchmarks.run import run_benchmark
from benchmarks.tasks.clusters.file import PIXELS, ClusterBenchmark
from benchmarks.tasks.clusters.measure import ONE, Run, raw_pixels
from benchmarks.tasks.clusters.tables import summary
from benchmarks.tasks.matching.file import Measured
from diffeat import open_source
from diffeat.errors import SpecError


@pytest.fixture(scope="module")
def pictures(tmp_path_factory):
    root = tmp_path_factory.mktemp("clusters") / "p"
    for number in range(60):
        rng = np.random.default_rng(number)
        colour = [200, 40, 40] if number % 2 else [40, 40, 200]
        pixels = (np.full((16, 16, 3), colour) + rng.integers(-30, 30, (16, 16, 3))).clip(0, 255)
        folder = root / ("red" if number % 2 else "blue")
        folder.mkdir(parents=True, exist_ok=True)
        Image.fromarray(pixels.astype(np.uint8)).save(folder / f"{number}.png")
    return str(root)


def small(pictures, **fields) -> ClusterBenchmark:
    plain = {
        "name": "small", "title": "Small <b>", "task": "clusters", "pictures": pictures,
        "models": (Measured("unet-cifar10"), Measured("./zoo/none")), "seeds": 2,
        "extract": {"timesteps": [20, 300], "blocks": ["conv_in", "mid"], "pool": "1x1",
                    "size": [16, 16]}, "twin": {"timesteps": [20]}, "pixels": (8, 8),
    }  # fmt: skip
    return ClusterBenchmark(**{**plain, **fields})


def test_run(pictures, tmp_path):
    result = run_benchmark(small(pictures), tmp_path / "run", "cpu")
    rows = {row["label"]: row for row in result["rows"]}
    assert list(rows) == ["unet-cifar10", "unet-cifar10@random", PIXELS]
    assert sum(result["counts"]) == 60
    assert rows[PIXELS]["chosen"]["silhouette"]["values"]["ari"] == pytest.approx(1)
    assert "none" in str(result["missing"])
    for row in rows.values():
        for one in row["chosen"].values():
            assert one["low"] <= one["values"]["ari"] <= one["high"]
            assert row["best"] >= one["values"]["ari"]
    with open(tmp_path / "run/small.csv", encoding="utf-8") as file:
        assert len(list(csv.DictReader(file))) == 4 + 2 + 1
    text = summary(result)
    assert "without a label" in text
    assert "Small" in page(tmp_path / "run")
    assert PIXELS in markdown(tmp_path / "run")
    again = run_benchmark(small(pictures), tmp_path / "run", "cpu")
    assert again["rows"] == result["rows"]


def test_the_half_that_chooses_is_not_reported(pictures):
    source = open_source(pictures)
    run = Run(small(pictures), None, source)
    X = raw_pixels(source, (8, 8))
    part = run._clustered({ONE: X}, ~run.chooses)[0]
    labels = source.labels[~run.chooses]
    assert part.values["ari"] == pytest.approx(adjusted_rand_score(labels, part.clusters.labels_))
    assert len(part.clusters.labels_) == (~run.chooses).sum()


@pytest.mark.parametrize(
    ("fields", "told"),
    [({"clusters": 1}, "clusters = 1"), ({"seeds": 0}, "seeds = 0"), ({"held": 1.0}, "held = 1.0"),
     ({"pixels": (8,)}, "pixels")],
)  # fmt: skip
def test_what_cannot_be_meant(pictures, fields, told):
    with pytest.raises(SpecError, match=told):
        small(pictures, **fields)


def test_pictures_without_classes(tmp_path):
    for k in range(4):
        Image.new("RGB", (16, 16), (k, k, k)).save(tmp_path / f"{k}.png")
    with pytest.raises(SpecError, match="no classes"):
        run_benchmark(small(str(tmp_path)), tmp_path / "run", "cpu")
