"""Sums over every pixel of products of features, worked out on the maps' own grids.

Reading a map at the pixels is a matrix A (pixels × sites) with four weights a row. With pixel
weights w and maps F_a (c_a × sites of a) of two grids a, b

    sum over pixels p of w_p·x_p·x_pᵀ = F_a·S_ab·F_bᵀ,    S_ab = A_aᵀ·diag(w)·A_b

and S_ab is sparse: sites meet only where pixels lie between both. Reading goes side by side, so
with the pairs (i, j) of rows, and (m, n) of columns, of both grids that meet at all

    S_(i,m),(j,n) = sum over y, x of Y_y,(i,j)·w_yx·X_x,(m,n),    Y_y,(i,j) = Ya_y,i·Yb_y,j

which are two matrix products. So the Gram matrix of all pixels, and what a least squares fit of all
of them needs, cost what sites cost, and no feature of a pixel is ever made.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
import torch
from scipy import sparse

from probes.axes import Axis
from probes.dense.column import Column, Layer


def across(axis: Axis) -> np.ndarray:
    """(L, g) float64: the weights by which one side is read."""
    before, after, weight = (one.cpu().numpy() for one in axis.corners)
    found, rows = np.zeros((len(before), axis.cells)), np.arange(len(before))
    found[rows, before] = 1 - weight
    found[rows, after] += weight
    return found


@dataclass(frozen=True, eq=False)
class Meeting:
    """The rows, or columns, of two grids that meet.

    Attributes:
        first, second: (q,) int64 rows of both grids.
        weights: (L, q) float64 products of the weights by which both are read.
    """

    first: np.ndarray
    second: np.ndarray
    weights: np.ndarray

    @classmethod
    def of(cls, a: Axis, b: Axis) -> Meeting:
        """Of two grids over the same pixels."""
        left, right = across(a), across(b)
        first, second = np.nonzero((left > 0).T.astype(np.float32) @ (right > 0))
        return cls(first, second, left[:, first] * right[:, second])


class Reader:
    """How the grids of a column are read at the pixels; pictures that lie alike share it.

    Args:
        layers: of the column.
    """

    def __init__(self, layers: list[Layer]):
        self.grids = [tuple(layer.values.shape[1:]) for layer in layers]
        self.sides = [(across(layer.down), across(layer.across)) for layer in layers]
        self.pairs = {
            (a, b): (Meeting.of(one.down, two.down), Meeting.of(one.across, two.across))
            for a, one in enumerate(layers)
            for b, two in enumerate(layers[: a + 1])
        }

    def spread(self, grid: int, weights: np.ndarray) -> np.ndarray:
        """(…, H, W) weights of pixels → (…, h·w) of a grid's sites: the adjoint of reading."""
        down, wide = self.sides[grid]
        found = down.T @ (weights @ wide)
        return found.reshape(*weights.shape[:-2], -1)

    def between(self, a: int, b: int, weights: np.ndarray) -> sparse.csr_array:
        """(sites of a, sites of b): S of two grids, b ≤ a, for (H, W) weights of pixels."""
        rows, columns = self.pairs[a, b]
        values = rows.weights.T @ (weights @ columns.weights)  # (pairs of rows, of columns)
        (ha, wa), (hb, wb) = self.grids[a], self.grids[b]
        first = rows.first[:, None] * wa + columns.first
        second = rows.second[:, None] * wb + columns.second
        places = first.ravel(), second.ravel()
        return sparse.csr_array(sparse.coo_array((values.ravel(), places), (ha * wa, hb * wb)))


