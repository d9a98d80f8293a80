"""Several systems in one table, compared with scikit-learn, scipy and bootstraps by hand."""

from __future__ import annotations

import csv
import json
import warnings

import h5py
import numpy as np
import pytest
from scipy.stats import norm
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import average_precision_score, r2_score
from sklearn.preprocessing import StandardScaler

from diffeat.blocks import BlockInfo
from diffeat.errors import SpecError
from diffeat.search import TEST, TRAIN, VALIDATION, Classification, Journal, Judge
from diffeat.search.comparing import (
    Outcomes,
    common_pictures,
    compare,
    default_blocks,
    floor_of,
    outcomes_of,
    shared_tasks,
)
from diffeat.search.comparing.outcomes import mean_of_draws
from diffeat.search.comparing.run import Chosen, intervals_of, rows_of
from diffeat.search.comparing.table import BETTER, SAME, TOO_FEW, WORSE, verdict_of
from diffeat.search.intervals import resampled
from diffeat.search.judges import JUDGES, Choices
from diffeat.search.measure import Measure
from diffeat.search.targeted import TargetChoice
from tests.search.common import arrays_of, features_of, labels_of, write_store

WEAK = {("a", 10): 0.0, ("b", 10): 0.2}
STRONG = {("a", 10): 0.2, ("b", 10): 1.5}


def judge_of(store, name="x", kind="class", **choices) -> Judge:
    [task], _ = shared_tasks([store], [name], kind, Choices(**choices))
    return JUDGES[kind](task, Choices(**choices))


def judges_of(stores, kind="class", **choices) -> dict[str, Judge]:
    names = [f"s{k}" for k in range(len(stores))]
    tasks, _ = shared_tasks(stores, names, kind, Choices(**choices))
    return {task.name: JUDGES[kind](task, Choices(**choices)) for task in tasks}


@pytest.fixture
def stores(tmp_path):
    """A weak and a strong file of the same 300 pictures."""
    labels = labels_of(300)
    made = [write_store(tmp_path / f"{name}.h5", arrays_of(labels, strength=s), labels)
            for name, s in (("weak", WEAK), ("strong", STRONG))]  # fmt: skip
    yield made
    for store in made:
        store.close()


def rewrite(store, path, rows=None, ids=None, digests=None):
    """A copy of a file with its rows in another order, other ids, or digests."""
    from shutil import copyfile

    from diffeat.store import FeatureStore

    copyfile(store.path, path)
    with h5py.File(path, "a") as file:
        if rows is not None:
            found = []
            file.visititems(lambda name, one: found.append(name)
                            if isinstance(one, h5py.Dataset) else None)  # fmt: skip
            for name in found:
                file[name][...] = file[name][:][rows]
        if ids is not None:
            file["ids"][...] = ids
        if digests is not None:
            file.create_dataset("digests", data=digests)
    return FeatureStore(path)


