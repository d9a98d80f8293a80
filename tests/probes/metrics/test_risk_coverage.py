"""Risk by coverage, against sorting, orders tried one by one, and SciPy."""

from __future__ import annotations

from itertools import permutations

import numpy as np
import pytest
from scipy.stats import spearmanr

from probes.metrics import RiskCoverage, rank_correlation, risk_coverage
from probes.metrics.risk_coverage import area


def pixels(seed, size=(20, 30), sharp=1.0):
    rng = np.random.default_rng(seed)
    uncertainty = rng.random(size).astype(np.float32)
    return uncertainty, rng.random(size) < 0.1 + sharp * 0.5 * uncertainty


def sorted_area(uncertainty, wrong):
    order = np.argsort(uncertainty.ravel(), kind="stable")
    risks = np.cumsum(wrong.ravel()[order]) / np.arange(1, wrong.size + 1)
    return risks.mean()


def test_curve():
    uncertainty, wrong = pixels(0)
    coverage, risk = risk_coverage(uncertainty, wrong)
    order = np.argsort(uncertainty.ravel())
    expected = np.cumsum(wrong.ravel()[order]) / np.arange(1, wrong.size + 1)
    np.testing.assert_allclose(risk, expected)
    np.testing.assert_allclose(coverage, np.arange(1, wrong.size + 1) / wrong.size)
    coverage, risk = risk_coverage([1, 0, 1, 2], [1, 0, 0, 1])
    assert coverage.tolist() == [0.25, 0.75, 1]
    assert risk.tolist() == [0, 1 / 3, 0.5]


def test_ties_are_every_order():
    count, wrong = [2, 3, 1], [[0, 1], [1, 1, 0], [1]]
    areas = [
        np.mean(np.cumsum([*a, *b, *c]) / np.arange(1, 7))
        for a in permutations(wrong[0])
        for b in permutations(wrong[1])
        for c in permutations(wrong[2])
    ]
    assert area(count, [1, 2, 1]) == pytest.approx(np.mean(areas))
    assert area([2, 0, 3, 1], [1, 0, 2, 1]) == pytest.approx(np.mean(areas))
    assert np.isnan(area([0, 0], [0, 0]))


@pytest.mark.parametrize(("bits", "close"), [(23, 1e-12), (7, 2e-4)])
def test_area(bits, close):
    counted = RiskCoverage(bits)
    pairs = [pixels(seed) for seed in range(4)]
    for pair in pairs:
        counted.update(*pair)
    uncertainty, wrong = (np.concatenate([one[side] for one in pairs]) for side in (0, 1))
    found = counted.compute()
    assert found["aurc"] == pytest.approx(sorted_area(uncertainty, wrong), abs=close)
    assert found["random"] == pytest.approx(wrong.mean())
    assert found["oracle"] == pytest.approx(sorted_area(wrong, wrong))
    assert found["excess"] == pytest.approx(found["aurc"] - found["oracle"])
    assert found["gain"] == pytest.approx(
        (found["random"] - found["aurc"]) / (found["random"] - found["oracle"])
    )
    coverage, risk = counted.curve()
    assert coverage[-1] == 1
    assert risk[-1] == pytest.approx(wrong.mean())


def test_order_of_any_numbers():
    values = np.array([-3e5, -1.5, -1e-9, -0.0, 0.0, 1e-30, 0.25, 2.0, 7e8])
    wrong = np.array([0, 1, 0, 0, 0, 1, 0, 1, 1], bool)
    counted = RiskCoverage(23)
    counted.update(values[::-1], wrong[::-1])
    expected = risk_coverage(values, wrong)
    for found, exact in zip(counted.curve(), expected, strict=True):
        np.testing.assert_allclose(found, exact)
    assert len(expected[0]) == 8  # 0 is 0


