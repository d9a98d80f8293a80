"""Errors of depth, against scikit-learn, SciPy and arithmetic."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.stats import linregress
from sklearn import metrics as sk

from probes.metrics import DepthErrors, depth_errors


def pair(seed=0, size=(12, 10)):
    rng = np.random.default_rng(seed)
    truth = rng.uniform(0.5, 9, size)
    return truth * np.exp(rng.normal(0.1, 0.3, size)), truth


def test_numbers():
    found, truth = pair()
    errors = depth_errors(found, truth)
    y, p = truth.ravel(), found.ravel()
    assert errors["abs rel"] == pytest.approx(sk.mean_absolute_percentage_error(y, p))
    assert errors["sq rel"] == pytest.approx(sk.mean_squared_error(y, p, sample_weight=1 / y)
                                             * (1 / y).mean())  # fmt: skip
    assert errors["RMSE"] == pytest.approx(sk.root_mean_squared_error(y, p))
    assert errors["RMSE log"] == pytest.approx(sk.root_mean_squared_error(np.log(y), np.log(p)))
    assert errors["log10"] == pytest.approx(sk.mean_absolute_error(np.log10(y), np.log10(p)))
    assert errors["SILog"] == pytest.approx(100 * np.std(np.log(p / y)))
    for k in (1, 2, 3):
        within = np.abs(np.log(p / y)) < k * np.log(1.25)
        assert errors[f"delta {k}"] == pytest.approx(within.mean())


def test_what_counts():
    found, truth = pair()
    truth[0], truth[1], truth[2, 0] = np.nan, 0, np.inf
    found[0] = np.nan
    known = np.isfinite(truth) & (truth > 0)
    expected = depth_errors(found[known][None], truth[known][None])
    assert depth_errors(found, truth) == pytest.approx(expected)
    near = known & (truth < 5)
    clipped = np.minimum(found[near], 5)[None]
    assert depth_errors(found, truth, cap=5) == pytest.approx(
        depth_errors(clipped, truth[near][None])
    )
    below = depth_errors(np.full((2, 2), -3.0), np.ones((2, 2)), min_depth=0.5)
    assert below["abs rel"] == pytest.approx(0.5)


def test_crops():
    found, truth = pair(size=(480, 640))
    truth[44] = truth[471] = 1e4  # outside
    truth[:, 40] = truth[:, 601] = 1e4
    expected = depth_errors(found[45:471, 41:601], truth[45:471, 41:601])
    assert depth_errors(found, truth, crop="eigen") == pytest.approx(expected)
    assert depth_errors(found, truth, crop=(45, 471, 41, 601)) == pytest.approx(expected)
    assert depth_errors(found, truth)["RMSE"] > 10 * expected["RMSE"]
    with pytest.raises(ValueError, match="expected 480×640"):
        depth_errors(found[1:], truth[1:], crop="eigen")
    with pytest.raises(ValueError, match="at least 471×601"):
        depth_errors(found[:400], truth[:400], crop=(45, 471, 41, 601))


def test_alignment():
    found, truth = pair()
    errors = depth_errors(7 * found, truth, align="median")
    scaled = found * np.median(truth) / np.median(found)
    assert errors == pytest.approx(depth_errors(scaled, truth))
    line = linregress(found.ravel(), truth.ravel())
    assert depth_errors(3 * found - 1, truth, align="scale-shift") == pytest.approx(
        depth_errors(line.slope * found + line.intercept, truth)
    )
    flat = depth_errors(np.ones_like(truth), truth, align="scale-shift")
    assert flat["RMSE"] == pytest.approx(truth.std())
    with pytest.raises(ValueError, match="median of what was found"):
        depth_errors(-found, truth, align="median")


def test_averages_and_intervals():
    pairs = [pair(seed, (4 + 3 * seed, 5)) for seed in range(6)]
    counted = DepthErrors(cap=8)
    for k, (found, truth) in enumerate(pairs):
        one = counted.update(found, truth, group=k // 2)
        assert one == depth_errors(found, truth, cap=8)
    each = [depth_errors(*one, cap=8)["RMSE"] for one in pairs]
    np.testing.assert_allclose(counted.by_picture("RMSE"), each)
    assert counted.compute()["RMSE"] == pytest.approx(np.mean(each))
    joined = [np.concatenate([one[side].ravel() for one in pairs])[None] for side in (0, 1)]
    assert counted.compute("pixel") == pytest.approx(depth_errors(*joined, cap=8))
    assert counted.compute("pixel")["RMSE"] != pytest.approx(np.mean(each))
    rng, drawn = np.random.default_rng(0), []
    for _ in range(40):
        rows = [2 * k + j for k in rng.integers(0, 3, 3) for j in (0, 1)]
        drawn.append(np.mean([each[row] for row in rows]))
    interval = counted.interval("RMSE", draws=40)
    assert (interval.low, interval.high) == pytest.approx(tuple(np.percentile(drawn, [2.5, 97.5])))
    pooled = counted.interval("SILog", "pixel", draws=40)
    assert pooled.value == pytest.approx(counted.compute("pixel")["SILog"])
    assert pooled.low < pooled.value < pooled.high
    assert counted.interval(other=counted, draws=20).high == 0
    assert "below 8" in counted.convention
    assert "mean over pictures" in counted.convention


def test_merged():
    whole, parts = DepthErrors(), [DepthErrors(), DepthErrors()]
    for k in range(4):
        whole.update(*pair(k))
        parts[k // 2].update(*pair(k))
    assert parts[0].merge(parts[1]).compute("pixel") == whole.compute("pixel")
    assert parts[0].interval(draws=20) == whole.interval(draws=20)
    with pytest.raises(ValueError, match="as here"):
        whole.merge(DepthErrors(cap=3))


def test_refused():
    found, truth = pair()
    with pytest.raises(ValueError, match=r"1 pixels of nan or inf"):
        depth_errors(np.where(truth == truth.max(), np.nan, found), truth)
    with pytest.raises(ValueError, match=r"shape \(3, 10\)"):
        depth_errors(found[:3], truth)
    with pytest.raises(ValueError, match="no pixel has a known depth"):
        depth_errors(found, np.full_like(truth, np.nan))
    with pytest.raises(ValueError, match="unit of these bounds"):
        depth_errors(found, 1000 * truth, cap=10)
    with pytest.raises(ValueError, match="cap=0"):
        DepthErrors(cap=0)
    with pytest.raises(ValueError, match="align='ransac'"):
        DepthErrors(align="ransac")
    with pytest.raises(ValueError, match="no depth maps"):
        DepthErrors().compute()
    with pytest.raises(ValueError, match="top < bottom"):
        DepthErrors(crop=(5, 2, 0, 3))
