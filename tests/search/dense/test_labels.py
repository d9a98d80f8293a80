from __future__ import annotations

import csv
import json

import numpy as np
import pytest

from diffeat.errors import SpecError
from diffeat.search.dense import HeadChoice, Segmentation, few_labels
from diffeat.search.dense.labels import _interval, draw_order, inner_split
from diffeat.search.splits import TEST, TRAIN, VALIDATION
from tests.search.dense.common import BEST, COUNT, mask_of

PART = np.repeat([TRAIN, VALIDATION, TEST], [12, 4, 8])
WEAK = ("a", 10)


@pytest.fixture
def found(bound):
    return few_labels(bound, "nearest-mean", (1, 4, "all"), 3, part=PART, keys=[WEAK])


class TestDraws:
    def test_every_picture_once_and_the_same_again(self):
        groups, shows = [f"p{k // 2}" for k in range(10)], np.ones((10, 2), bool)
        order = draw_order(groups, shows, 0, 1)
        assert sorted(order) == list(range(10))
        assert (draw_order(groups, shows, 0, 1) == order).all()
        orders = {
            tuple(draw_order(groups, shows, seed, draw)) for seed in (0, 1) for draw in (0, 1)
        }
        assert len(orders) == 4

    def test_groups_are_taken_in_turn(self):
        groups = ["drive"] * 30 + ["a", "b", "c"]
        for draw in range(5):
            order = draw_order(groups, np.zeros((33, 0), bool), 0, draw)
            assert {groups[k] for k in order[:4]} == set(groups)

    def test_classes_occur_where_possible(self):
        shows = np.zeros((40, 4), bool)
        shows[:, 0] = True
        shows[7, 1] = shows[8, 2] = shows[31, 3] = True
        for draw in range(5):
            order = draw_order([str(k) for k in range(40)], shows, 0, draw)
            assert shows[order[:4]].any(0).all()
        first = {draw_order([str(k) for k in range(40)], shows, 0, d)[0] for d in range(20)}
        assert len(first) > 5  # the first one is any picture

    def test_what_chooses_within_a_draw_is_whole_groups(self):
        held = inner_split(["a", "b", "a", "c", "d", "e", "f"])
        assert held.tolist() == [False] * 6 + [True]
        assert not inner_split(["a", "a"]).any()
        assert inner_split(["a", "b"]).tolist() == [False, True]


class TestFewLabels:
    def test_more_labels_are_worth_more(self, found):
        assert [row.labels for row in found.rows] == [1, 4, 16]
        assert [row.draws for row in found.rows] == [3, 3, 1]
        means = [row.mean for row in found.rows]
        assert means[0] < means[2]
        for row in found.rows:
            low, high = row.interval
            assert low < row.mean < high

    def test_intervals_know_that_draws_differ(self, bound):
        judge = Segmentation(bound, PART, "nearest-mean")
        tested = np.flatnonzero(PART == TEST)
        wrong, right = (judge.outcomes_of([how(mask_of(row)) for row in tested], tested)
                        for how in (np.zeros_like, np.copy))  # fmt: skip
        groups = np.array(bound.groups)[tested]
        low, high = _interval(judge, [wrong, right], groups, 0)
        assert low == pytest.approx(judge.score(wrong), abs=0.05)  # twice the one draw
        assert high == 1.0
        assert _interval(judge, [right, right], groups, 0) == (1.0, 1.0)

    def test_all_labels_are_the_ordinary_test(self, bound, found):
        judge = Segmentation(bound, PART, "nearest-mean")
        assert found.rows[-1].mean == pytest.approx(judge.settle(judge.test(WEAK, None))[0])

    def test_each_draw_learns_from_its_pictures_alone(self, bound):
        learnt = []

        from probes.dense import NearestMean

        class Noting(NearestMean):
            def fit(self, cells, masks, validation=None, **how):
                learnt.append([int(row) for row in masks.rows])
                assert validation is None
                return super().fit(cells, masks, validation, **how)

        few_labels(bound, Noting(), (2, 5), 2, part=PART, keys=[BEST])
        assert [len(rows) for rows in learnt] == [2, 2, 5, 5]
        assert learnt[2][:2] == learnt[0]  # nested
        assert learnt[3][:2] == learnt[1]
        assert learnt[0] != learnt[1]
        assert max(map(max, learnt)) < 16  # no picture of the test

    def test_a_penalty_is_chosen_within_the_labelled_pictures(self, bound):
        found = few_labels(bound, HeadChoice("ridge", (1e-3, 1e6)), (1, 6), 2, part=PART,
                           keys=[BEST])  # fmt: skip
        one, six = found.rows
        assert one.settings == (None, None)  # nothing can be held out: the middle one
        assert six.settings == (1e-3, 1e-3)
        assert six.mean > 0.9 > one.mean
        assert "nothing can be held out" in found.notes[-1]

    def test_the_mean_is_that_of_draws(self, found):
        scores = [draw.score for draw in found.draws if draw.labels == 4]
        assert found.rows[1].mean == pytest.approx(np.mean(scores))
        assert found.rows[1].spread == pytest.approx(np.std(scores, ddof=1))

    def test_other_features_of_the_same_pictures(self, bound):
        from probes.cells import Cells

        told = np.zeros((COUNT, 3, 48, 40), np.float32)
        for row in range(COUNT):
            mask = mask_of(row)
            told[row, :, : mask.shape[0]] = np.eye(3, dtype=np.float32)[mask].transpose(2, 0, 1)
        shown = bound.sizes[:, 0] == 48  # of the others half the map is nothing
        cells = Cells({("told", 0): told}, sizes=bound.sizes)
        rows = np.flatnonzero(shown)
        part = np.full(COUNT, -1)
        part[rows[:4]], part[rows[4:]] = TRAIN, TEST
        found = few_labels(bound, "nearest-mean", (4,), 1, part=part, cells=cells)
        assert found.rows[0].mean == pytest.approx(1.0)
        assert found.cells == (("told", 0),)

    def test_tables(self, found, tmp_path):
        text = found.lines()
        assert "out of 16" in text[0]
        assert any("by position" in line for line in text)
        found.write_csv(tmp_path / "t.csv")
        with (tmp_path / "t.csv").open() as file:
            rows = list(csv.DictReader(file))
        assert [row["labels"] for row in rows] == ["1", "4", "16"]
        assert float(rows[1]["mean"]) == pytest.approx(found.rows[1].mean)
        found.write_json(tmp_path / "t.json")
        told = json.loads((tmp_path / "t.json").read_text())
        assert told["test"] == 8
        assert len(told["draws"]) == 7

    def test_counts_above_what_there_is(self, bound):
        found = few_labels(bound, "nearest-mean", (2, 50), 1, part=PART, keys=[BEST])
        assert [row.labels for row in found.rows] == [2]
        assert "50" in found.notes[0]
        with pytest.raises(SpecError, match=r"16 pictures may be labelled, .* up to 16, or all"):
            few_labels(bound, "nearest-mean", (50,), 1, part=PART)

    @pytest.mark.parametrize("counts", [(0,), ("some",), ()])
    def test_counts_that_are_none(self, bound, counts):
        with pytest.raises(SpecError, match="expected numbers of pictures"):
            few_labels(bound, "nearest-mean", counts, part=PART)

    def test_without_a_test_part(self, bound):
        with pytest.raises(SpecError, match="0 are of the test"):
            few_labels(bound, "nearest-mean", part=np.zeros(COUNT, int))
