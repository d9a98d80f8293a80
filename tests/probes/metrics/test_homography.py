"""Corner errors against OpenCV's own map of points, and homographies against planes made up."""

from __future__ import annotations

import sys

import numpy as np
import pytest

from probes.metrics import CornerError, corner_error, find_homography

SIZE = (300, 400)
TRUTH = np.array([[1.1, 0.05, -8], [-0.03, 0.95, 12], [1e-4, -5e-5, 1]])


def shifted(x: float, y: float = 0.0) -> np.ndarray:
    """TRUTH, and then all of it moved by so many pixels."""
    return np.array([[1, 0, x], [0, 1, y], [0, 0, 1.0]]) @ TRUTH


def matches(count: int, outliers: int, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    cv2 = pytest.importorskip("cv2")
    rng = np.random.default_rng(seed)
    source = rng.uniform(0, 1, (count, 2)) * (SIZE[1], SIZE[0])
    target = cv2.perspectiveTransform(source[:, None], TRUTH)[:, 0]
    target[:outliers] += rng.uniform(40, 200, (outliers, 2))
    return source, target + rng.normal(0, 0.2, target.shape)


class TestCornerError:
    def test_as_opencv_maps_corners(self):
        cv2 = pytest.importorskip("cv2")
        found = TRUTH + np.random.default_rng(0).normal(0, 1e-5, (3, 3))
        corners = np.array([[0, 0], [399, 0], [399, 299], [0, 299]], np.float64)[:, None]
        there = [cv2.perspectiveTransform(corners, matrix)[:, 0] for matrix in (found, TRUTH)]
        expected = np.mean([np.hypot(*(a - b)) for a, b in zip(*there, strict=True)])
        assert corner_error(found, TRUTH, SIZE) == pytest.approx(expected, rel=1e-9)
        assert expected > 0.01

    def test_by_hand_and_whatever_the_scale(self):
        assert corner_error(shifted(3, 4), TRUTH, SIZE) == pytest.approx(5)
        assert corner_error(-7 * shifted(3, 4), TRUTH, SIZE) == pytest.approx(5)
        turned = np.diag([2.0, 1, 1])  # the right corners lie 9 pixels further
        assert corner_error(turned, np.eye(3), (5, 10)) == pytest.approx(4.5)

    def test_a_failure_is_infinitely_wrong(self):
        to_infinity = np.array([[1, 0, 0], [0, 1, 0], [1 / 399, 0, -1.0]])
        for found in (None, to_infinity, np.full((3, 3), np.nan)):
            assert corner_error(found, TRUTH, SIZE) == np.inf

    def test_what_is_no_homography(self):
        with pytest.raises(ValueError, match=r"found has shape \(2, 3\); expected \(3, 3\)"):
            corner_error(np.zeros((2, 3)), TRUTH, SIZE)
        with pytest.raises(ValueError, match="the truth maps a corner to no place"):
            corner_error(TRUTH, np.zeros((3, 3)), SIZE)


class TestFinding:
    @pytest.mark.parametrize(("method", "outliers"), [("ransac", 60), ("lmeds", 30)])
    def test_through_outliers(self, method, outliers):
        found = find_homography(*matches(100, outliers), method=method)
        assert corner_error(found, TRUTH, SIZE) < 1

    def test_the_seed_decides(self):
        """Hard enough that the order of matches shows."""
        source, target = matches(60, 40)
        found = [find_homography(source, target, seed=seed) for seed in (0, 0, 1, 2, 3)]
        np.testing.assert_array_equal(found[0], found[1])
        assert any(not np.array_equal(found[0], one) for one in found[2:])

    def test_too_few_or_degenerate(self):
        points = matches(10, 0)[0]
        assert find_homography(points[:3], points[:3]) is None
        assert find_homography([], []) is None
        same = np.ones((8, 2))
        found = find_homography(same, same)
        assert found is None or np.isfinite(found).all()

    def test_what_is_refused(self, monkeypatch):
        with pytest.raises(ValueError, match="4 and 5 points by 'ransac'"):
            find_homography(np.zeros((4, 2)), np.zeros((5, 2)))
        with pytest.raises(ValueError, match="by 'prosac'"):
            find_homography(np.zeros((4, 2)), np.zeros((4, 2)), method="prosac")
        monkeypatch.setitem(sys.modules, "cv2", None)
        with pytest.raises(ValueError, match=r"needs OpenCV; pip install 'diffeat\[match\]'"):
            find_homography(np.zeros((4, 2)), np.zeros((4, 2)))


class TestAccumulator:
    def test_shares_by_kind_by_hand(self):
        metric = CornerError(thresholds=(1, 3, 5), percents=(1,))
        for error, name in ((0.5, "i_a"), (2, "v_b"), (4, "v_b"), (None, "v_c"), (9, "boat")):
            found = None if error is None else shifted(error)
            metric.update(found, TRUTH, SIZE, name=name)
        found = metric.compute()
        assert list(found) == ["overall", "illumination", "viewpoint"]
        assert found["overall"] == {
            "pairs": 5, "failures": 1, "pixels": {1: 0.2, 3: 0.4, 5: pytest.approx(0.6)},
            "percent": {1: pytest.approx(0.6)},  # of 400 pixels
        }  # fmt: skip
        assert list(found["viewpoint"]["pixels"].values()) == pytest.approx([0, 1 / 3, 2 / 3])
        assert found["illumination"]["failures"] == 0
        np.testing.assert_allclose(metric.errors, [0.5, 2, 4, np.inf, 9])
        assert metric.names.tolist() == ["i_a", "v_b", "v_b", "v_c", "boat"]

    def test_per_cent_is_of_the_target(self):
        metric = CornerError()
        metric.update(shifted(9), TRUTH, SIZE, target_size=(1000, 50))
        assert metric.compute()["overall"]["percent"] == {1: 1.0, 3: 1.0, 5: 1.0}

    def test_nothing(self):
        with pytest.raises(ValueError, match="no pairs were counted"):
            CornerError().compute()
