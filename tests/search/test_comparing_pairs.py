"""Systems on the same pairs of pictures, against matching, counting and drawing by hand."""

from __future__ import annotations

from collections.abc import Iterator

import h5py
import numpy as np
import pytest
import torch
from torch.nn.functional import interpolate

from diffeat.errors import SourceError, SpecError
from diffeat.search import LEFT_OUT, TEST, VALIDATION
from diffeat.search.comparing import compare
from diffeat.search.comparing.pairs import paired_systems
from diffeat.search.comparing.table import BETTER, SAME, WORSE
from diffeat.search.matching.task import PairChoice
from diffeat.store import FeatureStore
from diffeat.targets.pairs import PointPairs, Truth
from tests.search.common import write_store

PICTURES, PAIRS, SIDE, GRID = 36, 160, 16, 8


def no_pictures():
    raise SourceError("the pictures are not at hand")


@pytest.fixture(scope="module")
def shifts() -> np.ndarray:
    """(N, 2) sites by which each picture shows the one pattern moved."""
    return np.random.default_rng(0).integers(0, 3, (PICTURES, 2))


@pytest.fixture(scope="module")
def targets(shifts) -> PointPairs:
    """Pairs with four points each, which lie where the pattern has moved to."""
    rng = np.random.default_rng(1)
    rows = [rng.choice(PICTURES, 2, replace=False) for _ in range(PAIRS)]
    truths = []
    for a, b in rows:
        points = rng.integers(4, 11, (4, 2)).astype(np.float64)  # x, y
        moved = points + 2.0 * (shifts[b] - shifts[a])[::-1]
        box = np.array([0.0, 0.0, 15.0, 15.0])
        truths.append(Truth(points, moved, target_box=box))
    source, target = zip(*[(f"p{a}", f"p{b}") for a, b in rows], strict=True)
    return PointPairs("made", source, target, tuple(truths), no_pictures)


@pytest.fixture(scope="module")
def stores(tmp_path_factory, shifts) -> Iterator[list[FeatureStore]]:
    """A file with much noise and one with little."""
    folder = tmp_path_factory.mktemp("pairs")
    pattern = np.random.default_rng(2).normal(size=(12, GRID, GRID))
    shown = np.stack([np.roll(pattern, shift, (1, 2)) for shift in shifts])
    found = []
    for name, noise in (("weak", 2.0), ("strong", 0.6)):
        rng = np.random.default_rng(3)
        arrays = {("a", 10): rng.normal(size=shown.shape),
                  ("b", 10): shown + noise * rng.normal(size=shown.shape)}  # fmt: skip
        write_store(folder / f"{name}.h5", arrays).close()
        with h5py.File(folder / f"{name}.h5", "a") as file:
            file["sizes"] = np.full((PICTURES, 2), SIDE, np.int32)
            file["placements"] = np.tile([1.0, 0.0, 1.0, 0.0], (PICTURES, 1))
        found.append(FeatureStore(folder / f"{name}.h5"))
    yield found
    for store in found:
        store.close()


def systems(stores, targets, alpha=0.1, aggregate="point", **more):
    names = [f"s{k}" for k in range(len(stores))]
    choice = PairChoice("made", alphas=(alpha,), aggregate=aggregate)
    files = [[store] for store in stores]
    return paired_systems(files, names, choice, **{"opened": [targets], **more})


def compared(found, **more):
    return compare(found.judges, draws=found.draws, floors=found.floors, notes=found.notes, **more)


