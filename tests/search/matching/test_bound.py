"""Pairs are bound by id to the files that hold their pictures, or it is said what is wrong."""

from __future__ import annotations

import os
import shutil
from dataclasses import replace

import numpy as np
import pytest
from PIL import Image

from diffeat.errors import SpecError
from diffeat.search.matching import bind, score_pairs
from diffeat.search.matching.judge import Matching
from diffeat.targets.pairs import PointPairs, Truth
from tests.search.matching.common import (
    BEST,
    NOISE,
    PEOPLE,
    key_points,
    maps_of,
    pairs_of,
    size_of,
    write_file,
    write_pictures,
)

ALL = range(2 * PEOPLE)


def by_hand(targets, pair: int = 0, **changes) -> PointPairs:
    """One pair, with other points."""
    truth = replace(targets.truth(pair), **changes)
    return PointPairs("hand", (targets.source[pair],), (targets.target[pair],), (truth,),
                      targets.pictures)  # fmt: skip


class TestRows:
    def test_pictures_are_found_by_id(self, bound, targets):
        maps = maps_of(ALL, NOISE[BEST], list(NOISE).index(BEST))
        for pair in (0, 17, len(bound) - 1):
            number = int(targets.source[pair][6:8])
            row = int(bound.pairs.source[pair])
            read = bound.cells([BEST]).maps(row)
            np.testing.assert_array_equal(read.values[BEST], maps[number].astype(np.float16))
            assert read.size == size_of(number)
            np.testing.assert_array_equal(bound.pairs.source_points[pair], key_points(number))
        assert bound.groups == targets.groups
        assert set(bound.categories) == {"thing"}
        assert bound.boxes[0].tolist() == [0, 0, 30, 20]
        assert bound.keys == tuple(NOISE)

    def test_only_some_cells(self, targets, store):
        assert bind(targets, [store], blocks=["b"], timesteps=[50]).keys == (("b", 50),)
        with pytest.raises(SpecError, match="no block 'c'"):
            bind(targets, [store], blocks=["c"])

    def test_pairs_from_one_file_to_another(self, bound, targets, folder, tmp_path):
        """The halves of the pictures lie in two files, the second in another order."""
        rows = [range(13), range(23, 12, -1)]
        noise = {BEST: 0.0}
        stores = [write_file(tmp_path / f"{k}.h5", folder, some, noise)
                  for k, some in enumerate(rows)]  # fmt: skip
        both = bind(targets, stores)
        row = [*rows[0], *rows[1]].index(int(targets.target[5][6:8]))
        assert both.pairs.target[5] == row
        whole = write_file(tmp_path / "w.h5", folder, noise=noise)
        found = [score_pairs(None, one, BEST, progress=False).pck.compute()
                 for one in (both, bind(targets, [whole]))]  # fmt: skip
        assert found[0] == found[1]
        assert found[0][0.1] > 0.9
        for one in (*stores, whole):
            one.close()

    def test_int8_is_seen_as_what_it_stands_for(self, targets, folder, tmp_path):
        with write_file(tmp_path / "q.h5", folder, noise={BEST: 0.0}, dtype="int8") as store:
            bound = bind(targets, [store])
            assert bound.cells().maps(0).values[BEST].dtype == np.float32
            assert score_pairs(None, bound, BEST, progress=False).pck.compute()[0.1] > 0.9

    def test_corrupted_pictures_are_noted(self, targets, folder, tmp_path):
        spec = {"corrupt": "contrast:2"}
        with write_file(tmp_path / "q.h5", folder, noise={BEST: 0.0}, spec=spec) as store:
            bound = bind(targets, [store])
            used = len({*bound.pairs.source.tolist(), *bound.pairs.target.tolist()})
            assert bound.noted == {"pictures corrupted by contrast:2": used}
            assert f"; {used} pictures corrupted by contrast:2" in Matching(bound).headline

    def test_some_pairs_and_more_pairs(self, bound):
        some = bound.take(np.arange(10))
        twice = replace(some.targets, noted={"pairs listed twice": 2})
        both = replace(some, targets=twice).joined(replace(some, targets=twice))
        assert both.noted == both.take([0, 1]).noted == {"pairs listed twice": 4}
        both = some.joined(bound.take(slice(10, None)))
        assert (both.targets.source, both.groups) == (bound.targets.source, bound.groups)
        np.testing.assert_array_equal(both.pairs.target, bound.pairs.target)
        for pair in (3, 40):
            np.testing.assert_array_equal(
                both.targets.truth(pair).target_points, bound.pairs.target_points[pair]
            )
        assert both.take([40]).targets.source == (bound.targets.source[40],)
        assert some.fingerprint != bound.fingerprint


