"""Correspondence as a judge: pairs are the rows, groups of both pictures the split."""

from __future__ import annotations

import json

import numpy as np
import pytest

from diffeat.errors import SpecError
from diffeat.search import (
    LEFT_OUT,
    TEST,
    TRAIN,
    VALIDATION,
    Judge,
    Mix,
    SearchOptions,
    greedy_sets,
    run_search,
    search_surface,
    successive_halving,
)
from diffeat.search.beside import beside, beside_lines
from diffeat.search.finding import Choice
from diffeat.search.matching import Matching, bind, score_pairs
from diffeat.search.matching.task import PairChoice, matching_judge, parts_of
from diffeat.search.splits import random_pairs
from probes.aggregate import CoPCA, Fusion
from probes.matching import NearestMatcher, Paired
from probes.metrics.conventions import Convention
from probes.metrics.intervals import pair_interval
from tests.search.matching.common import BEST, NOISE, write_file


class Watched(NearestMatcher):
    """Notes which pairs it is asked about."""

    asked: list = []  # noqa: RUF012 - emptied by the fixture

    def match_pairs(self, cells, pairs, **options):
        Watched.asked += list(zip(pairs.source.tolist(), pairs.target.tolist(), strict=True))
        yield from super().match_pairs(cells, pairs, **options)


@pytest.fixture
def judge(bound) -> Matching:
    Watched.asked = []
    return Matching(bound, matcher=Watched())


def pairs_in(judge: Matching, part: int) -> set[tuple[int, int]]:
    pairs = judge.bound.pairs
    return {
        (int(pairs.source[k]), int(pairs.target[k])) for k in np.flatnonzero(judge.part == part)
    }


class TestPaired:
    """A matcher after a transform of pairs stands where a matcher does."""

    def test_it_scores_cells(self, bound):
        paired = Matching(bound, matcher=Paired(NearestMatcher(resolution="site"), CoPCA()))
        plain = Matching(bound, matcher=NearestMatcher(resolution="site"))
        found, want = (one.validate([BEST], one.part)[0] for one in (paired, plain))
        assert found.validation > 0.9
        assert found.validation == pytest.approx(want.validation, abs=0.05)
        assert "NearestMatcher(metric=cosine, resolution=site" in paired.headline
        assert "after CoPCA()" in paired.headline

    def test_what_finished_work_depends_on(self, bound, store):
        def said(transform, inner=None):
            return json.dumps(Matching(bound, matcher=Paired(inner, transform)).describe())

        cells = {BEST: store[BEST]}
        fitted = [CoPCA(components=3, scope="set").fit({BEST: store[BEST][a:b]})
                  for a, b in ((0, 9), (9, 18))]  # fmt: skip
        every = [said(None), said(CoPCA()), said(CoPCA(components=3)), said(None, inner=Watched()),
                 *map(said, fitted), said(Fusion(reduce=fitted[0]).fit(cells)),
                 said(Fusion(reduce=CoPCA(components=3)).fit(cells))]  # fmt: skip
        assert len(set(every)) == len(every)
        assert said(CoPCA(device="cpu")) == said(CoPCA())
        assert said(fitted[0]) == every[4]


class TestParts:
    def test_a_pair_is_where_the_groups_of_both_pictures_are(self, judge):
        parts = {}
        for pair, part in zip(judge.groups, judge.part, strict=True):
            for name in pair if part != LEFT_OUT else ():
                assert parts.setdefault(name, part) == part
        assert set(parts.values()) == {VALIDATION, TEST}
        apart = int((judge.part == LEFT_OUT).sum())
        assert f"{apart} pairs whose groups lie in different parts are left out" in judge.headline
        assert judge.counts[0] == 0

    def test_of_a_list_and_a_test_list(self, bound):
        names = sorted({name for pair in bound.groups for name in pair})
        inside = np.array([{*pair} <= {*names[:6]} for pair in bound.groups])
        part = parts_of([bound, bound.take(inside)])
        first, tested = part[: len(bound)], part[len(bound) :]
        assert (tested == TEST).all()
        for pair, number in zip(bound.groups, first, strict=True):
            assert number == (LEFT_OUT if {*pair} & {*names[:6]} else VALIDATION)
        with pytest.raises(SpecError, match="no validation pairs are left"):
            parts_of([bound.take(inside), bound])

    def test_shares_without_a_test(self, bound):
        with pytest.raises(SpecError, match="no test pairs are left"):
            parts_of([bound], (0, 1, 0))

    def test_other_splits_keep_the_test(self, judge):
        splits = [random_pairs(judge.part, judge.groups, 0, k) for k in range(6)]
        for part in splits:
            np.testing.assert_array_equal(part == TEST, judge.part == TEST)
            assert set(part[judge.part == VALIDATION]) == {VALIDATION, LEFT_OUT}
            held = {n for k in np.flatnonzero(part == VALIDATION) for n in judge.groups[k]}
            out = [k for k in np.flatnonzero(judge.part == VALIDATION) if part[k] == LEFT_OUT]
            assert all(not {*judge.groups[k]} <= held for k in out)
        assert len({part.tobytes() for part in splits}) > 2


