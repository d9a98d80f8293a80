"""Heads that are torch modules in scikit-learn's tools; bad input; named protocols."""

from __future__ import annotations

import pickle
import warnings

import h5py
import numpy as np
import pytest
import torch
from sklearn.base import clone
from sklearn.datasets import load_digits
from sklearn.exceptions import NotFittedError, SkipTestWarning
from sklearn.model_selection import GridSearchCV, cross_val_score
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import FunctionTransformer, StandardScaler
from sklearn.utils.estimator_checks import check_estimator

from probes import (
    PRESETS,
    AttentionProbe,
    BatchNormProbe,
    Cells,
    ConvProbe,
    DifFormerProbe,
    MLPProbe,
    NoiseConditionalProbe,
    preset,
)
from probes.training import mirror

HEADS = (MLPProbe, ConvProbe, AttentionProbe, DifFormerProbe, BatchNormProbe)
SMALL = {
    ConvProbe: {"channels": (4,)},
    AttentionProbe: {"width": 8, "heads": 2, "depth": 1},
    DifFormerProbe: {"width": 8, "heads": 2, "depth": 1},
    MLPProbe: {"hidden": (8,), "dropout": 0.1},
}


def small(head, **params):
    return head(
        **{"epochs": 3, "batch_size": 16, "random_state": 0, **SMALL.get(head, {}), **params}
    )


@pytest.fixture(scope="module")
def maps():
    """300 digits as (N, 16, 2, 2): each 4×4 cell of the picture is a place."""
    X, y = load_digits(return_X_y=True)
    X = X[:300].reshape(-1, 2, 4, 2, 4).transpose(0, 2, 4, 1, 3).reshape(-1, 16, 2, 2)
    return X.astype(np.float32), y[:300]


def features(head, X):
    return Cells({("up.0", 1): X, ("up.0", 2): -X}) if head is DifFormerProbe else X


class TestScikitLearn:
    @pytest.mark.parametrize("head", [MLPProbe, BatchNormProbe])
    def test_checks_of_scikit_learn(self, head):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", SkipTestWarning)
            results = check_estimator(head(), on_fail=None)
        failed = [(r["check_name"], r["exception"]) for r in results if r["status"] == "failed"]
        skipped = {r["check_name"] for r in results if r["status"] == "skipped"}
        assert not failed
        # these need pandas and an environment variable
        assert skipped <= {"check_array_api_input", "check_classifier_data_not_an_array"}
        assert len(results) > 40

    @pytest.mark.parametrize("head", HEADS)
    def test_clone_and_pickle(self, head, maps):
        X, y = features(head, maps[0]), maps[1]
        probe = small(head, augment=mirror, learning_rate=0.007).fit(X, y)
        copy = clone(probe)
        assert copy.get_params() == probe.get_params()
        assert not hasattr(copy, "module_")
        again = pickle.loads(pickle.dumps(probe))
        np.testing.assert_array_equal(again.predict_proba(X), probe.predict_proba(X))

    @pytest.mark.parametrize("head", HEADS)
    def test_the_same_seed_gives_the_same_bits(self, head, maps):
        X, y = features(head, maps[0]), maps[1]
        state = torch.get_rng_state()
        first, second, other = (
            small(head, random_state=k, validation_fraction=0.2).fit(X, y) for k in (0, 0, 1)
        )
        np.testing.assert_array_equal(first.predict_proba(X), second.predict_proba(X))
        assert not np.array_equal(first.predict_proba(X), other.predict_proba(X))
        assert torch.equal(torch.get_rng_state(), state)
        keys = ("loss", "validation_accuracy", "validation_loss")
        for a, b in zip(first.history_, second.history_, strict=True):
            assert [a[key] for key in keys] == [b[key] for key in keys]

    def test_grid_search_over_a_pipeline(self, maps):
        X, y = maps[0].reshape(300, -1), maps[1]
        pipeline = make_pipeline(StandardScaler(), small(MLPProbe, epochs=15))
        grid = {"mlpprobe__learning_rate": [1e-7, 1e-2], "mlpprobe__hidden": [(32,)]}
        search = GridSearchCV(pipeline, grid, cv=3).fit(X, y)
        assert search.best_params_["mlpprobe__learning_rate"] == 1e-2
        assert search.best_score_ > 0.6

    def test_maps_from_a_pipeline(self, maps):
        X, y = maps
        fold = FunctionTransformer(lambda rows: rows.reshape(-1, 16, 2, 2))
        piped = make_pipeline(fold, small(ConvProbe)).fit(X.reshape(300, -1), y)
        alone = small(ConvProbe).fit(X, y)
        np.testing.assert_array_equal(
            piped.predict_proba(X.reshape(300, -1)), alone.predict_proba(X)
        )

    def test_grid_search_over_cells(self, maps):
        X, y = features(DifFormerProbe, maps[0]), maps[1]
        probe = small(DifFormerProbe, epochs=6, batch_size=32, learning_rate=2e-2)
        search = GridSearchCV(probe, {"width": [4, 16]}, cv=2, refit=False).fit(X, y)
        scores = cross_val_score(clone(probe).set_params(width=16), X, y, cv=2)
        assert search.cv_results_["mean_test_score"][1] == scores.mean() > 0.5

    def test_labels_of_any_kind(self, maps):
        X, y = maps
        names = np.array([f"class {k}" for k in range(10)])
        probe = small(BatchNormProbe).fit(X, names[y], X, names[y])
        plain = small(BatchNormProbe).fit(X, y)
        assert probe.classes_.tolist() == names.tolist()
        np.testing.assert_array_equal(probe.predict(X), names[plain.predict(X)])

    def test_probabilities_are_the_softmax_of_the_decision_function(self, maps):
        X, y = maps
        probe = small(MLPProbe).fit(X, y)
        logits = probe.decision_function(X).astype(np.float64)
        expected = np.exp(logits) / np.exp(logits).sum(1, keepdims=True)
        np.testing.assert_allclose(probe.predict_proba(X), expected, atol=1e-6)
        assert (probe.predict(X) == logits.argmax(1)).all()
        assert probe.score(X, y) == (probe.predict(X) == y).mean()
        two = small(MLPProbe).fit(X, y > 4)
        odds = two.predict_proba(X)
        np.testing.assert_allclose(two.decision_function(X), np.log(odds[:, 1] / odds[:, 0]),
                                   atol=1e-4)  # fmt: skip

    def test_a_bar_only_where_it_is_wanted(self, maps, capsys):
        small(BatchNormProbe).fit(*maps)
        assert capsys.readouterr().err == ""
        small(BatchNormProbe, progress=True).fit(*maps)
        found = capsys.readouterr().err
        assert "BatchNormProbe: 100%" in found
        assert "900/900" in found


