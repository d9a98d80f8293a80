"""Shapley values of linear heads, against the definition over all subsets."""

from __future__ import annotations

from itertools import combinations
from math import factorial

import numpy as np
import pytest
from sklearn.linear_model import Ridge

from probes import KNNProbe, LinearProbe, ManyRidge, RidgeProbe, RidgeRegressionProbe
from probes.shapley import grouped, linear_shapley, linear_weights


def by_definition(score, x, background, players) -> np.ndarray:
    """sum over S of |S|!(n − |S| − 1)!/n!·(v(S + i) − v(S)), with v the mean of the score over the
    background with the features of S set to x."""
    n = len(players)

    def v(some):
        rows = background.copy()
        for player in some:
            rows[:, players[player]] = x[players[player]]
        return score(rows).mean()

    found = np.zeros(n)
    for i in range(n):
        others = [k for k in range(n) if k != i]
        for size in range(n):
            weight = factorial(size) * factorial(n - size - 1) / factorial(n)
            for some in combinations(others, size):
                found[i] += weight * (v((*some, i)) - v(some))
    return found


@pytest.fixture(scope="module")
def data():
    rng = np.random.default_rng(0)
    X = rng.normal(size=(60, 5)) * [1, 10, 0.1, 1, 3] + [0, 5, 0, -2, 1]
    return X, (X @ [1, 0.2, 5, -1, 0] + rng.normal(size=60) > 0).astype(int)


def test_features_and_groups_of_a_scikit_learn_model(data):
    X, _ = data
    y = X @ [1.0, -2, 0.5, 3, 0] + 7
    head = Ridge(alpha=0.1).fit(X, y)
    phi = linear_shapley(head.coef_, X[:3], X.mean(0))
    for row in range(3):
        plain = by_definition(head.predict, X[row], X, [[k] for k in range(5)])
        np.testing.assert_allclose(phi[row], plain, atol=1e-9)
        teams = [[0, 3], [1], [2, 4]]
        together = by_definition(head.predict, X[row], X, teams)
        np.testing.assert_allclose(
            grouped(phi, [0, 1, 2, 0, 2], 3)[row], together, atol=1e-9
        )  # fmt: skip


@pytest.mark.parametrize("head", [LinearProbe(C=0.1), RidgeProbe(), RidgeRegressionProbe()])
def test_they_add_up_to_what_the_head_says(data, head):
    X, y = data
    head.fit(X, y)
    weights, offsets = linear_weights(head)
    phi = np.stack([linear_shapley(w, X, X.mean(0)) for w in weights], 1)
    scores = phi.sum(2) + (weights @ X.mean(0) + offsets)
    if isinstance(head, LinearProbe):
        logits = np.log(head.predict_proba(X))
        np.testing.assert_allclose(scores[:, 1] - scores[:, 0], logits[:, 1] - logits[:, 0],
                                   atol=1e-9)  # fmt: skip
    elif isinstance(head, RidgeProbe):
        np.testing.assert_array_equal(head.classes_[scores.argmax(1)], head.predict(X))
    else:
        np.testing.assert_allclose(scores[:, 0], head.predict(X), atol=1e-9)


def test_what_cannot_be_meant(data):
    X, y = data
    with pytest.raises(ValueError, match="KNNProbe is not linear"):
        linear_weights(KNNProbe().fit(X, y))
    many = ManyRidge().fit(X[None], y, X[None], y)
    with pytest.raises(ValueError, match="ManyRidge holds 1 heads"):
        linear_weights(many)
    assert linear_weights(many.probe(0))[0].shape == (2, 5)
    with pytest.raises(ValueError, match=r"expected\s"):
        linear_shapley(np.ones(4), X, X.mean(0))
    with pytest.raises(ValueError, match="one of 0"):
        grouped(X, [0, 1, 2, 3, 4], 4)
    with pytest.raises(ValueError, match="groups"):
        grouped(X, [0, 1], 2)
