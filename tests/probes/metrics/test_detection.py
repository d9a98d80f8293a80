"""Average precision against arithmetic."""

from __future__ import annotations

import numpy as np
import pytest

from probes.detection import Boxes
from probes.metrics import AveragePrecision

HERE, THERE = [0.0, 0, 10, 10], [50.0, 50, 80, 90]


def known(*boxes, crowd=None) -> Boxes:
    return Boxes(np.reshape(boxes, (-1, 4)), [0] * len(boxes), crowd=crowd)


def found(*boxes, scores) -> Boxes:
    return Boxes(np.reshape(boxes, (-1, 4)), [0] * len(boxes), np.asarray(scores, float))


def test_all_found():
    measure = AveragePrecision(2).update(found(HERE, THERE, scores=[1, 0.5]), known(HERE, THERE))
    assert measure.compute() == pytest.approx({"AP": 1, "AP50": 1, "AP75": 1})


def test_one_of_two_found():
    """Precision is 1 up to recall .5: 51 of 101 recalls."""
    measure = AveragePrecision(1).update(found(HERE, scores=[1]), known(HERE, THERE))
    assert measure.compute()["AP50"] == pytest.approx(51 / 101)


def test_a_wrong_one_before_the_right_one():
    measure = AveragePrecision(1).update(found(THERE, HERE, scores=[1, 0.5]), known(HERE))
    assert measure.compute()["AP50"] == pytest.approx(0.5)


def test_overlap_counts():
    """IoU .64: right at .50, .55 and .60 of ten overlaps."""
    measure = AveragePrecision(1).update(found([0, 0, 10, 6.4], scores=[1]), known(HERE))
    assert measure.compute() == pytest.approx({"AP": 0.3, "AP50": 1, "AP75": 0})


def test_crowds_are_neither():
    crowd = known(HERE, THERE, crowd=[False, True])
    measure = AveragePrecision(1).update(found(HERE, THERE, scores=[0.5, 1]), crowd)
    assert measure.compute()["AP50"] == pytest.approx(1)


def test_nothing_found():
    measure = AveragePrecision(1).update(found(scores=[]), known(HERE))
    assert measure.compute()["AP50"] == 0


def test_interval_draws_groups():
    """Two groups, one all right and one all wrong: a draw is one, the other, or both."""
    measure = AveragePrecision(1)
    for row in range(8):
        box = HERE if row < 4 else THERE
        measure.update(found(box, scores=[1]), known(HERE), group=row // 4)
    whole = measure.compute()["AP50"]
    one = measure.interval("AP50", draws=100)
    assert (one.low, one.value, one.high) == (0, whole, 1)
    assert measure.compute()["AP50"] == whole


def test_refusals():
    with pytest.raises(ValueError, match="no box of any picture"):
        AveragePrecision(1).update(found(scores=[]), known()).compute()
    with pytest.raises(ValueError, match="no scores"):
        AveragePrecision(1).update(known(HERE), known(HERE))
    other = Boxes([HERE, THERE], [0, 3])
    with pytest.raises(ValueError, match="known has the label 3; expected 0 … 2"):
        AveragePrecision(3).update(found(HERE, scores=[1]), other)
    with pytest.raises(ValueError, match="found has the label 3; expected 0 … 2"):
        AveragePrecision(3).update(Boxes([HERE, THERE], [0, 3], [1, 1]), known(HERE))
    with pytest.raises(ValueError, match="1 groups"):
        AveragePrecision(1).update(found(HERE, scores=[1]), known(HERE)).interval()
