"""Heads of judges: what is kept predicts what was scored, and says what its features are."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from sklearn.linear_model import LogisticRegression
from sklearn.neighbors import KNeighborsClassifier
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

import probes
from diffeat.errors import SpecError, SpecMismatch, StoreError
from diffeat.search import TEST, Classification, Judge, Mix, SearchOptions, run_search, score_of
from diffeat.search.kept import HeadNote, about_head, check_features, keep_head, load_head
from diffeat.search.tasks import Made
from diffeat.specs import ExtractSpec
from tests.search.common import BEST, arrays_of, features_of, labels_of, task_of

PAIR = Mix((("b", 10), ("b", 50)))
SPEC = ExtractSpec((10, 50), ("a", "b"), pool="1x1", size=32)
MODEL = {"name": "toy", "family": "toy", "fingerprint": "m0", "dtype": "float32", "changes": []}
MADE = Made(SPEC, MODEL, {"count": 400, "fingerprint": "p0", "conditions": None}, ("x", "y", "z"))
CELLS = tuple(arrays_of(labels_of(4)))


def vectors(arrays, candidate):
    cells = candidate.cells if isinstance(candidate, Mix) else (candidate,)
    return np.concatenate([arrays[cell] for cell in cells], axis=1)


@pytest.mark.parametrize("candidate", [BEST, PAIR, ("a", 50)], ids=str)
@pytest.mark.parametrize(
    ("score", "setting", "kind"),
    [
        ("logistic", 0.01, probes.LinearProbe),
        ("ridge", 10.0, probes.RidgeProbe),
        ("knn", 5.0, probes.KNNProbe),
    ],
)
def test_a_head_scores_on_test_what_was_reported(candidate, score, setting, kind):
    arrays = arrays_of(labels_of(400))
    judge = Classification(task_of(arrays=arrays, made=MADE), score)
    head = judge.head(candidate, setting)
    assert type(head) is kind
    tested = judge.part == TEST
    found = head.score(vectors(arrays, candidate)[tested], judge.labels[tested])
    assert found == judge.test(candidate, setting)


def test_heads_are_those_of_scikit_learn():
    arrays = arrays_of(labels_of(400))
    judge = Classification(task_of(arrays=arrays, made=MADE), score_of("knn"))
    X, y, tested = arrays[BEST], judge.labels, judge.part == TEST
    reference = make_pipeline(
        StandardScaler(), KNeighborsClassifier(5, metric="cosine", algorithm="brute")
    ).fit(X[~tested], y[~tested])
    head = judge.head(BEST, 5.0)
    np.testing.assert_allclose(
        head.predict_proba(X[tested]), reference.predict_proba(X[tested]), atol=1e-12
    )
    head = Classification(judge.task, "logistic").head(BEST, 0.01)
    reference = make_pipeline(StandardScaler(), LogisticRegression(C=0.01, tol=1e-8))
    reference.fit(X[~tested], y[~tested])
    probabilities = head.predict_proba(X[tested]), reference.predict_proba(X[tested])
    np.testing.assert_allclose(*probabilities, atol=2e-3)  # the search's solver stops at 1e-4


def test_standardised_neighbours_of_a_file_are_those_of_memory(tmp_path):
    h5py = pytest.importorskip("h5py")
    y = labels_of(60)
    X = (features_of(y, 1.0, 6, 0) * 10.0 ** np.arange(6)).astype(np.float32)
    with h5py.File(tmp_path / "x.h5", "w") as file:
        data = file.create_dataset("x", data=X)
        probe = probes.KNNProbe(5, standardise=True)
        lazy = probe.fit(data, y).predict_proba(data)
    assert (lazy == probes.KNNProbe(5, standardise=True).fit(X, y).predict_proba(X)).all()
    plain = probes.KNNProbe(5).fit(StandardScaler().fit_transform(X).astype("f4"), y)
    scaled = StandardScaler().fit(X).transform(X).astype("f4")
    np.testing.assert_allclose(lazy, plain.predict_proba(scaled), atol=1e-4)


class TestJudgesWithoutHeads:
    def test_a_judge_says_why(self):
        class Toy(Judge):
            name = "brightness"

            def measure(self, X, fitted, scored):
                return float(X[scored].mean())

        judge = Toy({BEST: np.ones((9, 2))}, [str(k) for k in range(9)])
        with pytest.raises(SpecError, match="brightness is measured without a head"):
            judge.check_head()

    def test_a_function_of_the_users_has_none(self):
        judge = Classification(task_of(made=MADE), lambda X, y, Xv, yv: 0.5)
        with pytest.raises(SpecError, match="fits no head"):
            judge.check_head()

    def test_features_of_unknown_origin(self):
        with pytest.raises(SpecError, match="not known"):
            Classification(task_of()).check_head()
        Classification(task_of(made=MADE)).check_head()


class TestNotes:
    @pytest.fixture
    def path(self, tmp_path):
        judge = Classification(task_of(made=MADE), "ridge")
        report = run_search(judge, SearchOptions(sets=2))
        keep_head(judge, report.choice, tmp_path / "h.safetensors")
        self.report, self.judge = report, judge
        return tmp_path / "h.safetensors"

    def test_what_is_said_of_the_features(self, path):
        head, note = load_head(path)
        assert note.cells == self.report.best_cells
        assert note.spec.blocks == tuple(dict.fromkeys(b for b, _ in note.cells))
        assert set(note.spec.timesteps) == {t for _, t in note.cells}
        assert (note.spec.size, note.spec.pool) == ((32, 32), "1x1")
        assert (note.class_names, note.model, note.told) == (("x", "y", "z"), MODEL, "")
        scores = head.about_["scores"]
        assert scores["test"] == self.report.choice.test
        assert scores["validation"] == self.report.choice.validation
        assert head.about_["task"] == "classification"

    def test_the_test_score_is_that_of_the_set(self, path):
        head, note = load_head(path)
        tested = self.judge.part == TEST
        X = np.concatenate([self.judge.task.matrix(c, tested) for c in note.cells], axis=1)
        assert head.score(X, self.judge.labels[tested]) == self.report.choice.test

    def test_a_head_that_says_nothing(self, tmp_path):
        head = probes.RidgeProbe().fit(np.eye(4), [0, 1, 0, 1])
        for about in ({}, {"spec": 3}, {**about_head(MADE, [BEST]), "cells": []},
                      {**about_head(MADE, [BEST]), "model": {"name": "x"}},
                      {**about_head(MADE, [BEST]), "class_names": "abc"}):  # fmt: skip
            probes.save(head, tmp_path / "h.safetensors", about)
            with pytest.raises(StoreError, match="does not say what features"):
                load_head(tmp_path / "h.safetensors")


NOTE = HeadNote.of(about_head(MADE, [BEST]), "h")


class TestOtherFeatures:
    def test_the_same_features_pass(self):
        assert check_features(NOTE, MADE, CELLS, "f.h5") == []

    @pytest.mark.parametrize(
        ("field", "value"),
        [
            ("size", 64), ("fit", "crop"), ("resample", "lanczos"), ("pool", "2x2"),
            ("noise", "shared"), ("seed", 1), ("ensemble", 2), ("prompt", "a cat"), ("steps", 9),
            ("latent", "sample"), ("flip", True), ("mirror", True), ("label", 3),
            ("scale_latent", False), ("tile", 16), ("heads", (0,)), ("tokens", (0,)),
            ("discard", (1,)),
        ],
    )  # fmt: skip
    def test_each_field_is_named(self, field, value):
        other = replace(MADE, spec=replace(SPEC, **{field: value}))
        with pytest.raises(SpecMismatch, match=rf"f\.h5 holds other features.*\b{field}: "):
            check_features(NOTE, other, CELLS, "f.h5")

    def test_the_model_its_texts_and_cells_are_named(self):
        other = replace(MADE, model={**MODEL, "fingerprint": "m1", "changes": ["lora x"]})
        with pytest.raises(SpecMismatch, match=r"model: toy, lora x \(m1\) → toy \(m0\)"):
            check_features(NOTE, other, CELLS, "f.h5")
        other = replace(MADE, pictures={"conditions": "abc"})
        with pytest.raises(SpecMismatch, match="texts: abc → None"):
            check_features(NOTE, other, CELLS, "f.h5")
        with pytest.raises(SpecMismatch, match="cells: without b at t=10"):
            check_features(NOTE, MADE, [("b", 50)], "f.h5")

    def test_names_and_precision_may_differ(self):
        other = Made(replace(SPEC, dtype="int8"), {**MODEL, "name": "/x", "dtype": "bfloat16"},
                     {"name": "other", "count": 3})  # fmt: skip
        assert check_features(NOTE, other, CELLS, "f.h5") == [
            "stored as int8, the head's were float16",
            "forward in bfloat16, the head's were float32",
        ]
