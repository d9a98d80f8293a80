"""LinearProbe against scikit-learn's logistic regression, and in scikit-learn's tools."""

from __future__ import annotations

import pickle
import warnings

import h5py
import numpy as np
import pytest
import torch
from sklearn.base import clone
from sklearn.datasets import load_digits
from sklearn.decomposition import PCA
from sklearn.exceptions import ConvergenceWarning, NotFittedError, SkipTestWarning
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import accuracy_score
from sklearn.model_selection import GridSearchCV
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.utils.estimator_checks import check_estimator

import probes.lazy
import probes.tables
from probes import LinearProbe
from tests.versions import wants


@pytest.fixture(scope="module")
def digits():
    """Training and test part of 700 digits, with columns of very different scales."""
    X, y = load_digits(return_X_y=True)
    rng = np.random.default_rng(0)
    X = X * rng.uniform(0.1, 50, X.shape[1]) + rng.normal(size=X.shape[1]) * 10
    return X[:500], y[:500], X[500:700], y[500:700]


def reference(C: float):
    regression = LogisticRegression(C=C, tol=1e-12, max_iter=20000)
    return make_pipeline(StandardScaler(), regression)


def gradient(probe: LinearProbe, X: np.ndarray, y: np.ndarray) -> np.ndarray:
    """Gradient of the documented objective at the fitted weights, by hand in float64."""
    scale = np.where(X.std(0) > 0, X.std(0), 1)
    z = (X - X.mean(0)) / scale
    weights = probe.coef_ * scale  # on standardised features
    wrong = probe.predict_proba(X) - (y[:, None] == probe.classes_)
    by_weight = wrong.T @ z / len(X) + weights / (probe.C * len(X))
    return np.column_stack([by_weight, wrong.mean(0)])


def solved(**params) -> LinearProbe:
    return LinearProbe(tol=1e-9, max_iter=5000, **params)


class TestSolution:
    @pytest.mark.parametrize("C", [1e-4, 1e-2, 1.0])
    def test_float64_gives_the_probabilities_of_scikit_learn(self, digits, C):
        X, y, Xt, _ = digits
        expected = reference(C).fit(X, y).predict_proba(Xt)
        # a gradient of 1e-9 leaves an error of up to 1e-9·C·n = 5e-7 in each weight
        assert np.abs(solved(C=C).fit(X, y).predict_proba(Xt) - expected).max() < 5e-6

    @pytest.mark.parametrize("C", [1e-4, 1e-3, 1e-2])
    def test_float32_stays_close_to_scikit_learn(self, digits, C):
        X, y, Xt, _ = digits
        expected = reference(C).fit(X, y)
        probe = solved(C=C).fit(X.astype(np.float32), y)
        # near the minimum a float32 loss of about 1 no longer changes (6e-8); such a change
        # belongs to a gradient of about 1e-4, which C·n <= 5 turns into some 1e-3 in the logits
        found = probe.predict_proba(Xt.astype(np.float32))
        assert np.abs(found - expected.predict_proba(Xt)).max() < 3e-3

    @pytest.mark.parametrize("tol", [1e-3, 1e-5, 1e-8])
    def test_it_stops_no_earlier_than_tol_says(self, digits, tol):
        X, y, *_ = digits
        probe = LinearProbe(C=1.0, tol=tol, max_iter=5000).fit(X, y)
        assert np.abs(gradient(probe, X, y)).max() <= 1.001 * tol

    def test_two_classes_are_penalised_half_as_much_as_in_scikit_learn(self, digits):
        X, y, Xt, _ = digits
        pair, pair_t = y < 2, np.arange(len(Xt)) < 50
        expected = reference(2 * 0.01).fit(X[pair], y[pair])
        probe = solved(C=0.01).fit(X[pair], y[pair])
        found = probe.predict_proba(Xt[pair_t])
        assert np.abs(found - expected.predict_proba(Xt[pair_t])).max() < 1e-5
        scores = expected.decision_function(Xt[pair_t])
        np.testing.assert_allclose(probe.decision_function(Xt[pair_t]), scores, atol=1e-4)

    def test_probabilities_are_the_softmax_of_the_decision_function(self, digits):
        X, y, Xt, yt = digits
        probe = LinearProbe(C=0.01).fit(X, y)
        logits = probe.decision_function(Xt)
        expected = torch.from_numpy(logits).softmax(1).numpy()
        np.testing.assert_allclose(probe.predict_proba(Xt), expected, atol=1e-12)
        assert (probe.predict(Xt) == probe.classes_[logits.argmax(1)]).all()
        assert probe.score(Xt, yt) == (probe.predict(Xt) == yt).mean() > 0.7

    def test_a_path_over_C_ends_where_a_cold_start_does(self, digits):
        X, y, Xt, _ = digits
        warm = solved(warm_start=True)
        for C in (1e-4, 1e-3, 1e-2):
            warm.set_params(C=C).fit(X, y)
        cold = solved(C=1e-2).fit(X, y)
        np.testing.assert_allclose(warm.predict_proba(Xt), cold.predict_proba(Xt), atol=1e-6)

    def test_a_warm_start_at_the_solution_ends_at_once(self, digits):
        X, y, *_ = digits
        probe = LinearProbe(C=0.01, warm_start=True).fit(X, y)
        first = probe.n_iter_
        assert probe.fit(X, y).n_iter_ < first / 2

    def test_a_warm_start_on_other_classes_begins_anew(self, digits):
        X, y, Xt, _ = digits
        warm = LinearProbe(C=0.01, warm_start=True).fit(X, y).fit(X, y % 5)
        cold = LinearProbe(C=0.01).fit(X, y % 5)
        np.testing.assert_array_equal(warm.predict_proba(Xt), cold.predict_proba(Xt))

    def test_scale_and_offset_of_a_feature_do_not_matter(self, digits):
        X, y, Xt, _ = digits
        moved = solved(C=0.01).fit(X * 1e-3 + 7, y).predict_proba(Xt * 1e-3 + 7)
        np.testing.assert_allclose(moved, solved(C=0.01).fit(X, y).predict_proba(Xt), atol=1e-6)

    def test_constant_features_have_no_influence(self, digits):
        X, y, Xt, _ = digits
        ones = np.full((len(X), 2), 0.1)
        probe = solved(C=0.01).fit(np.hstack([X, ones]), y)
        assert np.abs(probe.coef_[:, -2:]).max() < 1e-18  # the mean of 0.1 is rounded
        found = probe.predict_proba(np.hstack([Xt, np.full((len(Xt), 2), 1e3)]))
        np.testing.assert_allclose(found, solved(C=0.01).fit(X, y).predict_proba(Xt), atol=1e-6)


