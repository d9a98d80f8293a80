"""Intervals over groups of pairs against loops over draws, and against what they promise."""

from __future__ import annotations

import numpy as np
import pytest

from probes.metrics import Interval, pair_interval, pair_weights
from probes.metrics.conventions import AGGREGATES
from tests.probes.metrics.test_pck import counted, some_pairs


def drawn_by_loops(groups: list[tuple[str, str]], draws: int, seed: int) -> list[list[int]]:
    """How often each pair is there, with the draws of numpy's generator one by one."""
    names, rng = sorted({name for pair in groups for name in pair}), np.random.default_rng(seed)
    found = []
    for _ in range(draws):
        drawn = [names[k] for k in rng.integers(0, len(names), len(names))]
        found.append([drawn.count(a) * (drawn.count(b) if a != b else 1) for a, b in groups])
    return found


GROUPS = [("a", "b"), ("b", "c"), ("c", "c"), ("d", "a"), ("b", "a"), ("d", "e")]


class TestWeights:
    @pytest.mark.parametrize("at_once", [1, 100, 1 << 21])
    def test_equal_to_loops_in_any_pieces(self, at_once, monkeypatch):
        monkeypatch.setattr("probes.metrics.intervals.AT_ONCE", at_once)
        found = np.concatenate(list(pair_weights(GROUPS, seed=3, draws=50)))
        np.testing.assert_array_equal(found, drawn_by_loops(GROUPS, 50, 3))

    def test_one_group_says_nothing(self):
        with pytest.raises(ValueError, match="all pairs are of one group"):
            next(pair_weights([("a", "a"), ("a", "a")]))
        with pytest.raises(ValueError, match=r"shape \(0,\); expected \(P, 2\)"):
            next(pair_weights([]))


class TestRatios:
    def test_equal_to_loops(self):
        above, below = np.array([3, 1, 0, 2, 5, 1]), np.array([5, 4, 3, 2, 9, 1])
        ratios, skipped = [], 0
        for weights in drawn_by_loops(GROUPS, 400, 0):
            if not any(weights):
                skipped += 1
                continue
            ratios.append(np.dot(weights, above) / np.dot(weights, below))
        found = pair_interval(above, below, GROUPS, draws=400)
        low, high = np.quantile(ratios, [0.025, 0.975])
        ends = pytest.approx(low), pytest.approx(high)
        assert found == Interval(12 / 24, *ends, 400 - skipped, skipped)
        assert skipped > 0
        assert f"{skipped} draws that say nothing left out" in str(found)

    def test_a_difference_is_of_the_same_draws(self):
        rng = np.random.default_rng(0)
        groups = rng.integers(0, 20, (300, 2)).astype(str)
        of, right = np.full(300, 10), rng.integers(0, 9, 300)
        better = pair_interval(right + 1, of, groups, other=(right, of))
        assert (better.value, better.low, better.high) == pytest.approx((0.1, 0.1, 0.1))
        apart = pair_interval(right, of, groups)
        assert apart.high - apart.low > 0.02

    def test_it_covers_and_pairs_alone_do_not(self):
        """A number that is each person's own: 95 of 100 intervals should hold its mean."""
        rng, held = np.random.default_rng(1), {"groups": 0, "pairs": 0}
        for _ in range(100):
            people = rng.normal(0, 1, 25)
            pairs = np.array([(a, b) for a in range(25) for b in range(25) if a != b])
            pairs = pairs[rng.permutation(len(pairs))[:200]]
            values = people[pairs].sum(1) + rng.normal(0, 0.5, len(pairs))
            by_groups = pair_interval(values, np.ones(200), pairs.astype(str), draws=400)
            rows = rng.integers(0, 200, (400, 200))
            low, high = np.percentile(values[rows].mean(1), [2.5, 97.5])
            held["groups"] += by_groups.low <= 0 <= by_groups.high
            held["pairs"] += low <= 0 <= high
        assert held["groups"] >= 88
        assert held["pairs"] <= 60

    @pytest.mark.parametrize(
        ("above", "below", "message"),
        [
            ([1] * 5, [1] * 6, r"numerators have shape \(5,\)"),
            ([1, 1, 1, 1, 1, np.nan], [1] * 6, "not finite"),
            ([1] * 6, [1, 1, 1, 1, 1, -1], "denominators below 0"),
            ([0] * 6, [0] * 6, "the number of all 6 pairs is nan"),
        ],
    )
    def test_what_is_refused(self, above, below, message):
        with pytest.raises(ValueError, match=message):
            pair_interval(above, below, GROUPS)


class TestOfPCK:
    def test_points_and_pairs_are_ratios(self):
        metric = counted(some_pairs(), (0.1, 0.05))
        right, points = metric.counts()
        groups = metric.names("groups")
        per_point, per_pair = metric.interval(), metric.interval("pair")
        for k, alpha in enumerate((0.1, 0.05)):
            assert per_point[alpha] == pair_interval(right[:, k], points, groups)
            expected = pair_interval(right[:, k] / points, np.ones(40), groups)
            assert per_pair[alpha].low == pytest.approx(expected.low)
            assert per_pair[alpha].high == pytest.approx(expected.high)

    @pytest.mark.parametrize("aggregate", ["picture", "class", "class-weighted", "class-pair"])
    def test_means_of_names_by_repeated_pairs(self, aggregate):
        """A draw is the metric of pairs that are there as often as they weigh."""
        pairs = some_pairs(60)
        metric = counted(pairs, (0.1,))
        values = []
        for weights in drawn_by_loops([p["groups"] for p in pairs], 30, 5):
            repeated = [p for p, w in zip(pairs, weights, strict=True) for _ in range(w)]
            if aggregate == "picture":
                values.append(by_pictures(pairs, weights))
            elif {p["category"] for p in repeated} == {"cat", "dog", "boat"}:
                values.append(counted(repeated, (0.1,)).compute(aggregate)[0.1])
        found = metric.interval(aggregate, seed=5, draws=30)[0.1]
        low, high = np.percentile(values, [2.5, 97.5])
        assert (found.low, found.high) == (pytest.approx(low), pytest.approx(high))
        assert (found.draws, found.value) == (len(values), metric.compute(aggregate)[0.1])

    @pytest.mark.parametrize("aggregate", AGGREGATES)
    def test_a_system_does_not_differ_from_itself(self, aggregate):
        one, other = counted(some_pairs(), (0.1,)), counted(some_pairs(), (0.1,))
        assert one.interval(aggregate, other=other)[0.1].high == 0

    def test_differences_need_the_same_pairs(self):
        one, other = counted(some_pairs(), (0.1,)), counted(some_pairs(seed=1), (0.1,))
        with pytest.raises(ValueError, match="did not count the same pairs"):
            one.interval(other=other)


def by_pictures(pairs: list[dict], weights: list[int]) -> float:
    """A picture weighs the mean of its pairs' weights."""
    shares, whole = [], []
    for name in sorted({p["picture"] for p in pairs}):
        rows = [k for k, p in enumerate(pairs) if p["picture"] == name]
        weight = sum(weights[k] for k in rows)
        if weight:
            one = counted([pairs[k] for k in rows for _ in range(weights[k])], (0.1,))
            shares.append(one.compute()[0.1])
            whole.append(weight / len(rows))
    return float(np.average(shares, weights=whole))
