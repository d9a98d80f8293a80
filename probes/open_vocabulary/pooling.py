"""Features of masks: means of a map over the pixels of each mask, worked out on the map's grid.

    f_q = 1/|M_q| · sum over x in M_q of up(F)(x) = sum over sites of w_q · F
    w_q = Rᵀ M_q C / |M_q|

M_q are the pixels of mask q, up is bilinear between the centres of sites, R (H×h) and C (W×w) are
its matrices. The map at the masks' pixels is never built.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
import torch
from torch.nn.functional import interpolate

from probes.layers import between
from probes.lazy import as_tensor

MEMORY_MB = 64
"""MiB of masks that are float32 at a time."""
Size = tuple[int, int]


class PooledMasks(NamedTuple):
    """Features of Q masks.

    Attributes:
        features: (Q, C) in the dtype of the map; 0 of an empty mask.
        valid: (Q,) bool: whether a mask has a pixel.
    """

    features: torch.Tensor
    valid: torch.Tensor


def pool_masks(
    maps: Any, masks: Any, *, sites: Size | None = None, memory_mb: float = MEMORY_MB
) -> PooledMasks:
    """The mean of a map over each of Q masks that cover the same frame.

    Args:
        maps: (C, h, w) numbers.
        masks: (Q, H, W) bool, or float logits, of which a mask is where they are above 0; any grid.
        sites: (h, w) of the grid that masks are brought to before, see `hard_masks`; None: a mask
            keeps its own pixels, so that thin ones count too. Published is the map's own grid.
        memory_mb: MiB of masks that are float32 at a time.

    Returns:
        The features, in the graph of `maps`, and which masks have any pixel.

    Raises:
        ValueError: other shapes, or a map with nan or inf.

    Source: Xu et al. 2023 (ODISE), its mask pooling: hard masks at the map's own grid.
    """
    maps = _tensor(maps)
    if maps.ndim != 3:
        raise ValueError(f"the map has shape {tuple(maps.shape)}; expected (C, h, w)")
    if not torch.isfinite(maps.detach()).all():
        raise ValueError("the map contains nan or inf; expected finite features")
    weights = mask_weights(masks, tuple(maps.shape[1:]), sites=sites, memory_mb=memory_mb)
    features = weights.to(maps).flatten(1) @ maps.flatten(1).T  # (Q, h·w) · (h·w, C)
    return PooledMasks(features, weights.flatten(1).any(1).to(maps.device))


def mask_weights(
    masks: Any, grid: Size, *, sites: Size | None = None, memory_mb: float = MEMORY_MB
) -> torch.Tensor:
    """w_q, how much each site of a map counts in the mean over a mask.

    Args:
        masks, sites, memory_mb: see `pool_masks`.
        grid: (h, w) of the map.

    Returns:
        (Q, h, w) float32 that sum to 1, or are 0 of an empty mask; on the device of the masks.

    Raises:
        ValueError: masks of another shape or kind.
    """
    masks = _checked(masks)
    found = masks.new_zeros((len(masks), *grid), dtype=torch.float32)
    for rows in _chunks(masks, memory_mb):
        inside = masks[rows] if sites is None else _brought(masks[rows], sites)
        inside = _inside(inside).float()  # (q, H, W)
        counts = inside.sum((1, 2))
        down, across = (
            between(cells, side, inside) for cells, side in zip(grid, inside.shape[1:], strict=True)
        )  # (H, h), (W, w)
        sums = down.T @ (inside @ across)  # (q, h, w)
        found[rows] = sums / counts.clamp(min=1)[:, None, None]
    return found


def hard_masks(masks: Any, sites: Size, memory_mb: float = MEMORY_MB) -> torch.Tensor:
    """Masks on another grid: bilinearly resized, then cut: at ½, or at 0 of logits.

    Args:
        masks, memory_mb: see `pool_masks`.
        sites: (h, w) of the grid.

    Returns:
        (Q, h, w) bool. A mask thinner than a site may have none.

    Raises:
        ValueError: masks of another shape or kind.
    """
    masks = _checked(masks)
    found = masks.new_zeros((len(masks), *sites), dtype=torch.bool)
    for rows in _chunks(masks, memory_mb):
        found[rows] = _inside(_brought(masks[rows], sites))
    return found


def _brought(masks: torch.Tensor, sites: Size) -> torch.Tensor:
    """Logits on another grid; those of bool masks are 0 half-way."""
    values = masks.float() - 0.5 if masks.dtype == torch.bool else masks.float()
    return interpolate(values[None], size=tuple(sites), mode="bilinear", align_corners=False)[0]


def _inside(masks: torch.Tensor) -> torch.Tensor:
    return masks if masks.dtype == torch.bool else masks > 0


def _chunks(masks: torch.Tensor, memory_mb: float) -> list[slice]:
    each = max(1, int(memory_mb * 2**20 / (4 * max(1, masks[0].numel())))) if len(masks) else 1
    return [slice(start, start + each) for start in range(0, len(masks), each)]


def _tensor(values: Any) -> torch.Tensor:
    return values if isinstance(values, torch.Tensor) else as_tensor(np.asarray(values))


def _checked(masks: Any) -> torch.Tensor:
    masks = _tensor(masks)
    if masks.ndim != 3 or not all(masks.shape[1:]):
        raise ValueError(f"masks have shape {tuple(masks.shape)}; expected (Q, H, W)")
    if masks.dtype != torch.bool and not masks.is_floating_point():
        raise ValueError(
            f"masks are {masks.dtype}; expected bool, or logits that are above 0 inside: compare "
            "numbers of classes with the one that is meant"
        )
    return masks
