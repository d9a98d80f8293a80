"""Sums over every pixel of products of features, worked out on the maps' own grids.

Reading a map at the pixels is a matrix A (pixels × sites) with four weights a row. With pixel
weights w and maps F_a (c_a × sites of a) of two grids a, b

    sum over pixels p of w_p·x_p·x_pᵀ = F_a·S_ab·F_bᵀ,    S_ab = A_aᵀ·diag(w)·A_b

and S_ab is sparse: sites meet only where pixels lie between both. So the Gram matrix of all pixels,
and what a least squares fit of all of them needs, cost what sites cost, and no feature of a pixel
is ever made.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
import torch
from scipy import sparse

from probes.axes import Axis
from probes.dense.column import Column, Layer


def reading(layer: Layer) -> sparse.csr_array:
    """(H·W, h·w) float64: the weights by which a grid is read at every pixel."""
    down, across = (_matrix(axis) for axis in (layer.down, layer.across))
    return sparse.csr_array(sparse.kron(down, across, format="csr"))


def _matrix(axis: Axis) -> sparse.csr_array:
    """(L, g) of one side."""
    before, after, weight = (one.cpu().numpy() for one in axis.corners)
    rows = np.arange(len(before))
    values = np.concatenate([1 - weight, weight]).astype(np.float64)
    places = np.concatenate([rows, rows]), np.concatenate([before, after])
    return sparse.csr_array(sparse.coo_array((values, places), (len(rows), axis.cells)))


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
        self._known: tuple[tuple, list[sparse.csr_array]] | None = None

    def add(self, column: Column, weights: np.ndarray, targets: np.ndarray) -> PixelSums:
        """Take in one picture.

        Args:
            column: of the picture.
            weights: (H, W) w; 0 leaves a pixel out.
            targets: (D, H, W) y; what they are where w is 0 plays no part.
        """
        w = np.asarray(weights, np.float64).ravel()
        y = np.where(w > 0, targets.reshape(len(targets), -1), 0)  # (D, H·W)
        readings = self._readings(column)
        maps = [layer.values.reshape(len(layer.values), -1).double().cpu().numpy()
                for layer in column.layers]  # fmt: skip
        self.weight += float(w.sum())
        self.y += y @ w
        for a, (layer, A) in enumerate(zip(column.layers, readings, strict=True)):
            places = layer.channels
            self.x[places] += maps[a] @ (A.T @ w)
            self.xy[places] += maps[a] @ (A.T @ (w[:, None] * y.T))
            weighted = sparse.csr_array(A.T.multiply(w[None]))
            for b in range(a + 1):
                between = weighted @ readings[b]  # (sites of a, sites of b)
                block = (between.T @ maps[a].T).T @ maps[b].T  # (c_a, c_b)
                others = column.layers[b].channels
                self.xx[np.ix_(places, others)] += block
                if a != b:
                    self.xx[np.ix_(others, places)] += block.T
        return self

    def _readings(self, column: Column) -> list[sparse.csr_array]:
        """Of a column's grids; pictures of one size and placement share them."""
        maps = column.maps
        grids = [tuple(layer.values.shape[1:]) for layer in column.layers]
        key = maps.size, maps.input_size, maps.numbers, tuple(grids)
        if self._known is None or self._known[0] != key:
            self._known = key, [reading(layer) for layer in column.layers]
        return self._known[1]

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
    w = np.ones(column.size).ravel() if weights is None else np.asarray(weights, float).ravel()
    x, square = np.zeros(column.channels), np.zeros(column.channels)
    for layer in column.layers:
        A = reading(layer)
        f = layer.values.reshape(len(layer.values), -1).double().cpu().numpy()
        x[layer.channels] = f @ (A.T @ w)
        between = sparse.csr_array(A.T.multiply(w[None])) @ A
        square[layer.channels] = ((between @ f.T).T * f).sum(1)
    return float(w.sum()), x, square


def one_hot(labels: np.ndarray, classes: int) -> np.ndarray:
    """(H, W) labels → (K, H, W) float64 of 0 and 1."""
    return (labels[None] == np.arange(classes)[:, None, None]).astype(np.float64)


def as_tensor(values: np.ndarray) -> torch.Tensor:
    """float32."""
    return torch.from_numpy(np.ascontiguousarray(values, np.float32))
