"""DiffCut: Ncut against brute force and scipy's own generalised eigenproblem, planted parts."""

from __future__ import annotations

from itertools import combinations

import numpy as np
import pytest
from scipy.linalg import eigh

from probes import Cells
from probes.parts import DiffCut, affinities, recursive_cut
from probes.parts.cuts import DENSE, best_cut, cut_values, normalised, second_eigenvector


def ncut(weights: np.ndarray, side: np.ndarray) -> float:
    """By the definition."""
    cut = weights[np.ix_(side, ~side)].sum()
    return cut / weights[side].sum() + cut / weights[~side].sum()


def two_clusters(seed: int = 0, sizes: tuple[int, int] = (4, 5)) -> np.ndarray:
    rng = np.random.default_rng(seed)
    n = sum(sizes)
    kind = np.arange(n) < sizes[0]
    weights = np.where(kind[:, None] == kind, 1.0, 0.1) * rng.uniform(0.5, 1, (n, n))
    order = rng.permutation(n)
    return ((weights + weights.T) / 2)[np.ix_(order, order)]


@pytest.mark.parametrize("seed", range(5))
def test_the_best_cut_of_a_small_graph_is_that_of_brute_force(seed):
    weights = two_clusters(seed)
    n = len(weights)
    every = []
    for size in range(1, n // 2 + 1):
        for some in combinations(range(n), size):
            side = np.isin(np.arange(n), some)
            every.append((ncut(weights, side), side))
    least, expected = min(every, key=lambda one: one[0])
    side, value = best_cut(weights)
    assert value == pytest.approx(least)
    assert (side == expected).all() or (side == ~expected).all()


def test_all_thresholds_are_cut_by_the_definition():
    weights = two_clusters(3)
    order = np.random.default_rng(1).permutation(len(weights))
    sides = [np.isin(np.arange(len(order)), order[: k + 1]) for k in range(len(order) - 1)]
    expected = [ncut(weights, side) for side in sides]
    np.testing.assert_allclose(cut_values(weights, order), expected)


@pytest.mark.parametrize("count", [20, DENSE + 8])
def test_the_eigenvector_solves_the_generalised_problem(count):
    """Both ways to it: all at once, and by Lanczos."""
    weights = two_clusters(0, (count // 3, count - count // 3))
    degrees = weights.sum(1)
    values, vectors = eigh(np.diag(degrees) - weights, np.diag(degrees))
    found = second_eigenvector(weights, degrees)
    expected = vectors[:, 1]
    cosine = found @ expected / np.linalg.norm(found) / np.linalg.norm(expected)
    assert abs(cosine) == pytest.approx(1, abs=1e-5)
    assert values[1] > 1e-3


def test_affinities_by_hand():
    unit = normalised(np.array([[[3.0, 0.0, 1.0]], [[0.0, 2.0, 1.0]]]))
    half = np.sqrt(0.5)
    expected = np.array([[1, 0, half], [0, 1, half], [half, half, 1]]) ** 2
    np.testing.assert_allclose(affinities(unit, 2), expected, rtol=1e-5)


def blocks_of(grid: tuple[int, int], seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """(C, h, w) features and (h, w) of three parts."""
    parts = np.zeros(grid, int)
    parts[:, grid[1] // 2 :] = 1
    parts[: grid[0] // 2, grid[1] // 2 :] = 2
    rng = np.random.default_rng(seed)
    values = np.eye(3)[parts].transpose(2, 0, 1) * 4 + rng.normal(0, 0.1, (3, *grid))
    return values.astype(np.float32), parts


@pytest.mark.parametrize("grid", [(6, 6), (4, 12), (16, 16)])
def test_planted_parts_are_found(grid):
    values, parts = blocks_of(grid)
    cells = Cells({("mid", 1): values[None]}, sizes=[grid], input_size=grid)
    (found,) = DiffCut().fit(cells).predict(cells)
    pairs = set(zip(found.ravel().tolist(), parts.ravel().tolist(), strict=True))
    assert len(pairs) == 3
    few = DiffCut(parts=2).fit(cells)
    assert next(few.predict(cells)).max() == 1


def test_the_scale_of_a_feature_changes_nothing():
    values, _ = blocks_of((6, 6))
    both = np.stack([values, values * np.random.default_rng(0).uniform(0.5, 2, (1, 6, 6))])
    cells = Cells({("mid", 1): both}, sizes=[(12, 12)] * 2, input_size=(6, 6))
    one, other = DiffCut().fit(cells).predict(cells)
    np.testing.assert_array_equal(one, other)


def test_a_threshold_bounds_every_cut():
    """Four equal cliques, linked evenly: the first cut has Ncut 2·(2·2·w)/(…), by hand."""
    link, n = 0.1, 3
    kind = np.repeat(np.arange(4), n)
    weights = np.where(kind[:, None] == kind, 1.0, link)
    volume = 2 * n * (n + 3 * n * link)  # of two cliques
    first = 2 * (2 * n * 2 * n * link) / volume
    assert recursive_cut(weights, first * 0.99).max() == 0
    assert recursive_cut(weights, 0.999).max() >= 1
    assert best_cut(weights)[1] >= first * 0.999  # no cut at a threshold is below the balanced one


def test_constant_features_one_site_and_nothing_at_all_are_one_part():
    for values in (np.ones((1, 4, 5, 3)), np.ones((1, 4, 1, 1)), np.zeros((1, 4, 2, 3))):
        cells = Cells({("mid", 1): values}, sizes=[(7, 9)], input_size=values.shape[2:])
        (found,) = DiffCut().fit(cells).predict(cells)
        assert found.shape == (7, 9)
        assert not found.any()


def test_nodes_that_nothing_holds_are_a_part():
    weights = np.ones((5, 5))
    weights[4] = weights[:, 4] = 0
    np.testing.assert_array_equal(recursive_cut(weights, 0.5), [0, 0, 0, 0, 1])


def test_bad_parameters_and_grids_are_refused():
    cells = Cells({("a", 1): np.ones((1, 2, 4, 4)), ("b", 1): np.ones((1, 2, 2, 2))},
                  sizes=[(8, 8)], input_size=(8, 8))  # fmt: skip
    with pytest.raises(ValueError, match="cells of one grid"):
        list(DiffCut().fit(cells).predict(cells))
    with pytest.raises(ValueError, match=r"in \(0, 2\)"):
        DiffCut(threshold=2).fit(cells)
    with pytest.raises(ValueError, match="1 at least"):
        DiffCut(parts=0).fit(cells)
