"""Splits, choices on validation alone, and the table of a (t, block) surface."""

from __future__ import annotations

import csv
import json
from dataclasses import replace

import h5py
import numpy as np
import pytest
from scipy.stats import binomtest
from sklearn.datasets import load_digits
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from diffeat.errors import SpecError
from diffeat.images import ArraySource
from diffeat.search import (
    TEST,
    TRAIN,
    VALIDATION,
    Cell,
    Surface,
    Task,
    probe_surface,
    split_by_hash,
    task_from_store,
)
from diffeat.specs import ExtractSpec
from diffeat.store import Column, FeatureStore, Manifest, StoreWriter

IDS = [f"class {k % 7}/picture {k}.png" for k in range(4000)]


class TestSplit:
    def test_shares(self):
        part = split_by_hash(IDS, (0.6, 0.3, 0.1))
        # three standard deviations of a share p of n pictures are 3·sqrt(p(1 - p)/n) < 0.024
        np.testing.assert_allclose(np.bincount(part) / len(IDS), (0.6, 0.3, 0.1), atol=0.024)

    def test_order_and_company_do_not_matter(self):
        part = dict(zip(IDS, split_by_hash(IDS), strict=True))
        some = IDS[::-3]
        assert split_by_hash(some).tolist() == [part[name] for name in some]
        more = [*IDS[:50], "new.png", *IDS[50:60]]
        found = split_by_hash(more).tolist()
        assert found[:50] + found[51:] == [part[name] for name in IDS[:60]]

    def test_it_is_pinned(self):
        # files of earlier versions must be split as they were
        names = [f"digit-{k:04d}" for k in range(12)]
        assert split_by_hash(names).tolist() == [2, 0, 1, 2, 0, 0, 1, 2, 0, 0, 0, 0]
        assert split_by_hash(names).dtype == np.int64

    def test_the_seed_gives_another_split_with_the_same_shares(self):
        first, second = split_by_hash(IDS), split_by_hash(IDS, seed=1)
        # two independent splits agree on 0.6² + 0.2² + 0.2² = 0.44 of the pictures
        assert abs((first == second).mean() - 0.44) < 0.024
        np.testing.assert_allclose(np.bincount(second) / len(IDS), (0.6, 0.2, 0.2), atol=0.024)

    def test_a_share_of_zero_is_empty(self):
        assert set(split_by_hash(IDS, (0.8, 0.2, 0.0))) == {TRAIN, VALIDATION}
        assert set(split_by_hash(IDS, (0.0, 0.0, 1.0))) == {TEST}

    @pytest.mark.parametrize("bad", [(0.5, 0.5), (0.5, 0.5, 0.5), (1.2, -0.2, 0.0)])
    def test_wrong_shares(self, bad):
        with pytest.raises(SpecError, match="three shares that sum to 1"):
            split_by_hash(IDS, bad)


@pytest.fixture(scope="module")
def digits():
    """600 digits: pixels and labels."""
    X, y = load_digits(return_X_y=True)
    return X[:600].astype(np.float32), y[:600]


@pytest.fixture(scope="module")
def task(digits):
    """Three blocks at two noise levels: pixels, clean and noisy, whole and in part."""
    X, y = digits
    rng = np.random.default_rng(0)
    arrays = {
        (block, t): X[:, ::step] + t * rng.normal(size=X[:, ::step].shape).astype(np.float32)
        for block, step in (("a", 9), ("b", 1), ("c", 3))
        for t in (2, 8)
    }
    part = split_by_hash([f"digit-{k:04d}" for k in range(len(X))])
    return Task("digits", y, part, tuple(arrays), lambda block, t: arrays[block, t])


@pytest.fixture(scope="module")
def surface(task):
    return probe_surface(task, (1e-3, 1e-1))


def choices(surface: Surface) -> list[tuple]:
    return [(cell.block, cell.t, cell.validation, cell.C) for cell in surface.cells]


def accuracy(X, y, fit, score, C: float) -> float:
    pipeline = make_pipeline(StandardScaler(), LogisticRegression(C=C, max_iter=2000))
    return pipeline.fit(X[fit], y[fit]).score(X[score], y[score])