class TestInputs:
    @pytest.mark.parametrize("kind", ["torch", "torch-half", "torch-bfloat16", "numpy-half", "h5"])
    def test_every_container_gives_what_a_float32_array_gives(self, digits, kind, tmp_path):
        X, y, Xt, yt = digits
        X, Xt = (values.astype(np.float16) for values in (X, Xt))
        if kind == "torch-bfloat16":  # its 8 bits are kept by float16 here, so round first
            X, Xt = (torch.from_numpy(v).bfloat16().float().numpy() for v in (X, Xt))
        expected = LinearProbe(C=0.01).fit(X.astype(np.float32), y)
        with h5py.File(tmp_path / "x.h5", "w") as file:
            wrap = {
                "torch": lambda v, name: torch.from_numpy(v.astype(np.float32)),
                "torch-half": lambda v, name: torch.from_numpy(v),
                "torch-bfloat16": lambda v, name: torch.from_numpy(v).bfloat16(),
                "numpy-half": lambda v, name: v,
                "h5": lambda v, name: file.create_dataset(name, data=v),
            }[kind]
            labels = file.create_dataset("y", data=y) if kind == "h5" else torch.from_numpy(y)
            probe = LinearProbe(C=0.01).fit(wrap(X, "X"), labels)
            test = wrap(Xt, "Xt")
            np.testing.assert_array_equal(
                probe.predict_proba(test), expected.predict_proba(Xt.astype(np.float32))
            )
            assert probe.score(test, torch.from_numpy(yt)) == expected.score(
                Xt.astype(np.float32), yt
            )

    @pytest.mark.parametrize("widest", [2048, 8], ids=["gram", "without a Gram matrix"])
    def test_a_large_file_is_read_in_pieces(self, digits, widest, tmp_path, monkeypatch):
        X, y, Xt, yt = digits
        monkeypatch.setattr(probes.lazy, "CHUNK_BYTES", 4 * X.shape[1] * 100)
        monkeypatch.setattr(probes.tables, "WIDEST", widest)
        expected = LinearProbe(C=0.01, tol=1e-6).fit(X.astype(np.float32), y)
        sizes, read = [], h5py.Dataset.__getitem__

        def watched(self, key):
            found = read(self, key)
            sizes.append(len(found))
            return found

        with h5py.File(tmp_path / "x.h5", "w") as file:
            train, test = (
                file.create_dataset(n, data=v, dtype=np.float32) for n, v in (("a", X), ("b", Xt))
            )
            monkeypatch.setattr(h5py.Dataset, "__getitem__", watched)
            probe = LinearProbe(C=0.01, tol=1e-6, memory=4 * X.size - 1).fit(train, y)
            assert max(sizes) == 100
            found = probe.predict_proba(test)
            assert probe.score(test, yt) == expected.score(Xt, yt)
            assert max(sizes) == 100
            sizes.clear()
            LinearProbe(C=0.01, memory=4 * X.size).fit(train, y)
            assert sum(sizes) == 2 * len(X)  # for the moments, and to hold it
        np.testing.assert_allclose(probe.coef_, expected.coef_, atol=2e-5)
        np.testing.assert_allclose(found, expected.predict_proba(Xt), atol=1e-4)
        with h5py.File(tmp_path / "x.h5", "r") as file:  # from the solution, nothing is left to do
            weak = (
                LinearProbe(C=0.01, memory=0, warm_start=True).fit(file["a"], y).fit(file["a"], y)
            )
        assert weak.n_iter_ <= 1

    def test_a_fit_that_fails_changes_no_answer(self, digits, tmp_path):
        X, y, Xt, _ = digits
        probe = LinearProbe(C=0.01).fit(X, y)
        before = probe.predict(Xt)
        broken = X.astype(np.float32).copy()
        broken[-1, 3] = np.nan
        with h5py.File(tmp_path / "x.h5", "w") as file, pytest.raises(ValueError, match="nan"):
            probe.set_params(memory=0).fit(file.create_dataset("a", data=broken), y + 10)
        np.testing.assert_array_equal(probe.predict(Xt), before)

    @pytest.mark.parametrize("memory", [0, 2 << 30])
    @pytest.mark.parametrize("kind", [np.float64, np.int64])
    def test_a_file_of_many_digits_keeps_them(self, digits, kind, memory, tmp_path):
        X, y, Xt, _ = digits
        X, Xt = ((1e8 + 1000 * values).astype(kind) for values in (X, Xt))
        expected = LinearProbe(C=0.01).fit(X.astype(np.float64), y)
        with h5py.File(tmp_path / "x.h5", "w") as file:
            probe = LinearProbe(C=0.01, memory=memory).fit(file.create_dataset("a", data=X), y)
            found = probe.predict_proba(file.create_dataset("b", data=Xt))
        np.testing.assert_allclose(found, expected.predict_proba(Xt), atol=1e-6)

    def test_a_file_after_a_table_with_names(self, digits, tmp_path):
        X, y, Xt, _ = digits
        probe = LinearProbe(C=0.01).fit(X, y)
        probe.feature_names_in_ = np.array([f"column {k}" for k in range(X.shape[1])], object)
        with h5py.File(tmp_path / "x.h5", "w") as file:
            probe.fit(file.create_dataset("a", data=X), y)
        probe.predict(Xt)  # a warning would be an error
        assert not hasattr(probe, "feature_names_in_")

    def test_scores_are_those_of_scikit_learn(self, digits):
        X, y, Xt, yt = digits
        probe = LinearProbe(C=0.01).fit(X, y)
        weights = np.arange(1.0, len(yt) + 1)
        expected = accuracy_score(yt, probe.predict(Xt), sample_weight=weights)
        assert probe.score(Xt, yt, weights) == pytest.approx(expected)
        assert probe.score(Xt, yt) != pytest.approx(expected)
        with pytest.raises(ValueError, match="inconsistent"):
            probe.score(Xt, yt, weights[1:])

    @wants("mixed labels")
    def test_words_are_no_labels_of_numbers(self, digits):
        X, y, Xt, yt = digits
        probe = LinearProbe(C=0.01).fit(X, y)
        with pytest.raises(ValueError, match="Mix of label input types"):
            probe.score(Xt, yt.astype(str))

    @pytest.mark.parametrize(
        ("rows", "y", "words"),
        [(slice(0), [], "at least one of each"), (slice(9), None, "y to be")],
    )
    def test_files_without_rows_or_labels(self, digits, rows, y, words, tmp_path):
        with h5py.File(tmp_path / "x.h5", "w") as file, pytest.raises(ValueError, match=words):
            LinearProbe().fit(file.create_dataset("a", data=digits[0][rows]), y)

    def test_string_labels_come_back(self, digits):
        X, y, Xt, _ = digits
        names = np.array([f"class {k}" for k in range(10)])
        probe = LinearProbe(C=0.01).fit(X, names[y])
        assert probe.classes_.tolist() == names.tolist()
        np.testing.assert_array_equal(
            probe.predict(Xt), names[LinearProbe(C=0.01).fit(X, y).predict(Xt)]
        )

    def test_a_gradient_does_not_matter(self, digits):
        X, y, *_ = digits
        with torch.no_grad():
            probe = LinearProbe(C=0.01).fit(torch.from_numpy(X).requires_grad_(), y)
        np.testing.assert_array_equal(probe.coef_, LinearProbe(C=0.01).fit(X, y).coef_)

    def test_torch_generator_and_input_are_untouched(self, digits):
        X, y, *_ = digits
        before, state = X.copy(), torch.get_rng_state()
        LinearProbe(C=0.01).fit(X, y)
        np.testing.assert_array_equal(X, before)
        assert torch.equal(torch.get_rng_state(), state)


