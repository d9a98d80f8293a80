"""Which pixels of which pictures a pass takes: uniform or balanced, the same for the same seed."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

import numpy as np

from probes.dense.truth import Masks

SAMPLINGS = ("uniform", "balanced")


@dataclass(frozen=True)
class Draws:
    """How many pixels a pass takes of each picture, and which.

    Attributes:
        counts: (n, K) int64 pixels that count, by picture and class; those of a class with too
            few in a picture are 0.
        sampling: one of `SAMPLINGS`.
        total: pixels of a pass.
    """

    counts: np.ndarray
    sampling: str
    total: int

    @classmethod
    def of(cls, masks: Masks, rows: np.ndarray, fewest: int, sampling: str) -> Draws:
        """All masks are read once, and their pixels counted.

        Raises:
            ValueError: no pixel counts; see `Masks`.
        """
        counts = np.stack([_counted(masks[int(row)], masks.classes) for row in rows])
        some = counts.sum()
        counts[counts < fewest] = 0
        if not counts.any():
            why = f" where a class has {fewest} pixels at least in a picture" if some else ""
            raise ValueError(
                f"no pixel of {len(rows)} {masks.name} counts{why}: all are ignored (label "
                f"{masks.ignore}); expected some labelled ones"
            )
        return cls(counts, sampling, int(counts.sum()))

    @property
    def pictures(self) -> int:
        """Pictures with a pixel that counts."""
        return int(self.counts.any(1).sum())

    def take(self, pixels: int | None) -> Draws:
        """The same with so many pixels of a picture, on average; None: as many as count."""
        return self if pixels is None else replace(self, total=int(pixels) * self.pictures)

    def quotas(self, phase: float) -> np.ndarray:
        """How many pixels a pass takes: (n,) int64 of pictures, or (n, K) if balanced.

        Shares of the total are rounded along their cumulative sum, so that they add up to it, and
        by another phase in [0, 1) in every pass, so that small ones have their turn.
        """
        uniform = self.sampling == "uniform"
        if uniform and self.total == self.counts.sum():
            return self.counts.sum(1)
        share = self.counts.sum(1) if uniform else self.counts > 0
        share = share / np.maximum(share.sum(0), 1)  # (n,), or (n, K): of each class
        share /= share.sum()
        ends = np.cumsum(share.T.reshape(-1)) * self.total  # class by class
        ends[-1] = self.total
        whole = np.floor(ends + phase).astype(np.int64)
        return np.diff(whole, prepend=0).reshape(share.T.shape).T

    def turns(self, rng: np.random.Generator, most: int) -> Iterator[Turn]:
        """One pass: pictures in random order, several times where one gives more than `most`."""
        seed, quotas = int(rng.integers(2**62)), self.quotas(float(rng.random()))
        wanted = quotas.reshape(len(quotas), -1).sum(1)
        shares = -(-int(wanted.max()) // most)
        for share in range(shares):
            for place in rng.permutation(np.flatnonzero(wanted)):
                yield Turn(int(place), quotas[place], slice(share, None, shares), seed)

    def choose(self, turn: Turn, labels: np.ndarray) -> np.ndarray:
        """(q,) int64 flat pixels of a picture with these (H, W) labels, in random order."""
        rng, flat = np.random.default_rng((turn.seed, turn.place)), labels.reshape(-1)
        kept = np.flatnonzero(self.counts[turn.place])
        if self.sampling == "uniform":
            found = _taken(np.flatnonzero(np.isin(flat, kept)), int(turn.quota), rng)
        else:
            found = np.concatenate(
                [_taken(np.flatnonzero(flat == k), int(turn.quota[k]), rng) for k in kept]
            )
        return rng.permutation(found)[turn.share]


@dataclass(frozen=True)
class Turn:
    """A picture's turn in a pass.

    Attributes:
        place: of the picture among those that were counted.
        quota: its pixels in the whole pass, () or (K,).
        share: which of them are taken now.
        seed: of the pass.
    """

    place: int
    quota: np.ndarray
    share: slice
    seed: int


def _counted(labels: np.ndarray, classes: int) -> np.ndarray:
    known = labels[(labels >= 0) & (labels < classes)]
    return np.bincount(known, minlength=classes)


def _taken(places: np.ndarray, count: int, rng: np.random.Generator) -> np.ndarray:
    """So many of the places, as evenly as can be: each again only after all others."""
    times, rest = divmod(count, len(places))
    more = rng.choice(places, rest, replace=False, shuffle=False)
    return np.concatenate([*[places] * times, more])
