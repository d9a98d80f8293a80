"""DiffSeg: self-attention maps are distributions over a picture, and those that agree are a part.

    aggregation    A = sum_k R_k·up(A_k)    keys of each map bilinearly to the largest grid, and
                                            made to sum to 1 again; queries repeated; R_k by the
                                            side of the map's grid, sum 1
    anchors        the distributions of M × M queries, evenly spaced
    merging        first iteration: each anchor becomes the mean of all A whose distance from it
                   is below a threshold; further ones: proposals, in order, become the mean of all
                   proposals that are that near, which are then gone
    distance       (KL(p‖q) + KL(q‖p))/2
    suppression    each pixel goes to the proposal that is the largest there, read bilinearly

In the authors' code a proposal that is gone still counts in the mean of a later one that is near
it; here it does not.

Source: Tian et al. 2024, "Diffuse, Attend, and Segment", CVPR.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch.nn import functional as F

from probes.cells import Cells, cells_of
from probes.checks import check_counts
from probes.maps import Maps, as_float
from probes.parts.base import PictureParts, largest

THRESHOLD, ANCHORS, ITERATIONS = 1.1, 16, 3
"""Largest distance that is merged (as published for COCO-Stuff; .9 for Cityscapes), anchors along
a side, iterations. From the paper as it is remembered, not checked against it."""
LEAST = 1e-12
"""Probability below which the logarithm does not go."""
AT_ONCE = 1 << 22
"""Numbers of a strip of queries while maps are aggregated, or compared: 16 MiB."""


@dataclass(eq=False, repr=False, kw_only=True)
class DiffSeg(PictureParts):
    """Parts by merging self-attention maps; cells are `…:self.map`, one channel a key.

    Memory is that of the largest map, n² numbers for n = h·w of its grid, and of the maps.

    Args:
        threshold: distance up to which two distributions are merged.
        anchors: M, along each side of the grid; no more than there are sites.
        iterations: of merging, the first with all queries.
    """

    threshold: float = THRESHOLD
    anchors: int = ANCHORS
    iterations: int = ITERATIONS

    def _check(self) -> None:
        check_counts(self, "anchors", "iterations")
        if not self.threshold > 0:
            raise ValueError(f"threshold={self.threshold}; expected a distance above 0")

    def fit(self, cells, targets=None):
        """Note which cells there are, which must be maps of self-attention; see `PictureParts`."""
        cells: Cells = cells_of(cells)
        for key in cells.keys:
            shape = cells.rows(key).shape[1:]
            if len(shape) == 3 and shape[0] != shape[1] * shape[2]:
                raise ValueError(
                    f"{key} has maps of shape {shape}; expected self-attention, as many channels "
                    f"(keys) as sites, such as {shape[1] * shape[2]}: cells such as "
                    "mid.attn.0:self.map"
                )
        return super().fit(cells, targets)

    def _parts(self, maps: Maps) -> np.ndarray:
        values = aggregate_attention([as_float(maps[key]).numpy() for key in self.cells_])
        h, w = values.shape[1:]
        flat = values.reshape(h * w, h * w)
        start = flat[anchor_sites((h, w), self.anchors)]
        found = merge(start, flat, self.threshold, self.iterations)
        maps = replace(maps, values={"proposals": found.reshape(-1, h, w)})
        return largest(maps, ("proposals",), np.eye(len(found), dtype=np.float32))


def aggregate_attention(maps: Sequence[np.ndarray]) -> np.ndarray:
    """Self-attention of several layers as one, on the largest grid.

    Args:
        maps: (h·w, h, w) each, keys by queries: `map[k, y, x]` is what the query at (y, x) gives
            to key k.

    Returns:
        (H·W, H, W) float32, queries by keys: row q is the distribution of query q over the keys,
        which sums to 1.

    Raises:
        ValueError: maps of another number of keys than of sites; none.
    """
    if not maps:
        raise ValueError("no maps to aggregate; expected one at least")
    for one in maps:
        if one.ndim != 3 or one.shape[0] != one.shape[1] * one.shape[2]:
            raise ValueError(f"a map of shape {one.shape}; expected (h·w, h, w), one channel a key")
    H, W = max((one.shape[1:] for one in maps), key=lambda grid: grid[0] * grid[1])
    sides = np.array([np.sqrt(one.shape[0]) for one in maps])
    found = torch.zeros(H * W, H, W)
    for one, share in zip(maps, sides / sides.sum(), strict=True):
        _, h, w = one.shape
        keys = torch.from_numpy(np.ascontiguousarray(one, np.float32)).reshape(h * w, h * w).T
        rows = torch.arange(H) * h // H
        query = (rows[:, None] * w + torch.arange(W) * w // W).reshape(-1)
        step = max(1, AT_ONCE // (H * W))
        for first in range(0, H * W, step):
            some = keys[query[first : first + step]].reshape(-1, 1, h, w)
            if (h, w) != (H, W):
                some = F.interpolate(some, size=(H, W), mode="bilinear", align_corners=False)
            some = some[:, 0]
            total = some.sum((1, 2), keepdim=True).clamp_min(LEAST)
            found[first : first + step] += float(share) * some / total
    found /= found.sum((1, 2), keepdim=True).clamp_min(LEAST)
    return found.numpy()


def anchor_sites(grid: tuple[int, int], anchors: int) -> np.ndarray:
    """(m,) int64 flat sites of M × M anchors, in the middle of equal parts of each side; each site
    once."""
    down, across = (
        np.unique(((np.arange(min(anchors, side)) + 0.5) * side / min(anchors, side)).astype(int))
        for side in grid
    )
    return (down[:, None] * grid[1] + across).ravel()


def distances(one: np.ndarray, other: np.ndarray) -> np.ndarray:
    """Symmetric KL divergence of distributions, (KL(p‖q) + KL(q‖p))/2, in nats.

    Args:
        one, other: (m, n) and (k, n), rows sum to 1.

    Returns:
        (m, k) float32, ≥ 0.
    """
    log_one = np.log(np.maximum(one, LEAST))
    own = (one * log_one).sum(1)
    found = np.empty((len(one), len(other)), np.float32)
    step = max(1, AT_ONCE // max(1, other.shape[1]))
    for first in range(0, len(other), step):
        some = other[first : first + step]
        log = np.log(np.maximum(some, LEAST))
        cross = one @ log.T + log_one @ some.T
        found[:, first : first + step] = (own[:, None] + (some * log).sum(1) - cross) / 2
    return np.maximum(found, 0)


def merge(anchors: np.ndarray, rows: np.ndarray, threshold: float, iterations: int) -> np.ndarray:
    """Merge anchors with all that is near them, and then with each other.

    Args:
        anchors: (m, n) distributions.
        rows: (N, n) distributions of all queries.
        threshold: of `distances`.
        iterations: the first with `rows`, further ones among the proposals.

    Returns:
        (p, n) float32 proposals, p ≤ m.
    """
    near = (distances(anchors, rows) < threshold).astype(np.float32)
    count = near.sum(1, keepdims=True)
    found = np.where(count > 0, near @ rows / np.maximum(count, 1), anchors)
    for _ in range(iterations - 1):
        found = merged_once(found, threshold)
    return found


def merged_once(proposals: np.ndarray, threshold: float) -> np.ndarray:
    """(p, n) → fewer: in order, each that is left becomes the mean of those left and near it."""
    near = distances(proposals, proposals) < threshold
    left, found = np.ones(len(proposals), bool), []
    for place in range(len(proposals)):
        if left[place]:
            members = near[place] & left
            members[place] = True
            found.append(proposals[members].mean(0))
            left &= ~members
    return np.stack(found).astype(np.float32)
