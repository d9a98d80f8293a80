"""What holds for every matcher."""

from __future__ import annotations

from functools import partial

import h5py
import numpy as np
import pytest
import torch
from sklearn.base import clone

from probes import Cells, Maps
from probes.matching import (
    KernelSoftArgmaxMatcher,
    MutualMatcher,
    NearestMatcher,
    SoftArgmaxMatcher,
    WindowSoftArgmaxMatcher,
)
from probes.matching import placed as placed_module
from probes.pairs import Pairs
from tests.probes.matching.naive import maps_of, points_of

MATCHERS = {
    "nearest": NearestMatcher,
    "nearest site": partial(NearestMatcher, resolution="site"),
    "nearest of upsampled similarities": partial(NearestMatcher, resolution="similarity"),
    "nearest by distance": partial(NearestMatcher, metric="l2", low_pass=0.7),
    "nearest that stands out": partial(NearestMatcher, ratio=0.9),
    "flow between sites": partial(NearestMatcher, refine="bilinear"),
    "mutual": MutualMatcher,
    "mutual site": partial(MutualMatcher, resolution="site"),
    "soft": SoftArgmaxMatcher,
    "soft of pixels": partial(SoftArgmaxMatcher, resolution="picture", temperature=0.01),
    "kernel": KernelSoftArgmaxMatcher,
    "window": WindowSoftArgmaxMatcher,
}


@pytest.fixture(params=MATCHERS)
def matcher(request):
    return MATCHERS[request.param]()


@pytest.fixture(scope="module")
def pair():
    return maps_of((30, 50), 1, fit="pad"), maps_of((45, 33), 2)


def test_it_can_be_cloned(matcher):
    twin = clone(matcher)
    assert twin is not matcher
    assert twin.get_params() == matcher.get_params()
    assert twin.set_params(memory_mb=7).memory_mb == 7


def test_a_picture_is_found_in_itself(matcher, pair):
    source = pair[0]
    sites = source.points([[2, 3], [5, 2]], "a")
    found = matcher.match(source, source, sites)
    np.testing.assert_allclose(found.points, sites, atol=2.5)
    assert found.score == pytest.approx(float(matcher.metric == "cosine"), abs=0.15)
    assert found.valid.all()


def test_answers_are_numpy_of_fixed_kinds(matcher, pair):
    for points in (points_of(pair[0], 5), np.zeros((0, 2)), []):
        found = matcher.match(*pair, points, check=3)
        assert found.points.shape == (len(points), 2)
        kinds = [values.dtype for values in (found.points, found.score, found.valid)]
        assert kinds == [np.float64, np.float64, bool]


def test_a_region_holds_all_answers(matcher, pair):
    points = points_of(pair[0], 30)
    mask = np.zeros((45, 33), bool)
    mask[20:41, 7:25] = True
    box, same = (matcher.match(*pair, points, region=r) for r in ((7, 20, 24, 40), mask))
    np.testing.assert_array_equal(box.points, same.points)
    if matcher.refine is None:
        np.testing.assert_allclose(box.points, box.points.clip((7, 20), (24, 40)), atol=1e-5)
    everywhere = matcher.match(*pair, points, region=(-5, -5, 99, 99))
    np.testing.assert_array_equal(everywhere.points, matcher.match(*pair, points).points)


def test_a_region_with_holes(matcher, pair):
    mask = np.random.default_rng(0).random((45, 33)) < 0.5
    found = matcher.match(*pair, points_of(pair[0], 30), region=mask)
    assert np.isfinite(found.points).all()
    if matcher.refine is None and isinstance(matcher, NearestMatcher):
        x, y = np.rint(found.points).astype(int).T
        assert mask[y, x].all()


def test_what_a_crop_cut_off_is_no_answer(matcher):
    source, target = maps_of((30, 50), 1), maps_of((20, 90), 2, fit="crop")
    found = matcher.match(source, target, points_of(source, 40))
    assert target.valid(found.points).all()
    similar = matcher.similarity(source, target, [3, 4])
    assert similar.shape == (20, 90)
    shown = target.valid(np.stack([np.arange(90), np.zeros(90)], 1))
    np.testing.assert_array_equal(np.isfinite(similar), np.tile(shown, (20, 1)))


@pytest.mark.parametrize(
    "matcher", [name for name, made in MATCHERS.items() if made().refine is None], indirect=True
)
def test_similarities_are_highest_where_matches_are(matcher, pair):
    """Of all but those whose answers are means of four; scores are those of the best pixel."""
    (point,) = points_of(pair[0], 1)
    found, similar = matcher.match(*pair, [point]), matcher.similarity(*pair, point)
    assert found.score[0] == pytest.approx(similar.max(), abs=1e-5)


