"""Features brought to mean 0 and variance 1, and the one rule for those that are constant."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import numpy as np
import torch
from torch import nn

RESOLUTION = {"float32": 1e-6, "float64": 1e-12}
"""Below this share of its mean a deviation is rounding, by the dtype of the features."""
TINY = float(np.finfo(np.float32).tiny)


def varies(deviation: Any, mean: Any, dtype: str = "float32") -> Any:
    """Whether a feature varies; what does not is constant, and counts for nothing.

        deviation > 1e-6·|mean|   and   deviation > 1.2e-38

    Numbers near m lie up to 1.2e-7·|m| apart in float32, so a constant that went through a
    network, a pooling or a file flickers by a step or a few; 1e-6 is eight steps or more. The rule
    is the same for features of any scale; its floor is the least number whose inverse float32 has.
    Features that are float64 throughout have 1e-12, as sums over many rows lose a few digits of
    its 2.2e-16.

    Args:
        deviation, mean: of features, of one shape: arrays, tensors or numbers.
        dtype: "float32", also for sums of squares, which cancel; or "float64".

    Returns:
        bool, of the same shape and kind.
    """
    return (deviation > RESOLUTION[dtype] * abs(mean)) & (deviation > TINY)


def running_moments(pieces: Iterable[torch.Tensor]) -> tuple[torch.Tensor, torch.Tensor]:
    """(C,) mean and variance in float64 of rows (n, C) that come in pieces, in one pass.

    Groups of rows are joined by the formulas of Chan et al. 1979.
    """
    count, mean, square = 0, None, None
    for piece in pieces:
        x = piece.double()
        here = x.mean(0)
        spread = (x - here).square().sum(0)
        if mean is None:
            count, mean, square = len(x), here, spread
            continue
        total = count + len(x)
        step = here - mean
        mean = mean + step * (len(x) / total)
        square = square + spread + step.square() * (count * len(x) / total)
        count = total
    return mean, square / count


def moments(
    pieces: Iterable[torch.Tensor], dtype: str = "float32"
) -> tuple[torch.Tensor, torch.Tensor]:
    """(C,) float64 mean and deviation of rows (n, C) in pieces; 1 where a feature is constant."""
    mean, variance = running_moments(pieces)
    deviation = variance.sqrt()
    keep = varies(deviation, mean, dtype)
    return mean, torch.where(keep, deviation, torch.ones_like(deviation))


def standardise(tables: list[torch.Tensor]) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Mean 0 and variance 1 in every column; constant columns become 0.

    Args:
        tables: G float32 tables (N, D).

    Returns:
        (G, N, D) float32; and mean and scale (G, 1, D) float64, the scale 1 where constant.
    """
    z = torch.stack(tables)
    first = z.mean(1, keepdim=True)
    z -= first
    rest = z.mean(1, keepdim=True)  # what float32 rounds off where the mean is large
    z -= rest
    mean = first.double() + rest.double()
    spread = torch.linalg.vector_norm(z, dim=1, keepdim=True) / z.shape[1] ** 0.5
    keep = varies(spread, mean)
    z *= torch.where(keep, 1 / spread, 0)
    scale = torch.where(keep, spread, 1).double()
    return z, mean, scale


def standardised(X: np.ndarray, *others: np.ndarray) -> list[np.ndarray]:
    """Arrays (…, D) shifted and scaled so that X has mean 0 and variance 1; constants to 0."""
    mean, factor = shift_and_factor(X)
    return [(array - mean) * factor for array in (X, *others)]


def shift_and_factor(X: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """float32 mean and 1/deviation of an array (N, …) over its rows; 0 for constants."""
    mean, scale = X.mean(0, dtype=np.float64), X.std(0, dtype=np.float64)
    scale = np.where(varies(scale, mean), scale, np.inf)
    return mean.astype(np.float32), (1 / scale).astype(np.float32)


class Standardize(nn.Module):
    """(x - mean)/deviation per feature or channel (axis 1), with fixed statistics."""

    def __init__(self, mean: torch.Tensor, deviation: torch.Tensor):
        super().__init__()
        self.register_buffer("mean", mean)
        self.register_buffer("deviation", deviation)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        sides = (-1, *[1] * (x.ndim - 2))
        return (x - self.mean.view(sides)) / self.deviation.view(sides)
