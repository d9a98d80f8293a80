"""DiffSeg: aggregation by hand, distances against scipy, planted parts."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.stats import entropy

from probes import Cells
from probes.parts import DiffSeg, aggregate_attention
from probes.parts.merging import anchor_sites, distances, merge, merged_once


def planted(grid: tuple[int, int], parts: np.ndarray, leak: float = 0.01) -> np.ndarray:
    """(n, h, w) attention, keys by queries: queries look at their own part."""
    same = parts.ravel()[:, None] == parts.ravel()
    rows = np.where(same, 1.0, leak)
    rows /= rows.sum(1, keepdims=True)
    return rows.T.reshape(-1, *grid).astype(np.float32)


def halves(grid: tuple[int, int]) -> np.ndarray:
    found = np.zeros(grid, int)
    found[:, grid[1] // 2 :] = 1
    found[: grid[0] // 2, grid[1] // 2 :] = 2
    return found


def test_distances_are_symmetric_kullback_leibler_divergences():
    rng = np.random.default_rng(0)
    one, other = rng.dirichlet(np.ones(9), 4), rng.dirichlet(np.ones(9), 3)
    expected = [[(entropy(p, q) + entropy(q, p)) / 2 for q in other] for p in one]
    np.testing.assert_allclose(distances(one, other), expected, rtol=1e-5)
    assert distances(one, one).diagonal().max() < 1e-5


def test_distances_in_pieces_are_those_at_once(monkeypatch):
    rng = np.random.default_rng(0)
    one = rng.dirichlet(np.ones(9), 5).astype(np.float32)
    whole = distances(one, one)
    monkeypatch.setattr("probes.parts.merging.AT_ONCE", 18)
    np.testing.assert_allclose(distances(one, one), whole, atol=1e-6)


def test_two_layers_are_aggregated_as_by_hand():
    """A 2×2 and a 1×1 map: weights 2/3 and 1/3, the small one spread evenly over the keys."""
    rng = np.random.default_rng(1)
    rows = rng.dirichlet(np.ones(4), 4)  # queries by keys
    large = rows.T.reshape(4, 2, 2)
    small = np.ones((1, 1, 1))
    found = aggregate_attention([small, large])
    expected = 2 / 3 * rows + 1 / 3 * 0.25
    np.testing.assert_allclose(found.reshape(4, 4), expected, rtol=1e-5)
    np.testing.assert_allclose(found.sum((1, 2)), 1, rtol=1e-5)


def test_queries_are_repeated_and_keys_read_between_sites():
    """A 1×2 map on a 2×4 one: bilinear by half pixels gives 1, 3/4, 1/4, 0 along a row."""
    small = np.array([[[1.0, 0.0]], [[0.0, 1.0]]])  # each site looks at itself
    large = np.zeros((8, 2, 4)) + 1 / 8
    found = aggregate_attention([large, small])
    ramp = np.tile([1, 0.75, 0.25, 0], (2, 1)) / 4
    share = np.sqrt(8) / (np.sqrt(8) + np.sqrt(2))
    first = found.reshape(2, 4, 2, 4)[1, 1]  # a query of the left half
    np.testing.assert_allclose(first, share / 8 + (1 - share) * ramp, rtol=1e-5)
    last = found.reshape(2, 4, 2, 4)[0, 2]
    np.testing.assert_allclose(last, share / 8 + (1 - share) * ramp[:, ::-1], rtol=1e-5)


def test_strips_of_queries_give_what_all_at_once_gives(monkeypatch):
    maps = [planted((4, 6), halves((4, 6))), planted((2, 3), np.zeros((2, 3)))]
    whole = aggregate_attention(maps)
    monkeypatch.setattr("probes.parts.merging.AT_ONCE", 50)
    np.testing.assert_array_equal(aggregate_attention(maps), whole)


def test_anchors_lie_in_the_middle_of_equal_parts():
    np.testing.assert_array_equal(anchor_sites((4, 8), 2), [10, 14, 26, 30])
    np.testing.assert_array_equal(anchor_sites((1, 3), 16), [0, 1, 2])


def test_merging_by_hand():
    """Two that are alike become their mean, in order; the third stays."""
    p, q, r = [0.5, 0.4, 0.1], [0.4, 0.5, 0.1], [0.05, 0.05, 0.9]
    near = (entropy(p, q) + entropy(q, p)) / 2
    far = (entropy(p, r) + entropy(r, p)) / 2
    rows = np.array([p, r, q])
    found = merged_once(rows, (near + far) / 2)
    np.testing.assert_allclose(found, [[0.45, 0.45, 0.1], r], rtol=1e-5)
    np.testing.assert_allclose(merged_once(rows, near / 2), rows, rtol=1e-5)
    first = merge(np.array([p]), rows, (near + far) / 2, 1)  # an anchor is the mean of all near it
    np.testing.assert_allclose(first, [[0.45, 0.45, 0.1]], rtol=1e-5)


@pytest.mark.parametrize("grid", [(8, 8), (4, 10)])
def test_planted_parts_are_found(grid):
    parts = halves(grid)
    small = tuple(side // 2 for side in grid)
    arrays = {("a:self.map", 1): planted(grid, parts)[None],
              ("b:self.map", 1): planted(small, halves(small))[None]}  # fmt: skip
    cells = Cells(arrays, sizes=[grid], input_size=grid)
    (found,) = DiffSeg(threshold=1.0, anchors=4).fit(cells).predict(cells)
    assert found.shape == grid
    pairs = set(zip(found.ravel().tolist(), parts.ravel().tolist(), strict=True))
    assert len(pairs) == 3  # each part has one number
    assert np.bincount(found.ravel()).argmax() == 0  # and the largest is 0


def test_even_attention_and_one_site_are_one_part():
    for grid in ((4, 4), (1, 1)):
        n = grid[0] * grid[1]
        arrays = {("a:self.map", 1): np.full((1, n, *grid), 1 / n, np.float32)}
        cells = Cells(arrays, sizes=[(6, 5)], input_size=grid)
        (found,) = DiffSeg().fit(cells).predict(cells)
        assert found.shape == (6, 5)
        assert not found.any()


def test_what_is_no_attention_is_refused():
    with pytest.raises(ValueError, match=r"self-attention.*self\.map"):
        DiffSeg().fit(Cells({("mid", 1): np.zeros((1, 8, 3, 3))}, sizes=[(6, 6)]))
    with pytest.raises(ValueError, match="expected a distance above 0"):
        DiffSeg(threshold=0).fit(Cells({("m", 1): np.zeros((1, 9, 3, 3))}, sizes=[(6, 6)]))
    with pytest.raises(ValueError, match="expected one at least"):
        aggregate_attention([])