class TestMissing:
    @pytest.fixture
    def few(self, folder, tmp_path):
        with write_file(tmp_path / "few.h5", folder, range(20), {BEST: 0.0}) as store:
            yield store

    def test_they_are_named(self, targets, few):
        lacking = sum(int(a[6:8]) >= 20 or int(b[6:8]) >= 20
                      for a, b in zip(targets.source, targets.target, strict=True))  # fmt: skip
        words = rf"4 pictures of .*such as 'thing/2.*: {lacking} of {len(targets)} pairs name them"
        with pytest.raises(SpecError, match=words):
            bind(targets, [few])

    def test_they_are_left_out_and_counted(self, targets, few):
        bound = bind(targets, [few], missing="leave-out")
        assert len(bound) + bound.left_out["pictures without features"] == len(targets)
        assert max(bound.pairs.source.max(), bound.pairs.target.max()) < 20

    def test_none_is_left(self, targets, folder, tmp_path):
        with (
            write_file(tmp_path / "one.h5", folder, range(1), {BEST: 0.0}) as store,
            pytest.raises(SpecError, match="no pair is left"),
        ):
            bind(targets, [store], missing="leave-out")


class TestFiles:
    def test_vectors(self, targets, folder, tmp_path):
        vectors = {"pool": "1x1"}
        with (
            write_file(tmp_path / "v.h5", folder, noise={BEST: 0.0}, spec=vectors) as one,
            pytest.raises(SpecError, match=r"holds vectors .*extract with --pool none"),
        ):
            bind(targets, [one])

    def test_a_file_from_before_sizes(self, targets, folder, tmp_path):
        without = ("sizes", "placements")
        with (
            write_file(tmp_path / "o.h5", folder, noise={BEST: 0.0}, without=without) as one,
            pytest.raises(SpecError, match=r"sizes of its pictures .*before 0\.8"),
        ):
            bind(targets, [one])

    @pytest.mark.parametrize(
        ("changes", "words"),
        [
            ({"model": "m1"}, "different models"),
            ({"spec": {"ensemble": 2}}, "ensemble: 1 → 2|ensemble: 2 → 1"),
            ({"noise": {("a", 10): 1.0}}, "lacks block 'b' at t=10"),
        ],
    )
    def test_two_files_that_do_not_fit(self, changes, words, targets, folder, tmp_path):
        with (
            write_file(tmp_path / "1.h5", folder, noise={BEST: 0.0}) as one,
            write_file(tmp_path / "2.h5", folder, **{"noise": {BEST: 0.0}, **changes}) as two,
            pytest.raises(SpecError, match=words),
        ):
            bind(targets, [one, two])

    def test_no_file_and_unknown_words(self, targets, store):
        with pytest.raises(SpecError, match="no feature file"):
            bind(targets, [])
        with pytest.raises(SpecError, match="expected refuse or wrong"):
            bind(targets, [store], outside="keep")


