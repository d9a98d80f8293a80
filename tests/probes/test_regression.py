"""Heads for real numbers against scikit-learn."""

from __future__ import annotations

import pickle
import warnings

import h5py
import numpy as np
import pytest
import torch
from sklearn.base import clone
from sklearn.exceptions import SkipTestWarning
from sklearn.linear_model import LinearRegression, Ridge, RidgeCV
from sklearn.metrics import r2_score
from sklearn.model_selection import GridSearchCV
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.utils.estimator_checks import check_estimator

from probes import MLPRegressionProbe, RidgeRegressionProbe


@pytest.fixture(scope="module")
def data():
    """150 rows of 12 features; two outputs of very different units; and 60 further rows."""
    rng = np.random.default_rng(0)
    X = rng.normal(3, 2, (210, 12)) * rng.uniform(0.1, 10, 12)
    y = X / X.std(0) @ rng.normal(size=(12, 2)) + rng.normal(size=(210, 2))
    y = y * [1e-3, 1e4] + [5, -1e5]
    return X[:150], y[:150], X[150:], y[150:]


def ridge(alpha: float, X, y):
    return make_pipeline(StandardScaler(), Ridge(alpha)).fit(X, y)


class TestRidge:
    @pytest.mark.parametrize("alpha", [1e-2, 1.0, 100.0])
    @pytest.mark.parametrize("rows", [150, 8], ids=["narrow", "wide"])
    def test_is_that_of_scikit_learn(self, data, alpha, rows, monkeypatch):
        X, y, Xt, _ = data
        for module in ("lazy", "grams"):
            monkeypatch.setattr(f"probes.{module}.CHUNK_BYTES", 1000)
        probe = RidgeRegressionProbe([alpha]).fit(X[:rows], y[:rows])
        expected = ridge(alpha, X[:rows], y[:rows]).predict(Xt)
        np.testing.assert_allclose(probe.predict(Xt), expected, rtol=1e-8)
        one = RidgeRegressionProbe([alpha]).fit(X[:rows], y[:rows, 1])
        np.testing.assert_allclose(one.predict(Xt), expected[:, 1], rtol=1e-8)
        assert one.predict(Xt).shape == (60,)

    def test_alpha_by_cross_validation_is_scikit_learns(self, data):
        """One output: leave-one-out's rotation-invariant form, computed from its definition."""
        X, y, *_ = data
        alphas = [1e-1, 1.0, 1e1, 1e2, 1e3]
        probe = RidgeRegressionProbe(alphas).fit(X[:40], y[:40, 0])
        Z, t = StandardScaler().fit_transform(X[:40]), y[:40, 0]
        t = (t - t.mean()) / t.std()
        for alpha, score in zip(probe.alphas_, probe.scores_, strict=True):
            A = Z @ np.linalg.solve(Z.T @ Z + alpha * np.eye(12), Z.T) + 1 / 40
            expected = 40 * np.square(t - A @ t).sum() / (40 - np.trace(A)) ** 2
            assert score == pytest.approx(expected, rel=1e-8)
        assert probe.alpha_ == probe.alphas_[np.argmin(probe.scores_)]
        loo = RidgeCV(alphas).fit(Z, t)
        assert 0.1 <= probe.alpha_ / loo.alpha_ <= 10

    def test_alpha_by_validation(self, data):
        X, y, Xv, yv = data
        noisy = y + np.random.default_rng(1).normal(size=y.shape) * y.std(0) * 3
        probe = RidgeRegressionProbe([1e-2, 1.0, 1e2, 1e4]).fit(X[:20], noisy[:20], Xv, yv)
        expected = [r2_score(yv, ridge(a, X[:20], noisy[:20]).predict(Xv)) for a in probe.alphas_]
        np.testing.assert_allclose(probe.scores_, expected, rtol=1e-7)
        assert probe.alpha_ == probe.alphas_[np.argmax(expected)]
        assert probe.score(Xv, yv) == pytest.approx(max(expected), rel=1e-7)

    def test_containers(self, data, tmp_path):
        X, y, Xt, _ = data
        X, Xt = X.astype(np.float32), Xt.astype(np.float32)
        plain = RidgeRegressionProbe().fit(X, y).predict(Xt)
        with h5py.File(tmp_path / "x.h5", "w") as file:
            stored = file.create_dataset("X", data=X), file.create_dataset("y", data=y)
            found = RidgeRegressionProbe().fit(*stored).predict(torch.from_numpy(Xt))
        np.testing.assert_allclose(found, plain, rtol=1e-6)


