"""The judge of depth: by its mean relative error."""

from __future__ import annotations

from collections.abc import Iterable
from functools import cached_property
from typing import Any, ClassVar

import numpy as np

from diffeat.errors import SpecError
from diffeat.search.dense.judge import DenseJudge, Segmentation
from diffeat.search.splits import TEST
from probes.cells import Cells
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
        """The median depth of training and validation."""
        rows = np.flatnonzero(self.part == TEST)
        found = [float(np.nanmedian(one)) for row in self._known
                 if np.isfinite(one := self.truth(row)).any()]  # fmt: skip
        if not found:
            raise SpecError(f"{self.bound.name}: no depth is known in training; expected some")
        said = (np.full(self.bound.sizes[row], np.median(found)) for row in rows)
        return self.outcomes_of(said, rows), "median depth of training"

    @cached_property
    def truths(self) -> Depths:
        return Depths(self.bound.masks, self._frames)


class Depths:
    """N depth maps in metres; nan where nothing is known, or an input shows nothing."""

    def __init__(self, values: Any, cells: Cells):
        self.values, self.cells = values, cells

    def __getitem__(self, row: int) -> np.ndarray:
        found, frame = np.array(self.values[row], np.float32), self.cells.frame(row)
        if found.shape != frame.size:
            raise ValueError(f"depth is {found.shape}, its picture {frame.size}; expected one "
                             "number a pixel")  # fmt: skip
        across, down = frame.shown()
        found[~(down[:, None] & across)] = np.nan
        return found


KINDS: dict[str, type[DenseJudge]] = {"masks": Segmentation, "depth": DepthEstimation}
"""Kind of the targets → judge."""
