"""The mirrored picture, and any matcher after a transform of pairs, against plain arithmetic."""

from __future__ import annotations

import numpy as np
import pytest
from sklearn.base import clone

from diffeat.coords import Placement
from probes import Cells, Maps, Pairs
from probes.aggregate import CoPCA, PoseAdapter, unmirrored, with_mirrored
from probes.matching import NearestMatcher, Paired, WindowSoftArgmaxMatcher

SIZE, GRID = (32, 48), (8, 12)
KEY = ("up.1", 20)


def scene(turned: bool, fit="squash", seed=0):
    """Two pictures: what an eye sees of the second it sees of the first, or of its mirror image.

    A network that tells left from right gives features of its own to what looks the other way, so
    the two versions of a picture have nothing to do with each other but through the target.
    """
    rng = np.random.default_rng(seed)
    target, other = rng.normal(size=(2, 6, *GRID))
    seen = target + 0.05 * rng.normal(size=target.shape)
    plain, mirrored = (other, seen) if turned else (seen, other)
    places = [[Placement.of_fit(SIZE, (64, 96), fit, mirror).numbers] * 2 for mirror in (0, 1)]
    arrays = np.stack([plain, target]), np.stack([mirrored, rng.normal(size=target.shape)])
    return [
        Cells({KEY: values.astype(np.float32)}, sizes=[SIZE] * 2, placements=place,
              input_size=(64, 96))
        for values, place in zip(arrays, places, strict=True)
    ]  # fmt: skip


def centres(maps: Maps, count=20) -> np.ndarray:
    rng = np.random.default_rng(1)
    sites = np.stack([rng.integers(0, GRID[1], count), rng.integers(0, GRID[0], count)], 1)
    return maps.points(sites, KEY)


@pytest.mark.parametrize("fit", ["squash", "pad"])
@pytest.mark.parametrize("turned", [False, True])
def test_a_planted_pose(turned, fit):
    cells, mirrored = scene(turned, fit)
    adapter, raw = PoseAdapter(), (cells.maps(0), mirrored.maps(0), cells.maps(1))
    assert adapter.choose(*raw) is turned
    both = with_mirrored(cells, mirrored)
    points = centres(cells.maps(0))
    points = points[cells.maps(0).valid(points)]
    pairs = Pairs([0], [1], [points])
    matcher = NearestMatcher(resolution="site")
    found = next(Paired(matcher, adapter).match_pairs(both, pairs)).points
    want = np.stack([SIZE[1] - 1 - points[:, 0], points[:, 1]], 1) if turned else points
    np.testing.assert_allclose(found, want, atol=1e-9)
    plain = next(matcher.match_pairs(cells, pairs)).points
    assert ((plain == found).all(1).mean() == 1) is not turned


def test_the_distance_is_the_mean_of_the_nearest(monkeypatch):
    monkeypatch.setattr("probes.aggregate.pose.STRIP", 40)
    cells, mirrored = scene(True, "pad")
    a, b = mirrored.maps(0), cells.maps(1)

    def vectors(maps):
        found = []
        for row in range(GRID[0]):
            for column in range(GRID[1]):
                if maps.valid(maps.points([[column, row]], KEY))[0]:
                    vector = np.asarray(maps[KEY][:, row, column], np.float64)
                    found.append(vector / np.linalg.norm(vector))
        return found

    want = np.mean([min(np.linalg.norm(f - g) for g in vectors(b)) for f in vectors(a)])
    assert PoseAdapter().distance(a, b) == pytest.approx(want, rel=1e-5)


def test_points_with_names_are_looked_for_from_their_partners():
    points = np.array([[3.5, 1.5], [43.5, 9.5], [23.5, 17.5]])
    for turned in (False, True):
        cells, mirrored = scene(turned)
        both, adapter = with_mirrored(cells, mirrored), PoseAdapter(partners=(1, 0, 2))
        found = Paired(NearestMatcher(), adapter).match(both.maps(0), both.maps(1), points)
        alone = Paired(NearestMatcher(), PoseAdapter())
        order = [1, 0, 2] if turned else [0, 1, 2]
        want = alone.match(both.maps(0), both.maps(1), points[order])
        np.testing.assert_array_equal(found.points, want.points)
        np.testing.assert_array_equal(found.score, want.score)


def test_files_that_were_mirrored_before():
    cells, mirrored = scene(True, "pad")
    placed = [Placement.of_fit(SIZE, (64, 96), "pad").numbers] * 2  # nobody knew that they were
    files = Cells({KEY: mirrored[KEY]}, sizes=mirrored.sizes, placements=placed,
                  input_size=(64, 96))  # fmt: skip
    known, points = unmirrored(files), centres(cells.maps(0))
    flipped = np.stack([SIZE[1] - 1 - points[:, 0], points[:, 1]], 1)
    np.testing.assert_allclose(known.maps(0).sites(points, KEY), files.maps(0).sites(flipped, KEY))
    squashed = unmirrored(Cells({KEY: mirrored[KEY]}, sizes=[(10, 20), (30, 7)]))
    assert squashed.placements[:, 0].tolist() == [-1, -1]
    np.testing.assert_allclose(squashed.maps(1).sites([[6, 0]], KEY)[0, 0], 0.5 * 12 / 7 - 0.5)


