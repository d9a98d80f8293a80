"""A feature at every pixel of one picture, without ever building it.

A pixel's feature is what all cells show there, side by side: each map is read bilinearly between
its own sites. Reading is linear, so a linear layer may come first, on the maps' own grids:

    W·[up(f_1); up(f_2); …] = sum over grids g of up_g(W_g·f_g)

with the maps of one grid stacked, multiplied once and read once (METHODS: DDPM-Seg's hypercolumn
of 8,448 channels at 256² would be 2.2 GB).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from probes.axes import Axis
from probes.maps import Maps, as_float

STRIP_BYTES = 32 << 20
"""What a strip of rows holds of outputs."""


@dataclass(frozen=True, eq=False)
class Layer:
    """The maps of one grid, stacked.

    Attributes:
        values: (c, h, w).
        channels: (c,) their places in the hypercolumn.
        down, across: between which rows and columns the picture's rows and columns lie.
    """

    values: torch.Tensor
    channels: np.ndarray
    down: Axis
    across: Axis


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
        parts = [as_float(self.maps[self.keys[k]]).to(self.device) for k in members]
        values = parts[0] if len(parts) == 1 else torch.cat(parts)  # (c, h, w)
        channels = np.concatenate([np.arange(starts[k], starts[k + 1]) for k in members])
        column, row = self.maps.axes(self.keys[members[0]])
        h, w = values.shape[1:]
        return Layer(values, channels, Axis(row, h, values), Axis(column, w, values))

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
            c, h, w = layer.values.shape
            top, bottom, v = (one[row] for one in layer.down.corners)
            left, right, u = (one[column] for one in layer.across.corners)
            flat = layer.values.reshape(c, h * w)
            a, b = (flat[:, top * w + side] for side in (left, right))
            d, e = (flat[:, bottom * w + side] for side in (left, right))
            u, v = u.to(flat.dtype), v.to(flat.dtype)
            read = torch.lerp(torch.lerp(a, b, u), torch.lerp(d, e, u), v)  # (c, n)
            found[:, layer.channels] = read.T.float()
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
            rows: of a strip; None is as many as `STRIP_BYTES` hold.

        Returns:
            Pairs of a first row and (D, r, W) float32, down the picture.
        """
        height, width = self.size
        each = 4 * len(weight) * width
        step = rows or max(1, min(height, STRIP_BYTES // max(1, each)))
        small = []  # (h, D, w) of each grid
        for layer in self.layers:
            c, h, w = layer.values.shape
            part = weight[:, layer.channels].to(self.device)
            product = (part @ layer.values.reshape(c, h * w)).view(-1, h, w)
            small.append(product.transpose(0, 1).contiguous())
        for first in range(0, height, step):
            last = min(first + step, height)
            total = None
            for layer, product in zip(self.layers, small, strict=True):
                strip = layer.across.across(layer.down.read(product, first, last), 0, width)
                total = strip if total is None else total.add_(strip)  # (r, D, W)
            if bias is not None:
                total = total + bias.to(self.device)[:, None]
            yield first, total.transpose(0, 1)
