"""Depth, or any number, at every pixel by least squares over all of them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from probes.cells import Cells, cells_of
from probes.checks import check_choice, pick_device
from probes.dense.base import DenseHead, Strips
from probes.dense.column import Column
from probes.dense.grams import PixelSums, as_tensor
from probes.dense.linear import ALPHAS, Ridge, check_alphas, check_memory, fold_of
from probes.dense.truth import DepthMaps
from probes.maps import Maps

SPACES = ("log", "metres")


@dataclass(eq=False, repr=False, kw_only=True)
class PixelRegression(DenseHead):
    """Ridge regression of depth at every pixel, on the hypercolumn of all cells.

    As `PixelLinear`'s ridge, with y_p the depth or its logarithm:

        min over w, b of  1/P · Σ_p (w·z_p + b − y_p)² + alpha·|w|²

    over the P pixels of which depth is known, in closed form. What is predicted is kept between the
    least and the largest depth of training.

    Args:
        space: y is "log" depth or "metres".
        alphas: to choose from on validation pictures, by the mean of |found − true|/true; without
            these the one in the middle, upper of two, is taken.
        standardise, validation_fraction, memory_mb, random_state, device: as `PixelLinear`'s.

    Attributes:
        coef_: (1, C) float32, intercept_: (1,) float32, of features as they come.
        alpha_, scores_: the penalty taken; (A,) its validation number by penalty, or nan.
        range_: (2,) float32 least and largest depth of training, in metres.
    """

    space: str = "log"
    alphas: Sequence[float] = ALPHAS
    standardise: bool = True
    validation_fraction: float = 0.0
    memory_mb: float = 2048
    random_state: Any = 0
    device: str = "auto"

    def fit(self, cells: Any, depth: Any, validation: Any = None, *, groups: Any = None):
        """Fit the regression.

        Args:
            cells: `probes.Cells` of (N, C, h, w) maps, with the pictures' sizes.
            depth: N (H, W) maps of the pictures' size in metres, nan where it is not known.
            validation: what chooses alpha: (cells, depth), or a share of the groups. None:
                `validation_fraction`.
            groups: (N,) of the pictures; None: each is its own.

        Returns:
            self.

        Raises:
            ValueError: see `probes.dense.truth.DepthMaps`; depth is known of no pixel; parameters
                out of range; sums that take more than `memory_mb`.
        """
        check_choice("space", self.space, SPACES)
        check_alphas(self.alphas)
        cells = cells_of(cells)
        self._note(cells)
        check_memory(self.channels, self.memory_mb)
        truth = DepthMaps(depth, cells)
        self.scores_, best = np.full(len(self.alphas), np.nan), len(self.alphas) // 2
        fold = fold_of(self, cells, truth, validation, groups)
        ridge = None
        if fold is not None and len(self.alphas) > 1:
            inner, held = fold
            ridge, self.range_ = self._sums(*inner, several=True)
            self.scores_ = self._validated(ridge, *held)
            best = int(np.argmin(self.scores_))
            ridge = ridge if inner[0] is cells else None
        if ridge is None:
            ridge, self.range_ = self._sums(cells, truth, several=False)
        self.alpha_ = float(self.alphas[best])
        self.coef_, self.intercept_ = ridge.solved(self.alpha_)
        return self

    def _sums(self, cells: Cells, truth: DepthMaps, several: bool) -> tuple[Ridge, np.ndarray]:
        """What all pixels say, and the depths between which they lie."""
        sums = PixelSums(self.channels, 1)
        low, high = np.inf, -np.inf
        for row in range(len(cells)):
            depth = truth[row]
            known = np.isfinite(depth)
            if known.any():
                y = np.where(known, depth, 1.0).astype(np.float64)
                low = min(low, float(depth[known].min()))
                high = max(high, float(depth[known].max()))
                y = np.log(y) if self.space == "log" else y
                sums.add(Column(cells.maps(row), self.cells_), known.astype(float), y[None])
        if not sums.weight:
            raise ValueError(f"depth is known of no pixel of {len(cells)} pictures")
        return Ridge(sums, self.standardise, several), np.array([low, high], np.float32)

    def _validated(self, ridge: Ridge, held: Cells, truth: DepthMaps) -> np.ndarray:
        """(A,) mean of |found − true|/true over the pixels of validation."""
        solved = [ridge.solved(alpha) for alpha in self.alphas]
        weight = torch.cat([as_tensor(coef) for coef, _ in solved])
        bias = torch.cat([as_tensor(intercept) for _, intercept in solved])
        total, count = np.zeros(len(solved)), 0
        for row in range(len(held)):
            depth = torch.from_numpy(truth[row])
            known = torch.isfinite(depth)
            for first, strip in Column(held.maps(row), self.cells_).linear(weight, bias):
                here = slice(first, first + strip.shape[1])
                found, there = self._metres(strip)[:, known[here]], depth[here][known[here]]
                total += ((found - there).abs() / there).double().sum(1).numpy()
                count += len(there)
        if not count:
            raise ValueError("depth is known of no pixel of the validation pictures")
        return total / count

    def _metres(self, output: torch.Tensor) -> torch.Tensor:
        found = output.exp() if self.space == "log" else output
        return found.clamp(float(self.range_[0]), float(self.range_[1]))

    def _strips(self, maps: Maps) -> Strips:
        column = Column(maps, self.cells_, pick_device(self.device, None))
        return column.linear(as_tensor(self.coef_), as_tensor(self.intercept_))

    def _say(self, strip: torch.Tensor) -> torch.Tensor:
        return self._metres(strip)[0]

    def score(self, cells: Any, depth: Any) -> float:
        """Minus the mean of |found − true|/true over pixels of known depth: larger is better."""
        cells = self._checked(cells)
        truth, total, count = DepthMaps(depth, cells), 0.0, 0
        for row, found in enumerate(self.predict(cells)):
            known = np.isfinite(there := truth[row])
            total += float((np.abs(found - there)[known] / there[known]).sum())
            count += int(known.sum())
        if not count:
            raise ValueError("depth is known of no pixel; expected some")
        return -total / count