class TestAccuracy:
    def test_every_test_picture_as_scikit_learn_has_it(self, stores):
        judge = judge_of(stores[0])
        outcomes = outcomes_of(judge, ("b", 10), 0.1)
        known, tested = judge.part != TEST, judge.part == TEST
        X = stores[0]["b", 10][:].astype(np.float64)
        scaler = StandardScaler().fit(X[known])
        model = LogisticRegression(C=0.1, tol=1e-8, max_iter=1000)
        model.fit(scaler.transform(X[known]), judge.labels[known])
        right = model.predict(scaler.transform(X[tested])) == judge.labels[tested]
        np.testing.assert_array_equal(outcomes.values, right)
        assert outcomes.value == right.mean()

    @pytest.mark.parametrize("score", ["logistic", "ridge", "knn"])
    def test_the_mean_is_what_search_reports(self, stores, score):
        judge = judge_of(stores[1], score=score)
        [found] = judge.validate([("b", 10)], judge.part)
        outcomes = outcomes_of(judge, ("b", 10), found.setting)
        assert outcomes.value == pytest.approx(judge.test(("b", 10), found.setting), abs=1e-12)

    def test_cells_are_chosen_on_validation_alone(self, stores):
        """The best on test is another cell: spoilt rows lie in the other parts alone."""
        judges = judges_of([stores[1], stores[1]])
        part = judges["s0"].part
        arrays = {key: stores[1][key][:].astype(np.float32) for key in judges["s0"].cells}
        arrays["b", 10][part == VALIDATION] = 0
        for judge in judges.values():
            object.__setattr__(judge.task, "read", lambda block, t: arrays[block, t])
        result = compare(judges)
        assert {row.cell for row in result.rows[:2]} == {("a", 10)}
        assert outcomes_of(judges["s0"], ("b", 10), 1.0).value > result["s0"].test

    def test_the_floor_is_the_most_frequent_class(self, stores):
        judge = judge_of(stores[0])
        name, outcomes = floor_of(judge)
        classes, counts = np.unique(judge.labels[judge.part != TEST], return_counts=True)
        expected = judge.labels[judge.part == TEST] == classes[counts.argmax()]
        assert name == "most frequent class"
        np.testing.assert_array_equal(outcomes.values, expected)
        assert outcomes.value == judge.floor[0]


