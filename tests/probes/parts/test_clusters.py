"""K-means of sets and of pictures: against scikit-learn, and planted."""

from __future__ import annotations

import numpy as np
import pytest
from sklearn.metrics import adjusted_rand_score

from probes import Cells
from probes.parts import KMeansParts, PictureKMeans
from probes.parts.base import by_size


def pictures(count: int = 4, grid: tuple[int, int] = (6, 8)) -> tuple[Cells, np.ndarray]:
    """Three kinds of sites, which lie elsewhere in every picture."""
    rng = np.random.default_rng(0)
    truth = rng.integers(0, 3, (count, *grid))
    values = np.eye(3)[truth].transpose(0, 3, 1, 2) * 5 + rng.normal(0, 0.1, (count, 3, *grid))
    arrays = {("a", 1): values[:, :2].astype(np.float32), ("b", 1): values[:, 2:]}
    return Cells(arrays, sizes=[grid] * count, input_size=grid), truth


def test_clusters_are_shared_by_all_pictures():
    cells, truth = pictures()
    found = np.stack(list(KMeansParts(clusters=3).fit(cells).predict(cells)))
    assert adjusted_rand_score(found.ravel(), truth.ravel()) == 1  # of all pictures together


def test_pixels_go_to_the_nearest_centre():
    """The scores are those of distances to the centres in standardised features."""
    cells, _ = pictures(2)
    head = KMeansParts(clusters=4, standardise=False).fit(cells)
    X = np.concatenate([np.asarray(cells[key]) for key in cells.keys], 1)
    X = X.transpose(0, 2, 3, 1).reshape(-1, 3)
    distance = ((X[:, None] - head.weight_) ** 2).sum(-1)  # a weight is a centre
    found = np.stack(list(head.predict(cells))).ravel()
    np.testing.assert_array_equal(found, distance.argmin(1))


def test_pieces_give_what_the_whole_gives():
    cells, _ = pictures()
    whole = KMeansParts(clusters=3).fit(cells)
    pieces = KMeansParts(clusters=3).fit_pieces((cells[:1], cells[1:]), 4)
    np.testing.assert_array_equal(pieces.weight_, whole.weight_)
    np.testing.assert_array_equal(pieces.bias_, whole.bias_)


def test_clusters_of_one_picture():
    cells, truth = pictures(2)
    for found, one in zip(PictureKMeans(clusters=3).fit(cells).predict(cells), truth, strict=True):
        assert adjusted_rand_score(found.ravel(), one.ravel()) == 1
        assert (np.diff(np.bincount(found.ravel())) <= 0).all()  # the largest first


def test_constant_pictures_are_one_part():
    cells = Cells({("a", 1): np.ones((1, 3, 2, 2))}, sizes=[(5, 4)], input_size=(2, 2))
    (found,) = PictureKMeans(clusters=3).fit(cells).predict(cells)
    assert found.shape == (5, 4)
    assert not found.any()


def test_bad_input_is_refused():
    cells, _ = pictures(1, (1, 1))
    with pytest.raises(ValueError, match="1 pixels for 3 clusters"):
        KMeansParts(clusters=3).fit(cells)
    with pytest.raises(ValueError, match="clusters"):
        PictureKMeans(clusters=0).fit(cells)
    with pytest.raises(ValueError, match="no picture"):
        KMeansParts().fit_pieces((), 0)
    with pytest.raises(ValueError, match="expected maps"):
        PictureKMeans().fit(Cells({("a", 1): np.ones((2, 3))}))


def test_parts_are_numbered_by_size():
    np.testing.assert_array_equal(by_size(np.array([[7, 2, 2], [2, 7, 5]])), [[1, 0, 0], [0, 1, 2]])
    # of one size: in the order of the pixels, whatever they were called
    for one in ([[3, 1], [1, 3], [2, 2]], [[1, 2], [2, 1], [0, 0]]):
        np.testing.assert_array_equal(by_size(np.array(one)), [[0, 1], [1, 0], [2, 2]])
