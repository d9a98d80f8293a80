"""Pictures that a cell gets wrong are those of its own score, and no others."""

from __future__ import annotations

import numpy as np
import pytest
from sklearn.linear_model import RidgeClassifier
from sklearn.preprocessing import StandardScaler

from diffeat.errors import SpecError
from diffeat.search import Classification, Regression, search_surface
from diffeat.search.mistakes import mistakes_of
from diffeat.search.splits import TRAIN, VALIDATION
from tests.search.common import task_of


@pytest.mark.parametrize("score", ["logistic", "ridge", "knn"])
def test_as_many_as_the_score_says(score):
    judge = Classification(task_of(), score)
    for cell in search_surface(judge).cells:
        count, some = mistakes_of(judge, cell, 1000)
        held = int((judge.part == VALIDATION).sum())
        assert count == len(some) == round((1 - cell.validation) * held)
        assert all(judge.part[one.row] == VALIDATION for one in some)
        assert all(str(judge.labels[one.row]) == one.true != one.said for one in some)
        assert [one.value for one in some] == sorted((one.value for one in some), reverse=True)
        assert mistakes_of(judge, cell, 2) == (count, some[:2])


def test_they_are_those_of_a_plain_ridge_classifier():
    judge = Classification(task_of(), "ridge")
    cell = search_surface(judge).cells[0]
    X, y = judge.task.read(*cell.key), judge.labels
    train, held = judge.part == TRAIN, judge.part == VALIDATION
    scale = StandardScaler().fit(X[train])
    plain = RidgeClassifier(alpha=cell.setting).fit(scale.transform(X[train]), y[train])
    wrong = np.flatnonzero(held)[plain.predict(scale.transform(X[held])) != y[held]]
    assert {one.row for one in mistakes_of(judge, cell, 1000)[1]} == {*wrong.tolist()}


def test_test_pictures_play_no_part():
    judge = Classification(task_of(), "ridge")
    cell = search_surface(judge).cells[0]
    before = mistakes_of(judge, cell, 5)
    for rows in (judge.part == 2,):
        judge.task.read(*cell.key)[rows] = 1e6
    assert mistakes_of(judge, cell, 5) == before


def test_judges_without_classes_are_refused():
    task = task_of(labels=np.random.default_rng(0).normal(size=400))
    with pytest.raises(SpecError, match="not of classes"):
        mistakes_of(Regression(task), None, 5)
    own = Classification(task_of(), lambda X, y, Xv, yv: 0.5)
    with pytest.raises(SpecError, match="not of classes"):
        mistakes_of(own, None, 5)