class TestContents:
    @pytest.fixture
    def own(self, tmp_path):
        """Pictures that may be changed, and their file."""
        folder = write_pictures(tmp_path / "own", count=12)
        with write_file(tmp_path / "own.h5", folder, range(12), {BEST: 0.0}) as store:
            yield folder, store

    def test_a_picture_that_changed_is_named(self, own):
        folder, store = own
        targets = pairs_of(folder)
        bind(targets, [store])
        Image.new("RGB", (40, 32)).save(folder / "JPEGImages/thing/03.jpg")
        with pytest.raises(SpecError, match=r"1 pictures .*something else than when .*03\.jpg"):
            bind(targets, [store])

    def test_what_is_not_at_hand_is_not_compared(self, own):
        folder, store = own
        targets = pairs_of(folder)
        os.remove(folder / "JPEGImages/thing/03.jpg")
        assert len(bind(targets, [store])) == len(targets)
        shutil.rmtree(folder / "JPEGImages")
        assert len(bind(targets, [store])) == len(targets)

    def test_files_without_digests_are_not_compared(self, own, tmp_path):
        folder, _ = own
        targets = pairs_of(folder)
        with write_file(tmp_path / "n.h5", folder, range(12), {BEST: 0.0},
                        without=("digests",)) as store:  # fmt: skip
            Image.new("RGB", (40, 32)).save(folder / "JPEGImages/thing/03.jpg")
            assert len(bind(targets, [store])) == len(targets)


class TestPoints:
    def test_outside_the_picture(self, targets, store):
        points = targets.truth(0).target_points.copy()
        points[2:4] = [[90, 3], [-4, 3]]
        with pytest.raises(SpecError, match=r"2 points lie outside .* the first is \(90, 3\) in"):
            bind(by_hand(targets, target_points=points), [store])

    def test_not_finite(self, targets, store):
        points = targets.truth(0).source_points.copy()
        points[1] = np.nan
        with pytest.raises(SpecError, match=r"pair 0, .*source: point 1 is \[nan, nan\]"):
            bind(by_hand(targets, source_points=points), [store])

    def test_no_points(self, targets, store):
        none = np.zeros((0, 2))
        with pytest.raises(SpecError, match=r"no pair is left .*1 no common points"):
            bind(by_hand(targets, source_points=none, target_points=none), [store])

    def test_pairs_without_a_truth(self, targets, store):
        bound = bind(by_hand(targets, target_points=None), [store])
        assert bound.pairs.target_points is None
        with pytest.raises(SpecError, match="no points in the targets"):
            score_pairs(None, bound, BEST)

    def test_what_a_crop_does_not_show(self, folder, tmp_path):
        """Of a picture of 48×40 a crop to 32×40 pixels leaves rows 8 to 39."""
        targets = pairs_of(folder)
        pair = next(k for k, name in enumerate(targets.source) if size_of(int(name[6:8]))[0] == 48)
        points = np.array([[5.0, 2.0], [5.0, 20.0]])
        one = by_hand(targets, pair, source_points=points, target_points=points + 10, names=())
        with write_file(tmp_path / "c.h5", folder, noise={BEST: 0.0}, spec={"fit": "crop"}) as file:
            with pytest.raises(SpecError, match=r"1 points are not .*fit=crop.*\(5, 2\)"):
                bind(one, [file])
            bound = bind(one, [file], outside="wrong")
            assert bound.hidden == 1
            assert bound.shown(0).tolist() == [False, True]
            scored = score_pairs(None, bound, BEST, progress=False)
            assert scored.unsaid.tolist() == [1]
            assert "1 points of which nothing can be said" in scored.table()


def test_truths_are_read_once_a_pair(store, targets):
    class Counting(PointPairs):
        asked = 0

        def truth(self, pair: int) -> Truth:
            type(self).asked += 1
            return super().truth(pair)

    names = ("name", "source", "target", "truths", "opened", "groups", "categories")
    counting = Counting(**{name: getattr(targets, name) for name in names})
    bind(counting, [store])
    assert Counting.asked <= 2 * len(targets)