class TestNumbers:
    @pytest.mark.parametrize("aggregate", ["point", "pair"])
    def test_the_grid_is_pck_of_validation_pairs_alone(self, bound, aggregate):
        convention = Convention("image", aggregate)
        judge = Matching(bound, convention=convention, alphas=(0.15, 0.3))
        surface = search_surface(judge)
        assert surface.best.key == BEST
        some = bound.take(judge.part == VALIDATION)
        for cell in surface.cells:
            found = score_pairs(None, some, cell.key, [convention], (0.15, 0.3), progress=False)
            assert cell.validation == found.pck.compute()[0.15]
        tested = bound.take(judge.part == TEST)
        found = score_pairs(None, tested, BEST, [convention], (0.15, 0.3), progress=False)
        assert surface.best.test == found.pck.compute()[0.15]
        assert judge.name == "PCK@0.15"

    def test_only_what_was_chosen_is_tested_once(self, judge):
        run_search(judge, SearchOptions(sets=2))
        tested = pairs_in(judge, TEST)
        asked = [pair for pair in Watched.asked if pair in tested]
        held = [pair for pair in Watched.asked if pair in pairs_in(judge, VALIDATION)]
        # the best cell, and the best set where that is another one
        assert len(tested) <= len(asked) <= 2 * len(tested)
        assert len(asked) + len(held) == len(Watched.asked)
        cells, sets = len(NOISE), len(NOISE) - 1
        assert len(held) == (cells + sets) * judge.counts[1]  # sets of one are known

    def test_the_interval_draws_the_groups_of_both_pictures(self, judge):
        surface = search_surface(judge)
        tested = judge.bound.take(judge.part == TEST)
        found = score_pairs(None, tested, BEST, progress=False)
        right, points = found.pck.counts()
        expected = pair_interval(right[:, 0], points, tested.groups)
        assert surface.interval == pytest.approx((expected.low, expected.high))
        groups = len({name for pair in tested.groups for name in pair})
        assert judge.tested_groups == groups
        said = surface.measure.say_test(0.5, (0.4, 0.6))
        assert f"bootstrap of {groups} groups) on {len(tested)} test pairs" in said

    def test_the_floor_is_the_same_place(self, judge):
        bound, right, points = judge.bound, 0, 0
        for k in np.flatnonzero(judge.part == TEST):
            pairs = bound.pairs
            height, width = bound.sizes[pairs.target[k]] / bound.sizes[pairs.source[k]]
            found = (pairs.source_points[k] + 0.5) * [width, height] - 0.5
            right += (np.hypot(*(found - pairs.target_points[k]).T) <= 3).sum()
            points += len(found)
        assert judge.floor[0] == pytest.approx(right / points)
        report = run_search(judge, SearchOptions())
        lines = beside_lines(judge, beside(judge, report.choice))
        assert lines[-1].startswith("a constant (the same place of the picture)")
        assert "PCK@0.05 per point" in lines[0]
        assert "PCK@0.1 per pair" in lines[0]

    def test_a_mix_of_one_cell_is_that_cell(self, judge):
        [alone], [[mixed]] = (
            judge.validate([BEST], judge.part),
            judge.validate_splits([Mix((BEST,))], [judge.part]),
        )
        assert alone == mixed
        sets = greedy_sets(judge, most=2)
        assert sets.single == alone.validation


class TestStrategies:
    @pytest.mark.parametrize(
        "options",
        [
            {"repeats": 3, "sets": 2, "pairs": True, "bandit": 8, "frequency": 0.5},
            {"halving": True},
            {"selectors": True},
        ],
    )
    def test_every_strategy(self, options, bound):
        judge = Matching(bound.take(slice(0, None, 2)))
        report = run_search(judge, SearchOptions(**options))
        assert report.best.key == BEST
        json.dumps(report.to_dict())
        text = "\n".join(report.lines())
        assert "best on validation: b at t=10" in text
        assert "refitted" not in text
        assert "trained on both" not in text
        assert ("with these weights: " in text) == ("selectors" in options)
        assert "test pairs" in text
        assert "pictures" not in text.replace("they share pictures", "").replace("labels", "") or (
            "frequency" in options
        )

    def test_numbers_aside_say_of_what_they_are(self, judge):
        best, of_set = Choice(BEST, None, 1.0, 1.0), Choice(Mix((("a", 10), BEST)), None, 1.0, 1.0)
        for choice, words in ((best, "on test also: "), (of_set, "on test also of a t=10 + b")):
            found = beside(judge, choice)
            assert beside_lines(judge, found)[0].startswith(words)
            pck = judge.test(choice.candidate, None).compute("pair")
            assert found["aside"]["PCK@0.1 per pair"] == pck[0.1]

    def test_halving_draws_few_validation_pairs(self, judge):
        first, last = successive_halving(judge, least=7).rounds
        assert first.pictures < last.pictures == judge.counts[1]
        asked = [pair for pair in Watched.asked if pair in pairs_in(judge, VALIDATION)]
        # what a round has matched the next one does not match again
        full, half = judge.counts[1] - first.pictures, len(last.scores)
        assert len(asked) == len(NOISE) * first.pictures + half * full

    def test_finished_cells_are_found(self, bound, tmp_path):
        judge = Matching(bound.take(slice(0, None, 3)), matcher=Watched())
        options = SearchOptions(out=tmp_path / "kept", sets=2)
        first, second = run_search(judge, options), run_search(judge, options)
        assert second.made == (first.made[1], 0)
        other = Matching(judge.bound, matcher=NearestMatcher(resolution="site"))
        assert run_search(other, options).made[0] == 0


