"""J, F and PCK of joints against SciPy, scikit-learn, and plain loops."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from scipy import ndimage
from sklearn.metrics import jaccard_score

from probes.metrics import (
    JointPCK,
    VideoScores,
    contour_accuracy,
    joint_pck,
    region_similarity,
)
from probes.metrics.video import contour


def blobs(seed, size=(60, 90), level=0.0):
    """(H, W) bool: smooth shapes, some of which touch the borders."""
    noise = np.random.default_rng(seed).standard_normal(size)
    return ndimage.gaussian_filter(noise, 6, mode="wrap") > level * 0.04


def contour_by_loops(mask):
    h, w = mask.shape
    found = np.zeros((h, w), bool)
    for y, x in itertools.product(range(h), range(w)):
        beside = [(y, x + 1), (y + 1, x), (y + 1, x + 1)]
        found[y, x] = any(mask[v, u] != mask[y, x] for v, u in beside if v < h and u < w)
    return found


def f_by_dilation(found, truth, reach):
    """With a disk as the structuring element, and every degenerate case as DAVIS has it."""
    line = np.arange(-reach, reach + 1)
    disk = line[:, None] ** 2 + line**2 <= reach**2
    a, b = contour_by_loops(found), contour_by_loops(truth)
    if not a.any() or not b.any():
        return float(a.any() == b.any())
    precision = (a & ndimage.binary_dilation(b, disk)).sum() / a.sum()
    recall = (b & ndimage.binary_dilation(a, disk)).sum() / b.sum()
    return 0.0 if precision + recall == 0 else 2 * precision * recall / (precision + recall)


@pytest.mark.parametrize("seed", range(4))
def test_j_and_f_of_shapes(seed):
    found, truth = blobs(seed), blobs(seed + 100, level=seed / 2)
    assert region_similarity(found, truth) == pytest.approx(
        jaccard_score(truth.ravel(), found.ravel())
    )
    reach = int(np.ceil(0.008 * np.hypot(*truth.shape)))
    assert 0 < f_by_dilation(found, truth, reach) < 1
    assert contour_accuracy(found, truth) == pytest.approx(f_by_dilation(found, truth, reach))
    for pixels in (1, 4, 9):
        expected = f_by_dilation(found, truth, pixels)
        assert contour_accuracy(found, truth, pixels) == pytest.approx(expected)
        again = contour_accuracy(found, truth, pixels / np.hypot(*truth.shape) - 1e-9)
        assert again == pytest.approx(expected)


@pytest.mark.parametrize("mask", [blobs(5), np.eye(7, dtype=bool), np.ones((3, 4), bool)])
def test_contours_are_those_of_loops(mask):
    np.testing.assert_array_equal(contour(mask), contour_by_loops(mask))


def test_empty_and_equal_masks():
    empty, some = np.zeros((20, 30)), np.zeros((20, 30))
    some[5:9, 5:9] = 1
    whole = np.ones((20, 30))
    for measure in (region_similarity, contour_accuracy):
        assert measure(empty, empty) == 1
        assert measure(some, some) == 1
        assert measure(empty, some) == measure(some, empty) == 0
    assert contour_accuracy(whole, empty) == 1  # neither has a contour
    assert region_similarity(whole, empty) == 0
    apart = np.roll(some, 15, 1)
    assert contour_accuracy(some, apart) == 0


def test_bad_masks():
    for measure in (region_similarity, contour_accuracy):
        with pytest.raises(ValueError, match=r"\(4, 5\) and the true one \(5, 4\)"):
            measure(np.zeros((4, 5)), np.zeros((5, 4)))
        with pytest.raises(ValueError, match="expected the same"):
            measure(np.zeros((1, 4, 5)), np.zeros((1, 4, 5)))
    with pytest.raises(ValueError, match="bound"):
        contour_accuracy(np.zeros((4, 5)), np.zeros((4, 5)), 0)


def clip(seed, count, objects):
    """Found and true (N, H, W) masks of several objects."""
    draw = np.random.default_rng(seed)
    truth, found = np.zeros((2, count, 30, 40), np.uint8)
    for place, number in itertools.product(range(count), objects):
        y, x = draw.integers(0, (20, 30))
        truth[place, y : y + 9, x : x + 8] = number
        dy, dx = draw.integers(0, 4, 2)
        found[place, y + dy : y + dy + 9, x + dx : x + dx + 8] = number
    return found, truth


def statistics_by_hand(values):
    """Mean, share above .5, and first minus last quarter, as DAVIS' toolkit numbers them."""
    count = len(values)
    edges = [int(1 + (count - 1) * part / 4 + 0.5 + 1e-9) - 1 for part in range(5)]
    first, last = values[edges[0] : edges[1] + 1], values[edges[3] : edges[4] + 1]
    return (
        np.mean(values),
        np.mean([value > 0.5 for value in values]),
        np.mean(first) - np.mean(last),
    )


