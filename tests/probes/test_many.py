"""ManyLogistic and ManyRidge against single probes and scikit-learn, cell by cell."""

from __future__ import annotations

import pickle

import h5py
import numpy as np
import pytest
import torch
from sklearn.base import clone
from sklearn.exceptions import ConvergenceWarning, NotFittedError
from sklearn.linear_model import LogisticRegression, RidgeClassifier
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

import probes.lazy
import probes.many
import probes.tables
from probes import LinearProbe
from probes.many import ManyLogistic
from probes.ridge import ManyRidge

G, N, M, D, K = 4, 400, 150, 12, 5
MANY = [ManyLogistic, ManyRidge]


@pytest.fixture(scope="module")
def surface():
    """Cells of correlated features with scales of their own; the last is mostly noise."""
    rng = np.random.default_rng(0)
    y = rng.integers(K, size=N + M)
    X = np.stack(
        [
            (rng.normal(size=(K, D))[y] + noise * rng.normal(size=(N + M, D)))
            @ rng.normal(size=(D, D)) * 10.0**g + 5 * g
            for g, noise in enumerate((0.8, 1.2, 1.6, 6.0))
        ]
    ).astype(np.float32)  # fmt: skip
    return X[:, :N], y[:N], X[:, N:], y[N:]


def batched(monkeypatch):
    """As on an accelerator: all cells in one group."""
    monkeypatch.setattr(ManyLogistic, "_groups", lambda self, cells: [np.arange(len(cells))])


