"""Heads for several labels against scikit-learn."""

from __future__ import annotations

import pickle

import h5py
import numpy as np
import pytest
import torch
from sklearn.base import clone
from sklearn.linear_model import LogisticRegression, Ridge
from sklearn.metrics import average_precision_score, log_loss
from sklearn.model_selection import cross_val_score
from sklearn.multiclass import OneVsRestClassifier
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from probes import LinearMultilabelProbe, MLPMultilabelProbe, RidgeMultilabelProbe

HEADS = {
    "ridge": RidgeMultilabelProbe(),
    "linear": LinearMultilabelProbe(C=0.1),
    "mlp": MLPMultilabelProbe(hidden=(), epochs=20, learning_rate=0.03, random_state=0),
}


@pytest.fixture(scope="module")
def data():
    """200 rows of 10 features and 4 labels, and 100 further rows."""
    rng = np.random.default_rng(0)
    X = rng.normal(2, 3, (300, 10))
    y = (X / 3 @ rng.normal(size=(10, 4)) + rng.normal(size=(300, 4)) > [0, 3, -1, 1]).astype(int)
    return X[:200], y[:200], X[200:], y[200:]


def test_ridge_is_that_of_scikit_learn(data):
    X, y, Xt, _ = data
    probe = RidgeMultilabelProbe([10.0]).fit(X, y)
    expected = make_pipeline(StandardScaler(), Ridge(10.0)).fit(X, 2.0 * y - 1).predict(Xt)
    np.testing.assert_allclose(probe.decision_function(Xt), expected, atol=1e-8)
    np.testing.assert_array_equal(probe.predict(Xt), expected > 0)


def test_ridge_takes_the_best_of_validation(data):
    X, y, Xv, yv = data
    probe = RidgeMultilabelProbe([1e-1, 1e2, 1e4]).fit(X[:15], y[:15], Xv, yv)
    scores = [RidgeMultilabelProbe([a]).fit(X[:15], y[:15]).score(Xv, yv) for a in probe.alphas_]
    np.testing.assert_allclose(probe.scores_, scores, rtol=1e-9)
    assert probe.alpha_ == probe.alphas_[np.argmax(scores)]
    assert probe.score(Xv, yv) == max(scores)


@pytest.mark.parametrize("C", [0.01, 1.0])
def test_linear_is_one_versus_rest(data, C):
    X, y, Xt, _ = data
    probe = LinearMultilabelProbe(C, tol=1e-8).fit(X, y)
    rest = OneVsRestClassifier(LogisticRegression(C=C, tol=1e-10, max_iter=10000))
    expected = make_pipeline(StandardScaler(), rest).fit(X, y)
    np.testing.assert_allclose(probe.predict_proba(Xt), expected.predict_proba(Xt), atol=1e-5)
    np.testing.assert_array_equal(probe.predict(Xt), expected.predict(Xt))


def test_linear_from_a_file_in_pieces(data, tmp_path):
    X, y, Xt, _ = data
    X = X.astype(np.float32)
    plain = LinearMultilabelProbe(0.1, tol=1e-6).fit(X, y)
    with h5py.File(tmp_path / "x.h5", "w") as file:
        stored = file.create_dataset("X", data=X), file.create_dataset("y", data=y)
        found = LinearMultilabelProbe(0.1, tol=1e-6, memory=0).fit(*stored)
    np.testing.assert_allclose(found.predict_proba(Xt), plain.predict_proba(Xt), atol=1e-3)


def test_labels_that_all_or_none_have(data):
    X, y, Xt, _ = data
    y = np.column_stack([y, np.zeros(len(y), int), np.ones(len(y), int)])
    found = LinearMultilabelProbe(0.1).fit(X, y).predict(Xt)
    assert (found[:, -2:] == [0, 1]).all()
    assert 0 < found[:, :4].mean() < 1


def test_the_loss_of_layers_is_the_binary_cross_entropy(data):
    X, y, Xv, yv = data
    probe = clone(HEADS["mlp"]).fit(X, y, Xv, yv)
    p, last = probe.predict_proba(Xv).astype(np.float64), probe.history_[-1]
    losses = [log_loss(yv[:, k], p[:, k]) for k in range(4)]
    assert last["validation_loss"] == pytest.approx(np.mean(losses), rel=1e-5)
    precision = average_precision_score(yv, p)
    assert last["validation_mean_average_precision"] == pytest.approx(precision, rel=1e-4)
    assert precision > 0.8


@pytest.mark.parametrize("name", HEADS)
class TestScikitLearn:
    def test_score_clone_pickle_and_cross_validation(self, name, data):
        X, y, Xt, yt = data
        probe = clone(HEADS[name]).fit(X, y)
        score = average_precision_score(yt, probe.decision_function(Xt))
        assert probe.score(Xt, yt) == pytest.approx(score, rel=1e-9)
        assert score > 0.8
        again = pickle.loads(pickle.dumps(probe))
        np.testing.assert_array_equal(again.predict(Xt), probe.predict(Xt))
        assert clone(probe).get_params() == probe.get_params()
        assert cross_val_score(clone(HEADS[name]), X, y, cv=2).min() > 0.7

    def test_torch(self, name, data):
        X, y, Xt, _ = (torch.from_numpy(part) for part in data)
        plain = clone(HEADS[name]).fit(data[0], data[1]).decision_function(data[2])
        found = clone(HEADS[name]).fit(X, y).decision_function(Xt)
        np.testing.assert_allclose(found, plain, atol=1e-5)

    def test_errors(self, name, data):
        X, y, *_ = data
        with pytest.raises(ValueError, match=r"shape \(200,\); expected \(N, K\)"):
            clone(HEADS[name]).fit(X, y[:, 0])
        with pytest.raises(ValueError, match=r"values \[2, 3\]; expected 0 and 1"):
            clone(HEADS[name]).fit(X, y + 2)
        with pytest.raises(ValueError, match="requires y"):
            clone(HEADS[name]).fit(X, None)
        with pytest.raises(ValueError, match="inconsistent"):
            clone(HEADS[name]).fit(X, y[:-1])