def test_a_flow_is_the_match_of_its_places(matcher, pair):
    for stride in (7, "site"):
        flow = matcher.flow(*pair, stride, check=9)
        x, y = np.meshgrid(flow.x, flow.y)
        points = np.stack([x.ravel(), y.ravel()], 1)
        found = matcher.match(*pair, points, check=9)
        np.testing.assert_allclose(flow.points.reshape(-1, 2), found.points, atol=1e-9)
        np.testing.assert_allclose(flow.score.ravel(), found.score, atol=1e-9)
        assert flow.valid.ravel().tolist() == found.valid.tolist()
    assert pair[0].valid(points).all()


def test_pairs_are_matched_as_by_themselves(matcher, tmp_path):
    random = np.random.default_rng(0)
    sizes = random.integers(20, 50, (5, 2))
    rows = [(0, 1), (0, 2), (3, 0), (4, 4), (1, 0)]
    points = [random.uniform(0, 19, (k, 2)) for k in (3, 0, 2, 5, 1)]
    pairs = Pairs([a for a, _ in rows], [b for _, b in rows], points)
    with h5py.File(tmp_path / "f.h5", "w") as file:
        data = file.create_dataset("a", data=random.normal(size=(5, 4, 3, 6)).astype(np.float16))
        cells = Cells({("up.1", 20): data}, sizes=sizes)
        for mb in (512, 1e-4):
            matcher.set_params(memory_mb=mb)
            for pair, found in enumerate(matcher.match_pairs(cells, pairs)):
                maps = [cells.maps(row) for row in rows[pair]]
                expected = matcher.match(*maps, points[pair])
                np.testing.assert_allclose(found.points, expected.points, atol=1e-9)
                assert found.valid.tolist() == expected.valid.tolist()


def test_pictures_are_read_once_while_memory_holds_them(monkeypatch):
    read, cells = [], Cells({("a", 1): np.random.default_rng(0).normal(size=(4, 3, 5, 5))},
                            sizes=np.full((4, 2), 20))  # fmt: skip
    maps = cells.maps
    monkeypatch.setattr(cells, "maps", lambda row: read.append(row) or maps(row))
    pairs = Pairs([0, 1, 2, 0], [1, 2, 3, 1], [[[1, 2]]] * 4)
    list(NearestMatcher().match_pairs(cells, pairs))
    assert read == [0, 1, 2, 3]
    read.clear()
    list(NearestMatcher(memory_mb=1e-3).match_pairs(cells, pairs))
    assert read == [0, 1, 2, 3, 0, 1]


def test_what_is_held_is_counted():
    maps = maps_of((30, 50))
    placed = placed_module.Placed(maps, placed_module.Rule())
    assert placed.nbytes >= maps["a"].nbytes + 4 * 30 * 50
    assert placed.norms[0].nbytes == 8 * 30 * 50


# --- bad input --------------------------------------------------------------------------------


def test_points_that_are_none(matcher, pair):
    for points, words in (
        ([[3, 4], [60, 3], [99, 3]], r"2 of 3 points are outside the source, 50 × 30.*point 1"),
        ([[3, np.nan]], "finite"),
        ([3, 4], r"\(n, 2\)"),
    ):
        with pytest.raises(ValueError, match=words):
            matcher.match(*pair, points)
    with pytest.raises(ValueError, match="outside"):
        matcher.similarity(*pair, [-3, 4])


def test_points_that_a_crop_cut_off(matcher):
    source, target = maps_of((20, 90), 1, fit="crop"), maps_of((45, 33), 2)
    points = [[45, 10], [3, 10]]
    with pytest.raises(ValueError, match="1 of 2 points are cut off from the input"):
        matcher.match(source, target, points)
    matcher.set_params(outside="wrong")
    found = matcher.match(source, target, points)
    assert not found.valid[1]
    assert np.isfinite(found.points).all()
    with pytest.raises(ValueError, match="outside the source"):
        matcher.match(source, target, [[99, 3]])


def test_maps_that_do_not_fit(matcher, pair):
    source, target = pair
    for other, words in (
        ({"b": target["a"]}, "cells"),
        ({"a": target["a"][:3]}, "5 channels in the source and 3 in the target"),
        ({"a": target["a"].mean((1, 2))}, "expected a map"),
        ({}, "cell"),
        ({"a": target["a"] * np.nan}, "nan or inf"),
    ):
        with pytest.raises(ValueError, match=words):
            matcher.match(source, Maps(other, (45, 33), (24, 32)), [[3, 4]])