class TestChoice:
    def test_every_cell_scores_what_scikit_learn_scores(self, task, surface):
        held = task.part == VALIDATION
        picture = 1 / held.sum()
        for cell in surface.cells:
            X = task.read(cell.block, cell.t).astype(np.float64)
            scores = {
                C: accuracy(X, task.labels, task.part == TRAIN, held, C) for C in (1e-3, 1e-1)
            }
            assert abs(cell.validation - scores[cell.C]) <= 1.01 * picture
            assert cell.validation >= max(scores.values()) - 1.01 * picture

    def test_the_test_score_is_that_of_a_refit_on_both(self, task, surface):
        best, test = surface.best, task.part == TEST
        X = task.read(best.block, best.t).astype(np.float64)
        expected = accuracy(X, task.labels, ~test, test, best.C)
        assert abs(best.test - expected) <= 1.01 / test.sum()

    def test_the_best_has_the_highest_validation_accuracy(self, surface):
        assert (surface.best.block, surface.best.t) == ("b", 2)  # all pixels, least noise
        assert surface.best.validation == max(cell.validation for cell in surface.cells)

    def test_test_labels_change_no_choice(self, task, surface):
        labels = task.labels.copy()
        test = task.part == TEST
        labels[test] = np.random.default_rng(1).permutation(labels[test])
        other = probe_surface(replace(task, labels=labels), (1e-3, 1e-1))
        assert choices(other) == choices(surface)
        assert other.best.test < 0.3 < surface.best.test  # they do reach the test score

    def test_test_features_change_no_choice(self, task, surface):
        test = task.part == TEST

        def read(block, t):
            values = task.read(block, t).copy()
            values[test] = 0
            return values

        assert choices(probe_surface(replace(task, read=read), (1e-3, 1e-1))) == choices(surface)

    def test_only_chosen_cells_are_scored_on_test(self, surface):
        chosen = {(surface.best_at(t).block, t) for t in (2, 8)}
        assert (surface.best.block, surface.best.t) in chosen
        assert {(cell.block, cell.t) for cell in surface.cells if cell.test is not None} == chosen

    def test_validation_is_not_fitted(self, task, surface):
        labels = task.labels.copy()
        held = task.part == VALIDATION
        labels[held] = np.random.default_rng(1).permutation(labels[held])
        other = probe_surface(replace(task, labels=labels), (1e-3, 1e-1))
        assert max(cell.validation for cell in other.cells) < 0.3

    def test_order_of_penalties_does_not_matter(self, task, surface):
        assert choices(probe_surface(task, (1e-1, 1e-3))) == choices(surface)

    def test_of_equal_penalties_the_stronger_is_chosen(self, digits):
        X = np.repeat(np.eye(3, dtype=np.float32), 20, axis=0)
        labels, part = np.repeat(np.arange(3), 20), np.tile([0, 1, 2, 0], 15)
        easy = Task("easy", labels, part, (("a", 0),), lambda block, t: X)
        assert probe_surface(easy, (1.0, 0.01, 0.1)).best.C == 0.01

    def test_maps_are_flattened(self, task, surface):
        def read(block, t):
            values = task.read(block, t)
            return values.reshape(len(values), -1, 1, 1)

        assert choices(probe_surface(replace(task, read=read), (1e-3, 1e-1))) == choices(surface)

    def test_counts_and_progress(self, task, surface):
        assert surface.counts == tuple(np.bincount(task.part))
        assert surface.classes == 10
        seen = []

        def progress(cells):
            for cell in cells:
                seen.append(cell)
                yield cell

        probe_surface(replace(task, cells=task.cells[:1]), (1e-3,), progress)
        assert seen == [task.cells[0]]


