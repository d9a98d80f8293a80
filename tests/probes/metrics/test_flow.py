"""Flows: shares of pixels and smoothness against loops over pixels."""

from __future__ import annotations

import numpy as np
import pytest

from probes.metrics import FlowShare, FlowSmoothness, flow_error, flow_smoothness, pair_interval


def some_flow(seed: int, size: tuple[int, int] = (12, 20)) -> np.ndarray:
    return np.random.default_rng(seed).normal(0, 2, (*size, 2))


def some_mask(seed: int, size: tuple[int, int] = (12, 20)) -> np.ndarray:
    return np.random.default_rng(seed).uniform(size=size) < 0.4


def share_by_loops(found, truth, mask, limit: float) -> float:
    right = total = 0
    for y, x in np.argwhere(mask):
        (u, v), (p, q) = found[y, x], truth[y, x]
        right, total = right + (((u - p) ** 2 + (v - q) ** 2) ** 0.5 <= limit), total + 1
    return right / total


class TestShares:
    @pytest.mark.parametrize(("side", "larger"), [("target", 50), ("source", 20)])
    def test_equal_to_loops(self, side, larger):
        metric, expected = FlowShare((0.05, 0.1), side), {"": [], "JODS": [], "PASCAL": []}
        for k, part in enumerate(("JODS", "PASCAL", "PASCAL")):
            found, truth, mask = some_flow(k), some_flow(9 + k), some_mask(k)
            metric.update(found, truth, mask, (30, 50), part)
            shares = [share_by_loops(found, truth, mask, alpha * larger) for alpha in (0.05, 0.1)]
            for name in ("", part):
                expected[name].append(shares)
        computed = metric.compute()
        assert list(computed) == ["", "JODS", "PASCAL"]
        for name, shares in expected.items():
            mean = np.mean(shares, 0)
            assert computed[name] == {0.05: pytest.approx(mean[0]), 0.1: pytest.approx(mean[1])}
        assert "≤ 0.05/0.1 of the " + side in str(metric)

    def test_five_pixels_where_the_larger_side_is_100(self):
        """A flow resized with its picture: 12×20 becomes 60×100, and an error five times itself."""
        truth, mask = np.zeros((12, 20, 2)), np.ones((12, 20), bool)
        found = truth.copy()
        found[..., 0] = np.linspace(0, 2, 240).reshape(12, 20)
        share = FlowShare((0.05,), "source").update(found, truth, mask, (999, 999))[0]
        assert share == pytest.approx((5 * np.linspace(0, 2, 240) <= 5).mean())

    def test_of_pixels_and_intervals(self):
        metric = FlowShare((0.1,))
        for k, area in enumerate((1, 9)):
            mask = np.arange(240).reshape(12, 20) < area
            metric.update(some_flow(0) * k * 100, np.zeros((12, 20, 2)), mask, (12, 20))
        assert metric.compute() == {"": {0.1: 0.5}}
        assert metric.compute("pixel") == {"": {0.1: 0.1}}
        right, pixels = metric.counts()
        assert pair_interval(right[:, 0], pixels, [("a", "b"), ("c", "d")]).value == 0.1

    def test_what_was_not_found_is_wrong(self):
        truth, mask = np.zeros((2, 2, 2)), np.ones((2, 2), bool)
        found = truth.copy()
        found[0, 0, 1] = np.nan
        assert flow_error(found, truth).tolist() == [[np.inf, 0], [0, 0]]
        assert FlowShare((0.1,)).update(found, truth, mask, (2, 2)).tolist() == [0.75]

    def test_a_truth_that_is_not_known_outside_of_the_mask(self):
        truth, mask = np.full((2, 2, 2), np.nan), np.zeros((2, 2), bool)
        truth[0, 0], mask[0, 0] = 0, True
        assert FlowShare((0.1,)).update(np.zeros((2, 2, 2)), truth, mask, (2, 2)).tolist() == [1]
        with pytest.raises(ValueError, match="truth is not finite in the mask"):
            FlowShare().update(np.zeros((2, 2, 2)), truth, ~mask, (2, 2))

    def test_what_is_refused(self):
        flow = np.zeros((2, 2, 2))
        with pytest.raises(ValueError, match=r"the mask has shape .* and 0 pixels"):
            FlowShare().update(flow, flow, np.zeros((2, 2)), (2, 2))
        with pytest.raises(ValueError, match=r"flows have shapes \(2, 2, 2\) and \(2, 3, 2\)"):
            flow_error(flow, np.zeros((2, 3, 2)))
        with pytest.raises(ValueError, match="side='both'"):
            FlowShare(side="both")
        for alphas in ((), (0.1, 0), (np.nan,)):
            with pytest.raises(ValueError, match="expected at least one, all above 0"):
                FlowShare(alphas)
        with pytest.raises(ValueError, match="0 pairs, aggregate='pair'"):
            FlowShare().compute()


def smoothness_by_loops(flow: np.ndarray, mask: np.ndarray) -> float:
    total = 0.0
    height, width = mask.shape
    for y in range(height):
        for x in range(width):
            for after in ((y, x + 1), (y + 1, x)):
                if after[0] < height and after[1] < width:
                    here = flow[y, x] if mask[y, x] else (0, 0)
                    there = flow[after] if mask[after] else (0, 0)
                    total += abs(here[0] - there[0]) + abs(here[1] - there[1])
    return total / mask.sum()


class TestSmoothness:
    def test_equal_to_loops(self):
        metric, expected = FlowSmoothness(), []
        for seed in range(3):
            flow, mask = some_flow(seed), some_mask(seed)
            expected.append(smoothness_by_loops(flow, mask))
            assert metric.update(flow, mask) == pytest.approx(expected[-1])
        assert metric.compute() == pytest.approx(np.mean(expected))

    def test_without_a_mask(self):
        flow = some_flow(0)
        everywhere = smoothness_by_loops(flow, np.ones((12, 20), bool))
        assert flow_smoothness(flow) == pytest.approx(everywhere / 2)
        assert flow_smoothness(np.full((5, 6, 2), 3.0)) == 0
        ramp = np.stack(np.meshgrid(np.arange(6.0), np.zeros(5)), -1)  # u grows by 1 in x
        assert flow_smoothness(ramp) == pytest.approx(5 * 5 / 60)

    def test_what_is_refused(self):
        with pytest.raises(ValueError, match="not finite everywhere"):
            flow_smoothness(np.full((2, 2, 2), np.nan))
        with pytest.raises(ValueError, match=r"flow has shape \(2, 2\)"):
            flow_smoothness(np.zeros((2, 2)))
        with pytest.raises(ValueError, match="no flows were counted"):
            FlowSmoothness().compute()
