"""Panoptic quality against arithmetic, and against torchmetrics where it counts as COCO does."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from probes.metrics import PanopticQuality
from probes.open_vocabulary.merging import Panoptic


def row(*ids: int) -> np.ndarray:
    return np.array([ids], np.int32)


def of(*pairs, crowd=()) -> list[dict]:
    """Segments of (id, class) pairs."""
    return [{"id": k, "class": label, "crowd": k in crowd} for k, label in pairs]


TRUTH = (row(1, 1, 1, 1, 2, 2, 3, 3, 3, 3), of((1, 0), (2, 1), (3, 2)))
"""A thing of four pixels and one of two; stuff of four."""


def test_a_match_a_miss_and_a_false_one():
    """Class 0: 3 of 4 pixels (IoU ¾). Class 1: missed. Class 2: 4 of 5. Class 3: false."""
    found = (row(7, 7, 7, 8, 9, 5, 5, 5, 5, 5), of((7, 0), (8, 3), (9, 3), (5, 2)))
    measure = PanopticQuality(5, things=(0, 1, 3))
    own = measure.update(found, TRUTH)
    assert measure.counts[0].tolist() == [[0.75, 0, 0.8, 0, 0], [1, 0, 1, 0, 0], [0, 0, 0, 2, 0],
                                          [0, 1, 0, 0, 0]]  # fmt: skip
    assert own == pytest.approx((0.75 + 0 + 0.8 + 0) / 4)
    assert measure.compute() == pytest.approx({
        "pq": 1.55 / 4, "sq": 1.55 / 4, "rq": 0.5, "pq_things": 0.25, "sq_things": 0.25,
        "rq_things": 1 / 3, "pq_stuff": 0.8, "sq_stuff": 0.8, "rq_stuff": 1,
    })  # fmt: skip
    assert np.isnan(measure.by_class()[4])


def test_counts_are_of_all_pictures_before_they_are_divided():
    measure = PanopticQuality(["sky"], things=())
    measure.update((row(1, 1, 1, 1), of((1, 0))), (row(1, 1, 1, 1), of((1, 0))))
    measure.update((row(0, 0, 0, 1), of((1, 0))), (row(1, 1, 1, 0), of((1, 0))))
    # the second's predicted segment lies in void altogether: one missed, none false
    assert measure.counts[1, :, 0].tolist() == [0, 0, 0, 1]
    assert measure.quality() == pytest.approx(1 / 1.5)
    assert (measure.quality("sq"), measure.quality("rq")) == pytest.approx((1, 1 / 1.5))
    assert np.isnan(measure.quality("pq", "things"))


def test_void_is_no_part_of_a_union():
    """6 pixels predicted, 2 of them in void, 4 true: IoU 1; half in void is still a false one."""
    measure = PanopticQuality(1, things=(0,))
    measure.update((row(1, 1, 1, 1, 1, 1), of((1, 0))), (row(4, 4, 4, 4, 0, 0), of((4, 0))))
    assert measure.counts[0, :, 0].tolist() == [1, 1, 0, 0]
    other = PanopticQuality(2, things=(0,))
    other.update((row(1, 1, 1, 1), of((1, 0))), (row(4, 4, 0, 0), of((4, 1))))
    assert other.counts[0].tolist() == [[0, 0], [0, 0], [1, 0], [0, 1]]


def test_pixels_that_a_prediction_leaves_out_stay_in_the_union():
    """2 of 4 true pixels are covered: IoU ½ is no match; and predicting nothing misses all."""
    measure = PanopticQuality(1, things=(0,))
    truth = (row(4, 4, 4, 4), of((4, 0)))
    measure.update((row(1, 1, 0, 0), of((1, 0))), truth)
    measure.update((row(0, 0, 0, 0), []), truth)
    assert measure.counts[:, :, 0].tolist() == [[0, 0, 1, 1], [0, 0, 0, 1]]


def test_crowds_are_not_missed_and_forgive_their_class():
    truth = (row(1, 1, 1, 2, 2, 2), of((1, 0), (2, 1), crowd=(1,)))
    measure = PanopticQuality(2, things=(0, 1))
    measure.update((row(1, 1, 2, 3, 3, 3), of((1, 0), (2, 1), (3, 1))), truth)
    # 1 in its class' crowd: forgiven. 2 in another class' crowd: false. 3: right.
    assert measure.counts[0].tolist() == [[0, 1], [0, 1], [0, 1], [0, 0]]


def drawn(seed: int, count: int = 4, void: bool = True) -> tuple[np.ndarray, list[dict]]:
    """Random rectangles of random classes on a ground of class 3, with void."""
    rng = np.random.default_rng(seed)
    ids = np.ones((24, 24), np.int32)
    labels = {1: 3}
    for number in range(2, 9):
        top, left = rng.integers(0, 18, 2)
        ids[top : top + rng.integers(4, 12), left : left + rng.integers(4, 12)] = number
        labels[number] = int(rng.integers(0, 3))
    if void:
        ids[:, :3] = 0
    kept = np.unique(ids[ids > 0])
    return ids, of(*((int(k), labels[int(k)]) for k in kept))


def coloured(one) -> torch.Tensor:
    """(H, W, 2) class and instance, as torchmetrics has them; 9 is what it does not know."""
    ids, segments = one
    label = {segment["id"]: segment["class"] for segment in segments}
    classes = np.vectorize(lambda k: label.get(k, 9))(ids)
    return torch.from_numpy(np.stack([classes, ids], -1).astype(np.int64))


def moved(one, seed):
    """A prediction: the truth, shifted, with a class that is wrong now and then."""
    ids, segments = one
    ids = np.maximum(np.roll(ids, 1, 1), 1).astype(np.int32)
    rng = np.random.default_rng(seed)
    known = {s["id"]: s["class"] for s in segments} | {1: 3}
    wrong = {k: int(rng.integers(0, 3)) if k > 1 and rng.random() < 0.3 else v
             for k, v in known.items()}  # fmt: skip
    return ids, of(*((int(k), wrong[int(k)]) for k in np.unique(ids)))


def test_equal_to_torchmetrics_where_all_is_predicted():
    detection = pytest.importorskip("torchmetrics.detection")
    theirs = detection.PanopticQuality(
        things={0, 1, 2},
        stuffs={3},
        return_sq_and_rq=True,
        return_per_class=True,
        allow_unknown_preds_category=True,
    )
    measure = PanopticQuality(4, things=(0, 1, 2))
    for seed in range(6):
        truth = drawn(seed)
        found = moved(truth, seed)
        merged = Panoptic(*found)  # what merging gives is taken as it is
        measure.update(merged, truth)
        theirs.update(coloured(found)[None], coloured(truth)[None])
    wanted = theirs.compute().numpy()
    assert 0.2 < measure.quality() < 0.95
    ours = np.stack([measure.by_class(number) for number in ("pq", "sq", "rq")], 1)
    np.testing.assert_allclose(ours, wanted, rtol=1e-6)  # theirs are float32


def test_torchmetrics_forgives_who_predicts_nothing():
    """Why counting is ours; where this fails, torchmetrics counts as COCO's code does by now."""
    detection = pytest.importorskip("torchmetrics.detection")
    theirs = detection.PanopticQuality(
        things={0, 1, 2}, stuffs={3}, allow_unknown_preds_category=True
    )
    truth = drawn(0)
    half = (np.where(np.arange(24) < 12, truth[0], 0).astype(np.int32), truth[1])
    half = half[0], [one for one in truth[1] if (half[0] == one["id"]).any()]
    theirs.update(coloured(half)[None], coloured(truth)[None])
    measure = PanopticQuality(4, things=(0, 1, 2))
    measure.update(half, truth)
    assert float(theirs.compute()) == pytest.approx(1)
    assert measure.quality() < 0.8