def test_pictures_of_which_nothing_is_known(matcher, pair):
    size, cut = (20, 30), (200.0, -1440.0, 200.0, -1440.0)
    empty = Maps({"a": torch.zeros(5, 0, 8)}, size, (24, 32))
    with pytest.raises(ValueError, match="at least one channel and one site"):
        matcher.match(pair[0], empty, [[3, 4]])
    between = Maps({"a": torch.ones(5, 6, 8)}, size, (24, 32), cut)
    matcher.set_params(resolution="picture")
    with pytest.raises(ValueError, match="shows no pixel of the picture"):
        matcher.match(pair[0], between, [[3, 4]])


def test_a_pair_that_is_refused_is_named(matcher):
    cells = Cells({("a", 1): np.ones((3, 2, 4, 4))}, sizes=np.full((3, 2), 20))
    for pairs, words in (
        (Pairs([0, 0], [1, 3], [[[1, 2]]] * 2), "pair is of rows 0 and 3; expected 0 to 2"),
        (Pairs([0, -1], [1, 2], [[[1, 2]]] * 2), "pair is of rows -1 and 2"),
        (
            Pairs([0, 1], [1, 2], [[[1, 2]], [[1, 20]]]),
            "rows 1 and 2: 1 of 1 points are outside",
        ),
    ):
        found = matcher.match_pairs(cells, pairs)
        assert len(next(found)) == 1
        with pytest.raises(ValueError, match=words):
            next(found)


@pytest.mark.parametrize("rows", [[0.5], [[0, 1]], ["a"], [True]])
def test_rows_that_are_none(rows):
    with pytest.raises(ValueError, match=r"expected \(P,\) whole numbers"):
        Pairs(rows, [0], [[[1, 2]]])


def test_squares_too_large_for_float32_are_no_distances(pair):
    maps = [Maps({"a": 1e20 * one["a"].float()}, one.size, (24, 32)) for one in pair]
    with pytest.raises(ValueError, match="squares of the maps"):
        NearestMatcher(metric="l2").match(*maps, [[3, 4]])
    assert NearestMatcher().match(*maps, [[3, 4]]).valid.all()


def test_regions_that_are_none(matcher, pair):
    for region, words in (
        ((7, 20, 6, 40), "holds none"),
        ((np.nan, 0, 9, 9), "holds none"),
        (np.zeros((45, 33), bool), "holds none"),
        (np.zeros((33, 45), bool), r"\(33, 45\)"),
        (np.ones((45, 33)), "float64"),
    ):
        with pytest.raises(ValueError, match=words):
            matcher.match(*pair, [[3, 4]], region=region)


WRONG = [
    ("metric", "dot"), ("combine", "mean"), ("normalise", "never"), ("resolution", "pixel"),
    ("outside", "drop"), ("refine", "cubic"), ("low_pass", -1), ("memory_mb", 0),
    ("weights", [1, 2]), ("weights", {"b": 1}), ("weights", [-1]), ("weights", [0]),
    ("weights", [np.nan]),
]  # fmt: skip


def test_parameters_that_are_none(matcher, pair):
    for name, value in WRONG:
        with pytest.raises(ValueError, match=name if name != "weights" else "weight"):
            clone(matcher).set_params(**{name: value}).match(*pair, [[3, 4]])


def test_strides_that_are_none(matcher, pair):
    for stride in (0, -1, 1.5, "pixel"):
        with pytest.raises(ValueError, match="stride"):
            matcher.flow(*pair, stride)


def test_without_the_pictures_sizes_nothing_is_matched(matcher):
    cells = Cells({("a", 1): np.ones((2, 3, 4, 4))})
    with pytest.raises(ValueError, match="sizes"):
        list(matcher.match_pairs(cells, Pairs([0], [1], [[[1, 1]]])))


@pytest.mark.parametrize("values", [{"ratio": 0}, {"ratio": 1.5}, {"ratio": 0.5, "apart": -1}])
def test_ratios_that_are_none(pair, values):
    with pytest.raises(ValueError, match=r"ratio|apart"):
        NearestMatcher(**values).match(*pair, [[3, 4]])
    with pytest.raises(ValueError, match="check"):
        NearestMatcher().match(*pair, [[3, 4]], check=-1)


@pytest.mark.parametrize("kind", [torch.float16, torch.bfloat16])
def test_halves(matcher, pair, kind):
    narrow = [Maps({"a": m["a"].to(kind)}, m.size, m.input_size, m.placement) for m in pair]
    points = points_of(pair[0], 9)
    found = matcher.match(*narrow, points)
    wide = [Maps({"a": m["a"].double()}, m.size, m.input_size, m.placement) for m in narrow]
    np.testing.assert_allclose(found.points, matcher.match(*wide, points).points, atol=1e-3)
