"""Repeats, sets, halving and the bandit find what was built in."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import stats

from diffeat.errors import SpecError
from diffeat.noise import NO_T
from diffeat.search import (
    TEST,
    TRAIN,
    VALIDATION,
    Classification,
    Journal,
    SearchOptions,
    best_pairs,
    greedy_sets,
    repeat_surface,
    run_bandit,
    run_search,
    search_surface,
    successive_halving,
    train_mixer,
)
from diffeat.search.bandit import AGENTS
from diffeat.search.judge import Outcome
from diffeat.search.scores import Custom
from diffeat.search.splits import LEFT_OUT, balanced_order, random_part
from probes.aggregate import MixerProbe
from tests.search.common import BEST, task_of
from tests.search.test_classification import centroid


class TestRepeats:
    def test_the_test_part_stays_and_the_rest_is_drawn(self):
        task = task_of(2000)
        first, second = (
            random_part(task.part, task.ids, 0, 0),
            random_part(task.part, task.ids, 0, 1),
        )
        rest = (task.part != TEST).sum()
        share = (task.part == VALIDATION).sum() / rest
        for part in (first, second):
            np.testing.assert_array_equal(part == TEST, task.part == TEST)
            spread = np.sqrt(share * (1 - share) / rest)
            assert abs((part == VALIDATION).sum() / rest - share) < 3 * spread
        assert (first != second).any()
        np.testing.assert_array_equal(first, random_part(task.part, task.ids, 0, 0))

    def test_means_intervals_and_wins(self):
        result = repeat_surface(Classification(task_of(), centroid), repeats=6)
        assert result.scores.shape == (4, 6)
        for row, mean, half in zip(result.scores, result.mean, result.half_width, strict=True):
            low, high = stats.t.interval(0.95, 5, np.mean(row), stats.sem(row))
            assert (mean - half, mean + half) == pytest.approx((low, high))
        assert result.wins.sum() == 6
        assert result.cells[int(result.wins.argmax())] == BEST == result.best.key
        assert result.best.test > 0.8

    def test_every_score_is_that_of_its_split(self):
        task = task_of()
        result = repeat_surface(Classification(task, centroid), repeats=3, seed=5)
        X, y, part = task.read(*BEST), task.labels, random_part(task.part, task.ids, 5, 2)
        fit, held = part == TRAIN, part == VALIDATION
        expected = centroid(X[fit], y[fit], X[held], y[held])
        assert result.scores[task.cells.index(BEST), 2] == expected

    def test_it_resumes(self, tmp_path):
        first = repeat_surface(
            Classification(task_of(), centroid), repeats=3, journal=Journal(tmp_path)
        )
        journal = Journal(tmp_path)
        again = repeat_surface(Classification(task_of(), centroid), repeats=3, journal=journal)
        assert (journal.found, journal.computed) == (4 * 3 + 1, 0)
        assert again.to_dict() == first.to_dict()

    def test_one_split_has_no_spread(self):
        with pytest.raises(SpecError, match="at least 2"):
            repeat_surface(Classification(task_of(), centroid), repeats=1)


def halves(count: int = 600):
    """Cells that tell one bit each of a class of two bits; a third is noise."""
    rng = np.random.default_rng(1)
    labels = rng.integers(0, 4, count)
    noise = {cell: rng.normal(size=(count, 4)).astype("f4") for cell in "abc"}
    bits = {"a": labels % 2, "b": labels // 2, "c": np.zeros(count)}
    arrays = {(cell, 1): noise[cell] + 6 * bits[cell][:, None].astype("f4") for cell in "abc"}
    return task_of(count, arrays=arrays, labels=labels)


def test_repeats_of_few_pictures_hold_every_class():
    labels = np.arange(12) % 3
    part = np.where(np.arange(12) < 9, np.where(np.arange(12) < 6, TRAIN, VALIDATION), TEST)
    for repeat in range(20):
        found = random_part(part, [f"p{k}" for k in range(12)], 1, repeat, labels)
        assert (found[9:] == TEST).all()
        assert sorted(labels[found == VALIDATION]) == [0, 1, 2]


class TestSets:
    def test_two_halves_make_a_whole(self):
        found = greedy_sets(Classification(halves(), "logistic"), most=3)
        assert set(found.best.cells) == {("a", 1), ("b", 1)}
        assert found.best.validation > 0.95
        assert found.test > 0.95
        assert found.steps[0].validation < 0.65  # one bit of two
        assert found.fits == 3 + 2 + 1
        assert found.stopped == "no cell helped a set of 2"
        assert found.steps[1].gain == found.steps[1].validation - found.steps[0].validation

    def test_all_pairs(self):
        found = best_pairs(Classification(halves(), "logistic"))
        assert set(found.best.cells) == {("a", 1), ("b", 1)}
        assert found.fits == 3 + 3
        assert (
            found.best.validation == greedy_sets(Classification(halves()), most=2).best.validation
        )

    def test_scales_of_cells_play_no_part(self):
        task = halves()
        arrays = {cell: task.read(*cell) * 10 ** (3 * k) for k, cell in enumerate(task.cells)}
        scaled = task_of(len(task.labels), arrays=arrays, labels=task.labels)
        assert (
            greedy_sets(Classification(scaled, "knn"), most=2).best
            == greedy_sets(Classification(task, "knn"), most=2).best
        )

    def test_what_was_left_out_is_not_tested(self):
        task = halves()
        part, arrays = task.part.copy(), {c: task.read(*c).copy() for c in task.cells}
        left = np.flatnonzero(part == TEST)[::2]
        part[left] = LEFT_OUT
        apart = {"arrays": arrays, "labels": task.labels, "part": part}
        judge = Classification(task_of(len(part), **apart), "ridge")
        expected = greedy_sets(judge, most=2).test
        for values in arrays.values():
            values[left] = 0  # were they tested, the figure would move
        assert (
            greedy_sets(Classification(task_of(len(part), **apart), "ridge"), most=2).test
            == expected
        )

    def test_it_resumes(self, tmp_path):
        first = greedy_sets(Classification(halves(), "knn"), most=3, journal=Journal(tmp_path))
        journal = Journal(tmp_path)
        assert greedy_sets(Classification(halves(), "knn"), most=3, journal=journal) == first
        assert journal.computed == 0

    def test_too_few_and_too_many(self):
        with pytest.raises(SpecError, match="at least 2 of each"):
            greedy_sets(Classification(task_of(strength={("a", 1): 1.0})), most=2)
        with pytest.raises(SpecError, match="3,003 pairs; expected at most 3000"):
            best_pairs(Classification(task_of(strength={("a", t): 0.0 for t in range(78)})))


class TestHalving:
    strength = {("a", t): 0.05 * t for t in range(7)} | {("b", 10): 1.5}

    def test_it_finds_the_best_with_fewer_fits(self):
        task = task_of(1000, strength=self.strength)
        total = task.counts[0]
        found = successive_halving(Classification(task, centroid))
        assert found.best.key == BEST
        assert [len(one.scores) for one in found.rounds] == [8, 4, 2]
        assert [one.pictures for one in found.rounds] == [total // 4, total // 2, total]
        expected = (8 * (total // 4) + 4 * (total // 2) + 2 * total) / total
        assert found.cost == pytest.approx(expected)
        assert (found.full_cost, found.fits, found.large_fits_saved) == (8, 14, 6)
        assert found.best.test > 0.9

    def test_the_last_round_is_on_all_pictures(self):
        task = task_of(1000, strength=self.strength)
        (X, y), (Xv, yv) = [
            (task.read(*BEST)[task.part == k], task.labels[task.part == k])
            for k in (TRAIN, VALIDATION)
        ]
        best = successive_halving(Classification(task, centroid)).best
        assert best.validation == centroid(X, y, Xv, yv)

    def test_subsets_are_balanced_and_nested(self):
        labels = np.repeat([0, 1, 2], [100, 20, 5])
        order = balanced_order(np.arange(125) % 5 != 0, 0, labels)
        assert sorted(order) == [k for k in range(125) if k % 5]
        assert np.bincount(labels[order[:12]]).tolist() == [4, 4, 4]
        assert np.bincount(labels[order[:20]]).tolist() == [8, 8, 4]

    def test_too_little(self):
        with pytest.raises(SpecError, match="at least 2 cells and 3 pictures"):
            successive_halving(Classification(task_of(), centroid), least=2)


class Rewards(Custom):
    """A Bernoulli reward whose chance is the one feature of a cell."""

    name = "rewards"

    def __init__(self):
        self.rng = np.random.default_rng(0)

    def fit(self, X, y, Xv, yv):
        return [Outcome(float(self.rng.random() < one[0, 0]), None) for one in X]


class TestBandit:
    chances = (0.2, 0.9, 0.5, 0.3)

    @pytest.mark.parametrize("agent", AGENTS)
    def test_it_learns_the_best_t(self, agent):
        arrays = {("a", t): np.full((90, 1), p) for t, p in enumerate(self.chances)}
        log = run_bandit(
            Classification(task_of(90, arrays=arrays), Rewards()),
            pulls=250,
            agent=agent,
            pictures=20,
        )
        assert log.best == 1
        assert log.counts.sum() == 250
        assert log.counts[1] > 125
        regret = log.regret(self.chances)
        lost = [0.9 - self.chances[arm] for arm in log.arms]
        assert regret == pytest.approx(np.cumsum(lost))
        # choosing at random would lose 0.425 a pull
        assert regret[-1] < 0.5 * 0.425 * 250
        assert regret[-1] - regret[124] < regret[124]  # and less as it learns

    def test_on_features(self):
        log = run_bandit(Classification(task_of(), centroid), pulls=12, pictures=60, blocks=["b"])
        assert log.timesteps == [10, 50]
        assert log.best == 10
        np.testing.assert_allclose(
            log.means, [np.mean([r for r, a in zip(log.rewards, log.arms, strict=True) if a == k])
                        for k in (0, 1)])  # fmt: skip
        assert len(set(log.rewards)) > 2  # fresh pictures
        again = run_bandit(Classification(task_of(), centroid), pulls=12, pictures=60, blocks=["b"])
        assert again == log

    @pytest.mark.parametrize("agent", AGENTS)
    def test_pulls_are_kept(self, agent, tmp_path):
        """A longer run begins with the pulls of a shorter one and makes only the others."""
        fits = []

        def counted(X, y, Xv, yv):
            fits.append(len(X))
            return centroid(X, y, Xv, yv)

        def run(pulls, folder=tmp_path / "kept"):
            score = Custom(counted, name="counted")
            journal = Journal(folder)
            return run_bandit(
                Classification(task_of(), score),
                pulls=pulls,
                agent=agent,
                pictures=60,
                journal=journal,
            ), journal

        run(6)
        made = len(fits)
        found, journal = run(10)
        assert (journal.found, journal.computed) == (6, 4)
        assert len(fits) == made * 10 // 6
        assert found == run(10, None)[0]

    def test_the_test_part_is_not_touched(self):
        task = task_of()

        def watched(X, y, Xv, yv):
            used.extend(np.concatenate([X, Xv])[:, 0].tolist())
            return centroid(X, y, Xv, yv)

        used: list[float] = []
        run_bandit(Classification(task, watched), pulls=4, pictures=60)
        test = {
            v for cell in task.cells for v in task.read(*cell)[task.part == TEST][:, 0].tolist()
        }
        assert used
        assert not test & set(used)

    @pytest.mark.parametrize(
        ("options", "message"),
        [
            ({"agent": "greedy"}, "ucb1 or thompson"),
            ({"pulls": 1}, "at least 2 pulls"),
            ({"pictures": 5}, "6 pictures"),
            ({"score": lambda *_: 2.0}, r"rewards in \[0, 1\]"),
            ({"blocks": ["c"]}, "no block 'c'"),
        ],
    )
    def test_wrong_options(self, options, message):
        asked = {"pulls": 5, **options}
        judge = Classification(task_of(), asked.pop("score", centroid))
        with pytest.raises(SpecError, match=message):
            run_bandit(judge, **asked)


class TestOneT:
    def task(self, t):
        arrays = {("a", t): task_of().read(*BEST), ("b", t): task_of().read("a", 50)}
        return Classification(task_of(arrays=arrays), centroid)

    def test_there_is_nothing_to_learn(self):
        with pytest.raises(SpecError, match=r"made has one t, .* expected at least 2: leave the"):
            run_search(self.task(10), SearchOptions(bandit=5))

    def test_selectors_compare_what_there_is(self):
        """A vision model's features have no t, and none is told."""
        report = run_search(self.task(NO_T), SearchOptions(selectors=True))
        assert report.findings["bandit"].chosen.block == "a"
        [told] = [line for line in report.lines() if line.startswith("bandit")]
        assert told.startswith("bandit: no t after 6 pulls (no t: 6); regret")


