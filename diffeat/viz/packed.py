"""Maps small enough for a page: eight bits a number, of fewer channels where that is not enough."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from diffeat.coords import grid_points
from diffeat.errors import SpecError
from probes.maps import Maps, as_float
from probes.matching import NearestMatcher
from probes.matching.placed import TINY

SCALE_BYTES = 4
"""Of each site."""
FEWEST = 8
"""Channels below which nothing can be told from a page."""
ALONG = 12
"""Points along a picture's longer side, by which packed maps are compared with exact ones."""


@dataclass(frozen=True, eq=False)
class Packed:
    """Maps of one cell, of several pictures: f ≈ scale · q, with a scale for each site.

    Attributes:
        values: of each picture, (h, w, K) int8.
        scales: of each picture, (h, w) float32.
        channels: C, that there were.
    """

    values: tuple[np.ndarray, ...]
    scales: tuple[np.ndarray, ...]
    channels: int

    @property
    def kept(self) -> int:
        """K channels, or components in place of them."""
        return self.values[0].shape[2]

    def map(self, place: int) -> np.ndarray:
        """(K, h, w) float32 that a page computes with."""
        found = self.values[place] * self.scales[place][..., None]
        return np.ascontiguousarray(found.transpose(2, 0, 1), np.float32)

    def data(self, place: int) -> bytes:
        """Scales, then values, site by site; little-endian."""
        return self.scales[place].astype("<f4").tobytes() + self.values[place].tobytes()


@dataclass(frozen=True)
class Agreement:
    """How near the maps of a page are to the exact ones, of one cell.

    Attributes:
        cell: (block, t).
        channels, kept: how many there were, and are: principal components where they are fewer.
        points: that were looked for, each in one other picture.
        same: the share of them whose best match lies within 1 site of the exact one.
        difference: mean |cosine − exact cosine| of these points with all sites.
    """

    cell: tuple[str, float]
    channels: int
    kept: int
    points: int
    same: float
    difference: float

    def to_dict(self) -> dict[str, Any]:
        """Plain values."""
        names = ("channels", "kept", "points", "same", "difference")
        block, t = self.cell
        return {"block": block, "t": t, **{name: getattr(self, name) for name in names}}


def kept_channels(shapes: Mapping[Any, Sequence[tuple[int, int, int]]], room: float) -> int | None:
    """How many channels of a cell fit at most, the same number for all; None: all of them do.

    Args:
        shapes: cell → (C, h, w) of each picture.
        room: bytes for all of them.

    Raises:
        SpecError: not even a few.
    """

    def size(most: int) -> int:
        each = (one for cell in shapes.values() for one in cell)
        return sum(h * w * (min(channels, most) + SCALE_BYTES) for channels, h, w in each)

    highest = max(one[0] for cell in shapes.values() for one in cell)
    if size(highest) <= room:
        return None
    low, high = 0, highest  # low fits, high does not
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if size(middle) <= room else (low, middle)
    if low < FEWEST:
        count = sum(map(len, shapes.values()))
        raise SpecError(
            f"{count} maps with {size(0) // SCALE_BYTES:,} sites in all do not fit into the "
            f"{max(room, 0) / 1e6:.2f} MB that a page has for them, at {FEWEST} channels; choose "
            "fewer cells (t, block), fewer pictures or a smaller input"
        )
    return low


def pack(maps: Sequence[Any], most: int | None = None) -> Packed:
    """Pack the maps of one cell.

    Where there are more than `most` channels, vectors of all pictures together are projected on
    their first principal components: the eigenvectors of Σ f fᵀ/|f|² over all sites, without
    their mean, so that no rank K changes cosines less (in the sum of squares). Each vector then
    becomes int8 by its own largest number.

    Args:
        maps: of each picture, (C, h, w), numpy or torch.
        most: channels that are kept.

    Raises:
        SpecError: nan or inf.
    """
    vectors = [as_float(one).detach().cpu().float().permute(1, 2, 0).numpy() for one in maps]
    if not all(np.isfinite(one).all() for one in vectors):
        raise SpecError("a map holds nan or inf; expected finite numbers")
    channels = vectors[0].shape[2]
    if most is not None and channels > most:
        basis = components(vectors, most)
        vectors = [one @ basis for one in vectors]
    largest = [np.abs(one).max(2) for one in vectors]
    scales = [(one / 127).astype(np.float32) for one in largest]
    values = [
        np.rint(one / np.where(scale > 0, scale, 1)[..., None]).clip(-127, 127).astype(np.int8)
        for one, scale in zip(vectors, scales, strict=True)
    ]
    return Packed(tuple(values), tuple(scales), channels)


def components(vectors: Sequence[np.ndarray], most: int) -> np.ndarray:
    """(C, K) float32 with orthonormal columns: the first principal components of directions.

    Args:
        vectors: each (h, w, C).
        most: K, less than C.
    """
    rows = np.concatenate([one.reshape(-1, one.shape[2]) for one in vectors])
    lengths = np.linalg.norm(rows, axis=1, keepdims=True)
    rows = torch.from_numpy(rows / np.maximum(lengths, TINY**0.5)).double()
    if len(rows) >= rows.shape[1]:
        return torch.linalg.eigh(rows.T @ rows)[1].flip(1)[:, :most].float().numpy()
    # fewer sites than channels: the right singular vectors of the rows, from the smaller side
    return torch.linalg.svd(rows, full_matrices=False)[2][:most].T.float().numpy()


def compare(exact: Sequence[Maps], packed: Packed, cell: tuple[str, float]) -> Agreement:
    """Hold packed maps against the exact ones, picture after picture, each with the next.

    Args:
        exact: of each picture; where a match may lie is every pixel of its `size`.
        packed: of the same cell.
        cell: (block, t).
    """
    matcher, near, off, points = NearestMatcher(), 0, [], 0
    small = [
        Maps({cell: packed.map(k)}, one.size, one.input_size, one.placement)
        for k, one in enumerate(exact)
    ]
    alone = [Maps({cell: one[cell]}, one.size, one.input_size, one.placement) for one in exact]
    for k in range(len(exact)):
        other = (k + 1) % len(exact)
        at = grid_points(alone[k].size, ALONG)
        at = at[alone[k].valid(at)]
        found = [matcher.match(each[k], each[other], at) for each in (alone, small)]
        known = found[0].valid
        places = [alone[other].sites(one.points[known], cell) for one in found]
        apart = np.linalg.norm(places[0] - places[1], axis=1)
        near, points = near + int((apart <= 1 + 1e-6).sum()), points + int(known.sum())
        cosines = [_cosines(each[k], each[other], at[known], cell) for each in (alone, small)]
        off.append(np.abs(cosines[0] - cosines[1]).ravel())
    difference = np.concatenate(off)
    return Agreement(
        cell, packed.channels, packed.kept, points, near / max(points, 1),
        float(difference.mean()) if len(difference) else 0.0,
    )  # fmt: skip


def _cosines(source: Maps, target: Maps, points: np.ndarray, cell: Any) -> np.ndarray:
    """(n, h·w) cosines of features at points with all sites."""
    one = source.read(cell, points).detach().cpu().double().numpy()
    other = as_float(target[cell]).detach().cpu().double().flatten(1).numpy().T
    one, other = (
        rows / np.maximum(np.linalg.norm(rows, axis=1, keepdims=True), TINY**0.5)
        for rows in (one, other)
    )
    return one @ other.T