SCORED = {"validation_fraction": 0.2, "patience": 2}


@pytest.fixture(scope="module")
def of_arrays(maps):
    """What each head makes of plain float32 arrays, fitted once."""
    found, X, y = {}, maps[0].astype(np.float16), maps[1]

    def probabilities(head):
        if head not in found:
            plain = features(head, X.astype(np.float32))
            found[head] = small(head, **SCORED).fit(plain, y).predict_proba(plain)
        return found[head]

    return probabilities


@pytest.fixture(scope="module")
def fitted(maps):
    """Each head after a fit, made once; leave it as it is."""
    found = {}

    def probe(head):
        if head not in found:
            found[head] = small(head).fit(features(head, maps[0]), maps[1])
        return found[head]

    return probe


class TestContainers:
    @pytest.mark.parametrize("head", HEADS)
    @pytest.mark.parametrize("kind", ["torch", "torch-half", "numpy-half", "h5"])
    def test_every_container_gives_what_a_float32_array_gives(
        self, head, kind, maps, of_arrays, tmp_path
    ):
        X, y = maps[0].astype(np.float16), maps[1]
        with h5py.File(tmp_path / "x.h5", "w") as file:
            wrapped = {
                "torch": lambda: torch.from_numpy(X.astype(np.float32)),
                "torch-half": lambda: torch.from_numpy(X),
                "numpy-half": lambda: X,
                "h5": lambda: file.create_dataset("X", data=X, chunks=(30, 16, 2, 2)),
            }[kind]()
            if head is DifFormerProbe:
                other = file.create_dataset("-X", data=-X) if kind == "h5" else -wrapped
                wrapped = {("up.0", 1): wrapped, ("up.0", 2): other}
            labels = file.create_dataset("y", data=y) if kind == "h5" else torch.from_numpy(y)
            probe = small(head, **SCORED).fit(wrapped, labels)
            np.testing.assert_array_equal(probe.predict_proba(wrapped), of_arrays(head))

    def test_cells_pick_rows_without_reading(self):
        rng = np.random.default_rng(0)
        a, b = rng.normal(size=(20, 3)).astype(np.float32), rng.normal(size=(20, 2, 2, 2))
        cells = Cells({("a", 1): a, ("b", 1.5): b})
        assert cells.shape == (20, 2)
        assert cells["a", 1] is a
        for rows in ([5, 2, 9, 2], slice(3, 17, 2), np.arange(20) > 11):
            once = cells[rows]
            assert len(once) == len(a[rows])
            np.testing.assert_array_equal(once.rows(("a", 1))[:], a[rows])
            twice = once[[2, 0], ...]
            np.testing.assert_array_equal(twice["b", 1.5][:], b[rows][[2, 0]].astype(np.float32))
        with pytest.raises(KeyError, match="none of the cells"):
            cells["a", 2]
        with pytest.raises(ValueError, match="equally many rows"):
            Cells({("a", 1): a, ("b", 1): a[:-1]})
        with pytest.raises(ValueError, match="cells hold nothing"):
            Cells({})


