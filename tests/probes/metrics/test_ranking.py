"""Average precision against scikit-learn: ties, absent labels, one class."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from sklearn.metrics import average_precision_score as reference

from probes.metrics import MeanAveragePrecision, average_precision_score, mean_average_precision

RNG = np.random.default_rng(0)
TRUE = (RNG.random((80, 4)) < [0.5, 0.1, 0.9, 0.3]).astype(int)
SMOOTH = RNG.normal(size=(80, 4)) + TRUE
TIED = SMOOTH.round()


@pytest.mark.parametrize("score", [SMOOTH, TIED, np.zeros((80, 4))], ids=["smooth", "ties", "flat"])
def test_against_scikit_learn(score):
    expected = reference(TRUE, score, average=None)
    np.testing.assert_allclose(average_precision_score(TRUE, score), expected, rtol=1e-12)
    assert average_precision_score(TRUE[:, 1], score[:, 1]) == pytest.approx(expected[1])
    assert mean_average_precision(TRUE, score) == pytest.approx(expected.mean(), rel=1e-12)
    grown = MeanAveragePrecision()
    for part in np.array_split(np.arange(80), 7):
        grown.update(torch.from_numpy(score[part]), torch.from_numpy(TRUE[part]))
    assert grown.compute() == pytest.approx(expected.mean(), rel=1e-12)


def test_a_label_that_no_row_has_is_left_out_and_one_that_all_have_is_found():
    true = TRUE.copy()
    true[:, 0], true[:, 3] = 0, 1
    found = average_precision_score(true, SMOOTH)
    assert np.isnan(found[0])
    assert found[3] == 1
    expected = reference(true[:, 1:], SMOOTH[:, 1:], average="macro")
    assert mean_average_precision(true, SMOOTH) == pytest.approx(expected, rel=1e-12)


def test_by_hand():
    """Found at ranks 1 and 3: (1/1 + 2/3)/2; with the first two tied: (1/2 + 2/3)/2."""
    assert average_precision_score([1, 0, 1], [3, 2, 1]) == pytest.approx((1 + 2 / 3) / 2)
    assert average_precision_score([1, 0, 1], [3, 3, 1]) == pytest.approx((1 / 2 + 2 / 3) / 2)


def test_errors():
    with pytest.raises(ValueError, match="empty"):
        average_precision_score([], [])
    with pytest.raises(ValueError, match="no row has any label"):
        mean_average_precision(np.zeros((3, 2)), np.ones((3, 2)))
    with pytest.raises(ValueError, match=r"y_true has \[2\]; expected 0 and 1"):
        average_precision_score([0, 2], [0.1, 0.2])
    with pytest.raises(ValueError, match="nan or inf"):
        average_precision_score([0, 1], [0.1, np.nan])
    with pytest.raises(ValueError, match="expected both"):
        average_precision_score([0, 1], [0.1])
    with pytest.raises(ValueError, match="no scores were kept"):
        MeanAveragePrecision().compute()
