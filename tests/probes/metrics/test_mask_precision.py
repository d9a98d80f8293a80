"""Average precision of masks against arithmetic."""

from __future__ import annotations

import numpy as np
import pytest

from probes.metrics import MaskAveragePrecision


def mask(*columns: int) -> np.ndarray:
    """(4, 20) bool: some columns."""
    found = np.zeros((4, 20), bool)
    found[:, list(columns)] = True
    return found


def known(*masks, crowd=None):
    return np.stack(masks), [0] * len(masks), crowd


LEFT, RIGHT = mask(*range(10)), mask(*range(12, 20))


def test_overlap_counts():
    """IoU .6 is right at .50, .55 and .60; the second is found exactly."""
    measure = MaskAveragePrecision(1)
    measure.update((np.stack([mask(*range(6))]), [0], [0.9]), known(LEFT))
    assert measure.compute() == pytest.approx({"AP": 0.3, "AP50": 1, "AP75": 0})


def test_masks_in_one_box_are_told_apart():
    """Every second column: the boxes agree, the masks share nothing."""
    even, odd = mask(*range(0, 20, 2)), mask(*range(1, 20, 2))
    measure = MaskAveragePrecision(2)
    measure.update((np.stack([odd, even]), [0, 0], [0.9, 0.8]), known(even))
    assert measure.compute()["AP"] == pytest.approx(0.5)


def test_crowds_nothing_found_and_intervals():
    measure = MaskAveragePrecision(1)
    found = (np.stack([RIGHT, LEFT]), [0, 0], [0.9, 0.5])
    measure.update(found, known(LEFT, RIGHT, crowd=[False, True]), group="a")
    assert measure.compute()["AP50"] == pytest.approx(1)
    measure.update((np.zeros((0, 4, 20), bool), [], []), known(LEFT), group="b")
    one = measure.interval("AP50", draws=60)
    assert (one.low, one.high) == (0, 1)
    assert one.value == pytest.approx(51 / 101)


def test_refusals():
    measure = MaskAveragePrecision(1)
    with pytest.raises(ValueError, match="found has the label 1"):
        measure.update((LEFT[None], [1], [1.0]), known(LEFT))
    with pytest.raises(ValueError, match=r"known: masks are int64 of shape \(4, 20\)"):
        measure.update((LEFT[None], [0], [1.0]), (LEFT.astype(int), [0]))
    with pytest.raises(ValueError, match="expected one size"):
        measure.update((LEFT[None, :2], [0], [1.0]), known(LEFT))
    empty = np.zeros((0, 4, 20), bool)
    with pytest.raises(ValueError, match="no mask of any picture is known"):
        MaskAveragePrecision(1).update((LEFT[None], [0], [1.0]), (empty, [])).compute()
