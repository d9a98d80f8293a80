"""Pairs to train on: sites of key points, the loss, its number, groups, and what is kept."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy.special import log_softmax

from probes import Cells, Pairs
from probes.aggregate.correspondence import (
    PairBatches,
    SitePCK,
    matching,
    pair_table,
    split_groups,
    symmetric_cross_entropy,
)
from probes.lazy import Deferred, Rows

CPU = torch.device("cpu")
RNG = np.random.default_rng(0)


def cells(count=3, **more) -> Cells:
    values = np.zeros((count, 2, 3, 3), np.float32)
    return Cells({("x", 1): values}, **{"sizes": [(60, 80)] * count, **more})


def test_sites_by_the_half_pixel_rule():
    """A squashed 60×80 picture on a grid of 6×4: sites of 20 pixels across, 10 down."""
    source, target = [[0, 0], [39.5, 29.5]], [[79, 59], [9.5, 4.5]]
    table, usable = pair_table(cells(), Pairs([2], [1], [source], [target]), (6, 4))
    assert usable.tolist() == [True]
    np.testing.assert_allclose(table[0, :5], [2, 1, 20, 10, 80])
    expected = [[-0.475, -0.45, 3.475, 5.45], [1.5, 2.5, 0.0, 0.0]]
    np.testing.assert_allclose(table[0, 5:].reshape(2, 4), expected)


def test_points_that_an_input_does_not_show_are_left_out():
    """The input is the left half of the picture; of the second pair nothing is left."""
    half = [0.5, 0.0, 0.5, 0.0]  # 80×60 pixels at half size, of which 20 columns are shown
    shown, out = [10.0, 10.0], [60.0, 10.0]
    pairs = Pairs([0, 0], [1, 1], [[shown, out, shown], [out]], [[shown, shown, out], [shown]],
                  reference=[7.0, 8.0])  # fmt: skip
    here = cells(placements=[half] * 3, input_size=(30, 20))
    table, usable = pair_table(here, pairs, (6, 4))
    assert usable.tolist() == [True, False]
    column, row = 0.5 * 10.5 * 4 / 20 - 0.5, 0.5 * 10.5 * 6 / 30 - 0.5
    np.testing.assert_allclose(table[0, 2:9], [10, 10, 7, column, row, column, row])
    assert np.isnan(table[0, 9:]).all()


def test_a_mirrored_input():
    mirrored = [-1.0, 80.0, 1.0, 0.0]
    here = cells(placements=[mirrored] * 3, input_size=(60, 80))
    table, _ = pair_table(here, Pairs([0], [1], [[[9.5, 4.5]]], [[[69.5, 4.5]]]), (6, 4))
    np.testing.assert_allclose(table[0, 2:], [20, 10, 80, 3, 0, 0, 0])


def test_values_are_not_read():
    def read(rows):
        raise AssertionError

    lazy = Cells({("x", 1): Deferred((2, 2, 3, 3), read, np.float32)}, sizes=[(9, 9)] * 2)
    pair_table(lazy, Pairs([0], [1], [[[1, 1]]], [[[2, 2]]]), (3, 3))


@pytest.mark.parametrize(
    ("pairs", "message"),
    [
        (Pairs([0], [1], [[[1, 1]]]), "target_points missing"),
        (Pairs([], [], [], []), "0 pairs"),
        (Pairs([0], [3], [[[1, 1]]], [[[1, 1]]]), "rows of the 3 pictures"),
        (Pairs([-1], [0], [[[1, 1]]], [[[1, 1]]]), "name the rows -1 to 0"),
    ],
)
def test_bad_pairs(pairs, message):
    with pytest.raises(ValueError, match=message):
        pair_table(cells(), pairs, (3, 3))


def test_sizes_are_needed():
    with pytest.raises(ValueError, match="sizes of the pictures are not known"):
        pair_table(cells(sizes=None), Pairs([0], [1], [[[1, 1]]], [[[1, 1]]]), (3, 3))


# loss and number


def random_batch(pairs=3, most=5, grid=(4, 6)):
    maps = RNG.normal(size=(2 * pairs, 7, *grid))
    table = np.full((pairs, 5 + 4 * most), np.nan)
    for k in range(pairs):
        points = RNG.uniform(-0.5, np.array([grid[1], grid[0]] * 2) - 0.5, (most - k, 4))
        table[k, : 5 + points.size] = k, k + pairs, 9, 11, 60, *points.ravel()
    return maps, table


def naive(maps, table):
    """Point by point: the loss of every pair, and which points are within .1 of 60 pixels."""
    losses, right, half = [], [], len(table)
    for k, row in enumerate(table):
        points = row[5:][~np.isnan(row[5:])].reshape(-1, 4)
        terms = []
        for sc, sr, tc, tr in points:
            cosines = []
            for this, c, r, other in ((k, sc, sr, k + half), (k + half, tc, tr, k)):
                vector = maps[this][:, round(r), round(c)]
                lengths = np.linalg.norm(maps[other], axis=0) * np.linalg.norm(vector)
                cosines.append(np.tensordot(vector, maps[other], 1) / lengths)
            answers = (round(tr), round(tc)), (round(sr), round(sc))
            terms += [
                -log_softmax(one / 0.07)[at] for one, at in zip(cosines, answers, strict=True)
            ]
            best = np.unravel_index(cosines[0].argmax(), cosines[0].shape)
            right.append(np.hypot((best[1] - tc) * 9, (best[0] - tr) * 11) <= 6)
        losses.append(np.mean(terms))
    return losses, right


def test_loss_and_pck_point_by_point():
    maps, table = random_batch()
    maps[3:] = maps[:3] + 0.3 * maps[3:]  # so that some are right
    table[:, 9:11] = table[:, 5:7]  # and two key points lie in one place of the source
    table[:, 7:9], table[:, 11:13] = table[:, 5:7], table[:, 5:7]
    losses, right = naive(maps, table)
    given = torch.from_numpy(maps), torch.from_numpy(table)
    assert float(symmetric_cross_entropy(*given, "sum")) == pytest.approx(sum(losses))
    assert float(symmetric_cross_entropy(*given, "mean")) == pytest.approx(np.mean(losses))
    measure = matching().measure()
    measure.update(*given)
    assert 0 < measure.compute() < 1
    assert measure.compute() == pytest.approx(np.mean(right))
    assert np.isnan(SitePCK().compute())


def test_points_on_the_edge_go_to_the_outermost_site():
    maps, table = random_batch(1, 2)
    table[0, 5:] = [-0.5, -0.5, 5.5, 3.5] * 2
    inside = table.copy()
    inside[0, 5:] = [0, 0, 5, 3] * 2
    found = [float(symmetric_cross_entropy(torch.from_numpy(maps), torch.from_numpy(t), "sum"))
             for t in (table, inside)]  # fmt: skip
    assert found[0] == found[1]


# groups


def test_no_group_is_on_both_sides():
    a, b = RNG.integers(0, 20, (2, 200))
    groups = [(f"g{i // 2}", f"g{j // 2}") for i, j in zip(a, b, strict=True)]
    points = [np.zeros((1, 2))] * 200
    pairs = Pairs(a, b, points, points, groups=groups)
    training, held = split_groups(pairs, 0.3, np.random.default_rng(0))
    sides = [{name for k in part for name in groups[k]} for part in (training, held)]
    assert len(sides[0]) == 7
    assert len(sides[1]) == 3
    assert not sides[0] & sides[1]
    across = set(range(200)) - set(training) - set(held)
    assert all(len(sides[0] & set(groups[k])) == 1 for k in across)
    with pytest.raises(ValueError, match="0 for validation"):
        split_groups(pairs.take(a // 2 != b // 2), 0.1, np.random.default_rng(0))
    with pytest.raises(ValueError, match=r"expected a number in \(0, 1\)"):
        split_groups(pairs, 1.0, np.random.default_rng(0))


def test_pictures_are_groups_where_there_are_none():
    points = [np.zeros((1, 2))] * 3
    pairs = Pairs([0, 0, 2], [1, 2, 3], points, points)
    for seed in range(20):
        try:
            training, held = split_groups(pairs, 0.5, np.random.default_rng(seed))
        except ValueError:
            continue
        assert {*training, *held} == {0, 2}
        return
    raise AssertionError


# batches


@pytest.mark.parametrize("kind", [np.float32, np.float16])
@pytest.mark.parametrize(("held", "reads"), [(9, 5), (2, 8), (0, 12)])
def test_pictures_are_read_once_while_memory_holds_them(held, reads, kind):
    """Six pairs ask 12 times for five pictures of 18 + 32 numbers; `held` of them fit."""
    first = RNG.normal(size=(5, 2, 3, 3)).astype(kind)
    second = RNG.normal(size=(5, 2, 4, 4)).astype(kind)
    asked = []

    def read(rows):
        asked.append(rows)
        return first[rows]

    table = np.zeros((6, 9))
    table[:, :2] = [[0, 1], [1, 2], [2, 0], [3, 4], [4, 3], [0, 1]]
    parts = [Rows(Deferred(first.shape, read, kind)), Rows(second)]
    memory = held * 50 * np.dtype(kind).itemsize
    batches = PairBatches(parts, table, np.arange(6), 1, memory, CPU)
    assert (len(batches), batches.steps) == (6, 6)
    for (one, other), rows in batches.ordered():
        order = rows[:, :2].T.ravel().long()
        torch.testing.assert_close(one, torch.from_numpy(first).float()[order])
        torch.testing.assert_close(other, torch.from_numpy(second).float()[order])
    assert len(asked) == reads
    shuffled = torch.cat([rows for _, rows in batches.shuffled(np.random.default_rng(0))])
    assert shuffled[:, :2].tolist() != table[:, :2].tolist()
    assert sorted(shuffled[:, :2].tolist()) == sorted(table[:, :2].tolist())


def test_several_pairs_a_step():
    maps = RNG.normal(size=(4, 2, 3, 3)).astype(np.float32)
    table = np.zeros((3, 9))
    table[:, :2] = [[0, 1], [2, 2], [3, 0]]
    batches = PairBatches([Rows(maps)], table, np.arange(3), 2, 1 << 20, CPU)
    found = [(arrays[0].numpy(), rows) for arrays, rows in batches.ordered()]
    np.testing.assert_array_equal(found[0][0], maps[[0, 2, 1, 2]])
    np.testing.assert_array_equal(found[1][0], maps[[3, 0]])