class TestOutput:
    def test_json(self, surface, tmp_path):
        surface.write_json(tmp_path / "s.json")
        stored = json.loads((tmp_path / "s.json").read_text("utf-8"))
        cells = [Cell.from_dict(cell) for cell in stored["cells"]]
        again = Surface(stored["name"], cells, tuple(stored["counts"]), stored["classes"])
        assert again == surface
        assert Cell.from_dict(stored["best"]) == surface.best

    def test_csv(self, surface, tmp_path):
        surface.write_csv(tmp_path / "s.csv")
        with open(tmp_path / "s.csv", newline="", encoding="utf-8") as file:
            rows = list(csv.DictReader(file))
        assert [(row["features"], row["block"], int(row["t"])) for row in rows] == [
            ("digits", cell.block, cell.t) for cell in surface.cells
        ]
        for row, cell in zip(rows, surface.cells, strict=True):
            assert abs(float(row["validation"]) - cell.validation) <= 5e-5
            assert float(row["setting"]) == cell.C
            assert (row["test"] == "") == (cell.test is None)
            assert cell.test is None or abs(float(row["test"]) - cell.test) <= 5e-5

    def test_table_stars_the_best_cell(self, surface):
        head, _, *lines = surface.table().splitlines()
        assert head.split() == ["block", "t=2", "t=8"]
        assert [line.split()[0] for line in lines] == ["a", "b", "c"]
        assert surface.table().count("*") == 1
        figures = [line.split()[1:] for line in lines]
        assert figures[1][0] == f"{100 * surface.best.validation:.1f}*"
        assert figures[2][1] == f"{100 * surface.grid.array()[2, 1]:.1f}"

    def test_grid_has_nan_where_there_is_no_cell(self):
        cells = [Cell("a", 5, 0.5, 1.0), Cell("a", 0.25, 0.6, 1.0), Cell("b", 5, 0.7, 1.0)]
        lacking = Surface("x", cells, (1, 1, 1), 2)
        np.testing.assert_array_equal(lacking.grid.array(), [[0.5, 0.6], [0.7, np.nan]])
        assert lacking.table().splitlines()[-1].split() == ["b", "70.0*"]
        assert "t=0.25" in lacking.table()

    def test_long_t_stand_apart(self):
        cells = [Cell("a", t, 0.5, 1.0) for t in (261.0011, 261.0022)]
        head = Surface("x", cells, (1, 1, 1), 2).table().splitlines()[0]
        assert head.split() == ["block", "t=261.0011", "t=261.0022"]


def surface_ends(surface: Surface, count: int) -> tuple[float, float]:
    found = binomtest(round(surface.best.test * count), count).proportion_ci(0.95, "wilson")
    return found.low, found.high


@pytest.fixture
def store_of(digits, tmp_path):
    """Writes and opens a feature file of digits; closed at the end of the test."""
    opened = []

    def make(name: str, rows: slice, **changes) -> FeatureStore:
        opened.append(_store(tmp_path / name, digits, rows, **changes))
        return opened[-1]

    yield make
    for store in opened:
        store.close()


def _store(path, digits, rows, *, labelled=True, classes=None, model="m0", columns=64, **spec):
    X, y = digits[0][rows], digits[1][rows]
    ids = tuple(f"digit-{k:04d}" for k in range(600))[rows]
    classes = tuple(map(str, range(10))) if classes is None else classes
    source = ArraySource(
        "digits", ids, y if labelled else None, classes if labelled else (),
        np.zeros((len(X), 2, 2), np.uint8),
    )  # fmt: skip
    spec = ExtractSpec(**{"timesteps": (20, 60), "blocks": ("mid", "up.0"), "pool": "1x1", **spec})
    facts = {"name": "toy", "family": "toy", "fingerprint": model, "dtype": "float32"}
    pictures = {
        "name": "digits",
        "count": len(X),
        "fingerprint": source.fingerprint(),
        "reading": 2,
    }
    attrs = {"alpha": 0.9, "sigma": 0.4, "log_snr": 1.6, "layout": "NCHW", "stride": 8,
             "channels": columns}  # fmt: skip
    names = {(b, t): f"features/{b}/t{t}" for b in spec.blocks for t in spec.timesteps}
    X = X[:, :columns]
    noise = np.random.default_rng(5).normal(size=X.shape)
    values = {
        name: (X + (0.1 if block == "mid" else 2.0) * t * noise).astype("float16")
        for (block, t), name in names.items()
    }
    fields = [
        Column(name, (columns,), "float16", {"block": block, "t": t, **attrs})
        for (block, t), name in names.items()
    ]
    with StoreWriter(path, Manifest(spec.to_dict(), facts, pictures), source, fields) as writer:
        for start, stop in writer.remaining(len(X)):
            rows = {name: array[start:stop] for name, array in values.items()}
            writer.add((start, stop), list(range(start, stop)), rows, [])
        writer.finish()
    return FeatureStore(path)


