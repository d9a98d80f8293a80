"""Numbers of features that need no label: structure in space, width, massive channels, stability.

Maps are (N, C, H, W): a site is one place (y, x) of one picture. Vectors (N, D) are maps of one
site, where that makes sense. Each number is a function of arrays; what comes batch by batch is
counted by an accumulator beside it, which gives the same number and holds no features.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np

from probes.checks import check_choice
from probes.lazy import as_numpy

DISTANCES = ("manhattan", "chebyshev")
"""How far two sites are apart: |dy| + |dx|, or the larger of both."""
OVER = ("sites", "pictures")
"""What effective rank counts as a row: every site, or every picture's mean over its sites."""
MASSIVE = 10.0
"""A channel is massive whose mean magnitude is above so many times the median channel's."""
NEAR, FAR = 1 / 16, 6 / 16
"""Radii of LDS as shares of the longer side: 1 and 6 of the 16 × 16 sites of iREPA's code."""


def default_radii(height: int, width: int) -> tuple[int, int]:
    """(near, far) in sites of a grid, by the shares `NEAR` and `FAR` of its longer side.

    Near is 1 at least, far more than near.
    """
    side = max(height, width)
    near = max(1, round(NEAR * side))
    return near, max(near + 1, math.ceil(FAR * side))


def local_distant_similarity(
    maps: Any, near: int | None = None, far: int | None = None, distance: str = "manhattan"
) -> np.ndarray:
    """LDS: how much more alike near sites are than far ones, per picture.

        LDS = mean of cos(x_a, x_b) over 1 <= d(a, b) <= near  −  mean over d(a, b) >= far

    over the pairs of different sites of one picture. cos of a vector of zeros is 0. Similarities
    of all pairs that lie (dy, dx) apart are one number of the map's autocorrelation, which is
    worked out by Fourier transforms in C·HW·log HW steps and C·HW memory, one picture at a time.

    Args:
        maps: (N, C, H, W) finite numbers.
        near, far: radii in sites; None takes `default_radii`, which look at the same share of a
            picture in grids of any size.
        distance: one of `DISTANCES`.

    Returns:
        (N,) float64 in [-2, 2]; about 0 for sites that have nothing to do with each other.

    Raises:
        ValueError: no maps; nan or inf; radii that no two sites have.

    Source: Singh et al. 2025 (iREPA), "local vs distant similarity", with Manhattan distance; the
    paper writes d < r_near, its public code takes the four neighbours (near = 1) and far = 6.
    """
    maps = _as_maps(maps, "maps", sites=True)
    check_choice("distance", distance, DISTANCES)
    height, width = maps.shape[2:]
    planned = default_radii(height, width)
    near, far = planned[0] if near is None else near, planned[1] if far is None else far
    dy, dx = (np.abs(np.fft.fftfreq(2 * n, 1 / (2 * n))) for n in (height, width))
    apart = dy[:, None] + dx if distance == "manhattan" else np.maximum(dy[:, None], dx)
    pairs = np.maximum(height - dy, 0)[:, None] * np.maximum(width - dx, 0)
    local, distant = pairs * ((apart >= 1) & (apart <= near)), pairs * (apart >= far)
    if not 1 <= near < far or not local.any() or not distant.any():
        raise ValueError(f"near={near}, far={far}: maps of {height}×{width} sites have no two that "
                         "far apart; expected 1 <= near < far within the map")  # fmt: skip
    weights = (local > 0) / local.sum() - (distant > 0) / distant.sum()
    return np.array([float((_autocorrelation(one) * weights).sum()) for one in maps])


def _autocorrelation(one: np.ndarray) -> np.ndarray:
    """(2H, 2W) sums over pairs of sites (dy, dx) apart of the cosines of one (C, H, W) map."""
    from scipy import fft

    size = 2 * one.shape[1], 2 * one.shape[2]
    spectrum = fft.rfft2(_unit(one[None])[0], size)
    return fft.irfft2((spectrum.real**2 + spectrum.imag**2).sum(0), size)


def effective_rank(X: Any, over: str = "sites", centred: bool = True) -> float:
    """How many directions features spread over.

        erank = exp(−sum_k p_k ln p_k),    p_k = s_k / sum_j s_j

    with s_k the singular values of the (n, C) matrix of rows. Of r equally large ones it is r.

    Args:
        X: (N, C, H, W) maps or (N, C) vectors.
        over: one of `OVER`.
        centred: take the rows' mean away first; else a common offset is one direction.

    Returns:
        In [1, C]; 0 where nothing varies.

    Raises:
        ValueError: other shapes, nan or inf.

    Source: Roy & Vetterli 2007, "The effective rank", definition 1.
    """
    return EffectiveRank(over, centred).update(X).compute()