class TestTable:
    def test_what_is_better_is_called_better_and_what_is_equal_is_not(self, stores):
        weak, strong = stores
        result = compare(judges_of([weak, strong, weak]))
        assert [row.verdict for row in result.rows[:3]] == ["reference", BETTER, SAME]
        assert result["s1"].ends[0] > 0.2
        same = result["s2"]
        assert (same.difference, same.ends) == (0.0, (0.0, 0.0))
        assert (same.test, same.interval) == (result["s0"].test, result["s0"].interval)
        back = compare(judges_of([weak, strong, weak]), against="s1")
        assert [row.verdict for row in back.rows] == [WORSE, "reference", WORSE, WORSE]
        assert back["s0"].difference == -result["s1"].difference
        assert back["s0"].ends == pytest.approx(tuple(-end for end in result["s1"].ends[::-1]))

    def test_intervals_by_hand(self, stores):
        """Other draws, one by one, of the same pictures: ends agree to a picture."""
        judges = judges_of(stores)
        result, rng = compare(judges), np.random.default_rng(123)
        right = [outcomes_of(judge, row.cell, row.setting).values
                 for judge, row in zip(judges.values(), result.rows, strict=False)]  # fmt: skip
        count, means, differences = len(right[0]), [], []
        for _ in range(5000):
            drawn = rng.integers(0, count, count)
            means.append(right[0][drawn].mean())
            differences.append((right[1][drawn] - right[0][drawn]).mean())
        for ends, drawn in ((result["s0"].interval, means), (result["s1"].ends, differences)):
            np.testing.assert_allclose(ends, np.percentile(drawn, [2.5, 97.5]), atol=1.01 / count)
        unpaired = np.sqrt(sum(np.var(one) for one in right) / count) * 2 * 1.96
        low, high = result["s1"].ends
        assert high - low < unpaired

    def test_groups_count_once(self):
        """Ten copies of each outcome: an interval of pictures would be √10 times narrower."""
        rng = np.random.default_rng(0)
        groups = np.repeat(np.arange(60), 10).astype(str)
        better = np.repeat(rng.random(60) < 0.6, 10).astype(float)
        worse = np.repeat(rng.random(60) < 0.5, 10).astype(float)
        found = {name: Chosen(("b", 10), None, Outcomes(values, mean_of_draws))
                 for name, values in (("a", worse), ("b", better))}  # fmt: skip
        measure = Measure(pictures=600, groups=60, counted=True)
        (low, high), (few, many) = (
            rows_of(found, "a", measure, lambda one=one: resampled(one))[1].ends
            for one in (groups, np.arange(600).astype(str))
        )
        difference = (better - worse)[::10]
        assert high - low == pytest.approx(2 * 1.96 * difference.std() / np.sqrt(60), rel=0.1)
        assert (high - low) / (many - few) == pytest.approx(np.sqrt(10), rel=0.1)

    def test_csv_json_and_text(self, stores, tmp_path):
        result = compare(judges_of(stores), notes=["something"])
        lines = result.lines()
        assert lines[-1] == "something"
        assert "on the same 60 test pictures" in lines[0]
        assert lines[3].startswith("s0")
        assert "reference" in lines[3]
        result.write_csv(tmp_path / "t.csv")
        with open(tmp_path / "t.csv", newline="", encoding="utf-8") as file:
            rows = list(csv.DictReader(file))
        assert [row["system"] for row in rows] == ["s0", "s1", "most frequent class"]
        assert float(rows[1]["difference_low"]) == result["s1"].ends[0]
        assert rows[0]["difference"] == rows[2]["block"] == ""
        result.write_json(tmp_path / "t.json")
        assert json.loads((tmp_path / "t.json").read_text())["systems"][1]["verdict"] == "better"

    def test_too_few_groups_have_no_verdict(self):
        assert verdict_of((0.5, 0.9), Measure(groups=9)) == TOO_FEW
        assert verdict_of((0.5, 0.9), Measure(groups=10)) == BETTER
        assert verdict_of((0.5, 0.9), Measure(groups=10, higher_is_better=False)) == WORSE
        assert verdict_of((-0.1, 0.9), Measure(groups=10)) == SAME
        assert verdict_of(None, Measure(groups=10)) == SAME

    def test_all_right_is_no_certainty(self, tmp_path):
        """Every draw of a perfect system is perfect; Wilson's interval is not."""
        labels = labels_of(300)
        sure = {("a", 10): features_of(labels, 30.0, 6, 0)}
        with write_store(tmp_path / "x.h5", sure, labels) as store:
            row = compare(judges_of([store, store]))["s0"]
        assert row.test == row.interval[1] == 1
        assert row.interval[0] == pytest.approx(60 / (60 + norm.ppf(0.975) ** 2))

    def test_a_second_run_computes_nothing(self, stores, tmp_path):
        first, second = (compare(judges_of(stores), journal=Journal(tmp_path / "kept"))
                         for _ in range(2))  # fmt: skip
        assert first.made == (0, 6)
        assert second.made == (6, 0)
        assert second.rows == first.rows

    def test_refusals(self, stores):
        judges = judges_of(stores)
        with pytest.raises(SpecError, match="nothing to compare with"):
            compare({"s0": judges["s0"]})
        with pytest.raises(SpecError, match=r"did you mean 's1'.*s0, s1"):
            compare(judges, against="s11")
        other = judges_of(stores, seed=1)
        with pytest.raises(SpecError, match="different parts"):
            compare({"s0": judges["s0"], "s1": other["s1"]})

    def test_a_judge_of_one_number_has_nothing_to_pair(self):
        class Whole(Judge):
            def measure(self, X, fitted, scored):
                return 1.0

        class Each(Judge):
            def measure(self, X, fitted, scored):
                return X[scored, 0]

        features = {("a", 1): np.arange(200.0).reshape(100, 2)}
        names = [str(k) for k in range(100)]
        with pytest.raises(SpecError, match="one number for each of the"):
            compare({k: Whole(features, names) for k in "ab"})
        result = compare({k: Each(features, names) for k in "ab"})
        assert result["a"].test == features["a", 1][Each({}, names).part == TEST, 0].mean()