def test_means_of_objects_and_sequences():
    clips = {"bear": clip(0, 12, [1]), "dogs": clip(1, 9, [2, 5])}
    scores = VideoScores()
    for name, (found, truth) in clips.items():
        for a, b in zip(found, truth, strict=True):
            scores.update(name, a, b)
    expected = {}
    for name, (found, truth) in clips.items():
        for one in np.unique(truth)[1:]:
            pairs = [(a == one, b == one) for a, b in zip(found[1:-1], truth[1:-1], strict=True)]
            expected[name, one] = [
                statistics_by_hand([measure(a, b) for a, b in pairs])
                for measure in (region_similarity, lambda a, b: f_by_dilation(a, b, 1))
            ]
    by_object = scores.by_object()
    assert set(by_object) == set(expected) == {("bear", 1), ("dogs", 2), ("dogs", 5)}
    for key, (j, f) in expected.items():
        found = by_object[key]
        assert [found["J"], found["J recall"], found["J decay"]] == pytest.approx(list(j))
        assert [found["F"], found["F recall"], found["F decay"]] == pytest.approx(list(f))
        assert found["J&F"] == pytest.approx((j[0] + f[0]) / 2)
    whole, dogs = scores.compute(), scores.by_sequence()["dogs"]
    j = [one[0][0] for one in expected.values()]
    assert whole["J"] == pytest.approx(np.mean(j))  # over objects, not over sequences
    assert whole["J"] != pytest.approx((j[0] + np.mean(j[1:])) / 2)
    assert dogs["J"] == pytest.approx(np.mean(j[1:]))
    assert scores.sequences == ("bear", "dogs")


def test_decay_of_known_numbers():
    """J of 1, then of 1/2, by halves of a clip of 1 + 8 + 1 frames."""
    truth = np.zeros((10, 10), int)
    truth[:, :4] = 1
    half = np.zeros((10, 10), int)
    half[:, :2] = 1
    scores = VideoScores()
    for place in range(10):
        scores.update("a", truth if place < 5 else half, truth)
    found = scores.compute()
    assert found["J"] == 0.75
    assert found["J recall"] == 0.5  # .5 is not above .5
    assert found["J decay"] == 0.5


def test_first_and_last_frame_do_not_count():
    found, truth = clip(0, 6, [1])
    scores, worse = VideoScores(), VideoScores()
    for place, (a, b) in enumerate(zip(found, truth, strict=True)):
        scores.update("a", a, b)
        worse.update("a", np.zeros_like(a) if place in (0, 5) else a, b)
    assert scores.compute() == worse.compute()
    every = VideoScores(skip=(0, 0))
    for a, b in zip(found, truth, strict=True):
        every.update("a", a, b)
    assert len(every.frames("a")[1]) == 6
    assert len(scores.frames("a")[1]) == 4


def test_an_object_that_goes_that_comes_later_or_is_not_true():
    """Where both masks lack it, that is right; what the first true mask lacks does not count."""
    truth = np.zeros((5, 8, 8), int)
    truth[:, :3], truth[0, 5:], truth[3:, 5:], truth[2:, 4] = 1, 2, 2, 5
    found = truth.copy()
    found[1, 5:] = 2
    found[2, 4] = 9
    scores = VideoScores()
    for a, b in zip(found, truth, strict=True):
        scores.update("a", a, b)
    frames = scores.frames("a")
    assert set(frames) == {1, 2}
    np.testing.assert_array_equal(frames[2][:, 0], [0, 1, 1])


