from __future__ import annotations

import numpy as np
import pytest
from sklearn.metrics import confusion_matrix

from diffeat.errors import SpecError
from diffeat.search import search_surface
from diffeat.search.asking import ask_test
from diffeat.search.dense import DepthEstimation, HeadChoice, Segmentation, bind_dense
from diffeat.search.judge import Mix
from diffeat.search.sets import greedy_sets
from diffeat.search.splits import TEST, TRAIN, VALIDATION
from tests.search.dense.common import BEST, CLASSES, COUNT, Planted, depth_of, mask_of

PART = np.repeat([TRAIN, VALIDATION, TEST], [12, 4, 8])


@pytest.fixture
def judge(bound):
    return Segmentation(bound, PART, "nearest-mean")


class Fixed:
    """Says a mask of its own, whatever it is asked."""

    def __init__(self, said):
        self.said = said

    def predict(self, cells):
        return iter(self.said)


def mean_iou(truths, found, ignore=255, absent="skip", ignored="drop"):
    """By scikit-learn's confusion matrix."""
    true, said = (np.concatenate([one.ravel() for one in each]) for each in (truths, found))
    known = true != ignore
    matrix = confusion_matrix(true[known], said[known], labels=range(len(CLASSES)))
    union = matrix.sum(0) + matrix.sum(1) - matrix.diagonal()
    if ignored == "count":
        union = union + np.bincount(said[~known], minlength=len(CLASSES))
    share = matrix.diagonal() / np.maximum(union, 1)
    return share.mean() if absent == "zero" else share[union > 0].mean()


