"""The nearest place against features upsampled by torch, and read at every pixel by itself."""

from __future__ import annotations

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from scipy.ndimage import gaussian_filter

from diffeat.coords import FITS
from probes import Maps
from probes.matching import NearestMatcher, surfaces
from tests.probes.matching.naive import (
    TWO,
    check,
    cosines,
    maps_of,
    pixels,
    points_of,
    similarities,
)

SIZES = [(30, 50), (45, 20), (9, 7), (4, 60)]
"""Of pictures with inputs of 24 × 32 and 6 × 8 sites: up and down, wide and narrow."""


def distances(a: torch.Tensor, b: torch.Tensor) -> np.ndarray:
    return -torch.cdist(a.double(), b.double()).numpy()


def upsampled(maps: Maps, cell="a") -> torch.Tensor:
    """(C, H, W)."""
    values = torch.as_tensor(maps[cell]).double()[None]
    return F.interpolate(values, maps.size, mode="bilinear", align_corners=False)[0]


def at_whole(maps: Maps, count=12) -> np.ndarray:
    return np.unique(np.rint(np.clip(points_of(maps, count), 0, None)), axis=0)


@pytest.mark.parametrize("size", SIZES)
def test_the_picture_is_that_of_dift(size):
    """Both maps upsampled by torch, cosine_similarity, argmax."""
    source, target = maps_of((30, 50), 1), maps_of(size, 2)
    points = at_whole(source).clip(max=(49, 29))
    here, there = upsampled(source), upsampled(target)
    x, y = points.astype(int).T
    expected = F.cosine_similarity(here[:, y, x].T[:, :, None, None], there[None], dim=1)
    found = NearestMatcher().match(source, target, points)
    check(found, expected.numpy(), 1e-12)


@pytest.mark.parametrize("metric", ["cosine", "l2"])
@pytest.mark.parametrize("mirror", [False, True])
@pytest.mark.parametrize("fit", [fit for fit in FITS if fit != "native"])
def test_every_fit(fit, mirror, metric):
    of = cosines if metric == "cosine" else distances
    source, target = maps_of((30, 50), 1, fit=fit), maps_of((45, 33), 2, fit=fit, mirror=mirror)
    points = points_of(source)
    expected = similarities(source, target, points, of=of)
    check(NearestMatcher(metric=metric).match(source, target, points), expected, 1e-9)
    for point, one in zip(points[:2], expected, strict=False):
        found = NearestMatcher(metric=metric).similarity(source, target, point)
        assert found.dtype == np.float32
        np.testing.assert_allclose(np.nan_to_num(found, nan=-np.inf), one, atol=1e-6)


@pytest.mark.parametrize("shape", [(4, 1, 9), (4, 7, 1), (4, 1, 1), (4, 2, 2), (4, 40, 60)])
def test_grids(shape):
    source, target = (maps_of((12, 31), seed, {"a": shape}) for seed in (1, 2))
    points = points_of(source)
    check(NearestMatcher().match(source, target, points),
          similarities(source, target, points), 1e-9)  # fmt: skip


@pytest.mark.parametrize("kind", [torch.float16, torch.bfloat16, torch.float32])
def test_narrow_numbers_with_large_channels(kind):
    """Their squares overflow in half precision, and cancel in float32."""
    shapes = {"a": (64, 6, 8)}
    source, target = maps_of((30, 50), 1, shapes), maps_of((45, 33), 2, shapes)
    for maps in (source, target):
        maps["a"][:3] *= 1000
        maps.values["a"] = maps["a"].to(kind)
    points = points_of(source)
    exact = [Maps({"a": maps["a"].double()}, maps.size, (24, 32)) for maps in (source, target)]
    check(NearestMatcher().match(source, target, points), similarities(*exact, points), 1e-5)
    found = NearestMatcher(metric="l2").match(source, target, points)
    expected = similarities(*exact, points, of=distances)
    check(found, expected, 1e-4 * np.abs(expected).max())


