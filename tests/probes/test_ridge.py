"""RidgeProbe against scikit-learn's RidgeClassifier and hat matrices, and in its tools."""

from __future__ import annotations

import pickle
import warnings

import h5py
import numpy as np
import pytest
import torch
from sklearn.base import clone
from sklearn.datasets import load_digits
from sklearn.exceptions import SkipTestWarning
from sklearn.linear_model import RidgeClassifier
from sklearn.model_selection import GridSearchCV
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.utils.estimator_checks import check_estimator

import probes.lazy
from probes.ridge import RidgeProbe


@pytest.fixture(scope="module")
def digits():
    """700 digits, with columns of very different scales and offsets."""
    X, y = load_digits(return_X_y=True)
    rng = np.random.default_rng(0)
    X = X * 10.0 ** rng.uniform(-2, 2, X.shape[1]) + rng.normal(size=X.shape[1]) * 10
    return X[:500], y[:500], X[500:700], y[500:700]


def reference(alpha: float, standardise: bool = True):
    ridge = RidgeClassifier(alpha=alpha, solver="svd")
    return make_pipeline(StandardScaler(), ridge) if standardise else ridge


@pytest.mark.parametrize("n", [500, 40], ids=["primal", "dual"])
class TestSolution:
    @pytest.mark.parametrize("standardise", [True, False])
    @pytest.mark.parametrize("alpha", [1e-1, 10.0, 1e4])
    def test_scores_are_those_of_scikit_learn(self, digits, n, alpha, standardise):
        X, y, Xt, _ = digits
        expected = reference(alpha, standardise).fit(X[:n], y[:n]).decision_function(Xt)
        probe = RidgeProbe([alpha], standardise).fit(X[:n], y[:n])
        np.testing.assert_allclose(probe.decision_function(Xt), expected, atol=1e-7)
        assert probe.alpha_ == alpha

    def test_two_classes(self, digits, n):
        X, y, Xt, _ = digits
        X, y = X[y < 2][:n], np.array(["no", "yes"])[y[y < 2][:n]]
        expected = reference(10.0).fit(X, y)
        probe = RidgeProbe([10.0]).fit(X, y)
        found = probe.decision_function(Xt)
        np.testing.assert_allclose(found, expected.decision_function(Xt), atol=1e-7)
        np.testing.assert_array_equal(probe.predict(Xt), expected.predict(Xt))

    def test_cross_validation_is_that_of_hat_matrices(self, digits, n):
        X, y = digits[0][:n], digits[1][:n]
        scale = X.std(0)
        Z = (X - X.mean(0)) / np.where(scale > 1e-9, scale, 1)
        Y = np.where(y[:, None] == np.unique(y), 1.0, -1.0)
        alphas, scores = (1e4, 1e2, 1.0, 1e-1), []
        for alpha in alphas:
            A = Z @ np.linalg.inv(Z.T @ Z + alpha * np.eye(Z.shape[1])) @ Z.T + 1 / n
            left = Y - A @ Y
            scores.append(n * np.sum(left**2) / np.trace(np.eye(n) - A) ** 2)
        probe = RidgeProbe(alphas).fit(X, y)
        np.testing.assert_allclose(probe.gcv_, scores, rtol=1e-7)
        assert probe.alpha_ == alphas[int(np.argmin(scores))]
        expected = reference(probe.alpha_).fit(X, y).decision_function(digits[2])
        np.testing.assert_allclose(probe.decision_function(digits[2]), expected, atol=1e-7)

    @pytest.mark.parametrize("kind", ["h5", "h5-half", "torch", "float32"])
    def test_containers_in_pieces(self, digits, n, kind, tmp_path, monkeypatch):
        X, y, Xt, yt = digits
        monkeypatch.setattr(probes.lazy, "CHUNK_BYTES", 5000)
        monkeypatch.setattr("probes.ridge.CHUNK_BYTES", 5000)
        monkeypatch.setattr("probes.grams.CHUNK_BYTES", 5000)
        precise = np.float16 if kind == "h5-half" else np.float32
        X, Xt = X[:n].astype(precise), Xt.astype(precise)
        expected = reference(100.0).fit(X.astype(np.float64), y[:n])
        with h5py.File(tmp_path / "x.h5", "w") as file:
            wrap = {"torch": torch.from_numpy, "float32": np.asarray}.get(
                kind, lambda v: file.create_dataset(str(len(v)), data=v)
            )
            probe = RidgeProbe([100.0]).fit(wrap(X), torch.from_numpy(y[:n]))
            held = wrap(Xt)
            found = probe.decision_function(held)
            scores = expected.decision_function(Xt.astype(np.float64))
            np.testing.assert_allclose(found, scores, atol=1e-3)
            assert probe.score(held, torch.from_numpy(yt)) == (probe.predict(Xt) == yt).mean() > 0.5


class TestInputs:
    def test_constant_features_have_no_influence(self, digits):
        X, y, Xt, _ = digits
        probe = RidgeProbe().fit(np.hstack([X, np.full((500, 1), 0.1)]), y)
        found = probe.decision_function(np.hstack([Xt, np.full((200, 1), 1e5)]))
        np.testing.assert_allclose(found, RidgeProbe().fit(X, y).decision_function(Xt), atol=1e-7)

    def test_bad_input(self, digits, tmp_path):
        X, y, Xt, _ = digits
        for alphas in ((), [0.0], [-1.0, 1.0]):
            with pytest.raises(ValueError, match="expected positive numbers"):
                RidgeProbe(alphas).fit(X, y)
        with pytest.raises(ValueError, match="one class"):
            RidgeProbe().fit(X, y * 0)
        with pytest.raises(ValueError, match="inconsistent"):
            RidgeProbe().fit(X, y[1:])
        with h5py.File(tmp_path / "x.h5", "w") as file:
            broken = X.copy()
            broken[400, 3] = np.nan
            with pytest.raises(ValueError, match="contains nan"):
                RidgeProbe().fit(file.create_dataset("a", data=broken), y)
            with pytest.raises(ValueError, match="inconsistent"):
                RidgeProbe().fit(file.create_dataset("b", data=X), y[1:])
            with pytest.raises(ValueError, match=r"expected \(pictures, features\)"):
                RidgeProbe().fit(file.create_dataset("c", data=X[:, :, None]), y)
            for labels in (y[:199], y[:1], np.eye(10)[y[:200]]):
                with pytest.raises(ValueError, match=f"y has {labels.size} labels for 200 pict"):
                    RidgeProbe().fit(X, y).score(Xt, labels)
            with pytest.raises(ValueError, match=r"63 features.*expecting 64"):
                RidgeProbe().fit(X, y).predict(file.create_dataset("d", data=Xt[:, 1:]))


class TestTools:
    def test_checks_of_scikit_learn(self):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", SkipTestWarning)
            results = check_estimator(RidgeProbe(), on_fail=None)
        failed = [(r["check_name"], r["exception"]) for r in results if r["status"] == "failed"]
        assert not failed
        assert len(results) > 40

    def test_clone_grid_search_and_pickle(self, digits):
        X, y, Xt, _ = digits
        grid = {"alphas": [(1e8,), (10.0,)]}
        search = GridSearchCV(RidgeProbe(device="cpu"), grid, cv=3).fit(X, y)
        assert search.best_params_ == {"alphas": (10.0,)}
        copy = pickle.loads(pickle.dumps(search.best_estimator_))
        np.testing.assert_array_equal(copy.decision_function(Xt), search.decision_function(Xt))
        assert not hasattr(clone(copy), "coef_")
