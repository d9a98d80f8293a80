"""Clusters of cells: read in pieces, beside classes and raw pixels; what cannot be clustered."""

from __future__ import annotations

import itertools
import json

import numpy as np
import pytest
from scipy.spatial.distance import pdist
from sklearn.metrics import adjusted_rand_score

from diffeat.errors import NumericsError, SpecError
from diffeat.images import open_source
from diffeat.search.analysis import clusters as module
from diffeat.search.analysis.clusters import cluster_store, raw_pixels, vectors, with_pixels
from diffeat.store import FeatureStore
from tests.store.conftest import Job

CELL = ("a", 1)


class Digits(Job):
    """A file whose pictures are some digits."""

    @property
    def source(self):
        return open_source("digits").limit(self.count)


class Told:
    """An array that notes how many rows are read at a time."""

    def __init__(self, values):
        self.values, self.shape, self.dtype, self.read = values, values.shape, values.dtype, []

    def __len__(self):
        return len(self.values)

    def __getitem__(self, rows):
        found = self.values[rows]
        self.read.append(len(found))
        return found


def maps(count=60, channels=5):
    rng = np.random.default_rng(0)
    labels = np.arange(count) % 3
    centres = 4 * rng.normal(size=(3, channels, 1, 1))
    return (centres[labels] + rng.normal(size=(count, channels, 3, 3))).astype(np.float32), labels


def test_maps_are_read_in_pieces(monkeypatch):
    X, _ = maps()
    monkeypatch.setattr(module, "CHUNK_BYTES", 4 * 45 * 7)
    told = Told(X)
    np.testing.assert_allclose(vectors(told, CELL), X.mean((2, 3)), rtol=1e-6)
    assert max(told.read) == 7
    lazy = vectors(told, CELL, held=10)
    assert lazy.shape == (60, 5)
    order = np.array([3, 50, 3, 0])
    np.testing.assert_allclose(lazy[order], X.mean((2, 3))[order], rtol=1e-6)


def test_what_does_not_fit_gives_the_same_clusters(monkeypatch):
    X, labels = maps()
    whole = cluster_store({CELL: X}, [CELL], labels=labels)
    monkeypatch.setattr(module, "HELD", 100)
    monkeypatch.setattr(module.vectors, "__defaults__", (100,))
    pieces = cluster_store({CELL: X}, [CELL], labels=labels)
    one, other = whole.cells[0], pieces.cells[0]
    assert adjusted_rand_score(one.clusters.labels_, other.clusters.labels_) == 1
    assert one.values == pytest.approx(other.values, rel=1e-4)


def test_classes_lie_apart_by_all_pairs_of_labelled_pictures():
    X, labels = maps(30)
    labels[::4] = -1
    found = cluster_store({CELL: X}, [CELL], 3, labels, scale="none").cells[0]
    known = labels >= 0
    squares = pdist(X.mean((2, 3))[known].astype(float), "sqeuclidean")
    pairs = itertools.combinations(labels[known], 2)
    same = np.array([a == b for a, b in pairs])
    expected = np.sqrt(squares[~same].mean() / squares[same].mean())
    assert found.values["classes apart"] == pytest.approx(expected, rel=1e-4)


def test_raw_pixels_are_those_of_the_pictures(diffeat, tmp_path):
    names = tuple(map(str, range(10)))
    job = Digits(tmp_path / "f.h5", 40, shape=(4,), labels=None, class_names=names)
    job.write()
    with FeatureStore(job.path) as store:
        source = open_source("digits").limit(40)
        pixels = raw_pixels(store, source, range(40))
    plain = np.asarray(source.load(3).resize((32, 32), 3)).transpose(2, 0, 1)
    np.testing.assert_array_equal(pixels[3], plain.ravel())
    table = cluster_store({CELL: pixels}, [CELL], labels=source.labels)
    beside = with_pixels(table, pixels, source.labels)
    assert beside.pixels.values == table.cells[0].values
    assert beside.lines()[-1].startswith("without a model: raw pixels, ARI 0.")
    answer = diffeat("cluster", job.path, "--pictures", "digits", "--json")
    assert answer.code == 0, answer.err
    said = json.loads(answer.out)
    assert said["raw pixels"]["ari"] == pytest.approx(table.cells[0].values["ari"])
    alone = json.loads(diffeat("cluster", job.path, "--no-pixels", "--json").out)
    assert alone["raw pixels"] is None
    assert alone["cells"] == said["cells"]


def test_seeds_are_told_apart():
    rng = np.random.default_rng(1)
    noise, labels = rng.normal(size=(60, 4)).astype(np.float32), np.arange(60) % 3
    table = cluster_store({CELL: noise}, [CELL], 3, labels, seeds=3)
    cell = table.cells[0]
    assert cell.values["ari"] == pytest.approx(np.mean(cell.ari_seeds))
    first = adjusted_rand_score(labels, cell.clusters.labels_)
    assert cell.ari_seeds[0] == pytest.approx(first)
    assert cell.to_dict()["ari_by_seed"] == list(cell.ari_seeds)
    low, high = cell.ends["ari"]
    assert low < cell.values["ari"] < high  # of one run alone the mean may lie outside
    assert "means of 3 seeds, as are the ends of intervals" in table.lines()[0]


def test_what_cannot_be_clustered():
    X, labels = maps()
    with pytest.raises(SpecError, match="all of one class"):
        cluster_store({CELL: X}, [CELL], labels=np.zeros(60, int))
    with pytest.raises(SpecError, match="60 pictures for 61 clusters"):
        cluster_store({CELL: X}, [CELL], 61)
    with pytest.raises(SpecError, match="expected one of standardise"):
        cluster_store({CELL: X}, [CELL], 3, scale="zca")
    with pytest.raises(SpecError, match="expected vectors, tokens or maps"):
        cluster_store({CELL: X[..., None]}, [CELL], 3)
    X[5, 0, 0, 0] = np.nan
    with pytest.raises(NumericsError, match="contains nan"):
        cluster_store({CELL: X}, [CELL], 3, labels)


def test_a_constant_cell_is_told_by_its_numbers():
    X, labels = maps()
    table = cluster_store({CELL: X, ("b", 1): np.ones((60, 4))}, [("b", 1), CELL], labels=labels)
    constant = table.cells[0]
    assert np.isnan(constant.values["silhouette"])
    assert constant.values["ari"] == 0
    assert table.by_silhouette.key == table.best.key == CELL
    assert constant.to_dict()["silhouette"] is None