class EffectiveRank:
    """`effective_rank` of batches: C × C second moments are all that is kept.

    Singular values are the roots of the moments' eigenvalues, in float64 about a first guess of
    the mean, so those below 1e-7 of the largest are noise, which adds less than 0.01.

    Args:
        over, centred: as for `effective_rank`.
    """

    def __init__(self, over: str = "sites", centred: bool = True):
        check_choice("over", over, OVER)
        self.over, self.centred = over, centred
        self.count = 0
        self._shift = self._sum = self._moments = None

    def update(self, X: Any) -> EffectiveRank:
        """Count a batch of (N, C, H, W) maps or (N, C) vectors."""
        maps = _as_maps(X, "X")
        if self.over == "pictures":
            maps = maps.mean((2, 3), keepdims=True)
        rows = np.moveaxis(maps, 1, -1).reshape(-1, maps.shape[1])
        if not len(rows):
            return self
        if self._shift is None:
            self._shift = rows.mean(0) if self.centred else np.zeros(rows.shape[1])
            self._sum = np.zeros(rows.shape[1])
            self._moments = np.zeros((rows.shape[1],) * 2)
        if rows.shape[1] != len(self._shift):
            raise ValueError(f"X has {rows.shape[1]} channels, those before {len(self._shift)}; "
                             "expected the same")  # fmt: skip
        rows = rows - self._shift
        self._sum += rows.sum(0)
        self._moments += rows.T @ rows
        self.count += len(rows)
        return self

    def compute(self) -> float:
        """The effective rank of all rows; ValueError where there are none."""
        if not self.count:
            raise ValueError("nothing was counted; expected at least one row")
        moments = self._moments
        if self.centred:
            moments = moments - np.outer(self._sum, self._sum) / self.count
        values = np.sqrt(np.clip(np.linalg.eigvalsh(moments), 0, None))
        size = float(np.abs(self._shift).max(initial=0) + np.sqrt(np.diag(self._moments).max()))
        if values.max() <= 1e-6 * size * math.sqrt(self.count):  # what a constant flickers by
            return 0.0
        share = values[values > 0] / values.sum()
        return float(np.exp(-(share * np.log(share)).sum()))


@dataclass(frozen=True)
class MassiveShare:
    """How much of features lies in few channels.

    Attributes:
        energy: share of the energy, sum over sites of x_c², that massive channels have: the number
            that is meant by "massive-channel share", since one channel in a thousand may swamp all
            cosines.
        channels: share of the channels that are massive.
        largest: share of the energy that the one largest channel has, massive or not.
        places: the massive channels, the largest first.
    """

    energy: float
    channels: float
    largest: float
    places: tuple[int, ...]


def massive_share(X: Any, ratio: float = MASSIVE) -> MassiveShare:
    """Which channels are massive, and what they take.

        massive:  m_c = mean over pictures and sites of |x_c|  >  ratio · median over c of m_c
        energy =  sum over massive c of E[x_c²]  /  sum over all c of E[x_c²]

    Args:
        X: (N, C, H, W) maps or (N, C) vectors.
        ratio: above 1.

    Raises:
        ValueError: other shapes, nan or inf, a ratio that is not above 1.

    Source: Sun et al. 2024 (massive activations); the rule of the median as in Gan et al. 2025
    (DiTF); the share of the energy is ours.
    """
    return MassiveEnergy(ratio).update(X).compute()


