"""Alignment metrics against loops over their formulas and explicit centring matrices."""

from __future__ import annotations

import h5py
import numpy as np
import pytest
import torch
from sklearn.neighbors import NearestNeighbors

import probes.metrics.representations
from probes.metrics.representations import (
    alignment,
    cknna,
    cknna_public,
    linear_cka,
    mutual_knn,
    uniformity,
)

N = 60


@pytest.fixture(scope="module")
def pair():
    """Two representations that share four directions."""
    rng = np.random.default_rng(0)
    common = rng.normal(size=(N, 4))
    first = np.hstack([common, rng.normal(size=(N, 3))]) @ rng.normal(size=(7, 7)) + 1
    second = np.hstack([common, rng.normal(size=(N, 8))]) @ rng.normal(size=(12, 12)) - 2
    return first, second


@pytest.fixture
def turned(pair):
    rotation, _ = np.linalg.qr(np.random.default_rng(1).normal(size=(7, 7)))
    return 3.5 * pair[0] @ rotation


@pytest.fixture(params=[1024, 17])
def blocks(request, monkeypatch):
    """Also with blocks that N is no multiple of."""
    monkeypatch.setattr(probes.metrics.representations, "BLOCK", request.param)


def u_centred(kernel):
    """Székely & Rizzo 2014: its products are n(n-3) times the debiased HSIC."""
    n = len(kernel)
    kernel = kernel - np.diag(np.diag(kernel))
    rows = kernel.sum(0) / (n - 2)
    kernel = kernel - rows[:, None] - rows + kernel.sum() / ((n - 1) * (n - 2))
    return kernel - np.diag(np.diag(kernel))


def near(x, k):
    """(N, N) bool: the k largest products of each row, without the diagonal."""
    kernel = x @ x.T
    np.fill_diagonal(kernel, -np.inf)
    found = np.zeros_like(kernel, bool)
    for i, row in enumerate(kernel):
        found[i, sorted(range(len(row)), key=lambda j: -row[j])[:k]] = True
    return found


@pytest.mark.usefixtures("blocks")
class TestCKA:
    @pytest.mark.parametrize("copies", [1, 40], ids=["narrow", "wide"])
    def test_biased_is_that_of_centring_matrices(self, pair, copies):
        x, y = (np.tile(v, copies) + np.arange(copies * v.shape[1]) % 3 for v in pair)
        H = np.eye(N) - 1 / N
        K, L = H @ x @ x.T @ H, H @ y @ y.T @ H
        expected = np.sum(K * L) / np.sqrt(np.sum(K * K) * np.sum(L * L))
        assert linear_cka(x, y) == pytest.approx(expected, rel=1e-10)

    @pytest.mark.parametrize("copies", [1, 40], ids=["narrow", "wide"])
    def test_debiased_is_that_of_u_centred_kernels(self, pair, copies):
        x, y = (np.tile(v, copies) for v in pair)
        K, L = u_centred(x @ x.T), u_centred(y @ y.T)
        expected = np.sum(K * L) / np.sqrt(np.sum(K * K) * np.sum(L * L))
        assert linear_cka(x, y, debiased=True) == pytest.approx(expected, rel=1e-9)

    @pytest.mark.parametrize("debiased", [False, True])
    def test_rotation_scale_and_shift_do_not_matter(self, pair, turned, debiased):
        x, y = pair
        expected = linear_cka(x, y, debiased)
        assert linear_cka(turned + 11, y, debiased) == pytest.approx(expected, rel=1e-9)
        assert linear_cka(x, turned, debiased) == pytest.approx(1)

    def test_unrelated_wide_features_are_near_0_only_when_debiased(self):
        x, y = np.random.default_rng(2).normal(size=(2, N, 500))
        assert linear_cka(x, y) > 0.8
        assert abs(linear_cka(x, y, debiased=True)) < 0.1


