"""Standardised features as the logistic solver multiplies them: in memory, or read in pieces."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import torch

from probes.lazy import Rows, as_tensor, is_lazy
from probes.standardise import moments

WIDEST = 2048
"""Features beyond which no (D, D) matrix is made."""


class Held:
    """G tables of N pictures and D features in memory.

    Args:
        z: (G, N, D) standardised, float32 or float64.
    """

    def __init__(self, z: torch.Tensor):
        self.z, self.shape, self.dtype, self.device = z, tuple(z.shape), z.dtype, z.device

    def products(self, weights: torch.Tensor) -> torch.Tensor:
        """(G, K, N) = weights (G, K, D) · z'."""
        return torch.bmm(weights, self.z.mT)

    def sums(self, shares: torch.Tensor) -> torch.Tensor:
        """(G, K, D) = shares (G, K, N) · z."""
        return torch.bmm(shares, self.z)

    def gram(self) -> torch.Tensor | None:
        """z'z/n (G, D, D); None where D is too large for one to pay."""
        return torch.bmm(self.z.mT, self.z) / self.shape[1] if _pays(self.shape) else None

    def keep(self, cells: torch.Tensor) -> Held:
        """Some of the tables: (G,) bool."""
        return Held(self.z[cells])


class Streamed:
    """One table (G = 1) that lies in a file; each product reads all of it, a piece at a time.

    Args:
        rows: (N, D) features as they come.
        device: where the products are made.

    Attributes:
        mean, scale: (D,) float64 that standardise them, the latter 1 where a feature is constant;
            the rows are read once for them.
    """

    def __init__(self, rows: Rows, device: torch.device):
        pieces = (as_tensor(x) for _, x in rows.chunks())
        found = moments(pieces, np.dtype(rows.dtype).name)
        self.rows, (self.mean, self.scale) = rows, (values.numpy() for values in found)
        self.shape, self.device = (1, *rows.shape), device
        self.dtype = torch.float64 if rows.dtype == np.float64 else torch.float32

    def products(self, weights: torch.Tensor) -> torch.Tensor:
        out = weights.new_empty(1, weights.shape[1], len(self.rows))
        for place, z in self._pieces():
            torch.mm(weights[0], z.T, out=out[0, :, place])
        return out

    def sums(self, shares: torch.Tensor) -> torch.Tensor:
        out = shares.new_zeros(1, shares.shape[1], self.shape[2])
        for place, z in self._pieces():
            out[0].addmm_(shares[0, :, place], z)
        return out

    def gram(self) -> torch.Tensor | None:
        if not _pays(self.shape):
            return None
        out = torch.zeros(1, self.shape[2], self.shape[2], dtype=self.dtype, device=self.device)
        for _, z in self._pieces():
            out[0].addmm_(z.T, z)
        return out / self.shape[1]

    def within(self, memory: int) -> Held | Streamed:
        """The same in memory, or this one, if it lies in a file and is larger than `memory`."""
        large = is_lazy(self.rows.values) and self.rows.nbytes > memory
        return self if large else self.held()

    def held(self) -> Held:
        """The same in memory."""
        z = torch.empty(self.shape, dtype=self.dtype, device=self.device)
        for place, piece in self._pieces():
            z[0, place] = piece
        return Held(z)

    def _pieces(self) -> Iterator[tuple[slice, torch.Tensor]]:
        for start, x in self.rows.chunks():
            z = ((x - self.mean) / self.scale).astype(self.rows.dtype, copy=False)
            yield slice(start, start + len(z)), torch.from_numpy(z).to(self.device)


def _pays(shape: tuple[int, ...]) -> bool:
    return shape[2] <= min(WIDEST, shape[1])