class MassiveEnergy:
    """`massive_share` of batches: two numbers a channel are kept.

    Args:
        ratio: as for `massive_share`.
    """

    def __init__(self, ratio: float = MASSIVE):
        if not ratio > 1:
            raise ValueError(f"ratio={ratio}; expected a number above 1")
        self.ratio, self.count = ratio, 0
        self._size: Any = 0.0
        self._energy: Any = 0.0

    def update(self, X: Any) -> MassiveEnergy:
        """Count a batch of (N, C, H, W) maps or (N, C) vectors."""
        maps = _as_maps(X, "X")
        self._size = self._size + np.abs(maps).sum((0, 2, 3))
        self._energy = self._energy + np.square(maps).sum((0, 2, 3))
        self.count += len(maps) * maps.shape[2] * maps.shape[3]
        return self

    def compute(self) -> MassiveShare:
        """The shares; 0 of features that are all 0. ValueError where nothing was counted."""
        if not self.count:
            raise ValueError("nothing was counted; expected at least one picture")
        massive = self._size > self.ratio * np.median(self._size)
        total = float(self._energy.sum())
        if not total:
            return MassiveShare(0.0, 0.0, 0.0, ())
        order = np.argsort(-self._size, kind="stable")
        return MassiveShare(
            float(self._energy[massive].sum()) / total, float(massive.mean()),
            float(self._energy.max()) / total, tuple(int(c) for c in order if massive[c]),
        )  # fmt: skip


@dataclass(frozen=True)
class Agreement:
    """How alike two noisings of one picture are, beside two noisings of different pictures.

    Attributes:
        same: mean cosine of a site's feature under two noisings of its picture.
        other: mean cosine of the features at one site of two different pictures: the floor, which
            a constant, a position or a massive channel has as well.
    """

    same: float
    other: float

    @property
    def above(self) -> float:
        """same − other, the number: 0 of what says nothing of the picture, at most 2."""
        return self.same - self.other


def noise_agreement(first: Any, second: Any) -> Agreement:
    """Agreement between two noisings of the same N pictures, u and v of length 1 at every site.

        same  = mean over i and sites s of u_is · v_is
        other = mean over i ≠ j and sites s of u_is · v_js

    cos of a vector of zeros is 0. All N (N − 1) pairs count, by sums over pictures.

    Args:
        first, second: (N, C, H, W) maps or (N, C) vectors of the same pictures in the same order,
            under independent noise.

    Raises:
        ValueError: shapes that differ, fewer than two pictures, nan or inf.

    Source: ours; Wang & Isola 2020's alignment (see `representations.alignment`) without its
    floor cannot tell what is stable from what is constant.
    """
    return NoiseAgreement().update(first, second).compute()


class NoiseAgreement:
    """`noise_agreement` of batches: two sums of C·H·W numbers are kept."""

    def __init__(self) -> None:
        self.count, self._own = 0, 0.0
        self._sums: list[Any] = [0.0, 0.0]
        self._shape: tuple[int, ...] = ()

    def update(self, first: Any, second: Any) -> NoiseAgreement:
        """Count a batch of pictures under both noisings."""
        first, second = _as_maps(first, "first"), _as_maps(second, "second")
        shape = self._shape or first.shape[1:]
        if first.shape != second.shape or first.shape[1:] != shape:
            raise ValueError(f"first has shape {first.shape}, second {second.shape}, pictures "
                             f"before {shape}; expected the same")  # fmt: skip
        self._shape = shape
        u, v = _unit(first), _unit(second)
        self._own += float((u * v).sum())
        self._sums = [self._sums[0] + u.sum(0), self._sums[1] + v.sum(0)]
        self.count += len(u)
        return self

    def compute(self) -> Agreement:
        """The agreement; ValueError of fewer than two pictures."""
        if self.count < 2:
            raise ValueError(f"{self.count} pictures; expected at least two, which are told apart")
        sites, count = self._shape[1] * self._shape[2], self.count
        between = float((self._sums[0] * self._sums[1]).sum()) - self._own
        return Agreement(
            self._own / (count * sites), between / (count * (count - 1) * sites)
        )  # fmt: skip


def _unit(maps: np.ndarray) -> np.ndarray:
    """The vectors of all sites, of length 1; zeros stay."""
    size = np.linalg.norm(maps, axis=1, keepdims=True)
    return np.divide(maps, size, out=np.zeros_like(maps), where=size > 0)


def _as_maps(values: Any, name: str, sites: bool = False) -> np.ndarray:
    """(N, C, H, W) float64 of maps or, unless there must be sites, of vectors."""
    values = np.asarray(as_numpy(values))
    expected = "(N, C, H, W)" + ("" if sites else " or (N, C)")
    if values.ndim not in ((4,) if sites else (2, 4)) or 0 in values.shape[1:]:
        raise ValueError(f"{name} has shape {values.shape}; expected {expected}")
    values = values.astype(np.float64)
    if not np.isfinite(values).all():
        raise ValueError(f"{name} has nan or inf; expected finite numbers")
    return values if values.ndim == 4 else values[:, :, None, None]