def test_distances_of_features_with_a_common_offset():
    """Cosines drown in it; distances do not."""
    source, target = (maps_of((30, 50), seed, kind=torch.float32) for seed in (1, 2))
    points = points_of(source)
    expected = NearestMatcher(metric="l2").match(source, target, points)
    for maps in (source, target):
        maps["a"].add_(300)
    found = NearestMatcher(metric="l2").match(source, target, points)
    np.testing.assert_array_equal(found.points, expected.points)
    np.testing.assert_allclose(found.score, expected.score, atol=1e-3)


def test_arrays_are_matched_as_tensors():
    source, target = maps_of((30, 50), 1), maps_of((45, 33), 2)
    arrays = [Maps({"a": maps["a"].numpy()}, maps.size, (24, 32)) for maps in (source, target)]
    points = points_of(source)
    one, other = (NearestMatcher().match(*pair, points) for pair in ((source, target), arrays))
    np.testing.assert_array_equal(one.points, other.points)


# --- several cells ----------------------------------------------------------------------------


@pytest.fixture
def two():
    return maps_of((30, 50), 1, TWO, fit="pad"), maps_of((45, 33), 2, TWO, fit="crop")


@pytest.mark.parametrize("weights", [None, [0.5, 2], {"b": 2, "a": 0.5}])
@pytest.mark.parametrize("metric", ["cosine", "l2"])
def test_similarities_add(two, metric, weights):
    a, b = (1, 1) if weights is None else (0.5, 2)
    of, points = cosines if metric == "cosine" else distances, points_of(two[0])
    parts = [similarities(*two, points, cell, of) for cell in ("a", "b")]
    found = NearestMatcher(metric=metric, weights=weights).match(*two, points)
    check(found, a * parts[0] + b * parts[1], 1e-9)
    target = two[1]
    turned = Maps(dict(reversed(target.values.items())), target.size, (24, 32), target.placement)
    again = NearestMatcher(metric=metric, weights=weights).match(two[0], turned, points)
    np.testing.assert_array_equal(again.points, found.points)


@pytest.mark.parametrize("metric", ["cosine", "l2"])
def test_vectors_are_one(two, metric):
    points, of = points_of(two[0]), cosines if metric == "cosine" else distances
    weights = {"a": 0.5, "b": 2.0}
    here, there = (
        torch.cat([weights[cell] * maps.sample(cell, at)[0] for cell in TWO], 1)
        for maps, at in ((two[0], points), (two[1], pixels((45, 33))))
    )
    expected = of(here, there)
    expected[:, ~two[1].valid(pixels((45, 33)))] = -np.inf
    found = NearestMatcher(metric=metric, combine="concat", weights=weights).match(*two, points)
    check(found, expected.reshape(-1, 45, 33), 1e-9)


def test_a_weight_of_nothing_leaves_a_cell_out(two):
    points = points_of(two[0])
    found = NearestMatcher(weights=[1, 0]).match(*two, points)
    check(found, similarities(*two, points, "a"), 1e-9)


# --- resolutions, normalising, low pass -------------------------------------------------------


def test_sites_are_normalised_before():
    source, target = maps_of((30, 50), 1), maps_of((45, 33), 2)
    points = points_of(source)
    unit = [Maps({"a": F.normalize(m["a"], dim=0)}, m.size, (24, 32)) for m in (source, target)]
    found = NearestMatcher(normalise="before").match(source, target, points)
    check(found, similarities(*unit, points), 1e-9)
    assert (found.points != NearestMatcher().match(source, target, points).points).any()


@pytest.mark.parametrize("size", [(45, 33), (5, 4)])
def test_similarities_of_sites_are_upsampled(size):
    source, target = maps_of((30, 50), 1), maps_of(size, 2)
    points = points_of(source)
    sites = cosines(source.sample("a", points)[0], target["a"].flatten(1).T).reshape(-1, 6, 8)
    expected = F.interpolate(torch.from_numpy(sites)[None], size, mode="bilinear")[0].numpy()
    matcher = NearestMatcher(resolution="similarity")
    check(matcher.match(source, target, points), expected, 1e-9)
    np.testing.assert_allclose(
        matcher.similarity(source, target, points[0]), expected[0], atol=1e-6
    )


