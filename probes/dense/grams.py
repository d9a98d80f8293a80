"""Sums over every pixel of products of features, worked out on the maps' own grids.

Reading a map at the pixels is a matrix A (pixels × sites) with four weights a row. With pixel
weights w and maps F_a (c_a × sites of a) of two grids a, b

    sum over pixels p of w_p·x_p·x_pᵀ = F_a·S_ab·F_bᵀ,    S_ab = A_aᵀ·diag(w)·A_b

and S_ab is sparse: sites meet only where pixels lie between both. A is the product of one matrix
down and one across, so w is summed down the picture, then across it, by the pairs of rows and of
columns that meet. So the Gram matrix of all pixels, and what a least squares fit of all of them
needs, cost what sites cost, and no feature of a pixel is ever made.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np
import torch
from scipy import sparse

from probes.axes import Axis

if TYPE_CHECKING:
    from probes.dense.column import Column, Layer

WIDE = 1024
"""Channels of which products with all others are held at a time."""


def side(axis: Axis) -> sparse.csr_array:
    """(L, g) float64: the weights by which the sites of one side are read."""
    before, after, weight = (one.cpu().numpy() for one in axis.corners)
    at = np.arange(len(before))
    values, places = np.concatenate([1 - weight, weight]), np.concatenate([before, after])
    matrix = sparse.coo_array((values, (np.tile(at, 2), places)), (len(at), axis.cells))
    return sparse.csr_array(matrix)


class Adjoint:
    """Aᵀ of one grid: from numbers of pixels to numbers of sites."""

    def __init__(self, layer: Layer):
        self.down, self.across = (side(axis).T.tocsr() for axis in (layer.down, layer.across))

    def __call__(self, values: np.ndarray) -> np.ndarray:
        """(H, W) → (h·w,)."""
        return (self.across @ (self.down @ values).T).T.ravel()


class Meeting:
    """S_ab of two grids, for any weights of the pixels.

    Of each side, pairs of sites that pixels lie between, and the product of their two weights in
    each pixel.
    """

    def __init__(self, a: Layer, b: Layer):
        (i, k), self.down = _pairs(a.down, b.down)
        (j, m), self.across = _pairs(a.across, b.across)
        self.rows = (i[:, None] * a.across.cells + j).ravel()
        self.columns = (k[:, None] * b.across.cells + m).ravel()
        self.shape = tuple(one.down.cells * one.across.cells for one in (a, b))

    def __call__(self, weights: np.ndarray) -> sparse.csr_array:
        """(H, W) w → (sites of a, sites of b)."""
        values = (self.across @ (self.down @ weights).T).T.ravel()
        return sparse.csr_array(sparse.coo_array((values, (self.rows, self.columns)), self.shape))


def _pairs(a: Axis, b: Axis) -> tuple[tuple[np.ndarray, np.ndarray], sparse.csr_array]:
    """(P,) sites of a and (P,) of b that meet; (P, L) the products of their weights."""
    i, other, u = (one.cpu().numpy() for one in a.corners)
    k, beside, v = (one.cpu().numpy() for one in b.corners)
    sides = [(i, k, (1 - u) * (1 - v)), (i, beside, (1 - u) * v),
             (other, k, u * (1 - v)), (other, beside, u * v)]  # fmt: skip
    codes = np.concatenate([one * b.cells + two for one, two, _ in sides])
    found, places = np.unique(codes, return_inverse=True)
    at, values = np.tile(np.arange(len(u)), 4), np.concatenate([one[2] for one in sides])
    shares = sparse.coo_array((values, (places.ravel(), at)), (len(found), len(u)))
    return np.divmod(found, b.cells), sparse.csr_array(shares)


class Grids:
    """The grids of a column, and how they meet; made once for pictures that lie alike."""

    def __init__(self, column: Column):
        layers = column.layers
        self.key = _key(column)
        self.adjoints = [Adjoint(layer) for layer in layers]
        self.meetings = {(a, b): Meeting(layers[a], layers[b])
                         for a in range(len(layers)) for b in range(a + 1)}  # fmt: skip


def _key(column: Column) -> tuple:
    maps, grids = column.maps, tuple(layer.grid for layer in column.layers)
    return maps.size, maps.input_size, maps.numbers, grids


def flat(layer: Layer) -> np.ndarray:
    """(c, h·w) float64."""
    return layer.values.reshape(len(layer.values), -1).double().cpu().numpy()


@dataclass
class PixelSums:
    """Weighted sums over pixels, of any number of pictures.

    Attributes:
        channels: C. outputs: D, of the targets.
        weight: sum of w.
        x: (C,) sum of w·x. xx: (C, C) sum of w·x·xᵀ.
        y: (D,) sum of w·y. xy: (C, D) sum of w·x·yᵀ.
    """

    channels: int
    outputs: int
    weight: float = 0.0
    x: np.ndarray = field(init=False)
    xx: np.ndarray = field(init=False)
    y: np.ndarray = field(init=False)
    xy: np.ndarray = field(init=False)

    def __post_init__(self) -> None:
        self.x, self.y = np.zeros(self.channels), np.zeros(self.outputs)
        self.xx = np.zeros((self.channels, self.channels))
        self.xy = np.zeros((self.channels, self.outputs))
        self._grids: Grids | None = None

    def add(self, column: Column, weights: np.ndarray, targets: np.ndarray) -> PixelSums:
        """Take in one picture.

        Args:
            column: of the picture.
            weights: (H, W) w; 0 leaves a pixel out.
            targets: (D, H, W) y; what they are where w is 0 plays no part.
        """
        w = np.asarray(weights, np.float64)
        weighted = ((d, np.where(w > 0, y, 0) * w) for d, y in enumerate(targets))
        return self._add(column, w, weighted)

    def add_labels(self, column: Column, weights: np.ndarray, labels: np.ndarray) -> PixelSums:
        """The same with y one-hot, class by class.

        Args:
            labels: (H, W) classes; those outside 0 … D − 1 must have the weight 0.
        """
        w = np.asarray(weights, np.float64)
        there = np.flatnonzero(np.bincount(labels[w > 0]))  # np.unique takes five times as long
        return self._add(column, w, ((int(k), np.where(labels == k, w, 0)) for k in there))

    def _add(
        self, column: Column, w: np.ndarray, weighted: Iterable[tuple[int, np.ndarray]]
    ) -> PixelSums:
        """`weighted`: pairs of d and (H, W) w·y_d."""
        if self._grids is None or self._grids.key != _key(column):
            self._grids = Grids(column)
        grids, maps = self._grids, [flat(layer) for layer in column.layers]
        self.weight += float(w.sum())
        for layer, adjoint, f in zip(column.layers, grids.adjoints, maps, strict=True):
            self.x[layer.channels] += f @ adjoint(w)
        for d, wy in weighted:
            self.y[d] += wy.sum()
            for layer, adjoint, f in zip(column.layers, grids.adjoints, maps, strict=True):
                self.xy[layer.channels, d] += f @ adjoint(wy)
        for (a, b), meeting in grids.meetings.items():
            places, others = column.layers[a].channels, column.layers[b].channels
            for some, block in products(maps[a], meeting(w), maps[b]):
                self.xx[np.ix_(places[some], others)] += block
                if a != b:
                    self.xx[np.ix_(others, places[some])] += block.T
        return self

    def moments(self) -> tuple[np.ndarray, np.ndarray]:
        """(C,) mean and standard deviation of the pixels' features."""
        mean = self.x / self.weight
        spread = np.diagonal(self.xx) / self.weight - mean**2
        return mean, np.sqrt(np.maximum(spread, 0))