class TestSegmentation:
    def test_the_planted_cell_is_found_and_noise_is_the_worst(self, judge):
        surface = search_surface(judge)
        assert surface.best.key == BEST
        scores = surface.cell_scores
        assert min(scores, key=scores.get) == ("a", 50)
        assert surface.best.test > 0.9
        low, high = surface.interval
        assert low < surface.best.test < high
        assert judge.number.unit == "%"

    @pytest.mark.parametrize("counting", ["standard", "ddpm-seg"])
    def test_the_number_is_that_of_the_confusion_matrix(self, folder, store, counting):
        rng = np.random.default_rng(0)
        truths = {row: mask_of(row) % 2 for row in range(16, COUNT)}  # the last class is not there
        for mask in truths.values():
            mask[rng.random(mask.shape) < 0.2] = 255
        bound = bind_dense(Planted(folder, changes=truths), [store])
        judge = Segmentation(bound, PART, "nearest-mean", counting=counting)
        tested = np.arange(16, COUNT)
        found = [np.where(rng.random(mask_of(row).shape) < 0.3, 1, mask_of(row) % 2)
                 for row in tested]  # fmt: skip
        values = judge.outcomes_of(iter(found), tested)
        ways = {"ddpm-seg": {"absent": "zero", "ignored": "count"}}.get(counting, {})
        expected = mean_iou([truths[row] for row in tested], found, **ways)
        assert judge.score(values) == pytest.approx(expected, rel=1e-12)
        assert judge.describe()["counting"] == counting

    def test_draws_are_as_if_pictures_stood_there_again(self, judge):
        rng = np.random.default_rng(1)
        tested = np.arange(16, COUNT)
        found = [rng.integers(0, 3, mask_of(row).shape) for row in tested]
        values = judge.outcomes_of(iter(found), tested)
        times = np.array([[2, 0, 1, 0, 0, 3, 1, 1]])
        again = np.repeat(np.arange(8), times[0])
        expected = mean_iou([mask_of(tested[k]) for k in again], [found[k] for k in again])
        assert judge.scores_of_draws(values, times)[0] == pytest.approx(expected, rel=1e-12)

    def test_further_numbers(self, judge):
        found = judge.aside(BEST, None)
        said = list(judge.head(BEST, None).predict(judge.bound.cells([BEST])[16:]))
        truths = [mask_of(row) for row in range(16, COUNT)]
        right = [a == b for a, b in zip(said, truths, strict=True)]
        assert found["pixel accuracy"] == pytest.approx(
            np.mean(np.concatenate([one.ravel() for one in right]))
        )
        recalls = []
        for label in range(3):
            there = np.concatenate([(truth == label).ravel() for truth in truths])
            recalls.append(np.concatenate([one.ravel() for one in right])[there].mean())
        assert found["mean accuracy"] == pytest.approx(np.mean(recalls))

    def test_the_head_that_is_kept_is_the_one_that_is_tested(self, judge):
        number, _ = ask_test(judge, BEST, None)
        said = judge.head(BEST, None).predict(judge.bound.cells([BEST])[16:])
        assert judge.score(judge.outcomes_of(said, np.arange(16, COUNT))) == number
        assert judge.head_notes["ignore"] == 255
        assert judge.made.class_names == CLASSES

    def test_the_floor_looks_at_no_feature(self, judge):
        value, what = judge.floor
        assert "position" in what
        assert 0.15 < value < 0.5  # mostly ground

    def test_pixels_that_an_input_does_not_show_do_not_count(self, tmp_path, folder):
        from tests.search.dense.common import write_file

        with write_file(tmp_path / "c.h5", folder, spec={"fit": "crop"}) as store:
            judge = Segmentation(bind_dense(Planted(folder), [store]), PART, "nearest-mean")
            truth = judge.truth(2)  # 48×40 in an input of 32×40: 8 rows above and below are cut
        assert (truth[:8] == 255).all()
        assert (truth[-8:] == 255).all()
        np.testing.assert_array_equal(truth[8:40], mask_of(2)[8:40])

    def test_sets_are_one_head_on_several_cells(self, judge):
        found = greedy_sets(judge, most=2)
        assert BEST in found.best.cells
        pair = Mix((BEST, ("a", 10)))
        said = judge.head(pair, None)
        assert said.cells_ == pair.cells

    def test_weights_scale_standardised_cells(self, judge):
        pair = (BEST, ("a", 50))
        alone, even, drowned = (
            judge.validate([one], PART)[0].validation
            for one in (BEST, Mix(pair, (1.0, 1e-6)), Mix(pair, (1e-6, 1.0)))
        )
        assert even > 0.9 * alone
        assert drowned < 0.6 * alone
        with pytest.raises(SpecError, match="weighed is no head that could be kept"):
            judge.head(Mix(pair, (0.5, 0.5)), None)

    def test_the_penalty_is_chosen_on_validation_and_kept(self, bound):
        judge = Segmentation(bound, PART, HeadChoice("ridge", (1e-3, 1e6)))
        [outcome] = judge.validate([BEST], PART)
        assert outcome.setting == 1e-3  # the other one says the most frequent class
        assert outcome.validation > 0.9
        assert judge.head(BEST, outcome.setting).alpha_ == 1e-3
        assert judge.settle(judge.test(BEST, 1e-3))[0] > judge.settle(judge.test(BEST, 1e6))[0]

    def test_weights_are_the_penalty_of_a_cell(self, bound):
        judge = Segmentation(bound, PART, HeadChoice("ridge", (1.0,)))
        pair = (BEST, ("a", 50))
        heavy, light = (
            judge.validate([Mix(pair, (one, 1.0))], PART)[0].validation for one in (1.0, 1e-4)
        )
        assert light < 0.5 * heavy

    def test_a_mask_of_another_size_is_told(self, folder, store):
        odd = Planted(folder, changes={3: np.zeros((8, 8), np.uint8)})
        judge = Segmentation(bind_dense(odd, [store]), PART, "nearest-mean")
        with pytest.raises(SpecError, match=r"8×8, its picture 32×40"):
            judge.validate([BEST], PART)

    def test_unknown_labels_are_told(self, folder, store):
        odd = Planted(folder, changes={3: np.full((32, 40), 7, np.uint8)})
        judge = Segmentation(bind_dense(odd, [store]), PART, "nearest-mean")
        with pytest.raises(SpecError, match=r"labels \[7\]; expected 0 … 2, and 255"):
            judge.validate([BEST], PART)

    def test_nothing_known_in_training(self, folder, store):
        gone = {row: np.full_like(mask_of(row), 255) for row in range(12)}
        judge = Segmentation(bind_dense(Planted(folder, changes=gone), [store]), PART,
                             "nearest-mean")  # fmt: skip
        with pytest.raises(SpecError, match="every pixel is ignored"):
            judge.validate([BEST], PART)

    def test_nothing_known_in_validation(self, folder, store):
        gone = {row: np.full_like(mask_of(row), 255) for row in range(12, 16)}
        judge = Segmentation(bind_dense(Planted(folder, changes=gone), [store]), PART,
                             "nearest-mean")  # fmt: skip
        with pytest.raises(SpecError, match="no pixel of 4 pictures is known"):
            judge.validate([BEST], PART)

    def test_a_class_that_training_lacks_is_warned_of(self, folder, store):
        gone = {row: np.where(mask_of(row) == 2, 0, mask_of(row)) for row in range(16)}
        judge = Segmentation(bind_dense(Planted(folder, changes=gone), [store]), PART,
                             "nearest-mean")  # fmt: skip
        with pytest.warns(UserWarning, match="sky"):
            [outcome] = judge.validate([BEST], PART)
        assert outcome.validation > 0.5

    def test_depth_is_no_mask(self, folder, store):
        with pytest.raises(SpecError, match="holds depth; expected masks"):
            Segmentation(bind_dense(Planted(folder, kind="depth"), [store]))

    def test_unknown_heads_and_penalties_without_use(self, bound):
        with pytest.raises(SpecError, match=r"--head 'rigde' \(did you mean 'ridge'\?\)"):
            Segmentation(bound, PART, "rigde")
        with pytest.raises(SpecError, match="has no penalty to choose"):
            HeadChoice("nearest-mean", (1.0,))