class TestSaid:
    def test_a_prompt_with_the_category_is_not_refused_but_said(self, targets, folder, tmp_path):
        spec = {"prompt": "a photo of a {class}"}
        with write_file(tmp_path / "t.h5", folder, noise={BEST: 0.0}, spec=spec) as store:
            judge = Matching(bind(targets, [store]))
            report = run_search(judge, SearchOptions())
        words = "the prompt names the category, as DIFT's does"
        assert words in judge.headline
        assert words in report.to_dict()["told"]
        report.write_csv(tmp_path / "a.csv")
        assert words in (tmp_path / "a.csv").read_text()

    def test_captions_are_said(self, targets, folder, tmp_path):
        spec = {"captions": "pictures"}
        with write_file(tmp_path / "t.h5", folder, noise={BEST: 0.0}, spec=spec) as store:
            judge = Matching(bind(targets, [store]))
        assert "the model was told of each picture: captions" in judge.headline

    def test_few_groups(self, judge):
        assert judge.few.startswith("toy: test pairs of 6 groups say little")

    def test_nothing_is_kept(self, judge):
        with pytest.raises(SpecError, match="without a head that could be kept"):
            judge.check_head()


class TestChoice:
    def test_the_reference_is_the_box_where_all_have_one(self, folder, store):
        judge = matching_judge(PairChoice(f"{folder}:trn"), [store], memory=100 << 20)
        assert judge.convention == Convention()
        assert judge.matcher.memory_mb == 50

    @pytest.mark.parametrize(
        "wrong",
        [{"pairs": None}, {"reference": "head"}, {"aggregate": "all"}, {"resolution": "fine"}],
    )
    def test_unknown_words(self, wrong):
        with pytest.raises(SpecError, match="expected"):
            PairChoice(**{"pairs": "a.csv", **wrong})


class Nearness(Judge):
    """A judge of pairs that is added without a strategy being touched: how like they are."""

    name, unit, learns, rows, needs = "nearness", "", False, "pairs", ("maps",)

    def __init__(self, maps, pairs, part, **about):
        super().__init__(maps, [f"{a}-{b}" for a, b in pairs], part, **about)
        self.pairs = np.asarray(pairs)

    @property
    def seen(self):
        return np.unique(self.pairs[(self.part == TRAIN) | (self.part == VALIDATION)])

    def another_part(self, seed, repeat, labels=None):
        part = self.part.copy()
        drawn = np.random.default_rng((seed, repeat)).permutation(
            np.flatnonzero(part == VALIDATION)
        )
        part[drawn[: len(drawn) // 2]] = LEFT_OUT
        return part

    def validate(self, cells, part):
        from diffeat.search import Outcome

        return [Outcome(self._near(cell, part == VALIDATION)) for cell in cells]

    def test(self, cell, setting):
        return self._near(cell, self.part == TEST)

    def _near(self, cell, rows):
        cells = cell.cells if isinstance(cell, Mix) else (cell,)
        values = [self.read(*key).mean((1, 2, 3))[self.pairs[rows]] for key in cells]
        return float(np.mean([1 / (1 + np.abs(a - b).mean()) for a, b in (v.T for v in values)]))


@pytest.mark.parametrize(
    "options", [{"repeats": 3, "sets": 2, "frequency": 0.5}, {"halving": True}, {"bandit": 4}]
)
def test_another_judge_of_pairs(options):
    rng = np.random.default_rng(0)
    maps = {("a", t): (level * rng.normal(size=(20, 1, 1, 1)) + rng.normal(size=(20, 2, 4, 4)))
            for t, level in ((1, 0.0), (9, 5.0))}  # fmt: skip
    pairs = [(a, b) for a in range(20) for b in range(a)]
    part = rng.choice([VALIDATION, TEST], len(pairs))
    judge = Nearness(maps, pairs, part, source="toy")
    report = run_search(judge, SearchOptions(**options))
    assert report.best.key == ("a", 1)
    assert f"on {int((part == TEST).sum())} test pairs" in "\n".join(report.lines())