def products(
    a: np.ndarray, between: sparse.csr_array, b: np.ndarray
) -> Iterator[tuple[slice, np.ndarray]]:
    """F_a·S·F_bᵀ, some rows at a time; the sum is over the grid that has fewer sites."""
    carried = (between @ b.T) if len(a.T) <= len(b.T) else None  # (sites of a, c_b)
    for first in range(0, len(a), WIDE):
        some = slice(first, first + WIDE)
        if carried is None:
            yield some, (between.T @ a[some].T).T @ b.T
        else:
            yield some, a[some] @ carried


def pixel_moments(
    column: Column, weights: np.ndarray | None = None
) -> tuple[float, np.ndarray, np.ndarray]:
    """Sum of weights, (C,) sums of w·x and of w·x² over the pixels of one picture.

        sum of w·x² = sum over pairs of neighbouring sites of S·f·f'

    Args:
        weights: (H, W); None: 1 each.
    """
    w = np.ones(column.size) if weights is None else np.asarray(weights, np.float64)
    x, square = np.zeros(column.channels), np.zeros(column.channels)
    for layer in column.layers:
        f = flat(layer)
        x[layer.channels] = f @ Adjoint(layer)(w)
        square[layer.channels] = ((Meeting(layer, layer)(w) @ f.T).T * f).sum(1)
    return float(w.sum()), x, square


def class_sums(column: Column, labels: np.ndarray, classes: int) -> tuple[np.ndarray, np.ndarray]:
    """Sums of pixels' features by class, worked out on the maps' grids: the adjoint of reading.

    Args:
        labels: (H, W) int64; those outside 0 … K − 1 do not count.
        classes: K.

    Returns:
        (K, C) float64 and (K,) int64.
    """
    sums, counts = np.zeros((classes, column.channels)), np.zeros(classes, np.int64)
    adjoints = [(layer, Adjoint(layer), flat(layer)) for layer in column.layers]
    for k in range(classes):
        which = labels == k
        counts[k] = which.sum()
        if counts[k]:
            for layer, adjoint, f in adjoints:
                sums[k, layer.channels] = f @ adjoint(which.astype(np.float64))
    return sums, counts


def as_tensor(values: np.ndarray) -> torch.Tensor:
    """float32."""
    return torch.from_numpy(np.ascontiguousarray(values, np.float32))
