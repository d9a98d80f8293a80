"""Of true dense correspondences, how many are found, by how far the viewpoint turned."""

from __future__ import annotations

from array import array
from collections.abc import Sequence
from typing import Any

import numpy as np

from probes.pairs import as_points


class Recall:
    """Shares of true correspondences that are found within some share of the side, by an angle.

        |found − truth| ≤ threshold·side,   bins[k] ≤ angle < bins[k + 1]

    Args:
        thresholds: T shares of the side, such as .01 for 1 %.
        bins: B + 1 edges in degrees, ascending; the last bin holds its upper edge too.

    Raises:
        ValueError: no thresholds, or none above 0; fewer than two edges, edges that do not ascend.
    """

    def __init__(
        self,
        thresholds: Sequence[float] = (0.01, 0.02, 0.04),
        bins: Sequence[float] = (0, 10, 20, 30, 60, 180),
    ):
        self.thresholds = tuple(float(one) for one in thresholds)
        self.bins = tuple(float(edge) for edge in bins)
        good = self.thresholds and min(self.thresholds) > 0 and len(self.bins) > 1
        if not good or not (np.diff(self.bins) > 0).all():
            raise ValueError(f"thresholds={self.thresholds}, bins={self.bins}; expected at least "
                             "one threshold above 0, two edges or more that ascend")  # fmt: skip
        self._right, self._points, self._bins = array("q"), array("q"), array("q")

    def update(
        self, found: Any, truth: Any, side: float, angle: float, valid: Any = None
    ) -> np.ndarray:
        """Count one pair; (n, T) bool of what is right.

        Args:
            found, truth: (n, 2) x, y in pixels of the target.
            side: pixels that errors are measured in, such as the target's larger side.
            angle: degrees between the two viewpoints, within the bins.
            valid: (n,) bool; what is not valid is wrong, and may be nan. None: all are.

        Raises:
            ValueError: different numbers of points, none, points that are not finite, an angle
                outside the bins.
        """
        truth, found = as_points(truth), np.asarray(found, np.float64)
        valid = np.ones(len(truth), bool) if valid is None else np.asarray(valid, bool)
        if found.shape != truth.shape or valid.shape != (len(truth),) or not len(truth):
            raise ValueError(f"{found.shape} points found for {truth.shape}, {valid.shape} valid; "
                             "expected (n, 2), as many of each, at least one")  # fmt: skip
        if not side > 0:
            raise ValueError(f"side={side}; expected more than 0")
        found = as_points(np.where(valid[:, None], found, 0))
        distance = np.where(valid, np.linalg.norm(found - truth, axis=1), np.inf)
        right = distance[:, None] <= np.array(self.thresholds) * side
        self.add(right.sum(0), len(truth), angle)
        return right

    def add(self, right: Any, points: int, angle: float) -> None:
        """Count one pair whose points were held against the truth already.

        Args:
            right: (T,) how many of its points are right at each threshold.
            points: how many there are.
            angle: degrees between the two viewpoints, within the bins.

        Raises:
            ValueError: an angle outside the bins.
        """
        if not self.bins[0] <= angle <= self.bins[-1]:
            low, high = self.bins[0], self.bins[-1]
            raise ValueError(f"angle={angle}; expected an angle of {low:g} to {high:g} degrees")
        self._right.extend(np.asarray(right).tolist())
        self._points.append(int(points))
        last = len(self.bins) - 2
        self._bins.append(min(int(np.searchsorted(self.bins, angle, "right")) - 1, last))

    def counts(self) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """(P, T) right points of each pair, (P,) its points, and (P,) its bin, int64."""
        right = np.array(self._right, np.int64).reshape(-1, len(self.thresholds))
        return right, np.array(self._points, np.int64), np.array(self._bins, np.int64)

    def compute(self) -> dict[float, float]:
        """Threshold → share of all points in [0, 1].

        Raises:
            ValueError: nothing was counted.
        """
        right, points, _ = self.counts()
        if not len(points):
            raise ValueError("no pairs were counted; expected at least one")
        return dict(zip(self.thresholds, (right.sum(0) / points.sum()).tolist(), strict=True))

    def by_bin(self) -> dict[tuple[float, float], dict[float, float]]:
        """(from, to) degrees → threshold → share; bins without pairs are not there.

        Raises:
            ValueError: nothing was counted.
        """
        self.compute()
        right, points, bins = self.counts()
        return {
            (self.bins[k], self.bins[k + 1]): dict(
                zip(self.thresholds,
                    (right[bins == k].sum(0) / points[bins == k].sum()).tolist(), strict=True)
            )
            for k in np.unique(bins).tolist()
        }  # fmt: skip