def right_by_hand(store, targets, rows, alpha) -> np.ndarray:
    """(n, 4) bool: upsample both maps, normalise every pixel, take the largest cosine."""
    maps = torch.from_numpy(store["b", 10][:].astype(np.float32))
    wide = interpolate(maps, size=(SIDE, SIDE), mode="bilinear", align_corners=False)
    wide = wide / wide.norm(dim=1, keepdim=True)
    right = []
    for row in rows:
        a, b = (int(names[row][1:]) for names in (targets.source, targets.target))
        truth = targets.truth(row)
        for (x, y), expected in zip(truth.source_points, truth.target_points, strict=True):
            scores = torch.einsum("c,chw->hw", wide[a, :, int(y), int(x)], wide[b])
            best = int(scores.argmax())
            error = np.hypot(best % SIDE - expected[0], best // SIDE - expected[1])
            right.append(error <= alpha * 15)
    return np.array(right).reshape(len(rows), -1)


class TestScores:
    def test_points_of_every_test_pair_and_their_intervals(self, stores, targets):
        found = systems([*stores, stores[0]], targets, 0.15)
        result, judge = compared(found), found.judges["s0"]
        rows = np.flatnonzero(judge.part == TEST)
        assert len(rows) > 25
        right = [right_by_hand(store, targets, rows, 0.15) for store in stores]
        assert result["s0"].test == pytest.approx(right[0].mean())
        assert result["s1"].test == pytest.approx(right[1].mean())
        assert [row.verdict for row in result.rows[:3]] == ["reference", BETTER, SAME]
        assert (result["s2"].difference, result["s2"].ends) == (0, (0, 0))
        for row in result.rows[:2]:
            assert row.cell == ("b", 10)
        ends = ends_by_hand(right[1].sum(1) - right[0].sum(1), targets, rows)
        np.testing.assert_allclose(result["s1"].ends, ends, atol=0.025)
        np.testing.assert_allclose(
            result["s0"].interval, ends_by_hand(right[0].sum(1), targets, rows), atol=0.025
        )

    def test_the_same_place(self, stores, targets):
        found = systems(stores, targets)
        result, judge = compared(found), found.judges["s0"]
        truths = [targets.truth(row) for row in np.flatnonzero(judge.part == TEST)]
        far = [np.linalg.norm(one.source_points - one.target_points, axis=1) for one in truths]
        assert result.rows[-1].name == "same place"
        assert result.rows[-1].test == pytest.approx((np.concatenate(far) <= 1.5).mean())

    @pytest.mark.parametrize("aggregate", ["pair", "picture"])
    def test_other_averages(self, stores, targets, aggregate):
        found = systems(stores, targets, 0.15, aggregate)
        result, judge = compared(found), found.judges["s0"]
        rows = np.flatnonzero(judge.part == TEST)
        share = right_by_hand(stores[1], targets, rows, 0.15).mean(1)
        names = np.array(targets.target if aggregate == "picture" else targets.source)[rows]
        expected = (
            share.mean()
            if aggregate == "pair"
            else np.mean([share[names == name].mean() for name in np.unique(names)])
        )
        assert result["s1"].test == pytest.approx(expected)
        assert result["s1"].ends[0] < result["s1"].difference < result["s1"].ends[1]

    def test_parts_are_parts_of_groups(self, stores, targets):
        found = systems(stores, targets)
        part = found.judges["s0"].part
        pictures = {
            number: {name for row in np.flatnonzero(part == number) for name in targets.groups[row]}
            for number in (VALIDATION, TEST)
        }
        assert not pictures[VALIDATION] & pictures[TEST]
        apart = int((part == LEFT_OUT).sum())
        assert f"{apart} pairs left out: their groups lie in different parts" in found.notes
        result = compared(found, against="s1")
        assert result["s0"].verdict == WORSE
        assert result.measure.groups == len(pictures[TEST])
        assert "test pairs" in result.headline
        assert "cells chosen on validation" in result.headline


def ends_by_hand(right: np.ndarray, targets, rows: np.ndarray) -> np.ndarray:
    """2,000 other draws of pictures, pair by pair; of the share of 4 points a pair."""
    names = sorted({name for row in rows for name in targets.groups[row]})
    rng, drawn = np.random.default_rng(99), []
    for _ in range(2000):
        times = dict.fromkeys(names, 0)
        for k in rng.integers(0, len(names), len(names)):
            times[names[k]] += 1
        weights = np.array([times[a] * times[b] for a, b in (targets.groups[row] for row in rows)])
        if weights.sum():
            drawn.append((weights * right).sum() / (4 * weights.sum()))
    return np.percentile(drawn, [2.5, 97.5])


class TestSamePairs:
    def test_pairs_whose_pictures_not_all_have(self, stores, targets, tmp_path):
        from shutil import copyfile

        copyfile(stores[1].path, tmp_path / "other.h5")
        with h5py.File(tmp_path / "other.h5", "a") as file:
            ids = list(file["ids"].asstr()[:])
            file["ids"][...] = ["gone" if name == "p3" else name for name in ids]
        named = sum("p3" in pair for pair in zip(targets.source, targets.target, strict=True))
        with FeatureStore(tmp_path / "other.h5") as other:
            found = systems([stores[0], other], targets)
            assert len(found.judges["s0"].part) == PAIRS - named
            assert f"{named} pairs left out: not all systems have their pictures" in found.notes
            assert compared(found)["s1"].verdict == BETTER

    def test_rows_in_another_order_are_the_same_pairs(self, stores, targets, tmp_path):
        from shutil import copyfile

        copyfile(stores[1].path, tmp_path / "mixed.h5")
        with h5py.File(tmp_path / "mixed.h5", "a") as file:
            for name in ("ids", "sizes", "placements", "features/a/t10", "features/b/t10"):
                file[name][...] = file[name][:][::-1]
        with FeatureStore(tmp_path / "mixed.h5") as mixed:
            result = compared(systems([stores[1], mixed], targets))
        assert (result["s1"].difference, result["s1"].verdict) == (0, SAME)

    def test_lists_and_files_of_their_own_for_choice_and_test(self, stores, targets, tmp_path):
        """One file of all pictures, and two files of one half each, say the same."""
        low = np.array([[int(name[1:]) < 18 for name in pair]
                        for pair in zip(targets.source, targets.target, strict=True)])  # fmt: skip
        lists = [targets.take(np.flatnonzero(one.all(1))) for one in (low, ~low)]
        halves = []
        for k, rows in enumerate((slice(0, 18), slice(18, 36))):
            arrays = {cell: stores[1][cell][rows] for cell in (("a", 10), ("b", 10))}
            write_store(tmp_path / f"{k}.h5", arrays).close()
            with h5py.File(tmp_path / f"{k}.h5", "a") as file:
                file["ids"][...] = stores[1].ids[rows]
                for name in ("sizes", "placements"):
                    file[name] = getattr(stores[1], name)[rows]
            halves.append(FeatureStore(tmp_path / f"{k}.h5"))
        choice = PairChoice("low", "high")
        found = paired_systems([[stores[1]], halves], ["one", "two"], choice, opened=lists)
        result = compared(found)
        assert result.counts == (0, len(lists[0]), len(lists[1]))
        assert (result["two"].difference, result["two"].verdict) == (0, SAME)
        for store in halves:
            store.close()

    def test_refusals(self, stores, targets, tmp_path):
        vectors = {("a", 10): np.zeros((PICTURES, 4))}
        with (
            write_store(tmp_path / "v.h5", vectors) as store,
            pytest.raises(SpecError, match="holds vectors"),
        ):
            systems([stores[0], store], targets)
        with pytest.raises(SpecError, match="aggregate='points'; expected"):
            systems(stores, targets, aggregate="points")
        others = PointPairs("others", ("q1",), ("q2",), targets.truths[:1], no_pictures)
        with pytest.raises(SpecError, match="no pair has both of its pictures"):
            systems(stores, others)
        with pytest.raises(SpecError, match="no test pairs are left"):
            systems(stores, targets, split=(0.0, 1.0, 0.0))
