"""Mean IoU by both policies, against scikit-learn and arithmetic."""

from __future__ import annotations

import numpy as np
import pytest
from sklearn import metrics as sk

from probes.metrics import BoundaryF, Confusion, boundary_f, contour_accuracy


def pictures(count=6, classes=4, seed=0, ignored=0.1):
    rng = np.random.default_rng(seed)
    for k in range(count):
        size = 5 + k, 7
        truth = rng.integers(0, classes, size)
        found = np.where(rng.random(size) < 0.6, truth, rng.integers(0, classes, size))
        truth = np.where(rng.random(size) < ignored, 255, truth)
        yield found.astype(np.uint8), truth.astype(np.uint8)


def counted(classes=4, **how):
    matrix = Confusion(classes, **how)
    for k, (found, truth) in enumerate(pictures()):
        matrix.update(found, truth, group=f"drive {k // 2}")
    return matrix


def flat():
    pairs = [(found[truth != 255], truth[truth != 255]) for found, truth in pictures()]
    return tuple(np.concatenate(side) for side in zip(*pairs, strict=True))


def test_as_scikit_learn_has_it():
    matrix, (found, truth) = counted(), flat()
    assert np.array_equal(matrix.total.matrix, sk.confusion_matrix(truth, found))
    each = sk.jaccard_score(truth, found, average=None)
    np.testing.assert_allclose(matrix.iou(), each)
    assert matrix.mean_iou() == pytest.approx(each.mean())
    assert matrix.pixel_accuracy() == pytest.approx(sk.accuracy_score(truth, found))
    assert matrix.mean_accuracy() == pytest.approx(sk.balanced_accuracy_score(truth, found))
    weighted = sk.jaccard_score(truth, found, average="weighted")
    assert matrix.frequency_weighted_iou() == pytest.approx(weighted)


def test_pictures():
    matrix = counted()
    expected = [
        sk.jaccard_score(truth[truth != 255], found[truth != 255], average="macro")
        for found, truth in pictures()
    ]
    np.testing.assert_allclose(matrix.by_picture(), expected)
    assert matrix.picture_mean_iou() == pytest.approx(np.mean(expected))
    found, truth = next(pictures())
    assert Confusion(4).update(found, truth) == pytest.approx(expected[0])


def published(found, truth, classes):
    """DDPM-Seg's way, written down from its description: unions of masks, ignored pixels in."""
    above, below = np.zeros(classes), np.zeros(classes)
    for ours, theirs in zip(found, truth, strict=True):
        for k in range(classes):
            above[k] += ((ours == k) & (theirs == k)).sum()
            below[k] += ((ours == k) | (theirs == k)).sum()
    return np.mean(above / (below + 1e-8))


@pytest.mark.parametrize("classes", [4, 6])
def test_ddpm_seg(classes):
    found, truth = zip(*pictures(), strict=True)
    matrix = counted(classes, preset="ddpm-seg")
    assert matrix.mean_iou() == pytest.approx(published(found, truth, classes), rel=1e-7)
    assert matrix.mean_iou() < matrix.mean_iou(ignored="drop")
    plain = matrix.mean_iou(absent="skip", ignored="drop")
    assert plain == pytest.approx(counted().mean_iou())
    assert counted(classes).mean_iou(absent="zero") == pytest.approx(plain * 4 / classes)


def test_absent():
    matrix = counted(6)
    assert np.isnan(matrix.iou()[4:]).all()
    assert not np.isnan(matrix.iou()[:4]).any()
    matrix.update(np.full((2, 2), 5, np.uint8), np.full((2, 2), 255, np.uint8))
    assert np.isnan(matrix.iou()[5])
    assert matrix.iou("count")[5] == 0
    assert np.isnan(matrix.by_picture()[-1])
    assert matrix.by_picture("count")[-1] == 0
    assert "absent: skip" in matrix.convention
    assert "ignored: drop" in matrix.convention
    lines = "\n".join(matrix.lines())
    assert "–" in lines
    assert f"{100 * matrix.iou()[0]:.1f}" in lines