class TestIntervals:
    def made(self, right: int = 4) -> PanopticQuality:
        """Eight pictures of two groups; the first `right` are right, the others missed."""
        measure = PanopticQuality(2, things=(0,))
        for number in range(8):
            ids = row(1, 1, 1, 1) if number < right else row(0, 0, 0, 0)
            found = (ids, of((1, 0)) if number < right else [])
            measure.update(found, (row(1, 1, 1, 1), of((1, 0))), group=number // 4)
        return measure

    def test_groups_are_drawn(self):
        """PQ of both is 4 / (4 + 2); a draw is one group, the other, or both."""
        found = self.made().interval(draws=200)
        assert (found.low, found.value, found.high) == pytest.approx((0, 2 / 3, 1))

    def test_a_difference_is_over_the_same_draws(self):
        found = self.made(8).interval(other=self.made(8), draws=50)
        assert (found.low, found.value, found.high) == (0, 0, 0)
        assert self.made(8).interval(other=self.made(4), draws=50).value == pytest.approx(1 / 3)

    def test_merged_as_if_counted_at_once(self):
        whole = self.made(6)
        halves = PanopticQuality(2, things=(0,)).merge(whole).merge(self.made(2))
        assert len(halves) == 16
        np.testing.assert_array_equal(halves.counts[:8], whole.counts)
        with pytest.raises(ValueError, match="classes are 2 and 3"):
            halves.merge(PanopticQuality(3, things=(0,)))

    def test_what_is_refused(self):
        with pytest.raises(ValueError, match="no picture was counted"):
            PanopticQuality(2, things=(0,)).interval()
        with pytest.raises(ValueError, match="part='stuffs'"):
            self.made().interval(part="stuffs")
        with pytest.raises(ValueError, match="expected a finite one"):
            self.made().interval(part="stuff")


def test_a_table_in_words():
    measure = PanopticQuality(["cat", "sky"], things=(0,))
    measure.update((row(1, 1, 2, 2), of((1, 0), (2, 1))), (row(1, 1, 2, 2), of((1, 0), (2, 1))))
    assert measure.lines() == [
        "              PQ %   SQ %   RQ %  classes",
        "all          100.0  100.0  100.0        2",
        "things       100.0  100.0  100.0        1",
        "stuff        100.0  100.0  100.0        1",
        "cat          100.0  100.0  100.0",
        "sky          100.0  100.0  100.0",
    ]


@pytest.mark.parametrize(
    ("found", "said"),
    [
        ((row(1, 1), of((1, 0))), "expected one shape"),
        ((row(1, 2, 1, 1), of((1, 0))), "found has pixels of 2, which is no segment's id"),
        ((row(1, 1, 1, 1), of((1, 0), (2, 0))), "found has the segment 2, and no pixel of it"),
        ((row(1, 1, 1, 1), of((1, 4))), "class 4; expected 0 … 1"),
        ((row(1, 1, 1, 1), of((1, 0), (1, 1))), "id twice"),
        ((row(-1, 1, 1, 1), of((1, 0))), "ids from -1 to 1"),
        ((row(1, 1, 1, 1) * 1.0, of((1, 0))), "float64 of shape"),
    ],
)
def test_refusals(found, said):
    with pytest.raises(ValueError, match=said):
        PanopticQuality(2, things=(0,)).update(found, (row(1, 1, 1, 1), of((1, 0))))
    with pytest.raises(ValueError, match="thing 2 is none of 2 classes"):
        PanopticQuality(2, things=(2,))