class TestPaired:
    def test_it_is_the_matcher_on_what_the_transform_gives(self):
        cells, _ = scene(False)
        copca = CoPCA(components=3).fit(cells)
        paired = Paired(WindowSoftArgmaxMatcher(radius=2), copca)
        pairs = Pairs([0, 1, 1], [1, 0, 1], [centres(cells.maps(0), n) for n in (3, 0, 5)])
        for k, found in enumerate(paired.match_pairs(cells, pairs)):
            a, b, _ = copca.pair(cells.maps(pairs.source[k]), cells.maps(pairs.target[k]))
            want = paired.matcher.match(a, b, pairs.source_points[k])
            np.testing.assert_array_equal(found.points, want.points)
        whole = paired.similarity(cells.maps(0), cells.maps(1), pairs.source_points[0][0])
        assert whole.shape == SIZE
        a, b, _ = copca.pair(cells.maps(0), cells.maps(1))
        found, want = paired.flow(cells.maps(0), cells.maps(1), 8), paired.matcher.flow(a, b, 8)
        np.testing.assert_array_equal(found.points, want.points)

    def test_pictures_are_read_once_while_memory_holds_them(self, monkeypatch):
        cells, read = scene(False)[0], []
        whole = Cells.maps
        monkeypatch.setattr(Cells, "maps", lambda self, row: read.append(row) or whole(self, row))
        pairs = Pairs([0, 1, 0, 1], [1, 0, 0, 1], [[[4, 4]]] * 4)
        list(Paired(transform=CoPCA().fit(cells)).match_pairs(cells, pairs))
        assert read == [0, 1]

    def test_copies_share_the_transform_and_take_another_rule(self):
        cells, _ = scene(False)
        paired = Paired(NearestMatcher(), CoPCA().fit(cells))
        copy = clone(paired).set_params(outside="wrong")
        assert copy.transform is paired.transform
        assert copy.matcher is not paired.matcher
        assert paired.outside is None
        assert len(list(copy.match_pairs(cells, Pairs([0], [1], [[[1, 1]]])))) == 1

    def test_without_a_transform_it_is_the_matcher(self):
        cells, _ = scene(False)
        pairs = Pairs([0], [1], [centres(cells.maps(0))])
        found, want = (next(one.match_pairs(cells, pairs)) for one in (Paired(), NearestMatcher()))
        np.testing.assert_array_equal(found.points, want.points)

    def test_a_pair_that_is_refused_is_named(self):
        cells, _ = scene(False)
        paired = Paired(transform=CoPCA().fit(cells))
        with pytest.raises(ValueError, match="rows 0 and 1: 1 of 1 points"):
            list(paired.match_pairs(cells, Pairs([0], [1], [[[1000, 4]]])))
        with pytest.raises(ValueError, match="rows 0 and 2; expected 0 to 1"):
            list(paired.match_pairs(cells, Pairs([0], [2], [[[1, 4]]])))


class TestRefused:
    def test_features_that_are_not_mirrored(self):
        cells, mirrored = scene(True)
        with pytest.raises(ValueError, match="sx >= 0; expected features extracted with mirror"):
            with_mirrored(cells, cells)
        with pytest.raises(ValueError, match="sx >= 0"):
            with_mirrored(cells, Cells({KEY: mirrored[KEY]}, sizes=mirrored.sizes))
        with pytest.raises(ValueError, match=r"expected.*as the pictures have"):
            with_mirrored(Cells({("b", 1): cells[KEY]}), mirrored)

    @pytest.mark.parametrize("partners", [(1, 2, 0), (0, 1), (0.5, 1, 2), (0, 1, 5)])
    def test_partners(self, partners):
        both = with_mirrored(*scene(True))
        with pytest.raises(ValueError, match="partner"):
            PoseAdapter(partners=partners).pair(both.maps(0), both.maps(1), [[1, 1]] * 3)

    def test_maps_of_one_version(self):
        cells, mirrored = scene(True)
        with pytest.raises(ValueError, match="as with_mirrored names them"):
            PoseAdapter().pair(cells.maps(0), cells.maps(1), [[1, 1]])
        with pytest.raises(ValueError, match="expected the same, at least one"):
            PoseAdapter().choose(cells.maps(0), Maps({}, SIZE, SIZE), cells.maps(1))
        other = Maps({KEY: np.zeros((2, 4, 4))}, SIZE, SIZE)
        with pytest.raises(ValueError, match="expected the same"):
            PoseAdapter().choose(cells.maps(0), mirrored.maps(0), other)
