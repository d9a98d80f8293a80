"""The judge of depth: by its mean relative error."""

from __future__ import annotations

from collections.abc import Iterable
from functools import cached_property
from typing import Any, ClassVar

import numpy as np

from diffeat.search.dense.heads import fitted
from diffeat.search.dense.judge import DenseJudge, Segmentation
from diffeat.search.splits import TEST
from probes.dense import DepthMaps, MeanDepth
from probes.metrics.depth import ERRORS, MIN_DEPTH, DepthErrors, depth_errors


class DepthEstimation(DenseJudge):
    """Mean absolute relative error of the depth that a head says at every pixel.

    abs rel = mean |d − d*| / d*,  over a picture's pixels, then over pictures
    """

    name, kind, unit, higher_is_better, task_name = "abs rel", "depth", "", False, "depth"
    beside: ClassVar[tuple[str, ...]] = ("RMSE", "delta 1", "SILog")

    @property
    def policy(self) -> dict[str, Any]:
        return {"average": "picture"}

    @property
    def counted(self) -> str:
        return DepthErrors().convention

    def outcomes_of(self, found: Iterable[np.ndarray], rows: np.ndarray) -> np.ndarray:
        """(n, E + 1) `probes.metrics.depth.ERRORS`, and whether anything is known; else 0."""
        values = np.zeros((len(rows), len(ERRORS) + 1))
        for place, (row, said) in enumerate(zip(rows, found, strict=True)):
            truth = self.truth(row)
            if (truth > MIN_DEPTH).any():
                values[place] = [*depth_errors(said, truth).values(), 1.0]
        return values

    def scores_of_draws(self, values: np.ndarray, times: np.ndarray) -> np.ndarray:
        some = times @ values[:, -1]
        return np.divide(times @ values[:, ERRORS.index(self.name)], some,
                         out=np.full(len(times), np.nan), where=some > 0)  # fmt: skip

    def aside_of(self, values: np.ndarray) -> dict[str, float]:
        known = values[values[:, -1] > 0].mean(0)
        return {name: float(known[ERRORS.index(name)]) for name in self.beside}

    @cached_property
    def constant(self) -> tuple[np.ndarray, str]:
        """The mean depth image of training and validation: position alone."""
        rows, known = np.flatnonzero(self.part == TEST), self._known
        head = fitted(MeanDepth(), self._frames[known], self.bound.masks[known])
        return self.outcomes_of(head.predict(self._frames[rows]), rows), "mean depth, by position"

    @cached_property
    def truths(self) -> DepthMaps:
        return DepthMaps(self.bound.masks, self._frames)


KINDS: dict[str, type[DenseJudge]] = {"masks": Segmentation, "depth": DepthEstimation}
"""Kind of the targets → judge."""