def test_a_bandit_takes_pictures_enough_for_many_classes():
    rng = np.random.default_rng(0)
    labels = np.arange(3000) % 60
    X = (3 * rng.normal(size=(60, 8))[labels] + rng.normal(size=(3000, 8))).astype(np.float32)
    task = task_of(3000, arrays={("a", 1): X, ("a", 2): X}, labels=labels)
    taken = []

    def watched(X_train, *_):
        taken.append(len(X_train))
        return 0.5

    run_bandit(Classification(task, watched), pulls=2)
    assert taken == [4 * 60] * 2


class TestMixer:
    def test_it_takes_both_halves(self):
        """Each cell knows one bit: no single cell does what their sum does."""
        task = halves()
        found = train_mixer(Classification(task, "knn"))
        assert found.how == "trained"
        assert sum(found.weights.values()) == pytest.approx(1)
        assert found.weights["c", 1] == min(found.weights.values())  # noise
        assert found.validation > 0.9
        assert found.test > 0.9
        grid = search_surface(Classification(task, "knn"))
        assert grid.best.test < 0.65

    def test_it_is_the_probe(self):
        """Validation chose the epochs; then both parts are learnt from, and test is scored."""
        task = task_of(150)
        judge = Classification(task)
        found = train_mixer(judge, seed=3)
        known, tested = task.part != TEST, task.part == TEST
        mixer = MixerProbe(
            batch_size=8, learning_rate=2e-3, random_state=3, epochs=int(found.setting),
            schedule="constant", progress=False,
        )  # fmt: skip
        X = {cell: task.read(*cell) for cell in task.cells}
        mixer.fit({cell: values[known] for cell, values in X.items()}, task.labels[known])
        score = mixer.score({cell: v[tested] for cell, v in X.items()}, task.labels[tested])
        assert found.test == score

    def test_it_resumes(self, tmp_path):
        first = train_mixer(Classification(halves()), Journal(tmp_path))
        journal = Journal(tmp_path)
        assert train_mixer(Classification(halves()), journal) == first
        assert (journal.found, journal.computed) == (1, 0)

    def test_a_function_is_searched_for(self):
        found = train_mixer(Classification(task_of(), centroid))
        assert found.how == "searched without a gradient"
        assert max(found.weights, key=found.weights.get) == BEST


def test_what_one_strategy_judged_another_one_finds():
    """Without a folder too: the agent's blocks at its t were judged by the grid."""
    calls = []

    def counted(X, y, Xv, yv):
        calls.append(len(y))
        return centroid(X, y, Xv, yv)

    judge, journal = Classification(task_of(), Custom(counted, "counted")), Journal()
    search_surface(judge, journal)
    made = len(calls)
    run_bandit(judge, journal, pulls=2, pictures=60, settle=True)
    assert len(calls) == made + 2 * 2  # the pulls alone
