"""Matches that hold both ways: against a table of all similarities."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from probes.matching import MutualMatcher, NearestMatcher, mutual
from tests.probes.matching.naive import TWO, cosines, maps_of, pixels, points_of


@pytest.fixture
def pair():
    return maps_of((24, 32), 1), maps_of((45, 33), 2)


def sites(maps) -> np.ndarray:
    rows, columns = np.indices((6, 8))
    return maps.points(np.stack([columns.ravel(), rows.ravel()], 1), "a")


def table(pair, here, there, cells=("a",)) -> np.ndarray:
    return sum(
        cosines(pair[0].sample(cell, here)[0], pair[1].sample(cell, there)[0]) for cell in cells
    )


def both_ways(similar: np.ndarray) -> list[tuple[int, int]]:
    """The most similar first."""
    best, back = similar.argmax(1), similar.argmax(0)
    found = [(i, int(j)) for i, j in enumerate(best) if back[j] == i]
    return sorted(found, key=lambda ij: -similar[ij])


@pytest.mark.parametrize("block", [5, 2048])
def test_mutual_sites(pair, block, monkeypatch):
    monkeypatch.setattr(mutual, "BLOCK", block)
    here, there = (sites(maps) for maps in pair)
    similar = table(pair, here, there)
    expected = both_ways(similar)
    points, found = MutualMatcher().mutual(*pair)
    assert 3 < len(expected) < 48
    np.testing.assert_allclose(points, [here[i] for i, _ in expected], atol=1e-9)
    np.testing.assert_allclose(found.points, [there[j] for _, j in expected], atol=1e-9)
    np.testing.assert_allclose(found.score, [similar[ij] for ij in expected], atol=1e-9)
    assert found.valid.all()
    few, _ = MutualMatcher().mutual(*pair, most=3)
    np.testing.assert_array_equal(few, points[:3])


def test_mutual_key_points():
    source, target = maps_of((24, 32), 1, TWO), maps_of((45, 33), 2, TWO)
    here, there = points_of(source, 40, 1), points_of(target, 30, 2)
    similar = table((source, target), here, there, TWO)
    points, found = MutualMatcher().mutual(source, target, points=here, target_points=there)
    expected = both_ways(similar)
    np.testing.assert_array_equal(points, [here[i] for i, _ in expected])
    np.testing.assert_array_equal(found.points, [there[j] for _, j in expected])


def test_a_picture_without_key_points_has_no_partners(pair):
    for points in ({"points": []}, {"target_points": []}, {"points": [], "target_points": []}):
        here, found = MutualMatcher().mutual(*pair, **points)
        assert here.shape == found.points.shape == (0, 2)


def test_mutual_pixels_by_distance(pair):
    here, there = (pixels(maps.size)[(pixels(maps.size) % 5 == 0).all(1)] for maps in pair)
    similar = -torch.cdist(pair[0].sample("a", here)[0], pair[1].sample("a", there)[0]).numpy()
    points, found = MutualMatcher(metric="l2").mutual(*pair, stride=5)
    expected = both_ways(similar)
    np.testing.assert_array_equal(points, [here[i] for i, _ in expected])
    np.testing.assert_allclose(found.score, [similar[ij] for ij in expected], atol=1e-9)


def test_zero_vectors_are_nobodys_nearest(pair):
    pair[0]["a"][:, 0] = 0
    pair[1]["a"][:] = -pair[1]["a"].abs()
    points, _ = MutualMatcher().mutual(*pair)
    assert len(points)
    assert (pair[0].sites(points, "a")[:, 1] > 0.5).all()


def test_sites_that_lie_in_a_padding_are_left_out():
    source, target = maps_of((20, 90), 1, fit="pad"), maps_of((45, 33), 2)
    points, _ = MutualMatcher().mutual(source, target)
    assert len(points)
    assert source.valid(points).all()


@pytest.mark.parametrize("resolution", ["picture", "site"])
def test_a_match_is_valid_where_the_way_back_ends(pair, resolution):
    source, target = pair
    points = points_of(source, 60)
    found = MutualMatcher(resolution=resolution).match(source, target, points)
    plain = NearestMatcher(resolution=resolution)
    expected = plain.match(source, target, points)
    np.testing.assert_array_equal(found.points, expected.points)
    back = plain.match(target, source, expected.points).points
    if resolution == "site":  # of 4 × 4 pixels
        same = (np.rint(source.sites(back, "a")) == np.rint(source.sites(points, "a"))).all(1)
    else:
        same = (np.abs(back - points) <= 2).all(1)
    assert 0 < same.sum() < 60
    assert found.valid.tolist() == same.tolist()


def test_numbers_that_mean_nothing(pair):
    with pytest.raises(ValueError, match="tolerance"):
        MutualMatcher(tolerance=-1).match(*pair, [[3, 4]])
    with pytest.raises(ValueError, match="most"):
        MutualMatcher().mutual(*pair, most=0)
    with pytest.raises(ValueError, match="outside"):
        MutualMatcher().mutual(*pair, target_points=[[3, 99]])
