"""Matchings against brute force over permutations, numbers against scikit-learn."""

from __future__ import annotations

from itertools import permutations

import numpy as np
import pytest
from sklearn.metrics import accuracy_score, confusion_matrix, jaccard_score

from probes.metrics.matched import (
    PictureMatching,
    SharedMatching,
    match_parts,
    overlap_table,
)
from probes.parts import MatchedParts


def labels(seed: int, parts: int = 4, classes: int = 3, count: int = 3):
    rng = np.random.default_rng(seed)
    truth = rng.integers(0, classes, (count, 8, 9))
    noise = rng.integers(0, parts, truth.shape)
    found = np.where(rng.random(truth.shape) < 0.6, (truth + 1) % parts, noise)
    return found, truth


@pytest.mark.parametrize("seed", range(4))
def test_one_to_one_is_the_best_of_all_permutations(seed):
    found, truth = labels(seed)
    table = overlap_table(found, truth, 4, 3)
    np.testing.assert_array_equal(
        table, confusion_matrix(found.ravel(), truth.ravel(), labels=range(4))[:, :3]
    )
    iou = table / (table.sum(1, keepdims=True) + table.sum(0) - table)
    best = max(permutations(range(4), 3), key=lambda parts: sum(iou[parts, range(3)]))
    expected = np.full(4, -1)
    expected[list(best)] = range(3)
    np.testing.assert_array_equal(match_parts(table), expected)


def test_many_to_one_is_each_parts_largest_class():
    table = np.array([[5, 2, 0], [9, 1, 1], [0, 0, 0], [1, 2, 3]])
    np.testing.assert_array_equal(match_parts(table, "many-to-one"), [0, 0, -1, 2])


@pytest.mark.parametrize("how", ["one-to-one", "many-to-one"])
def test_numbers_are_those_of_scikit_learn_under_the_matching(how):
    found, truth = labels(1)
    truth[0, 0] = 255
    matching = SharedMatching(4, 3)
    for one, true in zip(found, truth, strict=True):
        matching.update(one, true)
    numbers, known = matching.numbers(how), truth != 255
    said = numbers.names[found][known]
    ious = jaccard_score(truth[known], said, labels=[0, 1, 2], average=None)
    np.testing.assert_allclose(numbers.iou(), ious)
    assert numbers.mean_iou() == pytest.approx(ious.mean())
    assert numbers.pixel_accuracy() == pytest.approx(accuracy_score(truth[known], said))


def test_pictures_are_matched_on_their_own():
    """The same parts under other numbers are as good picture by picture, and not over the set."""
    truth = np.stack([np.indices((4, 4))[0] // 2] * 2)
    found = np.stack([truth[0], 1 - truth[1]])
    single, shared = PictureMatching(2), SharedMatching(2, 2)
    for one, true in zip(found, truth, strict=True):
        assert single.update(one, true) == 1
        shared.update(one, true)
    assert single.numbers().mean_iou() == 1
    assert single.numbers("many-to-one").pixel_accuracy() == 1
    assert shared.numbers().pixel_accuracy() == 0.5
    assert single.parts == [2, 2]


def test_more_parts_help_only_where_many_may_be_one():
    truth = np.zeros((4, 4), int)
    truth[:, 2:] = 1
    matching = PictureMatching(2)
    matching.update(np.arange(16).reshape(4, 4), truth)  # every pixel a part of its own
    assert matching.numbers("many-to-one").mean_iou() == 1
    assert matching.numbers().pixel_accuracy() == 2 / 16


def test_names_of_other_pictures_are_used_as_they_are():
    found, truth = labels(2)
    shared = SharedMatching(4, 3)
    shared.update(found[2], truth[2])
    names = MatchedParts().fit(found[:2], truth[:2], 4, 3)
    said = next(names.predict(found[2:]))
    ious = jaccard_score(truth[2].ravel(), said.ravel(), labels=[0, 1, 2], average="macro")
    assert shared.numbers(names=names.names_).mean_iou() == pytest.approx(ious)
    assert shared.numbers().iou().sum() >= ious - 1e-12


def test_intervals_draw_groups_and_differences_are_paired():
    found, truth = labels(3, count=6)
    one, same = SharedMatching(4, 3), SharedMatching(4, 3)
    for k in range(6):
        one.update(found[k], truth[k], k // 2)
        same.update(found[k], truth[k], k // 2)
    ends = one.numbers().interval(draws=200)
    assert ends.low < one.numbers().mean_iou() < ends.high
    gain = one.numbers().interval(other=same.numbers(), draws=50)
    assert gain.low == gain.high == 0


def test_bad_input_is_refused():
    with pytest.raises(ValueError, match="expected the same"):
        overlap_table(np.zeros((2, 2), int), np.zeros((2, 3), int), 1, 1)
    with pytest.raises(ValueError, match="truth has labels from 0 to 7"):
        overlap_table(np.zeros((1, 2), int), np.array([[0, 7]]), 1, 3)
    with pytest.raises(ValueError, match="how"):
        match_parts(np.ones((2, 2)), "best")
    with pytest.raises(ValueError, match="no pixel with a label"):
        SharedMatching(2, 2).numbers()
    empty = PictureMatching(2)
    assert np.isnan(empty.update(np.zeros((2, 2), int), np.full((2, 2), 255)))
    with pytest.raises(ValueError, match="no pixel with a label"):
        empty.numbers()
