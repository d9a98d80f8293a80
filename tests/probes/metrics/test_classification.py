"""Metrics of classes against scikit-learn, also where classes are absent."""

from __future__ import annotations

import numpy as np
import pytest
import sklearn.metrics as reference
import torch

from probes.metrics import (
    Accuracy,
    ConfusionMatrix,
    accuracy_score,
    confusion_matrix,
    f1_score,
    jaccard_score,
    precision_score,
    recall_score,
)

AVERAGES = ("macro", "micro", "weighted", None)
SCORES = {
    precision_score: reference.precision_score,
    recall_score: reference.recall_score,
    f1_score: reference.f1_score,
    jaccard_score: reference.jaccard_score,
}
RNG = np.random.default_rng(0)
CASES = {
    "many": (RNG.integers(0, 5, 200), RNG.integers(0, 5, 200)),
    "absent from truth": (RNG.integers(0, 3, 60), RNG.integers(0, 5, 60)),
    "never predicted": (RNG.integers(0, 5, 60), RNG.integers(1, 3, 60)),
    "one class": (np.ones(7, int), np.ones(7, int)),
    "all wrong": (np.zeros(4, int), np.ones(4, int)),
    "names": (np.array(["cat", "dog", "cat"]), np.array(["cat", "cat", "emu"])),
}


@pytest.mark.parametrize("case", CASES)
class TestAgainstScikitLearn:
    @pytest.mark.parametrize("average", AVERAGES)
    @pytest.mark.parametrize("score", SCORES)
    def test_scores(self, score, average, case):
        true, found = CASES[case]
        expected = SCORES[score](true, found, average=average, zero_division=0)
        np.testing.assert_allclose(score(true, found, average=average), expected, rtol=1e-12)

    def test_confusion_and_accuracy(self, case):
        true, found = CASES[case]
        labels = np.union1d(true, found)
        if len(labels) == 1:  # of which scikit-learn warns
            assert confusion_matrix(true, found).tolist() == [[len(true)]]
            return
        expected = reference.confusion_matrix(true, found)
        np.testing.assert_array_equal(confusion_matrix(true, found), expected)
        assert accuracy_score(true, found) == reference.accuracy_score(true, found)


@pytest.mark.parametrize("average", AVERAGES)
@pytest.mark.parametrize("score", SCORES)
def test_named_labels_count_also_where_they_do_not_occur(score, average):
    true, found = CASES["absent from truth"]
    for labels in ([0, 1, 2, 3, 4, 7], [2, 0]):
        expected = SCORES[score](true, found, labels=labels, average=average, zero_division=0)
        ours = score(true, found, labels=labels, average=average)
        np.testing.assert_allclose(ours, expected, rtol=1e-12)


@pytest.mark.parametrize("average", AVERAGES)
@pytest.mark.parametrize("score", SCORES)
def test_several_labels(score, average):
    true, found = RNG.integers(0, 2, (30, 4)), RNG.integers(0, 2, (30, 4))
    true[:, 3] = 0
    expected = SCORES[score](true, found, average=average, zero_division=0)
    np.testing.assert_allclose(score(true, found, average=average), expected, rtol=1e-12)
    assert accuracy_score(true, found) == reference.accuracy_score(true, found)


def test_order_of_labels():
    true, found = CASES["names"]
    labels = ["emu", "dog", "cat", "yak"]
    expected = reference.confusion_matrix(true, found, labels=labels)
    np.testing.assert_array_equal(confusion_matrix(true, found, labels), expected)


def test_a_matrix_that_grows_batch_by_batch():
    true, found = RNG.integers(0, 4, (9, 5, 6)), RNG.integers(0, 3, (9, 5, 6))
    true[RNG.random(true.shape) < 0.2] = 255
    grown = ConfusionMatrix(5, ignore_index=255)
    for part in np.array_split(np.arange(9), 4):
        grown.update(torch.from_numpy(found[part]), torch.from_numpy(true[part].astype(np.uint8)))
    keep = true != 255
    expected = reference.confusion_matrix(true[keep], found[keep], labels=range(5))
    np.testing.assert_array_equal(grown.compute(), expected)
    pair = true[keep], found[keep]
    assert grown.accuracy() == reference.accuracy_score(*pair)
    for score, theirs in SCORES.items():
        name = score.__name__.removesuffix("_score")
        for average in ("macro", "micro", "weighted"):
            expected = theirs(*pair, average=average, zero_division=0)
            assert getattr(grown, name)(average) == pytest.approx(expected, rel=1e-12)
        assert getattr(grown, name)(None).shape == (5,)


def test_accuracy_grows():
    true, found = torch.tensor([0, 1, 2, 2, 1]), torch.tensor([0, 1, 1, 2, 0])
    grown = Accuracy().update(found[:2], true[:2]).update(found[2:], true[2:])
    assert grown.compute() == 3 / 5


def test_errors():
    for score in (accuracy_score, confusion_matrix, f1_score):
        with pytest.raises(ValueError, match="empty"):
            score([], [])
        with pytest.raises(ValueError, match=r"shape \(2,\), y_pred \(1,\)"):
            score([0, 1], [0])
    with pytest.raises(ValueError, match=r"labels \[3\] occur; expected among \[0, 1\]"):
        confusion_matrix([0, 3], [0, 1], labels=[0, 1])
    with pytest.raises(ValueError, match="average='samples'"):
        f1_score([0, 1], [0, 1], average="samples")
    for empty in (Accuracy(), ConfusionMatrix(3)):
        with pytest.raises(ValueError, match="no labels were counted"):
            empty.compute()
    with pytest.raises(ValueError, match="labels 0 to 3; expected 0 to 2, or 255 to be ignored"):
        ConfusionMatrix(3, 255).update(np.array([0, 1]), np.array([0, 3]))
