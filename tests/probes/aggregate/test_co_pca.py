"""Shared components against scikit-learn's, by what cosines and products say."""

from __future__ import annotations

import numpy as np
import pytest
from sklearn.decomposition import PCA
from sklearn.exceptions import NotFittedError

from probes import Cells, Maps
from probes.aggregate import CoPCA
from tests.probes.aggregate.test_reductions import cells_of, up

SHAPES = {("s4", 9): (7, 6, 8), ("s5", 9): (60, 3, 4), ("s3", 9): (6, 12, 16)}
GRIDS = [(3, 4), (6, 8), (12, 16)]


def by_hand(parts: dict, components: int) -> np.ndarray:
    """(n, C_s, h, w) of some pictures → (n, Σk, 12, 16): scikit-learn's scores, grid by grid."""
    scores = {}
    for key, values in parts.items():
        n, channels, h, w = values.shape
        sites = values.transpose(0, 2, 3, 1).reshape(-1, channels).astype(np.float64)
        kept = min(components, channels, len(sites))
        made = PCA(kept, svd_solver="full").fit_transform(sites)
        scores[key[0]] = made.reshape(n, h, w, kept).transpose(0, 3, 1, 2)
    middle = np.concatenate([scores["s4"], up(scores["s5"], (6, 8))], 1)
    return np.concatenate([scores["s3"], up(middle, (12, 16))], 1)


def products(values: np.ndarray) -> np.ndarray:
    """All dot products of the sites of all pictures, which signs and rotations leave alone."""
    sites = values.transpose(0, 2, 3, 1).reshape(-1, values.shape[1])
    return sites @ sites.T


@pytest.mark.parametrize("components", [3, 6, 50])
@pytest.mark.parametrize("scope", ["pair", "set"])
def test_products_of_sites_are_those_of_plain_components(scope, components):
    cells = cells_of(SHAPES, count=2)
    found = CoPCA(components=components, scope=scope).fit(cells)
    a, b = found.pair(cells.maps(0), cells.maps(1))[:2]
    made = np.stack([a["co_pca", 0.0], b["co_pca", 0.0]])
    want = by_hand({key: cells[key] for key in cells.keys}, components)
    assert made.dtype == np.float32
    assert made.shape[2:] == (12, 16)
    scale = np.abs(products(want)).max()
    np.testing.assert_allclose(products(made) / scale, products(want) / scale, atol=2e-6)


def test_a_set_is_computed_once_a_picture():
    cells = cells_of(SHAPES, count=5)
    found = CoPCA(components=4, scope="set").fit(cells)
    made = found.transform(cells)
    assert made["co_pca", 0.0].shape == (5, 12, 12, 16)
    want = by_hand({key: cells[key] for key in cells.keys}, 4)
    scale = np.abs(products(want)).max()
    np.testing.assert_allclose(products(made["co_pca", 0.0][:]) / scale, products(want) / scale,
                               atol=2e-6)  # fmt: skip
    assert found.components_.shape == (4, 73)


def test_both_ways_of_decomposing_give_the_same_numbers(monkeypatch):
    """n = 24 sites of 60 channels go by the Gram matrix; of 24 channels by the covariance."""
    rng = np.random.default_rng(0)
    basis = np.linalg.qr(rng.normal(size=(60, 20)))[0]
    few = rng.normal(size=(2, 20, 3, 4))
    many = np.einsum("dc,nchw->ndhw", basis, few)  # the same sites, turned into 60 dimensions
    made = []
    for values in (few, many):
        cells = Cells({("s5", 1): values}, sizes=[(30, 40)] * 2)
        a, b = CoPCA(components=5).fit(cells).pair(cells.maps(0), cells.maps(1))[:2]
        made.append(np.stack([a["co_pca", 0.0], b["co_pca", 0.0]]))
    np.testing.assert_allclose(*made, atol=1e-5)


def test_two_pictures_may_have_other_grids():
    a, b = cells_of(SHAPES, count=1), cells_of({("s4", 9): (7, 5, 5), ("s5", 9): (60, 2, 2),
                                                ("s3", 9): (6, 9, 9)}, count=1)  # fmt: skip
    found = CoPCA(components=4).fit(a).pair(a.maps(0), b.maps(0))[:2]
    assert [one["co_pca", 0.0].shape for one in found] == [(12, 12, 16), (12, 9, 9)]


def test_the_same_twice_and_points_are_handed_back():
    cells, points = cells_of(SHAPES, count=2), object()
    found = CoPCA(components=4).fit(cells)
    first, again = (found.pair(cells.maps(0), cells.maps(1), points) for _ in range(2))
    assert first[2] is points
    for a, b in zip(first[:2], again[:2], strict=True):
        assert a["co_pca", 0.0].tobytes() == b["co_pca", 0.0].tobytes()
        assert a.size == (30, 40)


def test_axes_of_a_pair_need_no_fit():
    cells = cells_of(SHAPES, count=2)
    maps = cells.maps(0), cells.maps(1)
    want, found = (one.pair(*maps)[1] for one in (CoPCA(components=4).fit(cells),
                                                  CoPCA(components=4)))  # fmt: skip
    np.testing.assert_array_equal(want["co_pca", 0.0], found["co_pca", 0.0])


class TestRefused:
    def test_one_picture_by_axes_of_pairs(self):
        cells = cells_of(SHAPES)
        with pytest.raises(ValueError, match=r"axes of two pictures.*Paired"):
            CoPCA().fit(cells).transform(cells)

    def test_axes_of_a_set_that_are_not_known(self):
        cells = cells_of(SHAPES)
        with pytest.raises(NotFittedError):
            CoPCA(scope="set").pair(cells.maps(0), cells.maps(1))

    @pytest.mark.parametrize("wrong", [{"components": 0}, {"scope": "all"}])
    def test_parameters(self, wrong):
        with pytest.raises(ValueError, match=next(iter(wrong))):
            CoPCA(**wrong).fit(cells_of(SHAPES))

    def test_other_channels_and_nan(self):
        cells = cells_of({("a", 1): (3, 2, 2)}, count=1)
        found, good = CoPCA().fit(cells), cells.maps(0)
        for values, match in ((np.zeros((4, 2, 2)), "of 3 channels"),
                              (np.full((3, 2, 2), np.nan), "finite")):  # fmt: skip
            with pytest.raises(ValueError, match=match):
                found.pair(good, Maps({("a", 1): values}, good.size, good.size))
        with pytest.raises(ValueError, match="is missing"):
            found.pair(good, Maps({("b", 1): good["a", 1]}, good.size, good.size))
