"""Numbers of clusters: by hand, by scikit-learn, by all pairs."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from scipy.spatial.distance import pdist
from sklearn import metrics

from probes.metrics.clusters import (
    Clustered,
    _Weighed,
    adjusted_rand,
    group_distances,
    matched_accuracy,
    normalised_information,
    sampled_silhouette,
)

TRUTH = np.array(["a", "a", "a", "b", "b", "b"])
FOUND = np.array([1, 1, 0, 0, 0, 2])


def test_by_hand():
    # pairs: a 3, b 3; clusters 1, 3, 0; together 1 (of a) + 1 (of b); chance 6·4/15
    assert adjusted_rand(TRUTH, FOUND) == pytest.approx((2 - 1.6) / (5 - 1.6))
    joint = -sum(n / 6 * np.log(n / 6) for n in (2, 1, 2, 1))
    sides = np.log(2), -sum(n / 6 * np.log(n / 6) for n in (2, 3, 1))
    assert normalised_information(TRUTH, FOUND) == pytest.approx(
        (sum(sides) - joint) / (sum(sides) / 2)
    )
    assert matched_accuracy(TRUTH, FOUND) == pytest.approx(4 / 6)  # a is 1, b is 0; 2 is nobody's
    assert matched_accuracy(TRUTH, np.zeros(6)) == pytest.approx(1 / 2)


def test_distances_are_those_of_all_pairs():
    rng = np.random.default_rng(0)
    X, groups = 1000 + rng.normal(size=(40, 5)), rng.integers(0, 4, 40)
    squares = pdist(X.astype(np.float32).astype(np.float64), "sqeuclidean")
    same = np.array([groups[i] == groups[j] for i, j in itertools.combinations(range(40), 2)])
    found = group_distances(X, groups)
    assert found.within == pytest.approx(np.sqrt(squares[same].mean()), rel=1e-9)
    assert found.between == pytest.approx(np.sqrt(squares[~same].mean()), rel=1e-9)
    assert found.ratio == pytest.approx(found.between / found.within)
    alone = group_distances(X, np.arange(40))
    assert np.isnan(alone.within)
    assert alone.between == pytest.approx(np.sqrt(squares.mean()))


def test_silhouette_is_scikit_learns():
    rng = np.random.default_rng(0)
    X, clusters = rng.normal(size=(60, 3)).astype(np.float32), rng.integers(0, 3, 60)
    assert sampled_silhouette(X, clusters) == pytest.approx(metrics.silhouette_score(X, clusters))
    kept = np.sort(np.random.default_rng(5).permutation(60)[:20])
    assert sampled_silhouette(X, clusters, 20, 5) == pytest.approx(
        metrics.silhouette_score(X[kept], clusters[kept])
    )
    assert np.isnan(sampled_silhouette(X, np.zeros(60)))
    with pytest.raises(ValueError, match=r"expected \(60,\)"):
        sampled_silhouette(X, clusters[:5])


def test_a_draw_is_the_pictures_that_it_takes():
    """Weights that are 0 or 1 leave pictures out, which scikit-learn can do, too."""
    rng = np.random.default_rng(1)
    truth = rng.integers(0, 4, 80)
    clusters = np.where(rng.random(80) < 0.6, truth, rng.integers(0, 5, 80))
    weighed, weights = _Weighed(Clustered(truth, clusters)), rng.integers(0, 2, (6, 80))
    kept = weights.astype(bool)
    ari = [metrics.adjusted_rand_score(truth[row], clusters[row]) for row in kept]
    nmi = [metrics.normalized_mutual_info_score(truth[row], clusters[row]) for row in kept]
    np.testing.assert_allclose(weighed.ari(weights.astype(float)), ari, atol=1e-12)
    np.testing.assert_allclose(weighed.nmi(weights.astype(float)), nmi, atol=1e-12)


def test_a_copy_is_no_pair_with_itself():
    """ARI of weights by all pairs of different pictures."""
    rng = np.random.default_rng(2)
    truth, clusters, c = rng.integers(0, 3, 15), rng.integers(0, 3, 15), rng.integers(0, 4, 15)
    pairs = list(itertools.combinations(range(15), 2))
    w = np.array([c[i] * c[j] for i, j in pairs], float)
    same = np.array([truth[i] == truth[j] for i, j in pairs])
    alike = np.array([clusters[i] == clusters[j] for i, j in pairs])
    a, b, both = w @ same, w @ alike, w @ (same & alike)
    expected = (both - a * b / w.sum()) / ((a + b) / 2 - a * b / w.sum())
    found = _Weighed(Clustered(truth, clusters)).ari(c[None].astype(float))
    assert found[0] == pytest.approx(expected)


def test_interval_of_random_clusters_holds_zero_and_differences_pair_pictures():
    rng = np.random.default_rng(3)
    truth = rng.integers(0, 5, 200)
    dealt = Clustered(truth, rng.integers(0, 5, 200))
    good = Clustered(truth, np.where(rng.random(200) < 0.7, truth, 0))
    found = dealt.interval(draws=300)
    assert found.low < 0 < found.high
    assert found.value == pytest.approx(dealt.ari)
    gain = good.interval(other=dealt, draws=300)
    assert gain.low > 0
    assert gain.value == pytest.approx(good.ari - dealt.ari)
    nothing = good.interval(other=good, draws=50)
    assert nothing.low == nothing.high == 0
    for number in ("nmi", "accuracy"):
        ends = good.interval(number, draws=300)
        assert ends.low < ends.value < ends.high
        assert ends.value == pytest.approx(good.numbers()[number])


def test_by_chance():
    rng = np.random.default_rng(4)
    truth = rng.integers(0, 5, 100)
    found = Clustered(truth, truth).by_chance()
    assert abs(found["ari"]) < 0.02
    assert 0.01 < found["nmi"] < 0.2 < found["accuracy"] < 0.4


def test_bad_input():
    with pytest.raises(ValueError, match="6 classes and 5 clusters"):
        adjusted_rand(TRUTH, FOUND[:5])
    with pytest.raises(ValueError, match="one picture at least"):
        matched_accuracy([], [])
    one = Clustered(TRUTH, FOUND)
    with pytest.raises(ValueError, match="expected one of ari, nmi, accuracy"):
        one.interval("f1")
    with pytest.raises(ValueError, match="other classes"):
        one.interval(other=Clustered(FOUND, FOUND))
    with pytest.raises(ValueError, match="5 groups for 6"):
        group_distances(np.zeros((6, 2)), FOUND[:5])