class TestStores:
    def test_one_file(self, store_of):
        store = store_of("a.h5", slice(None))
        task = task_from_store(store, (0.5, 0.25, 0.25), seed=3)
        assert task.name == "toy"
        assert task.cells == (("mid", 20), ("mid", 60), ("up.0", 20), ("up.0", 60))
        np.testing.assert_array_equal(task.part, split_by_hash(store.ids, (0.5, 0.25, 0.25), 3))
        np.testing.assert_array_equal(task.labels, store.labels)
        with h5py.File(store.path) as plain:
            np.testing.assert_array_equal(task.read("up.0", 60), plain["features/up.0/t60"][:])

    def test_two_files(self, store_of, digits):
        train, test = store_of("a.h5", slice(0, 400)), store_of("b.h5", slice(400, 600))
        task = task_from_store(train, test=test)
        assert (task.part[400:] == TEST).all()
        assert (task.part[:400] != TEST).all()
        assert abs((task.part[:400] == TRAIN).mean() - 0.8) < 0.06  # three standard deviations
        np.testing.assert_array_equal(task.labels, digits[1])
        surface = probe_surface(task, (0.01,))
        assert surface.counts[2] == 200
        X = np.asarray(task.read("mid", 20), np.float64)
        assert (surface.best.block, surface.best.t) == ("mid", 20)
        expected = accuracy(X, task.labels, task.part != TEST, task.part == TEST, 0.01)
        assert abs(surface.best.test - expected) <= 1.01 / 200

    def test_groups_stay_on_one_side(self, store_of):
        train, test = store_of("a.h5", slice(0, 400)), store_of("b.h5", slice(400, 600))
        names = [[f"person{k // 4}" for k in range(400)], [f"other{k // 4}" for k in range(200)]]
        task = task_from_store(train, test=test, groups=names)
        assert {len(set(task.part[k : k + 4])) for k in range(0, 600, 4)} == {1}
        surface = probe_surface(task, (0.01,))
        assert surface.measure.groups == 50
        low, high = surface.interval
        assert high - low == pytest.approx(2 * np.diff(surface_ends(surface, 200))[0], rel=0.1)
        names[1][7] = "person3"
        with pytest.raises(SpecError, match=r"1 groups have pictures in .* such as 'person3'"):
            task_from_store(train, test=test, groups=names)

    def test_no_labels(self, store_of):
        with pytest.raises(SpecError, match=r"a\.h5 has no labels; extract from a folder"):
            task_from_store(store_of("a.h5", slice(None), labelled=False))

    def test_no_labels_in_the_test_file(self, store_of):
        train = store_of("a.h5", slice(0, 400))
        with pytest.raises(SpecError, match=r"b\.h5 has no labels"):
            task_from_store(train, test=store_of("b.h5", slice(400, 600), labelled=False))

    @pytest.mark.parametrize(
        ("change", "message"),
        [
            ({"classes": tuple("abcdefghij")}, "different classes"),
            ({"model": "m1"}, "different models"),
            ({"blocks": ("mid",)}, "lacks block 'up.0' at t=20"),
            ({"timesteps": (20,)}, "lacks block 'mid' at t=60"),
            ({"pool": "2x2", "columns": 60}, "pool"),
            ({"noise": "shared"}, "noise"),
        ],
    )
    def test_files_that_do_not_fit_together(self, store_of, change, message):
        train, test = store_of("a.h5", slice(0, 400)), store_of("b.h5", slice(400, 600), **change)
        with pytest.raises(SpecError, match=message):
            task_from_store(train, test=test)

    def test_a_file_is_no_test_for_itself(self, store_of):
        train, again = store_of("a.h5", slice(None)), store_of("b.h5", slice(None))
        with pytest.raises(SpecError, match="same pictures"):
            task_from_store(train, test=again)

    @pytest.mark.parametrize("rows", [slice(0, 3), slice(0, 1)])
    def test_too_few_pictures(self, store_of, rows):
        with pytest.raises(
            SpecError, match=r"(fewer than two classes in|is empty).*give more pictures"
        ):
            task_from_store(store_of("a.h5", rows))


def test_a_cell_of_before_has_its_setting_by_another_name():
    stored = {"block": "mid", "t": 20, "validation": 0.5, "C": 0.1, "test": None}
    cell = Cell.from_dict(stored)
    assert (cell.setting, cell.C) == (0.1, 0.1)
    assert cell.to_dict() == {**stored, "setting": 0.1}
    assert Cell.from_dict(cell.to_dict()) == cell
