"""Groups that fit in memory, scores against scikit-learn, finished cells, and bad input."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest
from sklearn.linear_model import RidgeClassifier
from sklearn.neighbors import KNeighborsClassifier
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from diffeat.errors import NumericsError, SpecError
from diffeat.search import (
    TEST,
    TRAIN,
    VALIDATION,
    Classification,
    Journal,
    score_of,
    scores,
    search_surface,
    split_by_hash,
)
from diffeat.search.reading import SLAB_BYTES
from diffeat.search.stored import task_from_store
from tests.search.common import BEST, CLASSES, arrays_of, labels_of, task_of, write_store


def centroid(X, y, Xv, yv) -> float:
    """Accuracy of the nearest class mean."""
    means = np.stack([X[y == k].mean(0) for k in range(CLASSES)])
    return float((np.linalg.norm(Xv[:, None] - means, axis=2).argmin(1) == yv).mean())


class Watched:
    """An array in a file: it counts the bytes that are read at once."""

    def __init__(self, values):
        self.values, self.shape, self.most = values, values.shape, 0

    def __getitem__(self, rows):
        assert isinstance(rows, slice)
        found = self.values[rows]
        self.most = max(self.most, found.nbytes)
        return found


class TestMemory:
    def test_groups_share_a_width_and_fit(self):
        arrays = arrays_of(labels_of(400), 6) | {("c", t): np.zeros((400, 8)) for t in range(5)}
        task = task_of(arrays=arrays)
        score = score_of(centroid)  # which needs no work space
        each = 4 * 4 * 400 * 8
        groups = list(Classification(task, score).batches(task.cells, SLAB_BYTES + 2 * each))
        assert sorted(cell for group in groups for cell in group) == sorted(task.cells)
        for group in groups:
            widths = {task.width(cell) for cell in group}
            assert len(widths) == 1
            assert len(group) * 4 * 4 * 400 * widths.pop() <= 2 * each
        assert [len(group) for group in groups] == [2, 2, 2, 2, 1]

    def test_the_answer_does_not_depend_on_memory(self):
        task = task_of()
        small = SLAB_BYTES + 4 * 4 * 400 * 6
        assert [
            len(g) for g in Classification(task, score_of(centroid)).batches(task.cells, small)
        ] == [1] * 4
        assert search_surface(Classification(task, centroid), memory=small) == search_surface(
            Classification(task, centroid)
        )

    def test_work_space_counts(self):
        features = 4 * 4 * 1000 * 64
        assert score_of("knn").bytes_of(1000, 64, 10) == features
        assert score_of("ridge").bytes_of(1000, 64, 10) == features + 7 * 8 * 64 * 64
        assert score_of("logistic").bytes_of(1000, 64, 500) == features + 6 * 4 * 1000 * 500
        with pytest.raises(SpecError, match="--memory"):
            search_surface(Classification(task_of(), "ridge"), memory=SLAB_BYTES + 4 * 4 * 400 * 6)

    def test_a_cell_that_does_not_fit(self):
        with pytest.raises(SpecError, match=r"'a' at t=10 has 6 numbers.*--memory.*--pool"):
            search_surface(Classification(task_of(), centroid), memory=SLAB_BYTES + 100)

    def test_files_are_read_in_slabs(self):
        labels = labels_of(3000)
        data = Watched(np.random.default_rng(0).normal(size=(3000, 10, 10, 10)).astype("float16"))
        task = task_of(3000, arrays={("a", 1): data}, labels=labels)
        rows = task.part == VALIDATION
        X = task.matrix(("a", 1), rows)
        np.testing.assert_array_equal(X, data.values[rows].reshape(rows.sum(), -1))
        assert X.dtype == np.float32
        assert data.most <= SLAB_BYTES / 2 < data.values.nbytes  # two bytes each, four in a slab


class TestScores:
    @pytest.fixture(scope="class")
    @staticmethod
    def task():
        return task_of(strength={("a", 1): 0.5, ("b", 1): 0.3})

    @staticmethod
    def parts(task, cell):
        X, part, y = task.read(*cell), task.part, task.labels
        return [(X[part == k], y[part == k]) for k in (TRAIN, VALIDATION, TEST)]

    def expected(self, task, cell, build, settings):
        (X, y), (Xv, yv), (Xt, yt) = self.parts(task, cell)
        scores = [
            make_pipeline(StandardScaler(), build(s)).fit(X, y).score(Xv, yv) for s in settings
        ]
        best = settings[int(np.argmax(scores))]
        both = make_pipeline(StandardScaler(), build(best))
        both.fit(np.concatenate([X, Xv]), np.concatenate([y, yv]))
        return best, max(scores), both.score(Xt, yt)

    def test_neighbours_vote_as_in_scikit_learn(self, task):
        ks = [1, 7, 25]
        surface = search_surface(Classification(task, score_of("knn", ks)))
        best, validation, test = self.expected(
            task, surface.best.key,
            lambda k: KNeighborsClassifier(k, metric="cosine", algorithm="brute"), ks,
        )  # fmt: skip
        assert (surface.best.C, surface.best.validation) == (best, validation)
        assert surface.best.test == test

    def test_ridge_scores_as_scikit_learn_does(self, task):
        alphas = [1000.0, 100.0, 1.0]  # of equals, the stronger
        surface = search_surface(Classification(task, score_of("ridge", alphas)))
        best, validation, test = self.expected(
            task, surface.best.key, lambda alpha: RidgeClassifier(alpha), alphas
        )
        assert best == surface.best.C
        assert abs(surface.best.validation - validation) <= 1.01 / surface.counts[1]
        assert abs(surface.best.test - test) <= 1.01 / surface.counts[2]

    def test_ridge_of_more_features_than_pictures(self):
        arrays = arrays_of(labels_of(90), 120)
        task = task_of(90, arrays=arrays)
        surface = search_surface(Classification(task, score_of("ridge", [100.0])))
        for cell in surface.cells:
            (X, y), (Xv, yv), _ = self.parts(task, cell.key)
            assert X.shape[1] > len(X) + len(Xv)
            ridge = make_pipeline(StandardScaler(), RidgeClassifier(100.0)).fit(X, y)
            assert cell.validation == ridge.score(Xv, yv)
        (X, y), (Xv, yv), (Xt, yt) = self.parts(task, surface.best.key)
        ridge = make_pipeline(StandardScaler(), RidgeClassifier(100.0))
        both = np.concatenate([X, Xv]), np.concatenate([y, yv])
        assert surface.best.test == ridge.fit(*both).score(Xt, yt)

    def test_a_function(self):
        task = task_of()
        surface = search_surface(Classification(task, centroid))
        assert surface.best.key == BEST
        (X, y), (Xv, yv), (Xt, yt) = self.parts(task, BEST)
        assert surface.best.validation == centroid(X, y, Xv, yv)
        both = np.concatenate([X, Xv]), np.concatenate([y, yv])
        assert surface.best.test == pytest.approx(centroid(*both, Xt, yt), abs=1.01 / len(yt))
        assert (surface.best.C, surface.score) == (None, "centroid")

    def test_a_function_that_returns_nan(self):
        with pytest.raises(NumericsError, match="returned nan"):
            search_surface(Classification(task_of(), lambda *_: float("nan")))

    @pytest.mark.parametrize("name", ["logistic", "ridge"])
    def test_validation_pictures_of_a_new_class_are_wrong(self, name):
        rng = np.random.default_rng(0)
        X, Xv = rng.normal(size=(1, 60, 3)), rng.normal(size=(1, 10, 3))
        y, yv = rng.integers(0, 2, 60), np.array([0, 1] * 4 + [2, 2])
        score = score_of(name, (1.0,))
        [whole] = score.fit(X.astype("f4"), y, Xv.astype("f4"), yv)
        [known] = score.fit(X.astype("f4"), y, Xv[:, :8].astype("f4"), yv[:8])
        assert whole.validation == pytest.approx(0.8 * known.validation)

    def test_unknown_names_and_settings(self):
        with pytest.raises(SpecError, match="logistic, ridge, knn or a function"):
            score_of("svm")
        with pytest.raises(SpecError, match="positive"):
            score_of("ridge", (0.0,))


class TestJournal:
    def test_a_second_run_computes_nothing(self, tmp_path):
        calls = []

        def counted(*arrays):
            calls.append(1)
            return centroid(*arrays)

        task = task_of()
        first = search_surface(Classification(task, counted), journal=Journal(tmp_path))
        assert len(calls) == 4 + 2  # cells, and the best at each t on test
        again = Journal(tmp_path)

        def unreadable(block, t):
            raise AssertionError("read again")

        assert (
            search_surface(Classification(replace(task, read=unreadable), counted), journal=again)
            == first
        )
        assert (len(calls), again.found, again.computed) == (6, 6, 0)
        stored = [json.loads(path.read_text()) for path in tmp_path.glob("*.json")]
        assert {(one["block"], one["t"]) for one in stored} == set(task.cells)

    @pytest.mark.parametrize("change", ["identity", "labels", "part", "score"])
    def test_what_changes_is_computed_anew(self, tmp_path, change):
        task, score = task_of(), score_of("knn", (1,))
        search_surface(Classification(task, score), journal=Journal(tmp_path))
        other = {
            "identity": {"identity": "other"},
            "labels": {"labels": (task.labels + 1) % CLASSES},
            "part": {"part": np.roll(task.part, 1)},
            "score": {},
        }[change]
        journal = Journal(tmp_path)
        score = score_of("knn", (1, 5)) if change == "score" else score
        search_surface(Classification(replace(task, **other), score), journal=journal)
        assert journal.computed == 6
        assert journal.found == 0

    @pytest.mark.parametrize(("setting", "value"), [("TOL", 1e-3), ("MAX_ITER", 150)])
    def test_another_end_of_the_solver_is_computed_anew(
        self, tmp_path, setting, value, monkeypatch
    ):
        score = score_of("logistic", (1e-2,))
        search_surface(Classification(task_of(), score), journal=Journal(tmp_path))
        same = Journal(tmp_path)
        search_surface(Classification(task_of(), score), journal=same)
        assert (same.found, same.computed) == (6, 0)
        monkeypatch.setattr(scores, setting, value)
        other = Journal(tmp_path)
        search_surface(Classification(task_of(), score), journal=other)
        assert (other.found, other.computed) == (0, 6)

    def test_a_damaged_note_is_computed_again(self, tmp_path):
        first = search_surface(Classification(task_of(), centroid), journal=Journal(tmp_path))
        next(iter(tmp_path.glob("a-t10-*.json"))).write_text("{")
        with pytest.warns(UserWarning, match="computed again"):
            again = search_surface(Classification(task_of(), centroid), journal=Journal(tmp_path))
        assert again == first

    def test_features_without_an_identity_are_not_kept(self, tmp_path):
        with pytest.raises(SpecError, match="identity"):
            search_surface(
                Classification(task_of(identity=""), centroid), journal=Journal(tmp_path)
            )


class TestBadInput:
    @pytest.mark.parametrize(("value", "word"), [(np.nan, "nan"), (np.inf, "inf")])
    def test_features_that_are_not_finite(self, tmp_path, value, word):
        labels = labels_of(60)
        arrays = arrays_of(labels)
        arrays["b", 50][31, 2] = value
        ids = [f"p{k}" for k in range(60)]
        seed = next(s for s in range(9) if split_by_hash(ids, (0.5, 0.3, 0.2), s)[31] == TRAIN)
        with (
            write_store(tmp_path / "a.h5", arrays, labels) as store,
            pytest.raises(NumericsError, match=rf"block 'b' at t=50 contain {word} in 1 pictures"),
        ):
            search_surface(Classification(task_from_store(store, (0.5, 0.3, 0.2), seed), centroid))

    def test_opposite_infinities_do_not_hide(self):
        arrays = arrays_of(labels_of(400))
        train = np.flatnonzero(task_of().part == TRAIN)
        arrays["a", 10][train[:2], 0] = np.inf, -np.inf
        with pytest.raises(NumericsError, match="'a' at t=10 contain"):
            search_surface(Classification(task_of(arrays=arrays), centroid))

    def test_an_empty_validation_part(self):
        part = np.where(task_of().part == VALIDATION, TRAIN, task_of().part)
        with pytest.raises(SpecError, match="validation part is empty"):
            task_of(part=part)

    def test_one_class(self):
        with pytest.raises(SpecError, match="fewer than two classes in the training part"):
            task_of(labels=np.zeros(400, np.int64))

    def test_a_class_that_only_test_has(self):
        labels, test = labels_of(400), task_of().part == TEST
        labels[np.flatnonzero(test)[0]] = 7
        with pytest.raises(SpecError, match="class 7 occurs in the test part, but"):
            task_of(labels=labels)

    def test_pictures_without_a_label(self):
        labels = labels_of(400)
        labels[3] = -1
        with pytest.raises(SpecError, match="1 pictures have no label"):
            task_of(labels=labels)

    def test_rows_that_are_no_pictures(self):
        arrays = arrays_of(labels_of(399))
        with pytest.raises(SpecError, match="has 399 rows"):
            search_surface(Classification(task_of(arrays=arrays), centroid))

    def test_a_block_or_t_that_the_file_lacks(self, tmp_path):
        labels = labels_of(60)
        with write_store(tmp_path / "a.h5", arrays_of(labels), labels) as store:
            with pytest.raises(SpecError, match=r"no block 'bb'.*it has a, b"):
                task_from_store(store, blocks=["bb"])
            with pytest.raises(SpecError, match="no t=20; it has 10, 50"):
                task_from_store(store, timesteps=[20])
            assert task_from_store(store, blocks=["b"], timesteps=[10]).cells == (("b", 10),)


def test_a_test_file_that_holds_training_pictures(tmp_path):
    labels, other = labels_of(90), labels_of(40, seed=1)
    arrays = arrays_of(labels)
    train = write_store(tmp_path / "train.h5", arrays, labels)
    few = {cell: values[:40] for cell, values in arrays.items()}
    drawn_anew = {cell: values + 0.1 for cell, values in few.items()}
    with train, write_store(tmp_path / "part.h5", few, labels[:40]) as part:
        with pytest.raises(SpecError, match=r"part.h5 holds pictures of .*train.h5, such as 'p0'"):
            task_from_store(train, test=part)
        with write_store(tmp_path / "test.h5", drawn_anew, other) as test:
            assert task_from_store(train, test=test).counts[2] == 40  # same names, other pictures
