"""A feature at every pixel of one picture, without ever building it.

A pixel's feature is what all cells show there, side by side: each map is read bilinearly between
its own sites. Reading is linear, so a linear layer may come first, on the maps' own grids:

    W·[up(f_1); up(f_2); …] = sum over grids g of up_g(W_g·f_g)

with the maps of one grid stacked, multiplied once and read once (DDPM-Seg's hypercolumn of 8,448
channels at 256² would be 2.2 GB).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import torch
from torch.nn import functional as F

from probes.axes import Axis
from probes.dense.grams import PixelSums, pixel_moments
from probes.dense.strips import linear_strips
from probes.lazy import as_tensor
from probes.maps import Maps, as_float


@dataclass(frozen=True, eq=False)
class Layer:
    """The maps of one grid, stacked.

    Attributes:
        parts: (c, h, w) of each cell as it was given, and its places in the hypercolumn.
        grid: (h, w).
        channels: (c,) places of all of them.
        down, across: between which rows and columns the picture's rows and columns lie.
    """

    parts: list[tuple[torch.Tensor, slice]]
    grid: tuple[int, int]
    channels: np.ndarray
    down: Axis
    across: Axis

    @cached_property
    def values(self) -> torch.Tensor:
        """(c, h, w), at least float32: a copy, where there are several cells."""
        parts = [as_float(values) for values, _ in self.parts]
        return parts[0] if len(parts) == 1 else torch.cat(parts)


class Column:
    """The hypercolumn of one picture.

    Args:
        maps: of the picture, on their own grids.
        keys: the cells, in the order of the channels; None is that of `maps`.
        device: where it is computed.

    Attributes:
        size: (H, W) of the picture. channels: C, of all cells together.
        layers: the maps by grid.
    """

    def __init__(
        self, maps: Maps, keys: Sequence[Any] | None = None, device: torch.device | str = "cpu"
    ):
        keys = tuple(maps.values) if keys is None else tuple(keys)
        self.maps, self.keys, self.size, self.device = maps, keys, maps.size, torch.device(device)
        starts = np.cumsum([0, *(int(maps[key].shape[0]) for key in keys)])
        self.channels = int(starts[-1])
        grids: dict[tuple[int, int], list[int]] = {}
        for place, key in enumerate(keys):
            grids.setdefault(maps.grid(key), []).append(place)
        self.layers = [self._layer(members, starts) for members in grids.values()]

    def _layer(self, members: list[int], starts: np.ndarray) -> Layer:
        places = [slice(int(starts[k]), int(starts[k + 1])) for k in members]
        parts = [(_as_given(self.maps[self.keys[k]]).to(self.device), place)
                 for k, place in zip(members, places, strict=True)]  # fmt: skip
        channels = np.concatenate([np.arange(place.start, place.stop) for place in places])
        grid = self.maps.grid(self.keys[members[0]])
        column, row = self.maps.axes(self.keys[members[0]])
        like = as_float(parts[0][0][:0])
        return Layer(parts, grid, channels, Axis(row, grid[0], like), Axis(column, grid[1], like))

    def shown(self) -> np.ndarray:
        """(H, W) bool: which pixels the input shows; the others continue the outermost sites."""
        across, down = self.maps.shown()
        return down[:, None] & across

    def at(self, pixels: np.ndarray) -> torch.Tensor:
        """Features of some pixels, from four neighbours of each map.

        Args:
            pixels: (n, 2) int64 row, column of the picture.

        Returns:
            (n, C) float32.
        """
        found = torch.empty(len(pixels), self.channels, device=self.device)
        row, column = (torch.from_numpy(np.ascontiguousarray(k)).to(self.device) for k in pixels.T)
        for layer in self.layers:
            h, w = layer.grid
            top, bottom, v = (one[row] for one in layer.down.corners)
            left, right, u = (one[column] for one in layer.across.corners)
            corners = torch.stack(
                [top * w + left, top * w + right, bottom * w + left, bottom * w + right], 1
            )
            shares = torch.stack([(1 - v) * (1 - u), (1 - v) * u, v * (1 - u), v * u], 1)
            for values, place in layer.parts:
                found[:, place] = _weighted(values.reshape(len(values), h * w), corners, shares)
        return found

    def linear(
        self,
        weight: torch.Tensor,
        bias: torch.Tensor | None = None,
        rows: int | None = None,
    ) -> Iterator[tuple[int, torch.Tensor]]:
        """W·feature + b at every pixel, strip by strip.

        Args:
            weight: (D, C) float32.
            bias: (D,); None is 0.
            rows: of a strip; None is as many as `strips.STRIP_BYTES` hold.

        Returns:
            Pairs of a first row and (D, r, W) float32, down the picture.
        """
        weight = weight.to(self.device)
        bias = None if bias is None else bias.to(self.device)
        return linear_strips(self.layers, weight, bias, rows)

    def moments(self, weights: np.ndarray | None = None) -> tuple[np.ndarray, np.ndarray]:
        """Mean and variance of the features of all pixels, worked out on the maps' grids.

        Args:
            weights: (H, W) of the pixels, such as `shown()`; None: 1 each.

        Returns:
            (C,) and (C,) float64.
        """
        total, x, square = pixel_moments(self, weights)
        mean = x / total
        return mean, np.maximum(square / total - mean**2, 0)

    def gram(self, weights: np.ndarray | None = None) -> np.ndarray:
        """XᵀWX over all pixels, with X (pixels, C) and W their weights, without making X.

        Args:
            weights: (H, W); None: 1 each.

        Returns:
            (C, C) float64.
        """
        w = np.ones(self.size) if weights is None else weights
        return PixelSums(self.channels, 0).add(self, w, np.empty((0, *self.size))).xx


def _weighted(flat: torch.Tensor, corners: torch.Tensor, shares: torch.Tensor) -> torch.Tensor:
    """Sums of four sites each, by their shares: (c, sites), (n, 4), (n, 4) → (n, c)."""
    count, sites = len(corners), flat.shape[1]
    if sites <= 4 * count:  # laid out by sites, so that each is one run of memory
        rows = as_float(flat).T.contiguous()
        return F.embedding_bag(corners, rows, mode="sum", per_sample_weights=shares.to(rows))
    picked = as_float(flat.index_select(1, corners.reshape(-1)))
    return torch.einsum("cnk,nk->nc", picked.view(-1, count, 4), shares.to(picked))


def _as_given(values: Any) -> torch.Tensor:
    """A map as a tensor, its own memory where that can be."""
    return values if isinstance(values, torch.Tensor) else as_tensor(np.asarray(values))