def test_no_knowledge_and_all_knowledge():
    wrong = pixels(1)[1]
    counted = RiskCoverage()
    counted.update(np.ones(wrong.shape), wrong)
    assert counted.compute()["gain"] == pytest.approx(0, abs=1e-12)
    counted = RiskCoverage()
    counted.update(wrong.astype(float), wrong)
    assert counted.compute()["gain"] == pytest.approx(1)
    counted = RiskCoverage()
    counted.update(np.ones((2, 2)), np.zeros((2, 2), bool))
    assert counted.compute()["aurc"] == 0
    assert np.isnan(counted.compute()["gain"])


def test_intervals_draw_groups():
    counted, none = RiskCoverage(23), RiskCoverage()
    pairs = [pixels(seed, sharp=seed / 5, size=(8, 9)) for seed in range(6)]
    for k, (uncertainty, wrong) in enumerate(pairs):
        known = np.ones(wrong.shape, bool)
        known[0] = False
        counted.update(uncertainty, wrong, known=known, group=k // 2)
        none.update(np.zeros(wrong.shape), wrong, known=known, group=k // 2)
    rng, drawn = np.random.default_rng(0), []
    for _ in range(30):
        rows = [2 * k + j for k in rng.integers(0, 3, 3) for j in (0, 1)]
        sides = [np.concatenate([pairs[row][side][1:] for row in rows]) for side in (0, 1)]
        drawn.append(sorted_area(*sides))
    interval = counted.interval("aurc", draws=30)
    assert interval.value == pytest.approx(counted.compute()["aurc"], abs=1e-3)
    ends = tuple(np.percentile(drawn, [2.5, 97.5]))
    assert (interval.low, interval.high) == pytest.approx(ends, abs=4e-3)  # ties come in any order
    gain = counted.interval("aurc", other=none, draws=30)
    numbers = counted.compute()
    assert gain.value == pytest.approx(numbers["aurc"] - numbers["random"], abs=1e-3)


def test_ranks_of_pictures():
    rng = np.random.default_rng(0)
    counted, means, qualities = RiskCoverage(), [], []
    for seed in range(9):
        uncertainty, wrong = pixels(seed)
        uncertainty = uncertainty * rng.random()
        qualities.append(rng.random())
        means.append(uncertainty.mean())
        counted.update(uncertainty, wrong, quality=qualities[-1])
    counted.update(*pixels(9), known=np.zeros((20, 30), bool), quality=0.3)  # left out
    expected = spearmanr(means, qualities).statistic
    found = counted.ranks(draws=200)
    assert found.value == pytest.approx(expected)
    assert found.low < expected < found.high
    tied = np.array([1, 1, 2, 3, 3, 3]), np.array([5, 4, 4, 2, 1, 2])
    assert rank_correlation(*tied, draws=20).value == pytest.approx(spearmanr(*tied).statistic)


def test_merged():
    whole, parts = RiskCoverage(), [RiskCoverage(), RiskCoverage()]
    for k in range(6):
        group = "scene" if k % 2 else None
        whole.update(*pixels(k), group=group)
        parts[k // 3].update(*pixels(k), group=group)
    merged = parts[0].merge(parts[1])
    assert merged.compute() == whole.compute()
    assert merged.interval(draws=20) == whole.interval(draws=20)
    assert merged.ranks(draws=20) == whole.ranks(draws=20)


def test_refused():
    uncertainty, wrong = pixels(0)
    with pytest.raises(ValueError, match="expected the same"):
        risk_coverage(uncertainty, wrong[:3])
    with pytest.raises(ValueError, match="nan or inf"):
        risk_coverage(np.where(wrong, np.nan, uncertainty), wrong)
    with pytest.raises(ValueError, match="empty"):
        risk_coverage([], [])
    with pytest.raises(ValueError, match="bits=30"):
        RiskCoverage(30)
    with pytest.raises(ValueError, match="no pixels were counted"):
        RiskCoverage().compute()
    counted = RiskCoverage()
    counted.update(uncertainty, wrong)
    with pytest.raises(ValueError, match="at least two groups"):
        counted.interval()
    with pytest.raises(ValueError, match="all 3 numbers of one side are alike"):
        rank_correlation([1, 1, 1], [1, 2, 3])
    with pytest.raises(ValueError, match=r"expected \(P,\) each"):
        rank_correlation([1, 2], [1, 2, 3])