@dataclass
class PixelSums:
    """Weighted sums over pixels, of any number of pictures.

    Attributes:
        channels: C. outputs: D, of the targets.
        dtype: in which products are summed; "float32" halves the memory of wide columns.
        weight: sum of w.
        x: (C,) sum of w·x. xx: (C, C) sum of w·x·xᵀ.
        y: (D,) sum of w·y. xy: (C, D) sum of w·x·yᵀ.
    """

    channels: int
    outputs: int
    dtype: str = "float64"
    weight: float = 0.0
    x: np.ndarray = field(init=False)
    xx: np.ndarray = field(init=False)
    y: np.ndarray = field(init=False)
    xy: np.ndarray = field(init=False)

    def __post_init__(self) -> None:
        self.x, self.y = np.zeros(self.channels), np.zeros(self.outputs)
        self.xx = np.zeros((self.channels, self.channels), self.dtype)
        self.xy = np.zeros((self.channels, self.outputs))
        self._reader: tuple[tuple, Reader] | None = None

    def add(self, column: Column, weights: np.ndarray, targets: np.ndarray) -> PixelSums:
        """Take in one picture.

        Args:
            column: of the picture.
            weights: (H, W) w; 0 leaves a pixel out.
            targets: (D, H, W) y; what they are where w is 0 plays no part.
        """
        w = np.asarray(weights, np.float64)
        wy = np.where(w > 0, targets, 0) * w  # (D, H, W)
        reader = self._read(column)
        maps = [_flat(layer) for layer in column.layers]
        self.weight += float(w.sum())
        self.y += wy.sum((1, 2))
        for a, layer in enumerate(column.layers):
            places = layer.channels
            self.x[places] += maps[a] @ reader.spread(a, w)
            self.xy[places] += maps[a] @ reader.spread(a, wy).T
            for b in range(a + 1):
                block = (reader.between(a, b, w).T @ maps[a].T).T @ maps[b].T  # (c_a, c_b)
                others = column.layers[b].channels
                self.xx[np.ix_(places, others)] += block
                if a != b:
                    self.xx[np.ix_(others, places)] += block.T
        return self

    def _read(self, column: Column) -> Reader:
        """Of a column's grids; pictures of one size and placement share it."""
        maps = column.maps
        grids = tuple(tuple(layer.values.shape[1:]) for layer in column.layers)
        key = maps.size, maps.input_size, maps.numbers, grids
        if self._reader is None or self._reader[0] != key:
            self._reader = key, Reader(column.layers)
        return self._reader[1]

    def moments(self) -> tuple[np.ndarray, np.ndarray]:
        """(C,) mean and standard deviation of the pixels' features."""
        mean = self.x / self.weight
        spread = np.diagonal(self.xx).astype(np.float64) / self.weight - mean**2
        return mean, np.sqrt(np.maximum(spread, 0))


def pixel_moments(column: Column, weights: np.ndarray | None = None) -> tuple[np.ndarray, ...]:
    """Sum of weights, (C,) sums of w·x and of w·x² over the pixels of one picture.

        sum of w·x² = sum over pairs of neighbouring sites of S·f·f'

    Args:
        weights: (H, W); None: 1 each.
    """
    w = np.ones(column.size) if weights is None else np.asarray(weights, np.float64)
    x, square = np.zeros(column.channels), np.zeros(column.channels)
    reader = Reader(column.layers)
    for place, layer in enumerate(column.layers):
        f = _flat(layer)
        x[layer.channels] = f @ reader.spread(place, w)
        square[layer.channels] = ((reader.between(place, place, w) @ f.T).T * f).sum(1)
    return float(w.sum()), x, square


def _flat(layer: Layer) -> np.ndarray:
    """(c, h·w) float64."""
    return layer.values.reshape(len(layer.values), -1).double().cpu().numpy()


def one_hot(labels: np.ndarray, classes: int) -> np.ndarray:
    """(H, W) labels → (K, H, W) float64 of 0 and 1."""
    return (labels[None] == np.arange(classes)[:, None, None]).astype(np.float64)


def as_tensor(values: np.ndarray) -> torch.Tensor:
    """float32."""
    return torch.from_numpy(np.ascontiguousarray(values, np.float32))