class TestNeighbours:
    @pytest.mark.parametrize("metric", ["cosine", "euclidean"])
    def test_mutual_knn_is_that_of_scikit_learn(self, pair, metric):
        sets = [
            NearestNeighbors(n_neighbors=5, metric=metric).fit(v).kneighbors(return_distance=False)
            for v in pair
        ]
        shares = [len(set(a) & set(b)) / 5 for a, b in zip(*sets, strict=True)]
        assert mutual_knn(*pair, k=5, metric=metric) == pytest.approx(np.mean(shares))
        assert 0.1 < np.mean(shares) < 0.9

    def test_mutual_knn_of_the_same_is_1(self, pair, turned):
        assert mutual_knn(pair[0], turned) == 1
        assert mutual_knn(pair[0], pair[1], k=N - 1) == 1

    @pytest.mark.parametrize("k", [3, 10, N - 1])
    @pytest.mark.usefixtures("blocks")
    def test_cknna_is_its_formula(self, pair, k):
        def align(x, y):
            K, L, a = x @ x.T, y @ y.T, near(x, k) & near(y, k)
            total = 0.0
            for i in range(N):
                for j in range(N):
                    if a[i, j]:
                        total += (K[i, j] - K[i].mean()) * (L[i, j] - L[i].mean())
            return total / (N - 1) ** 2

        x, y = pair
        expected = align(x, y) / np.sqrt(align(x, x) * align(y, y))
        assert cknna(x, y, k) == pytest.approx(expected, rel=1e-10)

    @pytest.mark.parametrize("k", [3, 10])
    @pytest.mark.usefixtures("blocks")
    def test_the_public_variant_is_its_formula(self, pair, k):
        def prepared(v):
            bound = np.sort(np.abs(v).ravel())[int(0.95 * v.size)]
            v = np.clip(v, -bound, bound)
            return v / np.linalg.norm(v, axis=1, keepdims=True)

        def hsic(x, y):
            a = near(x, k) & near(y, k)
            K, L, one = a * (x @ x.T), a * (y @ y.T), np.ones(N)
            total = np.trace(K @ L) + (one @ K @ one) * (one @ L @ one) / ((N - 1) * (N - 2))
            return (total - 2 / (N - 2) * (one @ K @ L @ one)) / (N * (N - 3))

        x, y = (prepared(v) for v in pair)
        expected = hsic(x, y) / (np.sqrt(hsic(x, x) * hsic(y, y)) + 1e-6)
        assert cknna_public(*pair, k=k) == pytest.approx(expected, rel=1e-9)

    def test_both_variants_are_1_for_the_same_and_differ_otherwise(self, pair, turned):
        x, y = pair
        assert cknna(x, turned) == pytest.approx(1)
        assert cknna_public(x, x) == pytest.approx(1, abs=1e-2)  # the 1e-6 in its divisor
        assert abs(cknna(x, y) - cknna_public(x, y)) > 0.01


class TestSpread:
    @pytest.mark.parametrize("normalise", [True, False])
    @pytest.mark.usefixtures("blocks")
    def test_uniformity_is_its_formula(self, pair, normalise):
        x = pair[0] / (np.linalg.norm(pair[0], axis=1, keepdims=True) if normalise else 10)
        terms = [np.exp(-2 * np.sum((x[i] - x[j]) ** 2)) for i in range(N) for j in range(i + 1, N)]
        expected = np.log(np.mean(terms))
        assert uniformity(x, normalise=normalise) == pytest.approx(expected, rel=1e-10)

    def test_uniformity_of_equal_and_of_opposite_pictures(self):
        assert uniformity(np.ones((5, 3))) == pytest.approx(0, abs=1e-12)
        assert uniformity(np.array([[1.0, 0], [-1, 0]])) == pytest.approx(-8)

    def test_alignment_is_its_formula(self, pair):
        x = pair[0]
        y = x[:, ::-1]
        unit = [v / np.linalg.norm(v, axis=1, keepdims=True) for v in (x, y)]
        expected = np.mean([sum((a - b) ** 2) for a, b in zip(*unit, strict=True)])
        assert alignment(x, y) == pytest.approx(expected)
        assert alignment(x, 7 * x) == pytest.approx(0, abs=1e-12)
        assert alignment(x, 2 * x, power=1, normalise=False) == pytest.approx(
            np.linalg.norm(x, axis=1).mean()
        )


class TestInputs:
    @pytest.mark.parametrize("measure", [linear_cka, mutual_knn, cknna, cknna_public])
    def test_tensors_and_files_give_what_arrays_give(self, pair, measure, tmp_path):
        expected = measure(*pair)
        assert measure(*map(torch.from_numpy, pair)) == expected
        with h5py.File(tmp_path / "x.h5", "w") as file:
            sets = [file.create_dataset(str(i), data=v) for i, v in enumerate(pair)]
            assert measure(*sets) == expected

    @pytest.mark.parametrize("measure", [linear_cka, mutual_knn, cknna, cknna_public, alignment])
    def test_bad_input(self, pair, measure):
        x, y = pair
        with pytest.raises(ValueError, match="60 pictures, Y 59"):
            measure(x, y[:-1])
        broken = x.copy()
        broken[3, 2] = np.nan
        with pytest.raises(ValueError, match="X contains nan"):
            measure(broken, y)
        with pytest.raises(ValueError, match="expected \\(pictures, features\\)"):
            measure(x[:, 0], y)

    def test_errors_of_their_own(self, pair):
        x, y = pair
        for measure in (mutual_knn, cknna, cknna_public):
            with pytest.raises(ValueError, match="60 neighbours among 59"):
                measure(x, y, k=N)
        with pytest.raises(ValueError, match="k=1"):
            cknna_public(x, y, k=1)
        with pytest.raises(ValueError, match="metric='manhattan'"):
            mutual_knn(x, y, metric="manhattan")
        with pytest.raises(ValueError, match="without spread"):
            linear_cka(np.ones((5, 3)), x[:5])
        with pytest.raises(ValueError, match="same block"):
            alignment(x, y)
        with pytest.raises(ValueError, match="at least 2 pictures"):
            uniformity(x[:1])
