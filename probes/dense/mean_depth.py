"""The mean depth of each relative position: a row of tables that sees no feature."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from probes.cells import Cells, cells_of
from probes.checks import check_counts
from probes.dense.base import DenseHead, Strips
from probes.dense.position import filled, on_grid, over_picture
from probes.dense.truth import DepthMaps
from probes.maps import Maps
from probes.metrics.depth import DepthErrors


@dataclass(eq=False, repr=False, kw_only=True)
class MeanDepth(DenseHead):
    """The mean depth image of training, whatever a picture shows.

    Pictures are laid over one grid, known pixels by the area that they have in a place of it.
    Between the centres of places the mean is read bilinearly. Places of which nothing is known have
    the mean of the whole.

    Args:
        grid: places along each side.
        log: whether the mean is taken of ln d, the geometric one: it is what log errors ask for.

    Attributes:
        depths_: (1, g, g) float32 means, in metres or ln metres; those of `DenseHead`.
    """

    grid: int = 32
    log: bool = False
    device: str = "auto"

    def fit(self, cells: Any, depths: Any, validation: Any = None):
        """Take the mean of every place; no feature is read.

        Args:
            cells: `probes.Cells` of (N, C, h, w) maps, of which sizes and placements are taken.
            depths: N (H, W) depths in metres, of the pictures' size; nan is unknown.
            validation: not looked at.

        Returns:
            self.

        Raises:
            ValueError: see `probes.dense.truth.DepthMaps`; no pixel has a known depth.
        """
        check_counts(self, "grid")
        cells = cells_of(cells)
        self._note(cells)
        total = np.zeros((2, self.grid, self.grid))
        for depth in DepthMaps(depths, cells):
            known = np.isfinite(depth)
            values = np.where(known, depth, 1).astype(np.float64)
            values = known * (np.log(values) if self.log else values)
            total += on_grid(np.stack([values, known]), self.grid)
        if not total[1].any():
            raise ValueError(f"no pixel of {len(cells)} depth maps is known; expected metres, nan "
                             "where unknown")  # fmt: skip
        self.depths_ = filled(total[:1], total[1]).astype(np.float32)
        return self

    def _maps(self, cells: Cells, row: int) -> Maps:
        return cells.frame(row)

    def _strips(self, maps: Maps) -> Strips:
        yield 0, over_picture(self.depths_, maps.size)

    def _say(self, strip: torch.Tensor) -> torch.Tensor:
        return strip[0].exp() if self.log else strip[0]

    def score(self, cells: Any, depths: Any) -> float:
        """Minus the mean absolute relative error (of the mean over pictures), so that larger is
        better; see `probes.metrics.DepthErrors` for others."""
        cells = self._checked(cells)
        truth, errors = DepthMaps(depths, cells), DepthErrors()
        for row, found in enumerate(self.predict(cells)):
            errors.update(found, truth[row])
        return -errors.compute()["abs rel"]
