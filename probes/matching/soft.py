"""Matches between places: means of positions, weighted by a softmax of similarities."""

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
class SoftArgmaxMatcher(Matcher):
    """Σ p·(x, y) over all places, p = softmax(similarity / temperature).

    The score is the largest similarity. Unlike the nearest place, which is sought at every pixel,
    these are means of sites by default, as published.

    Args:
        temperature: > 0; of the sum, where similarities of several cells are added.
    """

    resolution: str = "site"
    temperature: float = 0.04

    def _rule(self, maps: Maps) -> Rule:
        check_number("temperature", self.temperature, self.temperature > 0, "> 0")
        return super()._rule(maps)

    def _numbers(self, target: Placed, window: Window) -> int:
        return 4 * super()._numbers(target, window)

    def _read(self, surfaces: Surfaces) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        similar = surfaces.whole()  # (n, Y, X)
        score, best = similar.flatten(1).max(1)
        width = similar.shape[2]
        row, column = torch.div(best, width, rounding_mode="floor"), best % width
        weighed = self._weighed(surfaces, similar, row, column) / self.temperature
        share = (weighed - weighed.amax((1, 2), keepdim=True)).exp_()
        x, y = surfaces.lines()
        total = share.sum((1, 2), dtype=torch.float64)
        x = (share.sum(1, dtype=torch.float64) @ x) / total
        y = (share.sum(2, dtype=torch.float64) @ y) / total
        known = surfaces.somewhere(row, column)
        return (torch.stack([x, y], 1).cpu().numpy(), score.double().cpu().numpy(),
                known.cpu().numpy())  # fmt: skip

    def _weighed(
        self, surfaces: Surfaces, similar: torch.Tensor, row: torch.Tensor, column: torch.Tensor
    ) -> torch.Tensor:
        """(n, Y, X): what the softmax is of, given the most similar place."""
        return similar


@dataclass(eq=False, repr=False, kw_only=True)
class KernelSoftArgmaxMatcher(SoftArgmaxMatcher):
    """A soft-argmax of cosines times a Gaussian around the most similar place.

    Args:
        sigma: of the Gaussian, in sites of the target's finest grid.

    Source: Lee et al. 2019, SFNet: Learning object-aware semantic correspondence.
    """

    sigma: float = 7.0

    def _rule(self, maps: Maps) -> Rule:
        check_number("sigma", self.sigma, self.sigma > 0, "> 0, in sites")
        if self.metric != "cosine":
            raise ValueError(f"metric={self.metric!r}; expected 'cosine', since a Gaussian times "
                             "negative distances would favour what is far away")  # fmt: skip
        return super()._rule(maps)

    def _weighed(
        self, surfaces: Surfaces, similar: torch.Tensor, row: torch.Tensor, column: torch.Tensor
    ) -> torch.Tensor:
        down, across = (
            (-0.5 * (apart / self.sigma) ** 2).exp().to(similar)
            for apart in surfaces.from_places(row, column)
        )
        weighed = similar * down[:, :, None] * across[:, None]
        return torch.where(similar.isneginf(), similar, weighed)


@dataclass(eq=False, repr=False, kw_only=True)
class WindowSoftArgmaxMatcher(SoftArgmaxMatcher):
    """A soft-argmax of what lies around the most similar place; all else counts nothing (-inf).

    Args:
        radius: along x and along y, in sites of the target's finest grid.

    Source: Zhang et al. 2024, Telling left from right: identifying geometry-aware semantic
    correspondence.
    """

    radius: float = 5.0

    def _rule(self, maps: Maps) -> Rule:
        check_number("radius", self.radius, self.radius >= 0, ">= 0, in sites")
        return super()._rule(maps)

    def _weighed(
        self, surfaces: Surfaces, similar: torch.Tensor, row: torch.Tensor, column: torch.Tensor
    ) -> torch.Tensor:
        limit = self.radius + NEAR
        down, across = (apart.abs() > limit for apart in surfaces.from_places(row, column))
        return similar.masked_fill(down[:, :, None] | across[:, None], -torch.inf)