class TestErrors:
    @pytest.fixture
    def small(self):
        return np.random.default_rng(0).normal(size=(12, 3)), np.arange(12) % 3

    @pytest.mark.parametrize("C", [0, -1.0, float("nan")])
    def test_the_penalty_must_be_positive(self, small, C):
        with pytest.raises(ValueError, match=r"C=.*positive"):
            LinearProbe(C=C).fit(*small)

    def test_one_class(self, small):
        with pytest.raises(ValueError, match="one class"):
            LinearProbe().fit(small[0], np.zeros(12))

    @pytest.mark.parametrize("bad", [np.nan, np.inf])
    def test_not_finite(self, small, bad):
        X, y = small
        broken = X.copy()
        broken[3, 1] = bad
        with pytest.raises(ValueError, match=r"NaN|infinity"):
            LinearProbe().fit(broken, y)
        with pytest.raises(ValueError, match=r"NaN|infinity"):
            LinearProbe().fit(X, y).predict(broken)

    def test_wrong_number_of_features(self, small):
        probe = LinearProbe().fit(*small)
        with pytest.raises(ValueError, match=r"2 features.*expecting 3"):
            probe.predict(small[0][:, :2])

    def test_lengths_differ(self, small):
        with pytest.raises(ValueError, match="inconsistent numbers of samples"):
            LinearProbe().fit(small[0], small[1][:-1])

    def test_continuous_labels(self, small):
        with pytest.raises(ValueError, match="Unknown label type"):
            LinearProbe().fit(small[0], small[0][:, 0])

    def test_not_fitted(self, small):
        with pytest.raises(NotFittedError):
            LinearProbe().predict(small[0])

    def test_too_few_iterations_warn(self, digits):
        with pytest.warns(ConvergenceWarning, match="max_iter=3"):
            LinearProbe(C=1.0, max_iter=3).fit(*digits[:2])