class TestNetworks:
    def test_the_linear_one_tends_to_least_squares(self, data):
        X, y, Xt, _ = data
        probe = MLPRegressionProbe(
            hidden=(), epochs=300, learning_rate=0.03, weight_decay=0.0, batch_size=150,
            random_state=0,
        ).fit(X, y)  # fmt: skip
        expected = LinearRegression().fit(X, y).predict(Xt)
        assert (abs(probe.predict(Xt) - expected) < 1e-2 * y.std(0)).all()
        Z = (y - y.mean(0)) / y.std(0)
        left = np.square(Z - LinearRegression().fit(X, Z).predict(X)).mean()
        assert probe.history_[-1]["loss"] == pytest.approx(left, rel=1e-2)

    def test_validation_and_patience(self, data):
        X, y, Xv, yv = data
        probe = MLPRegressionProbe(
            hidden=(32,), epochs=40, patience=3, learning_rate=0.05, random_state=0
        ).fit(X, y, Xv, yv)
        curve = [seen["validation_r2"] for seen in probe.history_]
        assert probe.best_epoch_ == int(np.argmax(curve)) + 1
        assert probe.score(Xv, yv) == pytest.approx(max(curve), abs=1e-5)
        held = MLPRegressionProbe(epochs=2, validation_fraction=0.2, random_state=0).fit(X, y[:, 0])
        assert "validation_r2" in held.history_[0]
        assert held.predict(Xv).shape == (60,)


HEADS = [
    RidgeRegressionProbe(),
    MLPRegressionProbe(hidden=(), epochs=40, learning_rate=0.05, random_state=0),
]


@pytest.mark.parametrize("head", HEADS, ids=["ridge", "mlp"])
class TestScikitLearn:
    def test_checks_of_scikit_learn(self, head):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", SkipTestWarning)
            results = check_estimator(clone(head), on_fail=None)
        failed = [(r["check_name"], r["exception"]) for r in results if r["status"] == "failed"]
        assert not failed
        assert len(results) > 40

    def test_clone_pickle_and_search(self, head, data):
        X, y, Xt, yt = data
        probe = clone(head).fit(X, y)
        again = pickle.loads(pickle.dumps(probe))
        np.testing.assert_array_equal(again.predict(Xt), probe.predict(Xt))
        assert clone(probe).get_params() == probe.get_params()
        assert probe.score(Xt, yt) == pytest.approx(r2_score(yt, probe.predict(Xt)))
        name = "alphas" if hasattr(head, "alphas") else "learning_rate"
        values = [[1.0], [1e9]] if name == "alphas" else [0.05, 1e-9]
        found = GridSearchCV(clone(head), {name: values}, cv=2).fit(X, y)
        assert found.best_params_[name] == values[0]

    def test_errors(self, head, data):
        X, y, Xt, yt = data
        with pytest.raises(ValueError, match="NaN"):
            clone(head).fit(X, np.full(len(X), np.nan))
        with pytest.raises(ValueError, match="together"):
            clone(head).fit(X, y, Xt)
        with pytest.raises(ValueError, match="y_validation has 1 outputs; expected 2"):
            clone(head).fit(X, y, Xt, yt[:, 0])
        with pytest.raises(ValueError, match="inconsistent"):
            clone(head).fit(X, y[:-1])
