"""Parts: of groups, by hash; small sets class by class; and what few pictures can say."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest
from scipy import stats

from diffeat.errors import SpecError
from diffeat.search.intervals import (
    FEW,
    HANDFUL,
    accuracy_interval,
    accuracy_text,
    few_text,
    group_interval,
)
from diffeat.search.splits import (
    LEFT_OUT,
    SMALL,
    TEST,
    TRAIN,
    VALIDATION,
    split_by_hash,
    split_groups,
    split_pairs,
)


def names(count: int) -> list[str]:
    return [f"{k:04d}.png" for k in range(count)]


def test_three_classes_of_four_have_all_classes_in_all_parts():
    labels = np.repeat([0, 1, 2], 4)
    part, why = split_groups(names(12), labels=labels)
    assert "fewer than 500" in why
    for number, each in ((TRAIN, 2), (VALIDATION, 1), (TEST, 1)):
        assert Counter(labels[part == number].tolist()) == {0: each, 1: each, 2: each}


def test_a_picture_keeps_its_part_in_another_order():
    labels = np.arange(90) % 3
    part, _ = split_groups(names(90), labels=labels)
    order = np.random.default_rng(0).permutation(90)
    again, _ = split_groups([names(90)[k] for k in order], labels=labels[order])
    assert (again == part[order]).all()


def test_large_sets_keep_their_hash_splits():
    ids, labels = names(SMALL), np.arange(SMALL) % 10
    part, why = split_groups(ids, labels=labels)
    assert why == ""
    assert (part == split_by_hash(ids)).all()


def test_a_class_that_the_hash_leaves_out_is_shared_out():
    ids, labels = names(600), np.zeros(600, np.int64)
    hashed = split_by_hash(ids)
    labels[np.flatnonzero(hashed == TRAIN)[:5]] = 1  # five pictures, all in training
    part, why = split_groups(ids, labels=labels)
    assert "class number 1" in why
    assert set(part[labels == 1]) == {TRAIN, VALIDATION, TEST}


def test_a_class_too_small_for_all_parts_changes_nothing():
    ids, labels = names(600), np.zeros(600, np.int64)
    labels[0] = 1
    part, why = split_groups(ids, labels=labels)
    assert why == ""
    assert (part == split_by_hash(ids)).all()


@pytest.mark.parametrize("count", [60, 900])
def test_no_group_is_on_two_sides(count):
    groups = [f"person{k // 3}" for k in range(count)]
    part, _ = split_groups(groups, labels=np.arange(count) // 3 % 2)
    assert {len(set(part[k : k + 3])) for k in range(0, count, 3)} == {1}
    assert set(part) == {TRAIN, VALIDATION, TEST}


@pytest.mark.parametrize("count", [1, 2, 3, 5, 7, 40])
def test_shares_are_near_what_was_asked_for(count):
    part, _ = split_groups(names(count))
    for number, share in enumerate((0.6, 0.2, 0.2)):
        assert abs((part == number).sum() - share * count) <= 1
    if count >= 3:
        assert len(set(part)) == 3


def test_as_many_labels_and_groups_as_pictures():
    with pytest.raises(SpecError, match="2 labels for 3 groups"):
        split_groups(names(3), labels=np.zeros(2, np.int64))


def test_two_parts_where_a_test_set_is_given():
    part, _ = split_groups(names(50), (0.8, 0.2, 0.0), labels=np.arange(50) % 5)
    assert Counter(part.tolist()) == {TRAIN: 40, VALIDATION: 10}


@pytest.mark.parametrize(("right", "count"), [(0, 5), (3, 5), (65, 72), (40, 40), (5951, 10000)])
def test_the_interval_is_wilsons(right, count):
    """The two p for which the observed share lies 1.96 standard errors away."""
    z, share = stats.norm.ppf(0.975), right / count
    for end in accuracy_interval(share, count):
        assert abs(share - end) == pytest.approx(z * np.sqrt(end * (1 - end) / count), abs=1e-9)


def test_the_interval_covers_as_often_as_it_says():
    rng, truth, count = np.random.default_rng(0), 0.7, 60
    drawn, times = np.unique(rng.binomial(count, truth, 20_000), return_counts=True)
    ends = [accuracy_interval(k / count, count) for k in drawn]
    covered = sum(n for n, (low, high) in zip(times, ends, strict=True) if low <= truth <= high)
    assert 0.93 < covered / 20_000 < 0.97


def test_a_handful_is_counted_and_few_are_warned_of():
    assert accuracy_text(0.6, 5) == "3 of 5 test pictures right, too few for a percentage"
    assert "60.0 % (95 % interval" in accuracy_text(0.6, HANDFUL)
    assert "3 test pictures say little" in few_text("toy", 3)
    assert few_text("toy", FEW) is None


def test_pairs_across_parts_are_left_out_and_counted():
    scenes = [f"scene{k}" for k in range(60)]
    rng = np.random.default_rng(0)
    first, second = ([scenes[k] for k in rng.integers(0, 60, 400)] for _ in range(2))
    part, left_out = split_pairs(first, second, (0.5, 0.25, 0.25))
    assert left_out == (part == LEFT_OUT).sum()
    # two scenes lie in one part with a chance of 0.5² + 0.25² + 0.25² = 0.375
    assert 0.3 < (part != LEFT_OUT).mean() < 0.45
    seen = [{name for k in np.flatnonzero(part == n) for name in (first[k], second[k])}
            for n in (TRAIN, VALIDATION, TEST)]  # fmt: skip
    assert not seen[0] & seen[1] | seen[0] & seen[2] | seen[1] & seen[2]


def test_an_interval_of_groups_is_that_of_their_means():
    """Ten equal pictures say no more than one: the width is that of 80 numbers, not of 800."""
    each = np.random.default_rng(0).normal(3, 2, 80)
    low, high = group_interval(np.repeat(each, 10), np.repeat(np.arange(80), 10).astype(str))
    half = 1.96 * each.std(ddof=1) / np.sqrt(80)
    assert (low, high) == pytest.approx((each.mean() - half, each.mean() + half), abs=0.12 * half)
    apart = group_interval(np.repeat(each, 10), [str(k) for k in range(800)])
    assert apart[1] - apart[0] < 0.4 * (high - low)


def test_an_accuracy_of_groups_counts_groups():
    text = accuracy_text(0.9, 300, 30)
    low, high = accuracy_interval(0.9, 30)
    assert f"{100 * low:.1f} to {100 * high:.1f}, Wilson of the groups) on 300 test" in text
    assert text.endswith("of 30 groups")
    assert accuracy_text(0.5, 90, 9) == (
        "45 of 90 test pictures of 9 groups right, too few for a percentage"
    )
