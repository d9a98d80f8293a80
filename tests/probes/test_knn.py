"""KNNProbe against scikit-learn's neighbours, and in scikit-learn's tools."""

from __future__ import annotations

import pickle
import warnings

import h5py
import numpy as np
import pytest
import torch
from sklearn.exceptions import SkipTestWarning
from sklearn.model_selection import GridSearchCV
from sklearn.neighbors import KNeighborsClassifier
from sklearn.utils.estimator_checks import check_estimator

import probes.neighbours
from probes.knn import KNNProbe


@pytest.fixture(scope="module")
def clouds():
    """Training and test part of six overlapping clouds; no two distances are equal."""
    rng = np.random.default_rng(0)
    y = rng.integers(6, size=400)
    X = rng.normal(size=(6, 8))[y] + rng.normal(size=(400, 8)) + 3
    return X[:300], y[:300], X[300:], y[300:]


@pytest.fixture(params=[(1024, 8192), (7, 13)], ids=["one block", "many blocks"])
def blocks(request, monkeypatch):
    monkeypatch.setattr(probes.neighbours, "QUERIES", request.param[0])
    monkeypatch.setattr(probes.neighbours, "BASE", request.param[1])


@pytest.mark.usefixtures("blocks")
class TestAgainstScikitLearn:
    @pytest.mark.parametrize("metric", ["cosine", "euclidean"])
    @pytest.mark.parametrize("k", [1, 5, 20])
    @pytest.mark.parametrize("kind", [np.float64, np.float32])
    def test_uniform_votes(self, clouds, metric, k, kind):
        X, y, Xt, yt = clouds
        reference = KNeighborsClassifier(k, metric=metric).fit(X, y)
        probe = KNNProbe(k, metric, "uniform").fit(X.astype(kind), y)
        np.testing.assert_array_equal(probe.predict(Xt.astype(kind)), reference.predict(Xt))
        expected = reference.predict_proba(Xt)
        np.testing.assert_allclose(probe.predict_proba(Xt.astype(kind)), expected, atol=1e-12)
        assert 0.4 < probe.score(Xt.astype(kind), yt) < 1

    def test_softmax_votes(self, clouds):
        X, y, Xt, _ = clouds
        reference = KNeighborsClassifier(20, metric="cosine", weights=self.share).fit(X, y)
        found = KNNProbe().fit(X, y).predict_proba(Xt)
        np.testing.assert_allclose(found, reference.predict_proba(Xt), rtol=1e-9)

    @staticmethod
    def share(distance):
        return np.exp((1 - distance) / 0.07)

    def test_neighbours_and_similarities(self, clouds):
        X, y, Xt, _ = clouds
        reference = KNeighborsClassifier(4).fit(X, y)
        similar, rows = KNNProbe(4, "euclidean").fit(X, y).kneighbors(Xt)
        distance, expected = reference.kneighbors(Xt)
        np.testing.assert_array_equal(rows, expected)
        np.testing.assert_allclose(-similar, distance, rtol=1e-9)


class TestInputs:
    def test_files_are_read_in_pieces(self, clouds, tmp_path, monkeypatch):
        X, y, Xt, _ = clouds
        monkeypatch.setattr(probes.neighbours, "QUERIES", 40)
        monkeypatch.setattr(probes.neighbours, "BASE", 50)
        with h5py.File(tmp_path / "x.h5", "w") as file:
            train, test = (file.create_dataset(n, data=v) for n, v in (("a", X), ("b", Xt)))
            probe = KNNProbe(5).fit(train, y)
            sizes, read = [], h5py.Dataset.__getitem__

            def watched(self, key):
                found = read(self, key)
                sizes.append(len(found))
                return found

            monkeypatch.setattr(h5py.Dataset, "__getitem__", watched)
            found = probe.predict(test)
        assert max(sizes) == 50
        np.testing.assert_array_equal(found, KNNProbe(5).fit(X, y).predict(Xt))

    def test_tensors_and_names(self, clouds):
        X, y, Xt, yt = clouds
        names = np.array(list("abcdef"))
        probe = KNNProbe(5).fit(torch.from_numpy(X), names[y])
        expected = names[KNNProbe(5).fit(X, y).predict(Xt)]
        np.testing.assert_array_equal(probe.predict(torch.from_numpy(Xt)), expected)
        assert probe.score(torch.from_numpy(Xt), names[yt]) == (expected == names[yt]).mean()

    @pytest.mark.parametrize("metric", ["cosine", "euclidean"])
    def test_precisions_may_differ(self, clouds, metric):
        X, y, Xt, _ = clouds
        probe = KNNProbe(5, metric).fit(X, y)
        np.testing.assert_array_equal(probe.predict(Xt.astype(np.float32)), probe.predict(Xt))

    def test_a_row_of_zeros_is_like_none(self):
        probe = KNNProbe(1, weights="uniform").fit([[0.0, 0], [-1, 0], [0.1, 0.5]], [0, 1, 2])
        assert probe.predict([[1.0, -0.5]]).tolist() == [0]


class TestErrors:
    @pytest.mark.parametrize(
        ("params", "match"),
        [
            ({"metric": "dot"}, "metric='dot'"),
            ({"weights": "distance"}, "weights='distance'"),
            ({"temperature": 0}, "temperature=0"),
            ({"n_neighbors": 301}, "n_neighbors=301"),
            ({"n_neighbors": 0}, "n_neighbors=0"),
        ],
    )
    def test_parameters(self, clouds, params, match):
        with pytest.raises(ValueError, match=match):
            KNNProbe(**params).fit(*clouds[:2])

    def test_data(self, clouds, tmp_path):
        X, y, Xt, _ = clouds
        with pytest.raises(ValueError, match="one class"):
            KNNProbe().fit(X, np.zeros(300))
        with pytest.raises(ValueError, match="inconsistent"):
            KNNProbe().fit(X, y[:-1])
        with h5py.File(tmp_path / "x.h5", "w") as file:
            broken = Xt.copy()
            broken[50, 1] = np.nan
            with pytest.raises(ValueError, match="contains nan"):
                KNNProbe().fit(X, y).predict(file.create_dataset("a", data=broken))
            for labels in (y[:99], y[:1], np.eye(6)[y[:100]]):
                with pytest.raises(ValueError, match=f"y has {labels.size} labels for 100 pict"):
                    KNNProbe().fit(X, y).score(Xt, labels)
            with pytest.raises(ValueError, match=r"7 features.*expecting 8"):
                KNNProbe().fit(X, y).predict(file.create_dataset("b", data=Xt[:, 1:]))
            with pytest.raises(ValueError, match="inconsistent"):
                KNNProbe().fit(file.create_dataset("c", data=X), y[1:])


class TestTools:
    @pytest.mark.parametrize("metric", ["cosine", "euclidean"])
    def test_checks_of_scikit_learn(self, metric):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", SkipTestWarning)
            results = check_estimator(KNNProbe(5, metric), on_fail=None)  # some have 10 rows only
        failed = [(r["check_name"], r["exception"]) for r in results if r["status"] == "failed"]
        assert not failed
        assert len(results) > 40

    def test_grid_search_and_pickle(self, clouds):
        X, y, Xt, _ = clouds
        search = GridSearchCV(KNNProbe(), {"n_neighbors": [1, 15]}, cv=3).fit(X, y)
        assert search.best_params_ == {"n_neighbors": 15}
        copy = pickle.loads(pickle.dumps(search.best_estimator_))
        np.testing.assert_array_equal(copy.predict_proba(Xt), search.predict_proba(Xt))