class TestLogistic:
    @pytest.mark.parametrize("together", [False, True])
    @pytest.mark.parametrize("C", [1e-3, 1e-1])
    def test_every_cell_has_the_minimiser_of_a_linear_probe(
        self, surface, C, together, monkeypatch
    ):
        if together:
            batched(monkeypatch)
        X, y, Xv, yv = surface
        many = ManyLogistic([C], tol=1e-6).fit(X, y, Xv, yv)
        for g in range(G):
            probe = LinearProbe(C, tol=1e-10, max_iter=5000).fit(X[g].astype(np.float64), y)
            # float32 resolves the objective to 1e-7; C·n·sqrt(1e-7) bounds what that leaves
            expected = probe.coef_ * X[g].std(0)
            np.testing.assert_allclose(many.coef_[g] * X[g].std(0), expected, atol=5e-3)
            logits = Xv[g] @ many.coef_[g].T + many.intercept_[g]
            np.testing.assert_allclose(logits, probe.decision_function(Xv[g]), atol=2e-2)

    @pytest.mark.parametrize("together", [False, True])
    def test_paths_are_those_of_scikit_learn_until_they_end(self, surface, together, monkeypatch):
        if together:
            batched(monkeypatch)
        X, y, Xv, yv = surface
        penalties = (1e-4, 1e-3, 1e-2, 1e-1, 1.0, 10.0)
        many = ManyLogistic(penalties, tol=1e-5).fit(X, y, Xv, yv)
        for g in range(G):
            expected = [
                make_pipeline(StandardScaler(), LogisticRegression(C=C, max_iter=5000))
                .fit(X[g].astype(np.float64), y)
                .score(Xv[g], yv)
                for C in penalties
            ]
            found = many.path_[:, g]
            run = np.isfinite(found)
            np.testing.assert_allclose(found[run], np.array(expected)[run], atol=2.5 / M)
            best = found[run].max()
            assert many.validation_[g] == best
            assert many.penalty_[g] == penalties[np.flatnonzero(found == best)[0]]
            last = np.flatnonzero(run)[-1]
            assert run[: last + 1].all()
            if last < len(penalties) - 1:
                assert found[last] < best - np.sqrt(best * (1 - best) / M)
        np.testing.assert_array_equal(many.validation_, many.score(Xv, yv))

    def test_a_cell_that_overfits_ends_alone(self, surface, monkeypatch):
        X, y, Xv, yv = surface
        few, penalties = slice(0, 60), (1e-4, 1e-2, 1.0, 100.0)
        alone = [
            ManyLogistic(penalties, tol=1e-5).fit(X[[g], few], y[few], Xv[[g]], yv) for g in (1, 3)
        ]
        batched(monkeypatch)
        many = ManyLogistic(penalties, tol=1e-5).fit(X[[1, 3], few], y[few], Xv[[1, 3]], yv)
        assert np.isnan(many.path_[-1]).tolist() == [False, True]
        expected = np.hstack([one.path_ for one in alone])
        np.testing.assert_allclose(many.path_, expected, atol=1.1 / M)

    def test_without_a_gram_matrix_the_solution_is_the_same(self, surface, monkeypatch):
        X, y, Xv, yv = surface
        expected = ManyLogistic([1e-2], tol=1e-5).fit(X, y, Xv, yv)
        monkeypatch.setattr(probes.tables, "WIDEST", D - 1)
        found = ManyLogistic([1e-2], tol=1e-5).fit(X, y, Xv, yv)
        scale = X.std(1)[:, None]
        np.testing.assert_allclose(found.coef_ * scale, expected.coef_ * scale, atol=5e-3)
        assert found.n_iter_.sum() > 1.3 * expected.n_iter_.sum()

    def test_more_features_than_pictures(self, surface):
        X, y, Xv, _ = surface
        few = slice(0, 9)
        many = ManyLogistic([1.0], tol=1e-6).fit(X[:, few], y[few], Xv, np.resize(y[few], M))
        probe = LinearProbe(1.0, tol=1e-10, max_iter=5000).fit(X[0, few].astype(np.float64), y[few])
        found = X[0, few] @ many.coef_[0].T + many.intercept_[0]
        np.testing.assert_allclose(found, probe.decision_function(X[0, few]), atol=1e-2)

    def test_the_default_is_the_minimiser_of_the_default_linear_probe(self):
        """Also where a weak penalty would end early from wherever the path came."""
        rng = np.random.default_rng(0)
        y = rng.integers(4, size=900)
        mixed = rng.normal(size=(60, 60)) * np.logspace(0, -2, 60)
        X = ((0.4 * rng.normal(size=(4, 60))[y] + rng.normal(size=(900, 60))) @ mixed).astype("f4")
        (train, held), (known, truth) = (X[:500], X[500:]), (y[:500], y[500:])
        path = ManyLogistic([1e-3, 1e-1, 1.0]).fit([train], known, [held], truth)
        alone = ManyLogistic([path.penalty_[0]]).fit([train], known, [held], truth)
        wide = train.astype(np.float64)
        probe = LinearProbe(path.penalty_[0], tol=1e-9, max_iter=5000).fit(wide, known)
        expected = probe.score(held, truth)
        assert abs(path.validation_[0] - expected) <= 2 / 400
        assert abs(alone.validation_[0] - expected) <= 2 / 400

    @pytest.mark.parametrize("together", [False, True])
    def test_cells_that_max_iter_stopped_are_told(self, surface, together, monkeypatch):
        if together:
            batched(monkeypatch)
        X, y, Xv, yv = surface
        easy = X.copy()
        easy[0] = 0  # done at once: only the intercepts are left
        held = Xv.copy()
        held[0] = 0
        with pytest.warns(ConvergenceWarning, match=r"3 of 4 cells .*max_iter=4 at C=\[0.1\]"):
            many = ManyLogistic([1e-6, 1e-1], max_iter=4, tol=1e-4).fit(easy, y, held, yv)
        late = [many.n_iter_[1, g] >= 4 for g in range(G)]
        assert late == [False, True, True, True]
        assert (many.n_iter_[0] < 4).all()
        probe = LinearProbe(1e-1, max_iter=4)
        with pytest.warns(ConvergenceWarning):
            probe.fit(X[1], y)