def test_scores_merge():
    whole, a, b = VideoScores(), VideoScores(), VideoScores()
    for name, part in (("x", a), ("y", b)):
        for found, truth in zip(*clip(len(part.sequences) + ord(name), 6, [1, 2]), strict=True):
            part.update(name, found, truth)
            whole.update(name, found, truth)
    assert a.merge(b).compute() == whole.compute()
    with pytest.raises(ValueError, match=r"both counted the sequences \['y'\]"):
        a.merge(b)
    with pytest.raises(ValueError, match="expected the same"):
        a.merge(VideoScores(bound=2))


def test_scores_that_cannot_be():
    with pytest.raises(ValueError, match="no sequences"):
        VideoScores().compute()
    with pytest.raises(ValueError, match="skip"):
        VideoScores(skip=(-1, 0))
    scores = VideoScores()
    scores.update("a", np.ones((4, 4)), np.ones((4, 4)))
    scores.update("a", np.ones((4, 4)), np.ones((4, 4)))
    with pytest.raises(ValueError, match="has 2 frames; expected more than 2"):
        scores.compute()
    with pytest.raises(KeyError, match="none of the sequences"):
        scores.frames("b")
    for _ in range(3):
        scores.update("empty", np.ones((4, 4)), np.zeros((4, 4)))
    with pytest.raises(ValueError, match="shows no object"):
        scores.frames("empty")
    with pytest.raises(ValueError, match="expected the same"):
        scores.update("a", np.ones((4, 4)), np.ones((4, 5)))


def joints(seed, frames=20, count=5):
    draw = np.random.default_rng(seed)
    truth = draw.uniform(0, 200, (frames, count, 2))
    return truth + draw.normal(0, 25, truth.shape), truth, draw.random((frames, count)) > 0.2


def test_joints_by_loops():
    found, truth, visible = joints(0)
    alphas = (0.1, 0.2, 0.5)
    counted, halves = JointPCK(alphas), [JointPCK(alphas), JointPCK(alphas)]
    right, seen = np.zeros((5, 3)), np.zeros(5)
    for place, (a, b, flags) in enumerate(zip(found, truth, visible, strict=True)):
        counted.update(a, b, visible=flags)
        halves[place % 2].update(a, b, visible=flags)
        there = b[flags]
        size = 0.6 * np.hypot(*(there.max(0) - there.min(0)))
        for joint in np.flatnonzero(flags):
            seen[joint] += 1
            right[joint] += [np.hypot(*(a[joint] - b[joint])) <= alpha * size for alpha in alphas]
    np.testing.assert_allclose(counted.by_joint(), right / seen[:, None])
    np.testing.assert_allclose(list(counted.compute().values()), (right / seen[:, None]).mean(0))
    assert 0 < counted.compute()[0.1] < counted.compute()[0.5] < 1
    assert halves[0].merge(halves[1]).compute() == counted.compute()
    assert JointPCK(alphas).merge(counted).compute() == counted.compute()


def test_what_is_not_valid_is_wrong():
    truth = np.array([[0.0, 0.0], [30.0, 40.0]])
    counted = JointPCK([0.1])
    counted.update([[0, 0], [np.nan, np.nan]], truth, valid=[True, False])
    assert counted.compute() == {0.1: 0.5}
    np.testing.assert_array_equal(joint_pck([[3, 0], [30, 44]], truth, [0.1, 0.15]),
                                  [[True, True], [False, True]])  # fmt: skip


def test_joints_that_cannot_be():
    with pytest.raises(ValueError, match="no joints"):
        JointPCK().compute()
    with pytest.raises(ValueError, match="above 0"):
        JointPCK([0])
    with pytest.raises(ValueError, match="have no extent"):
        joint_pck([[1, 1]], [[1, 1]], [0.1])
    counted = JointPCK()
    counted.update([[1, 1], [2, 2]], [[1, 1], [2, 2]])
    with pytest.raises(ValueError, match="1 joints found for 2"):
        counted.update([[1, 1]], [[1, 1], [2, 2]])
    with pytest.raises(ValueError, match="3 joints; expected 2"):
        counted.update([[1, 1]] * 3, [[1, 1], [2, 2], [3, 3]])
    with pytest.raises(ValueError, match="valid has shape"):
        counted.update([[1, 1], [2, 2]], [[1, 1], [2, 2]], valid=[True])
    with pytest.raises(ValueError, match="expected the same"):
        counted.merge(JointPCK([0.3]))
