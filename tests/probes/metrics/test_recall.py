"""Recall of dense correspondences by angle, against counting with scipy's distances."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.spatial.distance import cdist
from scipy.stats import binned_statistic

from probes.metrics import Recall, pair_interval


def test_by_angle_as_scipy_counts():
    rng, metric = np.random.default_rng(0), Recall((0.01, 0.04), (0, 15, 45, 90))
    distances, angles = [], []
    for angle in rng.uniform(0, 45, 30):
        truth = rng.uniform(0, 100, (7, 2))
        found = truth + rng.normal(0, 2, truth.shape)
        metric.update(found, truth, 100, angle)
        distances.append(np.diagonal(cdist(found, truth)))
        angles.append(np.full(7, angle))
    distances, angles = np.concatenate(distances), np.concatenate(angles)
    for threshold in (0.01, 0.04):
        right = distances <= 100 * threshold
        expected = binned_statistic(angles, right, bins=(0, 15, 45)).statistic
        found = metric.by_bin()
        assert list(found) == [(0, 15), (15, 45)]
        assert [each[threshold] for each in found.values()] == pytest.approx(expected)
        assert metric.compute()[threshold] == pytest.approx(right.mean())
    right, points, bins = metric.counts()
    assert (right.shape, points.sum(), set(bins.tolist())) == ((30, 2), 210, {0, 1})
    groups = [(f"a{k % 5}", f"b{k % 7}") for k in range(30)]
    assert pair_interval(right[:, 0], points, groups).value == pytest.approx(metric.compute()[0.01])


def test_edges_of_bins_and_of_thresholds():
    metric = Recall((0.1,), (0, 10, 20))
    for angle in (0, 10, 20):
        metric.update([[3, 4]], [[0, 0]], 50, angle)
    assert metric.counts()[2].tolist() == [0, 1, 1]
    assert metric.compute() == {0.1: 1.0}


def test_what_is_not_valid_is_wrong():
    metric = Recall((0.5,))
    found = [[0, 0], [np.nan, 0], [1, 1]]
    right = metric.update(found, [[0, 0], [1, 1], [1, 1]], 10, 5, valid=[True, False, False])
    assert right.tolist() == [[True], [False], [False]]
    with pytest.raises(ValueError, match="expected finite"):
        metric.update(found, np.zeros((3, 2)), 10, 5)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: Recall(bins=(0, 5, 5)), "edges or more that ascend"),
        (lambda: Recall(bins=(0, np.nan, 5)), "edges or more that ascend"),
        (lambda: Recall(thresholds=()), "at least one threshold"),
        (lambda: Recall(thresholds=(0.1, 0)), "one threshold above 0"),
        (lambda: Recall(thresholds=(np.nan,)), "one threshold above 0"),
        (lambda: Recall().update([[0, 0]], [[0, 0]], 9, 181), "angle=181; expected .* 0 to 180"),
        (lambda: Recall().update([[0, 0]], [[0, 0]], 9, np.nan), "angle=nan"),
        (lambda: Recall().update([], [], 9, 1), "at least one"),
        (lambda: Recall().compute(), "no pairs were counted"),
        (lambda: Recall().by_bin(), "no pairs were counted"),
    ],
)
def test_what_is_refused(call, message):
    with pytest.raises(ValueError, match=message):
        call()