class TestRidge:
    @pytest.mark.parametrize("standardise", [True, False])
    def test_every_cell_is_scikit_learn_s(self, surface, standardise):
        X, y, Xv, yv = surface
        alphas = (1000.0, 1.0, 10.0)
        many = ManyRidge(alphas, standardise).fit(X, y, Xv, yv)
        assert many.penalties_.tolist() == [1000, 10, 1]
        for g in range(G):
            scores = []
            for alpha in many.penalties_:
                ridge = RidgeClassifier(alpha=alpha)
                ridge = make_pipeline(StandardScaler(), ridge) if standardise else ridge
                ridge.fit(X[g].astype(np.float64), y)
                scores.append(ridge.score(Xv[g], yv))
                if alpha == many.penalty_[g]:
                    found = Xv[g] @ many.coef_[g].T + many.intercept_[g]
                    expected = ridge.decision_function(Xv[g])
                    np.testing.assert_allclose(found, expected, atol=1e-3)
            np.testing.assert_allclose(many.path_[:, g], scores, atol=1.1 / M)
            assert many.validation_[g] == max(many.path_[:, g])
        np.testing.assert_allclose(many.score(Xv, yv), many.validation_, atol=1.1 / M)

    def test_pieces_give_what_all_at_once_does(self, surface):
        X, y, Xv, yv = surface
        whole = ManyRidge().fit(X, y, Xv, yv)
        parts = ManyRidge()
        for start in range(0, N, 130):
            part = slice(start, start + 130)
            parts.partial_fit(X[:, part], y[part], np.arange(K))
        parts.solve(Xv, yv)
        np.testing.assert_allclose(parts.coef_, whole.coef_, rtol=1e-6, atol=1e-12)
        np.testing.assert_array_equal(parts.path_, whole.path_)

    @pytest.mark.parametrize("standardise", [True, False])
    @pytest.mark.parametrize("classes", [2, K])
    def test_more_features_than_pictures(self, surface, standardise, classes):
        """The dual has the solution of scikit-learn and of the sums over pieces."""
        X, y, Xv, yv = surface
        rng = np.random.default_rng(1)
        lift = rng.normal(size=(D, 90)).astype(np.float32)
        few, y, yv = slice(0, 60), y % classes, yv % classes
        wide, held = (np.stack([np.tanh(x / x.std()) @ lift for x in part]) for part in (X, Xv))
        wide[2, :, 7], held[2, :, 7] = 0.1, 3.0  # constant in training
        many = ManyRidge((1000.0, 1.0, 10.0), standardise).fit(wide[:, few], y[few], held, yv)
        sums = ManyRidge(many.penalties, standardise)
        sums.partial_fit(wide[:, few], y[few]).solve(held, yv)
        np.testing.assert_allclose(many.coef_, sums.coef_, atol=1e-8)
        np.testing.assert_allclose(many.intercept_, sums.intercept_, atol=1e-8)
        np.testing.assert_array_equal(many.path_, sums.path_)
        for g in range(G):
            ridge = RidgeClassifier(alpha=many.penalty_[g])
            ridge = make_pipeline(StandardScaler(), ridge) if standardise else ridge
            exact = held[g].astype(np.float64)
            expected = ridge.fit(wide[g, few].astype(np.float64), y[few]).decision_function(exact)
            found = exact @ many.coef_[g].T + many.intercept_[g]
            found = found[:, 1] if classes == 2 else found
            np.testing.assert_allclose(found, expected, atol=1e-8)
            assert many.validation_[g] == ridge.score(exact, yv)

    def test_what_is_kept_follows_the_width(self, surface):
        """Of wide cells no sums are kept, nor those of a fit before."""
        X, y, Xv, yv = surface
        many = ManyRidge().fit(X, y, Xv, yv)
        few = slice(0, D - 1)
        many.fit(X[:, few], y[few], Xv, np.resize(y[few], M))
        with pytest.raises(NotFittedError):
            many.solve(Xv, yv)
        many.fit(X, y, Xv, yv).solve(Xv, yv)
        np.testing.assert_array_equal(many.coef_, ManyRidge().fit(X, y, Xv, yv).coef_)

    def test_pieces_that_do_not_fit(self, surface):
        X, y, *_ = surface
        many = ManyRidge().partial_fit(X, y % 3)
        with pytest.raises(ValueError, match=r"y has classes that training lacks: \[3\]"):
            many.partial_fit(X, np.full(N, 3))
        with pytest.raises(ValueError, match="3 cells of 12"):
            many.partial_fit(X[1:], y % 3)


