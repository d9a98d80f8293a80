"""The class whose mean feature is nearest: a row of tables that is not trained."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from probes.dense.base import Segmenter, Strips
from probes.dense.column import Column
from probes.dense.grams import class_sums
from probes.maps import Maps


@dataclass(eq=False, repr=False, kw_only=True)
class NearestMean(Segmenter):
    """Nearest class mean: every pixel takes the class whose mean feature it is nearest to.

        score_k(x) = m_k·f(x) − |m_k|²/2

    with m_k the mean feature of the training pixels of class k.

    Attributes:
        means_: (K, C) float32; those of `Segmenter`.
    """

    device: str = "auto"

    def fit(
        self,
        cells: Any,
        masks: Any,
        validation: Any = None,
        *,
        classes: int | Sequence[str] | None = None,
        ignore: int = 255,
    ):
        """Take the mean feature of every class over all training pixels.

        Args:
            cells: `probes.Cells` of (N, C, h, w) maps.
            masks: N (H, W) label maps of the pictures' size.
            validation: not looked at.
            classes: K or K names; None: as many as the labels say.
            ignore: label of pixels that do not count.

        Returns:
            self.

        Raises:
            ValueError: see `probes.dense.truth.Masks`; cells that are no maps; no pixel counts.
        """
        cells, truth = self._opened(cells, masks, classes, ignore)
        total, count = 0.0, 0
        for row in range(len(cells)):
            sums, counts = class_sums(Column(cells.maps(row)), truth[row], truth.classes)
            total, count = total + sums, count + counts
        self._note_seen(count)
        self.means_ = (total / np.maximum(count, 1)[:, None]).astype(np.float32)
        return self

    def _strips(self, maps: Maps) -> Strips:
        means = torch.from_numpy(self.means_)
        return Column(maps, self.cells_).linear(means, -means.square().sum(1) / 2)
