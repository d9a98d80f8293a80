"""Metrics of numbers against scikit-learn."""

from __future__ import annotations

import numpy as np
import pytest
import sklearn.metrics as reference
import torch

from probes.metrics import (
    MeanAbsoluteError,
    MeanSquaredError,
    R2Score,
    mean_absolute_error,
    mean_squared_error,
    r2_score,
)

RNG = np.random.default_rng(0)
TRUE = RNG.normal(1e3, 2, (50, 3))
FOUND = TRUE + RNG.normal(0, 1, (50, 3))


@pytest.mark.parametrize("columns", [slice(None), 0, slice(1)])
def test_against_scikit_learn(columns):
    true, found = TRUE[:, columns], FOUND[:, columns]
    pairs = {
        mean_squared_error: reference.mean_squared_error,
        mean_absolute_error: reference.mean_absolute_error,
        r2_score: reference.r2_score,
    }
    for ours, theirs in pairs.items():
        assert ours(true, found) == pytest.approx(theirs(true, found), rel=1e-12)
    raw = reference.r2_score(true, found, multioutput="raw_values")
    np.testing.assert_allclose(r2_score(true, found, "raw_values"), raw, rtol=1e-12)


def test_outputs_that_are_constant():
    true, found = TRUE.copy(), FOUND.copy()
    true[:, 0], true[:, 1], found[:, 1] = 5.0, 7.0, 7.0
    expected = reference.r2_score(true, found, multioutput="raw_values")
    np.testing.assert_allclose(r2_score(true, found, "raw_values"), expected, rtol=1e-12)
    assert expected[:2].tolist() == [0, 1]


@pytest.mark.parametrize(
    ("kind", "whole"),
    [(MeanSquaredError, mean_squared_error), (MeanAbsoluteError, mean_absolute_error),
     (R2Score, r2_score)],
)  # fmt: skip
def test_batches_give_what_the_whole_gives(kind, whole):
    grown = kind()
    for part in np.array_split(np.arange(50), [1, 2, 20]):
        grown.update(torch.from_numpy(FOUND[part]), torch.from_numpy(TRUE[part]))
    assert grown.compute() == pytest.approx(whole(TRUE, FOUND), rel=1e-9)


def test_maps_are_one_output_and_gaps_do_not_count():
    true, found = TRUE.reshape(10, 5, 3).copy(), FOUND.reshape(10, 5, 3)
    true[RNG.random(true.shape) < 0.3] = np.nan
    keep = ~np.isnan(true)
    pair = true[keep], found[keep]
    assert mean_squared_error(true, found) == pytest.approx(reference.mean_squared_error(*pair))
    assert mean_absolute_error(true, found) == pytest.approx(reference.mean_absolute_error(*pair))
    assert r2_score(true, found) == pytest.approx(reference.r2_score(*pair))


def test_errors():
    for score in (mean_squared_error, mean_absolute_error):
        with pytest.raises(ValueError, match="at least one row"):
            score([], [])
    with pytest.raises(ValueError, match="R² of 1 rows"):
        r2_score([1.0], [1.0])
    with pytest.raises(ValueError, match=r"shape \(2,\), y_pred \(1,\)"):
        r2_score([1.0, 2.0], [1.0])
    with pytest.raises(ValueError, match="nan or inf"):
        mean_squared_error([1.0, 2.0], [1.0, np.nan])
    with pytest.raises(ValueError, match="multioutput='mean'"):
        R2Score("mean")
