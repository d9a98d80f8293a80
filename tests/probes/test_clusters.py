"""K-means of pictures against scikit-learn, whole and in pieces."""

from __future__ import annotations

import h5py
import numpy as np
import pytest
from sklearn.base import clone
from sklearn.cluster import KMeans
from sklearn.metrics import adjusted_rand_score
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import Normalizer, StandardScaler

from probes import clusters as module
from probes.clusters import KMeansClusters


def blobs(count=300, seed=0):
    rng = np.random.default_rng(seed)
    truth = rng.integers(0, 4, count)
    centres = 6 * rng.normal(size=(4, 6))
    X = centres[truth] + rng.normal(size=(count, 6))
    return (X * [1, 10, 0.1, 1, 1, 1]).astype(np.float32), truth


@pytest.mark.parametrize(
    ("scale", "before"), [("standardise", StandardScaler()), ("l2", Normalizer()), ("none", None)]
)
def test_is_scikit_learns(scale, before):
    X, _ = blobs()
    found = KMeansClusters(clusters=4, scale=scale, seed=3).fit(X)
    plain = make_pipeline(before, KMeans(4, n_init=3, random_state=3)).fit(X)
    assert adjusted_rand_score(plain[-1].labels_, found.labels_) == 1
    assert found.inertia_ == pytest.approx(plain[-1].inertia_, rel=1e-4)
    np.testing.assert_array_equal(found.predict(X), found.labels_)
    distances = found.transform(X)
    np.testing.assert_allclose(np.sort(distances), np.sort(plain.transform(X)), rtol=1e-3)
    np.testing.assert_allclose(distances.min(1), found.distances_)


def test_constant_features_count_for_nothing():
    X, _ = blobs()
    wide = np.hstack([X, np.full((len(X), 1), 7, np.float32)])
    one, two = (KMeansClusters(clusters=4).fit(x) for x in (X, wide))
    np.testing.assert_array_equal(one.labels_, two.labels_)
    assert (two.cluster_centers_[:, -1] == 0).all()


def test_of_a_file_in_pieces(tmp_path, monkeypatch):
    monkeypatch.setattr(module, "BATCH", 100)
    X, truth = blobs(1000)
    order = np.argsort(truth, kind="stable")  # as folders of classes lie in files
    read = []

    class Told:
        """A data set that notes how much is read at a time."""

        def __init__(self, data):
            self.data, self.shape, self.dtype = data, data.shape, data.dtype

        def __len__(self):
            return len(self.data)

        def __getitem__(self, rows):
            found = self.data[rows]
            read.append(len(found))
            return found

    with h5py.File(tmp_path / "f.h5", "w") as file:
        data = file.create_dataset("x", data=X[order])
        monkeypatch.setattr("probes.lazy.CHUNK_BYTES", 4 * 6 * 150)
        found = KMeansClusters(clusters=4, memory=1000, seed=1).fit(Told(data))
        again = KMeansClusters(clusters=4, memory=1000, seed=1).fit(data)
    assert max(read) <= 150
    assert adjusted_rand_score(truth[order], found.labels_) > 0.98
    np.testing.assert_array_equal(found.labels_, again.labels_)
    whole = KMeansClusters(clusters=4).fit(X[order])
    assert found.inertia_ < 1.05 * whole.inertia_


def test_manners():
    made = KMeansClusters(clusters=2, scale="l2", starts=1, seed=4, memory=5)
    assert clone(made).get_params() == made.get_params()
    assert not [name for name in vars(made) if name.endswith("_")]


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        ({"clusters": 0}, "clusters=0"),
        ({"scale": "zca"}, "expected one of standardise, l2, none"),
        ({"clusters": 301}, "300 pictures for 301 clusters"),
    ],
)
def test_bad_parameters(arguments, told):
    with pytest.raises(ValueError, match=told):
        KMeansClusters(**arguments).fit(blobs()[0])


def test_bad_features():
    X, _ = blobs()
    with pytest.raises(ValueError, match="contains nan"):
        KMeansClusters().fit(np.where(X > 5, np.nan, X))
    with pytest.raises(ValueError, match=r"expected \(N, D\)"):
        KMeansClusters().fit(X[:, None])
    with pytest.raises(ValueError, match="expecting 6 features"):
        KMeansClusters(clusters=2).fit(X).predict(X[:, :3])