class TestDepth:
    @pytest.fixture
    def judge(self, folder, store):
        return DepthEstimation(bind_dense(Planted(folder, kind="depth"), [store]), PART)

    def test_abs_rel_by_hand(self, judge):
        tested = np.arange(16, COUNT)
        rng = np.random.default_rng(0)
        found = [np.nan_to_num(depth_of(row), nan=9) * rng.uniform(0.5, 2, depth_of(row).shape)
                 for row in tested]  # fmt: skip
        values = judge.outcomes_of(iter(found), tested)
        each = [np.nanmean(np.abs(said - depth_of(row)) / depth_of(row))
                for said, row in zip(found, tested, strict=True)]  # fmt: skip
        assert judge.score(values) == pytest.approx(np.mean(each), rel=1e-6)
        times = np.array([[0, 2, 0, 0, 1, 0, 0, 0]])
        assert judge.scores_of_draws(values, times)[0] == pytest.approx(
            (2 * each[1] + each[4]) / 3, rel=1e-6
        )

    def test_pictures_of_which_nothing_is_known_count_nothing(self, folder, store):
        gone = {20: np.full_like(depth_of(20), np.nan)}
        bound = bind_dense(Planted(folder, kind="depth", changes=gone), [store])
        judge = DepthEstimation(bound, PART)
        tested = np.arange(16, COUNT)
        found = [2 * np.nan_to_num(depth_of(row), nan=9) for row in tested]
        assert judge.score(judge.outcomes_of(iter(found), tested)) == pytest.approx(1.0)

    def test_lower_is_better(self, judge):
        assert judge.number.best([0.3, 0.1, 0.2]) == 1
        assert "lower is better" in judge.headline


class TestTrainedHeads:
    def test_the_epoch_that_validation_kept_is_trained_again(self, bound):
        from probes.dense import FPNHead

        head = FPNHead(width=4, steps=12, epochs=4, patience=2, batch_size=4, random_state=0)
        judge = Segmentation(bound, PART, head)
        [outcome] = judge.validate([BEST], PART)
        assert outcome.setting in (3, 6, 9, 12)
        kept = judge.head(BEST, outcome.setting)
        assert kept.steps == outcome.setting
        assert "FPNHead" in judge.describe()["score"]

    def test_without_patience_nothing_is_chosen(self, bound):
        from probes.dense import FPNHead

        judge = Segmentation(bound, PART, FPNHead(width=4, steps=2, epochs=1, random_state=0))
        assert judge.validate([BEST], PART)[0].setting is None