class TestSimultaneous:
    def test_three_independent_differences(self):
        """The largest of three normal deviates: q is that of P(|z| ≤ q)³ = .95."""
        rng = np.random.default_rng(0)
        drawn = np.array([[0.0], [1.0], [5.0]]) + rng.normal(size=(3, 200_000)) * 0.1
        q = norm.ppf((1 + 0.95 ** (1 / 3)) / 2)
        ends = intervals_of(np.array([0.0, 1.0, 5.0]), drawn, simultaneous=True)
        for value, (low, high) in zip((0.0, 1.0, 5.0), ends, strict=True):
            np.testing.assert_allclose((low, high), (value - 0.1 * q, value + 0.1 * q), atol=0.002)
        alone = intervals_of(np.array([0.0, 1.0, 5.0]), drawn)
        np.testing.assert_allclose(alone[1], (1 - 0.196, 1 + 0.196), atol=0.002)

    def test_what_never_moves(self):
        ends = intervals_of(np.zeros(2), np.zeros((2, 50)), simultaneous=True)
        assert ends == [(0.0, 0.0), (0.0, 0.0)]

    def test_they_are_said(self, stores):
        judges = judges_of([*stores, stores[0]])
        each, together = (compare(judges, simultaneous=one) for one in (False, True))
        for row in together.rows[1:]:
            assert np.mean(row.ends) == pytest.approx(row.difference)
        assert together["s1"].ends != each["s1"].ends
        assert "each is for its own row" in each.small_print
        assert "together in 95 of 100" in together.small_print


def test_equal_systems_are_told_apart_in_one_row_of_twenty():
    """120 tables of a reference and five systems, all right in 60 of 100 pictures by chance."""
    rng, wrong, tables = np.random.default_rng(0), [], []
    measure, names = Measure(pictures=130, groups=130, counted=True), np.arange(130).astype(str)
    for seed in range(120):
        right = (rng.random((6, 130)) < 0.6).astype(float)
        found = {f"s{k}": Chosen(("b", 10), None, Outcomes(one, mean_of_draws))
                 for k, one in enumerate(right)}  # fmt: skip
        for together, rates in ((False, wrong), (True, tables)):
            rows = rows_of(found, "s0", measure, lambda seed=seed: resampled(names, seed, 400),
                           together)  # fmt: skip
            rates.append(np.mean([row.verdict != SAME for row in rows[1:]]))
    assert 0.03 < np.mean(wrong) < 0.08
    assert np.mean(np.array(wrong) > 0) > 0.1
    assert np.mean(np.array(tables) > 0) < 0.1


class TestOtherTasks:
    """Draws of groups, one by one, scored by scikit-learn."""

    def draws(self, judge, count=40):
        groups = np.asarray(judge.groups)[judge.part == TEST]
        return next(iter(resampled(groups)))[:count]

    def test_r2(self, tmp_path):
        rng = np.random.default_rng(0)
        y = rng.normal(size=200)
        strong, weak = (y[:, None] + s * rng.normal(size=(200, 3)) for s in (0.3, 2))
        table = tmp_path / "y.csv"
        table.write_text("id,value\n" + "".join(f"p{k},{v + 0.5}\n" for k, v in enumerate(y)))
        made = [write_store(tmp_path / f"{k}.h5", {("a", 1): values.astype(np.float32)})
                for k, values in enumerate((weak, strong))]  # fmt: skip
        judges = judges_of(made, "number", targets=TargetChoice(table))
        result = compare(judges)
        assert result["s1"].verdict == BETTER
        assert result.rows[-1].name == "mean of training"
        judge = judges["s1"]
        outcomes = outcomes_of(judge, ("a", 1), result["s1"].setting)
        truth, found = judge.tested, outcomes.values[:, 0]
        assert result["s1"].test == pytest.approx(r2_score(truth, found))
        times = self.draws(judge)
        expected = [r2_score(np.repeat(truth, one), np.repeat(found, one)) for one in times]
        np.testing.assert_allclose(outcomes.of_draws(times), expected)
        for store in made:
            store.close()

    def test_mean_average_precision(self, tmp_path):
        rng = np.random.default_rng(0)
        y = (rng.random((200, 2)) < 0.4).astype(int)
        strong, weak = (y + s * rng.normal(size=(200, 2)) for s in (0.3, 3))
        table = tmp_path / "y.csv"
        table.write_text("id,u,v\n" + "".join(f"p{k},{a},{b}\n" for k, (a, b) in enumerate(y)))
        made = [write_store(tmp_path / f"{k}.h5", {("a", 1): values.astype(np.float32)})
                for k, values in enumerate((weak, strong))]  # fmt: skip
        judges = judges_of(made, "labels", targets=TargetChoice(table))
        result, judge = compare(judges), judges["s1"]
        assert [row.verdict for row in result.rows[1:]] == [BETTER, WORSE]
        assert result.rows[-1].test == pytest.approx(judge.tested.mean(0).mean())
        outcomes = outcomes_of(judge, ("a", 1), result["s1"].setting)
        times = self.draws(judge, 10)
        for one, value in zip(times, outcomes.of_draws(times), strict=True):
            truth, found = (
                np.repeat(each, one, axis=0) for each in (judge.tested, outcomes.values)
            )
            expected = [
                average_precision_score(*pair) for pair in zip(truth.T, found.T, strict=True)
            ]
            assert value == pytest.approx(np.mean(expected))
        for store in made:
            store.close()