@pytest.mark.parametrize("fit", ["squash", "pad", "crop"])
def test_the_nearest_site(fit):
    source, target = maps_of((30, 50), 1, fit=fit), maps_of((45, 33), 2, fit=fit)
    points = points_of(source)
    found = NearestMatcher(resolution="site").match(source, target, points)
    rows, columns = np.indices((6, 8))
    sites = np.stack([columns.ravel(), rows.ravel()], 1)
    for point, match, score in zip(points, found.points, found.score, strict=True):
        centres = source.points(sites, "a")
        inside = source.valid(centres)
        own = sites[inside][np.abs(centres[inside] - point).sum(1).argmin()]
        vector = source["a"][:, own[1], own[0]]
        similar = cosines(vector[None], target["a"].flatten(1).T)[0]
        similar[~target.valid(target.points(sites, "a"))] = -np.inf
        best = similar.argmax()
        np.testing.assert_allclose(match, target.points(sites[best][None], "a")[0], atol=1e-9)
        assert score == pytest.approx(similar[best])


def test_a_picture_thinner_than_a_site_has_one_row_of_them():
    target = maps_of((1, 60), 2, {"a": (5, 2, 8)}, fit="pad")
    found = NearestMatcher(resolution="site").match(maps_of((30, 50), 1), target, [[3, 4]])
    assert target.valid(found.points).all()


@pytest.mark.parametrize("sigma", [0.5, 2.0])
def test_a_low_pass_is_that_of_scipy(sigma):
    source, target = maps_of((30, 50), 1), maps_of((45, 33), 2)
    smooth = [
        Maps({"a": torch.from_numpy(gaussian_filter(m["a"].numpy(), (0, sigma, sigma),
                                                    mode="nearest"))}, m.size, (24, 32))
        for m in (source, target)
    ]  # fmt: skip
    points = points_of(source)
    found = NearestMatcher(low_pass=sigma).match(source, target, points)
    check(found, similarities(*smooth, points), 1e-9)


def test_a_flow_is_read_between_the_four_sites():
    """By hand: site (2, 1) and its neighbours, a quarter of the way."""
    source, target = maps_of((24, 32), 1), maps_of((45, 33), 2)
    sites = np.array([[2, 1], [3, 1], [2, 2], [3, 2]])
    around = NearestMatcher().match(source, target, source.points(sites, "a"))
    point = source.points([[2.25, 1.25]], "a")
    found = NearestMatcher(refine="bilinear").match(source, target, point)
    shares = np.array([0.75 * 0.75, 0.25 * 0.75, 0.75 * 0.25, 0.25 * 0.25])
    np.testing.assert_allclose(found.points[0], shares @ around.points, atol=1e-9)
    assert found.score[0] == pytest.approx(shares @ around.score)
    assert found.valid[0]


# --- what is not valid ------------------------------------------------------------------------


def test_zero_vectors_have_the_similarity_0_and_are_not_valid():
    source, target = maps_of((24, 32), 1), maps_of((24, 32), 2)
    source["a"][:, :3] = 0
    points = np.array([[5.0, 3.0], [5.0, 20.0]])
    found = NearestMatcher().match(source, target, points)
    assert found.valid.tolist() == [False, True]
    assert found.score[0] == 0
    target["a"][:] = -source.sample("a", points[1:])[0].T[:, :, None]
    target["a"][:, 2:4, 3:5] = 0  # 0 is more than -1
    for resolution in ("picture", "site"):
        found = NearestMatcher(resolution=resolution).match(source, target, points[1:])
        assert found.score.tolist() == [0]
        assert found.valid.tolist() == [False]
    zero = NearestMatcher().similarity(source, target, points[1])
    assert zero[12, 16] == 0
    assert zero[0, 0] == pytest.approx(-1)


def test_neighbours_that_cancel_are_no_similarity():
    """Halfway between f and -f there is nothing, whatever rounding leaves of it."""
    random = torch.Generator().manual_seed(0)
    f = torch.randn(50, 1, 1, generator=random)
    target = Maps({"a": torch.cat([f, -f], 2)}, (1, 5), (1, 5))
    source = Maps({"a": torch.randn(50, 1, 1, generator=random)}, (1, 1), (1, 1))
    found = NearestMatcher().similarity(source, target, [0, 0])[0]
    one = float(F.cosine_similarity(source["a"].ravel(), f.ravel(), dim=0))
    np.testing.assert_allclose(found, [one, one, 0, -one, -one], atol=1e-5)


