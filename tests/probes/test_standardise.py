"""The one rule for constant features, everywhere that features are standardised."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from diffeat.search.scores import standardised
from probes import ManyLogistic, ManyRidge, MLPProbe, RidgeProbe, RidgeRegressionProbe
from probes.lazy import Rows
from probes.standardise import moments, running_moments, standardise, varies
from probes.tables import Streamed

CPU = torch.device("cpu")


def flickering(n: int = 200) -> np.ndarray:
    """Columns: a constant that flickers by one step of float32, by 64, tiny scale, zeros."""
    rng = np.random.default_rng(0)
    base = np.float32(1000.3)
    step, coin = np.spacing(base), rng.integers(0, 2, n)
    return np.stack([base + step * coin, base + 64 * step * coin, 1e-20 * rng.normal(size=n),
                     np.zeros(n)], 1).astype(np.float32)  # fmt: skip


def test_the_rule():
    assert varies(np.array([2e-6, 1e-7, 0.0, 1e-30]), np.array([1.0, 1.0, 0.0, 0.0])).tolist() == [
        True, False, False, True
    ]  # fmt: skip
    assert varies(torch.tensor([1e-9]), torch.tensor([-1.0]), "float64").tolist() == [True]
    assert varies(torch.tensor([1e-9]), torch.tensor([-1.0])).tolist() == [False]


def test_every_place_has_the_same_rule():
    X = flickering()
    wanted = [False, True, True, False]
    (z,) = standardised(X)
    assert (abs(z).max(0) > 0).tolist() == wanted
    z, _, scale = standardise([torch.from_numpy(X)])
    assert (z[0].abs().amax(0) > 0).tolist() == wanted
    assert (scale[0, 0] != 1).tolist() == wanted
    assert (Streamed(Rows(X), CPU).scale != 1).tolist() == wanted
    y = np.arange(len(X)) % 2
    head = MLPProbe(hidden=(), epochs=1, random_state=0).fit(X, y)
    assert (head.module_[0].deviation != 1).tolist() == wanted
    # ridge gives constants no weight, in the primal and the dual
    assert (RidgeProbe([1.0]).fit(X, y).coef_[0] != 0).tolist() == wanted
    assert (RidgeRegressionProbe([1.0]).fit(X, y).coef_[0] != 0).tolist() == wanted
    coin = X[:, 0] != X[:, 0].min()
    few = np.r_[np.flatnonzero(coin)[:1], np.flatnonzero(~coin)[:2]]
    assert (RidgeProbe([1.0]).fit(X[few], [0, 1, 0]).coef_[0] != 0).tolist() == wanted
    for many in (ManyRidge([1.0]), ManyLogistic([1.0])):
        found = many.fit(X[None], y, X[None], y).coef_[0, 0]
        assert (found[[0, 3]] == 0).all()


def test_moments_are_those_of_numpy():
    X = np.random.default_rng(1).normal(5, 3, (100, 4))
    X[:, 2] = -7.25
    pieces = [torch.from_numpy(part) for part in np.array_split(X, [1, 30])]
    mean, variance = running_moments(pieces)
    np.testing.assert_allclose(mean, X.mean(0), rtol=1e-12)
    np.testing.assert_allclose(variance, X.var(0), rtol=1e-12, atol=1e-25)
    _, deviation = moments(pieces)
    np.testing.assert_allclose(deviation, np.where(X.std(0) > 1e-9, X.std(0), 1), rtol=1e-12)


def test_float64_resolves_more():
    rng = np.random.default_rng(0)
    y = rng.integers(0, 2, 200)
    X = 1.6e9 + 100.0 * y[:, None] + rng.normal(size=(200, 1))
    assert Streamed(Rows(X, dtype=np.float64), CPU).scale[0] == pytest.approx(X.std(), rel=1e-6)