@pytest.mark.parametrize("kind", MANY)
class TestInputs:
    def test_every_container_gives_the_same(self, surface, kind, tmp_path):
        X, y, Xv, yv = surface
        expected = kind().fit(X, y, Xv, yv)
        with h5py.File(tmp_path / "x.h5", "w") as file:
            whole = [file.create_dataset(n, data=v) for n, v in (("a", X), ("b", Xv))]
            apart = [
                [file.create_dataset(f"{n}{g}", data=v[g]) for g in range(G)]
                for n, v in (("c", X), ("d", Xv))
            ]
            tensors = [torch.from_numpy(v) for v in (X, Xv)]
            for train, held in (whole, apart, tensors, (list(X), list(Xv))):
                many = kind().fit(train, y, held, torch.from_numpy(yv))
                np.testing.assert_array_equal(many.coef_, expected.coef_)
                np.testing.assert_array_equal(many.predict(held), expected.predict(Xv))

    def test_names_constant_features_and_clones(self, surface, kind):
        X, y, Xv, yv = surface
        X, Xv = X.copy(), Xv.copy()
        X[:, :, 3], Xv[:, :, 3] = 0.1, 1e6
        names = np.array(list("edcba"))
        many = kind(device="cpu").fit(X, names[y], Xv, names[yv])
        assert many.classes_.tolist() == sorted(names)
        assert (many.coef_[:, :, 3] == 0).all()
        assert many.score(Xv, names[yv])[0] > 0.8
        assert not hasattr(clone(many), "coef_")
        copy = pickle.loads(pickle.dumps(many))
        np.testing.assert_array_equal(copy.predict(Xv), many.predict(Xv))

    @pytest.mark.parametrize(
        ("change", "match"),
        [
            (lambda X, y, Xv, yv: (X, y[1:], Xv, yv), "399 labels for 400 pictures"),
            (lambda X, y, Xv, yv: (X, y * 0, Xv, yv), "one class only"),
            (
                lambda X, y, Xv, yv: (X, y % 4, Xv, yv),
                r"n has classes that training lacks: \[4\]",
            ),
            (lambda X, y, Xv, yv: (X, y, Xv, yv[1:]), "149 labels for 150 pictures"),
            (lambda X, y, Xv, yv: (X, y, Xv[:, :0], yv[:0]), "X_validation is empty"),
            (lambda X, y, Xv, yv: (X, y, Xv[1:], yv), "X_validation has 3 cells"),
            (lambda X, y, Xv, yv: (X, y, Xv[:, :, 1:], yv), "11 features; expected 4 cells of 12"),
            (lambda X, y, Xv, yv: ([X[0], X[1, 1:]], y, Xv, yv), "the same pictures and width"),
            (lambda X, y, Xv, yv: ([], y, Xv, yv), "expected .G, N, D."),
            (lambda X, y, Xv, yv: (X + np.float32("nan"), y, Xv, yv), r"X\[0\] contains nan"),
            (lambda X, y, Xv, yv: (X, y, Xv / np.float32(0), yv), r"X_validation\[0\] contains"),
        ],
    )
    def test_bad_input(self, surface, kind, change, match):
        with np.errstate(all="ignore"), pytest.raises(ValueError, match=match):
            kind().fit(*change(*surface))

    def test_bad_parameters_and_predictions(self, surface, kind):
        for penalties in ((), (0.0, 1.0), (-1.0,), (float("nan"),)):
            with pytest.raises(ValueError, match="expected positive numbers"):
                kind(penalties).fit(*surface)
        X, y, Xv, yv = surface
        many = kind().fit(X, y, Xv, yv)
        with pytest.raises(ValueError, match="3 cells of 12 features; expected 4"):
            many.predict(Xv[1:])
        with pytest.raises(ValueError, match="149 labels"):
            many.score(Xv, yv[1:])