def test_the_ratio_test_is_that_of_distances():
    source, target = maps_of((30, 50), 1), maps_of((24, 32), 2)
    points = points_of(source, 40)
    similar = similarities(source, target, points)
    for ratio, apart in ((0.8, 1.0), (0.95, 2.0)):
        found = NearestMatcher(ratio=ratio, apart=apart).match(source, target, points)
        expected = []
        for one, (x, y) in zip(similar, found.points, strict=True):
            rows, columns = np.indices((24, 32))
            near = (np.abs(rows - y) <= 4 * apart) & (np.abs(columns - x) <= 4 * apart)
            best, other = (np.sqrt(2 - 2 * values.max()) for values in (one, one[~near]))
            expected.append(best <= ratio * other)
        assert 0 < sum(expected) < 40
        assert found.valid.tolist() == expected


@pytest.mark.parametrize("width", range(31, 51))
def test_a_site_exactly_so_far_away_is_near_whatever_rounds(width):
    """The same feature twice, two sites apart; all others are at right angles to it."""
    values = torch.zeros(2, 6, 8)
    values[1] = 1
    values[:, 3, 2] = values[:, 3, 4] = torch.tensor([1.0, 0.0])
    maps = Maps({"a": values}, (30, width), (24, 32))
    point = maps.points([[2, 3]], "a")
    near, far = (NearestMatcher(resolution="site", ratio=0.5, apart=apart) for apart in (2, 1))
    assert near.match(maps, maps, point).valid.all()
    assert not far.match(maps, maps, point).valid.any()


def test_the_way_back_confirms():
    source, target = maps_of((30, 50), 1), maps_of((45, 33), 2)
    points, matcher = points_of(source, 40), NearestMatcher()
    found = matcher.match(source, target, points, check=4)
    back = matcher.match(target, source, found.points)
    expected = np.hypot(*(back.points - points).T) <= 4
    assert 0 < expected.sum() < 40
    assert found.valid.tolist() == expected.tolist()
    np.testing.assert_array_equal(found.points, matcher.match(source, target, points).points)


def test_chunks_of_points_change_nothing():
    source, target = maps_of((30, 50), 1), maps_of((45, 33), 2)
    points = points_of(source, 30)
    one, other = (NearestMatcher(memory_mb=mb).match(source, target, points) for mb in (1e-3, 99))
    np.testing.assert_array_equal(one.points, other.points)
    np.testing.assert_allclose(one.score, other.score, atol=1e-12)


@pytest.mark.parametrize("strip", [1, 40 * 12, 1 << 17])
@pytest.mark.parametrize("region", [None, (3, 5, 28, 40)])
def test_strips_of_sites_change_nothing(strip, region, monkeypatch):
    """Also where several sites are equally similar: the first counts, row by row."""
    source, target = maps_of((30, 50), 1), maps_of((45, 33), 2)
    target["a"][:, 3:] = target["a"][:, :3]
    points = points_of(source, 12)
    sites = target.points(np.stack(np.meshgrid(range(8), range(6)), -1).reshape(-1, 2), "a")
    inside = np.ones(48, bool) if region is None else (
        (sites >= region[:2]) & (sites <= region[2:])).all(1)  # fmt: skip
    here = source.points(np.clip(np.rint(source.sites(points, "a")), 0, (7, 5)), "a")
    expected = cosines(source.sample("a", here)[0], target["a"].flatten(1).T)
    expected[:, ~inside] = -np.inf
    best = np.isclose(expected, expected.max(1, keepdims=True), rtol=0, atol=1e-12).argmax(1)
    monkeypatch.setitem(surfaces.STRIP, "cpu", strip)
    found = NearestMatcher(resolution="site").match(source, target, points, region=region)
    np.testing.assert_allclose(found.points, sites[best], atol=1e-9)
    np.testing.assert_allclose(found.score, expected.max(1), atol=1e-12)
