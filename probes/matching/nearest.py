"""The place whose feature is nearest, and the ratio test."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch

from probes.checks import check_number
from probes.maps import Maps
from probes.matching.base import Matcher
from probes.matching.placed import Placed, Rule
from probes.matching.regions import Window
from probes.matching.surfaces import NEAR, Surfaces


@dataclass(eq=False, repr=False, kw_only=True)
class NearestMatcher(Matcher):
    """The place of the target that is most similar to the point; of several, the first.

    Args:
        ratio: a match is valid only where its distance is less than so many times that of the next
            best place, so never where two are equally good; the distance of a cosine (of several:
            their weighted mean) is √(2 − 2·cos), that of unit vectors. None asks nothing.
        apart: sites along x or y, of the target's finest grid, by which the next best must be
            further away than this.
    """

    ratio: float | None = None
    apart: float = 2.0

    def _rule(self, maps: Maps) -> Rule:
        if self.ratio is not None:
            check_number("ratio", self.ratio, 0 < self.ratio <= 1, "in (0, 1], or None")
            check_number("apart", self.apart, self.apart >= 0, ">= 0, in sites")
        return super()._rule(maps)

    def _numbers(self, target: Placed, window: Window) -> int:
        return 0 if self.ratio is None else 3 * super()._numbers(target, window)

    def _read(self, surfaces: Surfaces) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        row, column, score = surfaces.best()
        known = surfaces.somewhere(row, column)
        if self.ratio is not None:
            known = known & self._stands_out(surfaces, row, column, score)
        return surfaces.places(row, column), score.double().cpu().numpy(), known.cpu().numpy()

    def _stands_out(
        self, surfaces: Surfaces, row: torch.Tensor, column: torch.Tensor, score: torch.Tensor
    ) -> torch.Tensor:
        """(n,) bool: the ratio test."""
        down, across = surfaces.from_places(row, column)  # sites
        near_y, near_x = (steps.abs() <= self.apart + NEAR for steps in (down, across))
        near = near_y[:, :, None] & near_x[:, None]
        other = surfaces.whole().masked_fill_(near, -torch.inf).amax((1, 2))
        return self._distance(surfaces, score) < self.ratio * self._distance(surfaces, other)

    def _distance(self, surfaces: Surfaces, similar: torch.Tensor) -> torch.Tensor:
        if self.metric == "l2":
            return -similar
        return (2 - 2 * similar.double() / surfaces.most).clamp_min(0).sqrt()