class TestTools:
    def test_checks_of_scikit_learn(self):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", SkipTestWarning)
            warnings.simplefilter("ignore", ConvergenceWarning)
            results = check_estimator(LinearProbe(), on_fail=None)
        failed = [(r["check_name"], r["exception"]) for r in results if r["status"] == "failed"]
        skipped = {r["check_name"] for r in results if r["status"] == "skipped"}
        assert not failed
        # these need pandas and an environment variable
        assert skipped <= {"check_array_api_input", "check_classifier_data_not_an_array"}
        assert len(results) > 40

    def test_clone_keeps_parameters_only(self, digits):
        probe = LinearProbe(C=0.3, max_iter=77, tol=1e-3, device="cpu", warm_start=True)
        copy = clone(probe.set_params(C=0.01).fit(*digits[:2]))
        assert copy.get_params() == probe.get_params()
        assert not hasattr(copy, "coef_")

    def test_grid_search_over_a_pipeline(self, digits):
        X, y, Xt, yt = digits
        pipeline = make_pipeline(PCA(30), LinearProbe())
        grid = {"linearprobe__C": [1e-6, 1e-2]}
        search = GridSearchCV(pipeline, grid, cv=3).fit(X, y)
        assert search.best_params_ == {"linearprobe__C": 1e-2}
        assert search.score(Xt, yt) == pipeline.set_params(**search.best_params_).fit(X, y).score(
            Xt, yt
        )

    def test_pickle(self, digits):
        probe = LinearProbe(C=0.01).fit(*digits[:2])
        copy = pickle.loads(pickle.dumps(probe))
        np.testing.assert_array_equal(copy.predict_proba(digits[2]), probe.predict_proba(digits[2]))

    def test_the_same_fit_twice_is_the_same_to_the_bit(self, digits):
        first, second = (LinearProbe(C=0.01).fit(*digits[:2]).coef_ for _ in range(2))
        np.testing.assert_array_equal(first, second)