class TestErrors:
    @pytest.mark.parametrize("head", HEADS)
    def test_labels(self, head, maps):
        X, y = features(head, maps[0]), maps[1]
        with pytest.raises(ValueError, match="one class"):
            small(head).fit(X, np.zeros(300))
        with pytest.raises(ValueError, match="requires y to be passed"):
            small(head).fit(X, None)
        with pytest.raises(ValueError, match="inconsistent numbers of samples"):
            small(head).fit(X, y[:-1])
        with pytest.raises(ValueError, match="Unknown label type"):
            small(head).fit(X, y + 0.5)
        with pytest.raises(NotFittedError):
            small(head).predict(X)

    @pytest.mark.parametrize("head", HEADS)
    def test_validation(self, head, maps):
        X, y = features(head, maps[0]), maps[1]
        with pytest.raises(ValueError, match="together"):
            small(head).fit(X, y, X)
        with pytest.raises(ValueError, match=r"classes that training lacks: \[10, 11\]"):
            small(head).fit(X, y, X, y + 2)
        with pytest.raises(ValueError, match="y_validation has 299 labels for 300 pictures"):
            small(head).fit(X, y, X, y[:-1])
        with pytest.raises(ValueError, match=r"0 sample|no labels|none empty"):
            small(head).fit(X, y, X[:0], y[:0])
        with pytest.raises(ValueError, match="leaves none for validation"):
            small(head, validation_fraction=1e-9).fit(X, y)
        with pytest.raises(ValueError, match="patience=2 without validation"):
            small(head, patience=2).fit(X, y)

    @pytest.mark.parametrize("head", HEADS)
    @pytest.mark.parametrize("bad", [np.nan, np.inf])
    @pytest.mark.parametrize("kind", ["numpy", "torch", "h5"])
    def test_not_finite(self, head, bad, kind, maps, fitted, tmp_path):
        X, y = maps
        broken = X.copy()
        broken[250, 3, 1, 1] = bad
        probe = fitted(head)
        with h5py.File(tmp_path / "x.h5", "w") as file:
            if kind == "h5":
                broken = file.create_dataset("X", data=broken)
            elif kind == "torch":
                broken = torch.from_numpy(broken)
            if head is DifFormerProbe:
                broken = {("up.0", 1): broken, ("up.0", 2): X}
            with pytest.raises(ValueError, match=r"(?i)nan|inf"):
                small(head).fit(broken, y)
            with pytest.raises(ValueError, match=r"(?i)nan|inf"):
                probe.predict(broken)

    def test_shapes(self, maps):
        X, y = maps
        probe = small(ConvProbe).fit(X, y)
        with pytest.raises(ValueError, match=r"8 features.*expecting 16"):
            probe.predict(X[:, :8])
        with pytest.raises(ValueError, match=r"shape \(16, 2, 1\); expected \(16, 2, 2\)"):
            probe.predict(X[..., :1])
        with pytest.raises(ValueError, match=r"expected \(N, C, H, W\)"):
            small(ConvProbe).fit(X.reshape(300, -1), y)
        with pytest.raises(ValueError, match=r"expected \(N, D\) or \(N, C, H, W\)"):
            small(MLPProbe).fit(torch.from_numpy(X[:, 0]), y)
        with pytest.raises(ValueError, match=r"8 features.*expecting 16"):
            probe.predict(torch.from_numpy(X[:, :8]))

    def test_cells(self, maps):
        X, y = maps
        probe = small(DifFormerProbe)
        with pytest.raises(ValueError, match=r"expected probes.Cells"):
            probe.fit(X, y)
        with pytest.raises(ValueError, match=r"lacks the cells \[\('a', 2\)\]"):
            probe.fit({("a", 1): X, ("b", 1): X, ("b", 2): X}, y)
        with pytest.raises(ValueError, match=r"as at the first t"):
            probe.fit({("a", 1): X, ("a", 2): X[:, :8]}, y)
        probe.fit({("a", 1): X, ("a", 2): X}, y)
        with pytest.raises(ValueError, match=r"lacks the cells \[\('a', 2\)\]"):
            probe.predict({("a", 1): X})
        with pytest.raises(ValueError, match=r"as in fit"):
            probe.predict({("a", 1): X, ("a", 2): X[..., :1]})

    @pytest.mark.parametrize(
        ("params", "message"),
        [
            ({"optimizer": "rmsprop"}, "expected one of adamw, adam, sgd, lars"),
            ({"schedule": "linear"}, "expected one of cosine, step, constant"),
            ({"learning_rate": 0.0}, "learning_rate=0.0; expected a number > 0"),
            ({"learning_rate": float("nan")}, "learning_rate=nan"),
            ({"weight_decay": -1.0}, "weight_decay=-1.0; expected a number >= 0"),
            ({"momentum": 1.0}, "momentum=1.0; expected a number in"),
            ({"epochs": 0}, "epochs=0; expected a number >= 1"),
            ({"batch_size": 0}, "batch_size=0"),
            ({"patience": 0}, "patience=0"),
            ({"memory_mb": 0}, "memory_mb=0; expected a number > 0"),
            ({"hidden": (8, 0)}, r"hidden=\(8, 0\); expected a number .or several. that is whole"),
            ({"hidden": 2.5}, "hidden=2.5"),
            ({"pool": 0}, "pool=0"),
            ({"validation_fraction": 1.0}, "validation_fraction=1.0; expected a number in"),
        ],
    )
    def test_parameters(self, params, message, maps):
        with pytest.raises(ValueError, match=message):
            small(MLPProbe, **params).fit(*maps)