class TestSamePictures:
    def test_another_order_changes_nothing(self, stores, tmp_path):
        weak, strong = stores
        rows = np.random.default_rng(0).permutation(300)
        with rewrite(strong, tmp_path / "mixed.h5", rows) as mixed:
            common = common_pictures([weak, mixed])
            assert [mixed.ids[row] for row in common.rows[1]] == list(common.ids)
            found = compare(judges_of([weak, mixed]))
        assert found.rows == compare(judges_of([weak, strong])).rows

    def test_pictures_that_not_all_have_are_left_out(self, stores, tmp_path):
        weak, strong = stores
        ids = [f"p{k}" if k < 250 else f"q{k}" for k in range(300)]
        with rewrite(strong, tmp_path / "other.h5", ids=ids) as other:
            tasks, common = shared_tasks([weak, other], ["a", "b"], "class", Choices())
            assert (len(common.ids), common.left_out) == (250, (50, 50))
            assert [len(task.labels) for task in tasks] == [250, 250]
            every = np.ones(250, bool)
            expected = strong["b", 10][:250].astype(np.float32)
            np.testing.assert_array_equal(tasks[1].matrix(("b", 10), every), expected)
            assert (tasks[0].part == tasks[1].part).all()

    def test_no_picture_in_common(self, stores, tmp_path):
        ids = [f"q{k}" for k in range(300)]
        with rewrite(stores[1], tmp_path / "o.h5", ids=ids) as other:
            with pytest.raises(SpecError, match="no picture in common: 'p0' there, 'q0' here"):
                common_pictures([stores[0], other])
            half = [f"q{k}" if k < 150 else f"p{k}" for k in range(300)]
            rest = [f"p{k}" if k < 150 else f"q{k}" for k in range(300)]
            with (
                rewrite(stores[0], tmp_path / "1.h5", ids=half) as one,
                rewrite(stores[0], tmp_path / "2.h5", ids=rest) as two,
                pytest.raises(SpecError, match="no picture is in all of"),
            ):
                common_pictures([stores[0], one, two])

    def test_a_picture_that_changed(self, stores, tmp_path):
        digests = np.random.default_rng(0).integers(0, 256, (300, 16), np.uint8)
        changed = digests.copy()
        changed[[7, 9], 3] ^= 1
        with (
            rewrite(stores[0], tmp_path / "1.h5", digests=digests) as one,
            rewrite(stores[1], tmp_path / "2.h5", digests=changed) as two,
        ):
            with pytest.raises(SpecError, match=r"2 of 300 pictures have other bytes.*'p7'"):
                common_pictures([one, two])
            with pytest.raises(SpecError, match="2 of 300"):  # the first file does not know
                common_pictures([stores[0], one, two])
            assert len(common_pictures([one, stores[1]]).ids) == 300

    def test_labels_of_the_first_that_has_them(self, stores, tmp_path):
        arrays = arrays_of(labels_of(300), strength=STRONG)
        with write_store(tmp_path / "none.h5", arrays) as none:
            with pytest.raises(SpecError, match=r"none of .* has labels; extract from a folder"):
                shared_tasks([none, none], ["a", "b"], "class", Choices())
            result = compare(judges_of([none, stores[0]]))
        assert result["s1"].verdict == WORSE

    def test_labels_that_contradict_each_other(self, stores, tmp_path):
        labels = labels_of(300)
        labels[5] = (labels[5] + 1) % 3
        arrays = arrays_of(labels, strength=WEAK)
        with (
            write_store(tmp_path / "o.h5", arrays, labels) as other,
            pytest.raises(SpecError, match=r"1 pictures are of other classes in .*'p5'"),
        ):
            shared_tasks([stores[0], other], ["a", "b"], "class", Choices())

    def test_groups_of_a_table(self, stores, tmp_path):
        table = tmp_path / "persons.csv"
        table.write_text("id,person\n" + "".join(f"p{k},{k // 5}\n" for k in range(300)))
        judges = judges_of(stores, targets=TargetChoice(table, groups="person"))
        judge = judges["s0"]
        persons = np.arange(300) // 5
        for part in (TRAIN, VALIDATION, TEST):
            inside = np.isin(persons, persons[judge.part == part])
            assert (inside == (judge.part == part)).all()
        result = compare(judges)
        assert result.measure.groups == len(np.unique(persons[judge.part == TEST]))
        assert f"bootstrap of {result.measure.groups} groups" in result.small_print

    def test_what_was_told_is_refused_or_marked(self, stores):
        strong = stores[1]
        object.__setattr__(strong.spec, "label", "class")
        with pytest.raises(SpecError, match="conditioned on their own targets"):
            judges_of(stores)
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            result = compare(judges_of(stores, allow_conditioned=True))
        assert "s1 !" in result.table()
        assert "s0 !" not in result.table()
        assert any(line.startswith("! s1: features conditioned") for line in result.lines())