def test_intervals_draw_groups():
    matrix = counted(preset="ddpm-seg")
    found, truth = zip(*pictures(), strict=True)
    rng, values = np.random.default_rng(3), []
    for _ in range(50):
        drawn = [2 * k + j for k in rng.integers(0, 3, 3) for j in (0, 1)]
        values.append(published([found[k] for k in drawn], [truth[k] for k in drawn], 4))
    interval = matrix.interval(seed=3, draws=50)
    assert interval.value == pytest.approx(matrix.mean_iou())
    assert (interval.low, interval.high) == pytest.approx(tuple(np.percentile(values, [2.5, 97.5])))
    same = matrix.interval(other=matrix, draws=20)
    assert (same.value, same.low, same.high) == (0, 0, 0)
    for number in ("pixel_accuracy", "mean_accuracy", "frequency_weighted_iou"):
        one = matrix.interval(number, draws=50)
        assert one.value == pytest.approx(getattr(matrix, number)())
        assert one.low < one.value < one.high


def test_merged():
    whole, parts = Confusion(4), [Confusion(4), Confusion(4)]
    for k, (found, truth) in enumerate(pictures()):
        group = None if k % 2 else "drive"
        whole.update(found, truth, group)
        parts[k // 3].update(found, truth, group)
    merged = parts[0].merge(parts[1])
    assert np.array_equal(merged.total.matrix, whole.total.matrix)
    assert merged.groups.same(whole.groups)
    assert len(merged) == 6
    assert merged.interval(draws=50) == whole.interval(draws=50)
    with pytest.raises(ValueError, match="expected the same"):
        merged.merge(Confusion(5))


def test_refused():
    with pytest.raises(ValueError, match="ignore=2 is one of 4 classes"):
        Confusion(4, 2)
    with pytest.raises(ValueError, match="expected one of standard, ddpm-seg"):
        Confusion(4, preset="mmseg")
    with pytest.raises(ValueError, match="no classes"):
        Confusion([])
    matrix = Confusion(["sky", "road"], None)
    with pytest.raises(ValueError, match="no labels were counted"):
        matrix.mean_iou()
    whole = np.zeros((2, 3), int)
    with pytest.raises(ValueError, match="expected the same"):
        matrix.update(whole, whole.T)
    with pytest.raises(ValueError, match="expected 0 to 1"):
        matrix.update(whole + 255, whole)
    with pytest.raises(ValueError, match="whole numbers"):
        matrix.update(whole + 0.5, whole)
    with pytest.raises(ValueError, match="on ignored pixels"):
        Confusion(2).update(whole + 7, whole + 255)
    assert len(matrix) == 0
    matrix.update(whole, whole)
    with pytest.raises(ValueError, match="at least two groups"):
        matrix.interval()


def test_boundaries_of_each_class():
    rng = np.random.default_rng(1)
    coarse = rng.integers(0, 3, (2, 6, 5)).repeat(5, 1).repeat(5, 2)
    truth, found = coarse[0], np.roll(coarse[0], 2, 1)
    expected = [contour_accuracy(found == k, truth == k, 1) for k in range(3)]
    scores = boundary_f(found, truth, 4, bound=1)
    np.testing.assert_allclose(scores[:3], expected)
    assert np.isnan(scores[3])
    assert 0 < min(expected) < max(expected) < 1
    streamed = BoundaryF(4, bound=1)
    streamed.update(found, truth)
    streamed.update(coarse[1], coarse[1])
    np.testing.assert_allclose(streamed.by_class()[:3], (np.array(expected) + 1) / 2, rtol=1e-6)
    assert streamed.compute() == pytest.approx((np.mean(expected) + 1) / 2)
    interval = streamed.interval(draws=200)
    assert interval.low == pytest.approx(np.mean(expected))
    assert interval.high == pytest.approx(1)
    assert streamed.interval(other=streamed, draws=20).high == 0


def test_boundaries_beside_what_is_ignored():
    truth = np.zeros((20, 20), int)
    truth[:, 10:] = 1
    found = truth.copy()
    found[:10] = 0  # the boundary of the upper half is missed, and another one is told
    assert (boundary_f(found, truth, 2, bound=1) < 0.8).all()
    truth[:11] = 255  # nobody knows
    assert boundary_f(found, truth, 2, bound=1).tolist() == [1, 1]
    truth[:] = 255
    assert np.isnan(boundary_f(found, truth, 2)).all()
    streamed = BoundaryF(2)
    with pytest.raises(ValueError, match="no picture shows any class"):
        streamed.update(found, truth) is None or streamed.compute()
    with pytest.raises(ValueError, match="bound=0"):
        BoundaryF(2, bound=0)
    with pytest.raises(ValueError, match="the same"):
        boundary_f(found, truth[:3], 2)