class TestPresets:
    @pytest.mark.parametrize("name", PRESETS)
    def test_each_trains(self, name, maps):
        X, y = maps
        changes = {"epochs": 1, "random_state": 0}
        if "width" in PRESETS[name].arguments:
            changes["width"] = 8
        probe = preset(name, **changes)
        more = {"t": 11} if isinstance(probe, NoiseConditionalProbe) else {}
        X = features(type(probe), X)
        probe.fit(X, y, **more)
        assert probe.predict_proba(X, **more).shape == (300, 10)
        assert PRESETS[name].source
        assert clone(probe).get_params() == probe.get_params()

    def test_published_values(self):
        ddae, dit = preset("ddae"), preset("ddae-dit")
        assert (ddae.optimizer, ddae.learning_rate, ddae.schedule) == ("adam", 1e-3, "cosine")
        assert (ddae.epochs, dit.epochs, ddae.batch_size, ddae.hidden) == (15, 30, 128, ())
        linear, attention = preset("gdc-linear"), preset("gdc-attention")
        assert (linear.learning_rate, attention.learning_rate) == (1e-2, 5e-2)
        assert (linear.optimizer, linear.momentum, linear.schedule) == ("sgd", 0.0, "step")
        assert linear.epochs == attention.epochs == 28
        assert (attention.width, attention.heads, attention.depth) == (1024, 8, 2)
        repa, ldae = preset("repa"), preset("l-dae")
        assert (repa.epochs, repa.batch_size, repa.learning_rate) == (90, 16384, 1e-3)
        assert (ldae.optimizer, ldae.epochs, ldae.batch_size) == ("lars", 90, 16384)

    @pytest.mark.parametrize(
        ("name", "rate"), [("gdc-linear", 1e-2), ("gdc-attention", 5e-2), ("difformer", 5e-2)]
    )
    def test_gdc_is_trained_as_published(self, name, rate):
        """SGD without momentum or decay, batch 128, ×.1 every 7 of 28 epochs."""
        probe = preset(name)
        assert (probe.optimizer, probe.momentum, probe.weight_decay) == ("sgd", 0.0, 0.0)
        assert (probe.batch_size, probe.epochs, probe.learning_rate) == (128, 28, rate)
        for word in ("batch size", "decay"):
            assert word not in PRESETS[name].notes
        assert getattr(probe, "qkv_bias", False) is False
        few = np.arange(4, dtype=np.float32)
        X = features(type(probe), few.repeat(8).reshape(4, 8, 1, 1) + np.zeros((4, 8, 2, 2), "f4"))
        small = {"width": 8} if hasattr(probe, "width") else {}
        history = probe.set_params(random_state=0, **small).fit(X, [0, 1, 0, 1]).history_
        wanted = [rate * 0.1 ** (k // 7) for k in range(28)]
        assert [entry["learning_rate"] for entry in history] == pytest.approx(wanted)

    def test_changes_replace_and_leave_the_preset_alone(self):
        assert preset("ddae", epochs=2).epochs == 2
        assert preset("ddae").epochs == 15
        with pytest.raises(ValueError, match="no preset 'dae'; expected one of ddae, ddae-dit"):
            preset("dae")
        with pytest.raises(TypeError):
            PRESETS["ddae"].arguments["epochs"] = 3