def block(name: str, kind: str, part: str) -> BlockInfo:
    return BlockInfo(name, name, kind, part, 8, 8)


class TestDefaultBlocks:
    def test_of_a_unet_a_network_and_transformers(self):
        unet = [block("down.0", "stage", "encoder"), block("up.0.res.0", "resnet", "decoder"),
                block("up.0", "stage", "decoder"), block("up.1", "stage", "decoder")]  # fmt: skip
        assert default_blocks(unet) == ("up.0", "up.1")
        assert default_blocks(unet[:2]) == ("down.0",)
        vit = [block(f"blocks.{k}", "transformer", "blocks") for k in range(12)]
        assert default_blocks(vit) == ("blocks.2", "blocks.5", "blocks.8", "blocks.11")
        assert default_blocks(vit[:1]) == ("blocks.0",)
        assert default_blocks([block("conv", "conv", "encoder")]) == ("conv",)


def test_a_classification_is_what_search_would_judge(stores):
    """The same parts and scores as `diffeat search` of one file."""
    from diffeat.search import task_from_store

    alone = Classification(task_from_store(stores[0]))
    judge = judge_of(stores[0])
    np.testing.assert_array_equal(judge.part, alone.part)
    assert judge.validate([("b", 10)], judge.part) == alone.validate([("b", 10)], alone.part)


def test_the_example_of_the_page_runs(stores, monkeypatch, capsys):
    from pathlib import Path
    from re import DOTALL, findall

    page = Path(__file__).parents[2] / "docs" / "compare.md"
    [example] = findall(r"```python\n(.*?)```", page.read_text("utf-8"), DOTALL)
    for name, store in zip("ab", stores, strict=True):
        store.path.rename(store.path.with_name(f"{name}.h5"))
    monkeypatch.chdir(stores[0].path.parent)
    exec(example, given := {})
    for store in given["stores"]:
        store.close()
    assert given["result"]["b"].verdict == BETTER
    assert capsys.readouterr().out.startswith("classification: accuracy in % on the same 60 test")
