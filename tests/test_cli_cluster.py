"""`diffeat cluster`: k-means of a file's pictures, tables, a page."""

from __future__ import annotations

import csv
import json

import numpy as np
import pytest
from sklearn.metrics import adjusted_rand_score, silhouette_score

from diffeat.search.analysis.clusters import cluster_store
from tests.store.conftest import Job


def two(count=40, seed=0, wide=6):
    """Rows around two centres, and which."""
    rng = np.random.default_rng(seed)
    labels = np.arange(count) % 2
    return (rng.normal(size=(count, wide)) + 8 * labels[:, None]).astype(np.float32), labels


@pytest.fixture
def labelled(tmp_path):
    labels = np.arange(40) % 2
    return Job(tmp_path / "f.h5", 40, shape=(3,), labels=labels, class_names=("a<b>", "c")).write()


def test_numbers_are_scikit_learn_s():
    X, labels = two()
    noise = np.random.default_rng(1).normal(size=X.shape).astype(np.float32)
    table = cluster_store({("a", 1): X, ("b", 1): noise}, [("a", 1), ("b", 1)], labels=labels)
    assert table.count == 2
    first, second = table.cells
    assert first.values["ari"] == first.values["nmi"] == first.values["accuracy"] == 1
    found = second.clusters.labels_
    assert second.values["ari"] == pytest.approx(adjusted_rand_score(labels, found))
    z = (noise - noise.mean(0)) / noise.std(0)
    assert second.values["silhouette"] == pytest.approx(silhouette_score(z, found), abs=1e-5)
    assert table.by_silhouette is table.best is first
    assert second.ends["ari"][0] < second.values["ari"] < second.ends["ari"][1]


def test_maps_are_averaged_and_labels_may_be_missing():
    X, labels = two()
    maps = X[:, :, None, None] + np.zeros((1, 1, 2, 3), np.float32)
    some = np.where(np.arange(40) < 10, labels, -1)
    table = cluster_store({("a", 1): maps}, [("a", 1)], 2, some)
    assert table.labelled == 10
    assert table.cells[0].values["ari"] == 1
    alone = cluster_store({("a", 1): X}, [("a", 1)])
    assert alone.chosen == "by silhouette"
    assert alone.count == 2
    assert alone.best is None


def test_command(diffeat, labelled, tmp_path):
    answer = diffeat("cluster", labelled, "--csv", tmp_path / "t.csv", "--png", tmp_path / "t.png",
                     "--save", tmp_path / "s.csv", "--page", tmp_path / "p.html")  # fmt: skip
    assert answer.code == 0, answer.err
    assert "2 clusters (as many as classes) of 40 pictures, 40 with labels" in answer.out
    assert "dealt out at random" in answer.out
    with open(tmp_path / "s.csv", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 40
    assert {row["class"] for row in rows} == {"a<b>", "c"}
    page = (tmp_path / "p.html").read_text("utf-8")
    assert "a&lt;b&gt;" in page
    assert "a<b>" not in page
    assert "default-src 'none'" in page
    said = json.loads(diffeat("cluster", labelled, "-k", "3", "--json").out)
    assert said["clusters"] == 3
    with open(tmp_path / "t.csv", encoding="utf-8") as file:
        assert len(list(csv.DictReader(file))) == len(said["cells"])


@pytest.mark.parametrize(
    ("arguments", "told"),
    [(("-k", "41"), "41 clusters"), (("-k", "1"), "1"), (("-b", "none"), "none"),
     (("--labels", "none.csv"), "none.csv")],
)  # fmt: skip
def test_bad_input(diffeat, labelled, arguments, told):
    answer = diffeat("cluster", labelled, *arguments)
    assert answer.code in (1, 2)
    assert told in " ".join(answer.err.split())
