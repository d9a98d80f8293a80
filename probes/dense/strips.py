"""A linear layer on a hypercolumn, in strips of the picture: multiplied on the maps' grids first.

    W·[up(f_1); up(f_2); …] = sum over grids g of up_g(W_g·f_g)

Products are made of the grid rows that a strip needs and kept until it is past them. Rows of all
grids are then read at the strip's rows and, side by side, between their columns: in blocks of
columns, each a small product with the few sites that it lies between. Outputs are the last axis
throughout, so that whatever comes next finds pixels as rows.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

import numpy as np
import torch

from probes.axes import Axis

if TYPE_CHECKING:
    from probes.dense.column import Layer

STRIP_BYTES = 4 << 20
"""What a strip holds of outputs, and a grid of products."""
WIDE = 32
"""Columns of a block."""


class Products:
    """W_g·f_g of a grid, by rows, made when they are asked for.

    Args:
        layer: the maps. weight: (D, C) of the whole hypercolumn.
    """

    def __init__(self, layer: Layer, weight: torch.Tensor):
        self.layer, self.weight = layer, weight
        w = layer.grid[1]
        self.ahead = max(1, STRIP_BYTES // (4 * len(weight) * w))
        self.low = self.high = 0
        self.held = weight.new_empty(0, w, len(weight))

    def rows(self, first: int, last: int) -> torch.Tensor:
        """(last − first, w, D); those before are forgotten."""
        if first < self.low or last > self.high:
            goes_on = self.low <= first < self.high
            start = self.high if goes_on else first
            end = min(self.layer.grid[0], max(last, start + self.ahead))
            kept = self.held[first - self.low :] if goes_on else self.held[:0]
            made = self._made(start, end)
            self.held = torch.cat([kept, made]) if len(kept) else made
            self.low, self.high = first, end
        return self.held[first - self.low : last - self.low]

    def _made(self, first: int, last: int) -> torch.Tensor:
        w, width = self.layer.grid[1], len(self.weight)
        found = self.weight.new_empty((last - first) * w, width)
        for k, (values, places) in enumerate(self.layer.parts):
            flat = values[:, first:last].to(found.dtype).reshape(len(values), -1)  # (c, sites)
            found.addmm_(flat.T, self.weight[:, places].T, beta=float(k > 0))
        return found.view(last - first, w, width)


class Across:
    """(r, sites of all grids, D) → (r, W, D): columns read between sites, block by block.

    Args:
        axes: of the grids, side by side in the middle.
        like: says dtype and device.
    """

    def __init__(self, axes: Sequence[Axis], like: torch.Tensor):
        self.width = len(axes[0])
        self.blocks = -(-self.width // WIDE)
        self.wide = -(-self.width // self.blocks)
        self.blocks = -(-self.width // self.wide)
        places, matrices, offset = [], [], 0
        for axis in axes:
            sites, matrix = self._blocks(axis)
            places.append(sites + offset)
            matrices.append(matrix)
            offset += axis.cells
        self.places = torch.from_numpy(np.concatenate(places, 1).reshape(-1)).to(like.device)
        self.matrix = torch.cat(matrices, 2).to(like)  # (blocks, wide, sites of a block)

    def _blocks(self, axis: Axis) -> tuple[np.ndarray, torch.Tensor]:
        """(blocks, s) sites of each block, and (blocks, wide, s) their weights."""
        before, after, _ = (one.cpu().numpy() for one in axis.corners)
        starts = range(0, self.width, self.wide)
        low = np.array([before[k : k + self.wide].min() for k in starts])
        high = np.array([after[k : k + self.wide].max() for k in starts])
        count = int((high - low).max()) + 1
        sites = np.minimum(low, axis.cells - count)[:, None] + np.arange(count)
        matrix = torch.zeros(self.blocks, self.wide, count)
        for block, start in enumerate(starts):
            rows = axis.matrix[start : start + self.wide].cpu().float()
            matrix[block, : len(rows)] = rows[:, sites[block]]
        return sites, matrix

    def read(self, rows: torch.Tensor) -> torch.Tensor:
        picked = rows.index_select(1, self.places)
        picked = picked.view(len(rows), self.blocks, -1, rows.shape[2])
        return torch.matmul(self.matrix, picked).flatten(1, 2)[:, : self.width]


def linear_strips(
    layers: Sequence[Layer],
    weight: torch.Tensor,
    bias: torch.Tensor | None,
    rows: int | None,
) -> Iterator[tuple[int, torch.Tensor]]:
    """See `Column.linear`.

    Args:
        layers: the maps by grid. weight: (D, C) float32. bias: (D,) or None.
        rows: of a strip, or None.

    Returns:
        Pairs of a first row and (D, r, W), the outputs of a pixel side by side in memory.
    """
    across = Across([layer.across for layer in layers], weight)
    products = [Products(layer, weight) for layer in layers]
    height, wide = len(layers[0].down), across.places.numel() + across.width
    step = rows or max(1, min(height, 2 * STRIP_BYTES // (4 * len(weight) * wide)))
    ends = np.cumsum([0, *(layer.grid[1] for layer in layers)])
    for first in range(0, height, step):
        last = min(first + step, height)
        between = weight.new_empty(last - first, ends[-1], len(weight))
        for layer, product, start, end in zip(layers, products, ends, ends[1:], strict=False):
            _read_down(layer.down, product, first, last, between[:, start:end])
        strip = across.read(between)
        if bias is not None:
            strip += bias
        yield first, strip.permute(2, 0, 1)


def _read_down(axis: Axis, product: Products, first: int, last: int, into: torch.Tensor) -> None:
    """Rows of a grid at rows of the picture, (r, w, D)."""
    low = axis.low[first:last]
    a, b = int(low.min()), min(int(low.max()) + 2, axis.cells)
    weights = axis.matrix[first:last, a:b].to(into.dtype)
    torch.mm(weights, product.rows(a, b).flatten(1), out=into.view(last - first, -1))
