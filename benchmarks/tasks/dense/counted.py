"""What was counted of test pictures, so that numbers over any draw of groups follow from it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from probes.metrics.intervals import drawn_groups, interval_of

DRAWS = 1000
MASKS = ("mIoU", "pixel accuracy", "mean accuracy")
POLICIES = {"standard": (False, False), "ddpm-seg": (True, True)}
"""Name → whether absent classes count 0, and predictions on ignored pixels are false."""


def mask_numbers(counts: np.ndarray, policy: str = "standard") -> np.ndarray:
    """(B, 4, K) pixels of each class that are right, true, found, and found where the truth is
    ignored → (B, 3) of `MASKS`, shares; nan where there is nothing."""
    right, true, found, beside = np.moveaxis(counts.astype(np.float64), 1, 0)
    zero, count = POLICIES[policy]
    union = true + found - right + (beside if count else 0)
    shares, there = _shares(right, union), union > 0
    many = there.sum(1) if not zero else np.full(len(counts), counts.shape[-1])
    mean = _shares(np.where(there, shares, 0).sum(1), many)
    known = true > 0
    recall = _shares(np.where(known, _shares(right, true), 0).sum(1), known.sum(1))
    return np.stack([mean, _shares(right.sum(1), true.sum(1)), recall], 1)


def _shares(above: np.ndarray, below: np.ndarray) -> np.ndarray:
    below = np.asarray(below, np.float64)
    return np.divide(above, below, out=np.full(below.shape, np.nan), where=below > 0)


@dataclass(frozen=True, eq=False)
class Counted:
    """Of one row with so many labels: what each draw counted of every test picture.

    Attributes:
        draws: (P, 4, K) counts of masks, or (P, M) errors of depth whose means are the numbers, of
            each draw.
        codes: (P,) int64 groups of the pictures.
        policy: of masks; "" of depth.
    """

    draws: tuple[np.ndarray, ...]
    codes: np.ndarray
    policy: str = "standard"

    def numbers(self, weights: np.ndarray | None = None) -> np.ndarray:
        """(B, D, names) numbers of each draw, for (B, G) weights of the groups."""
        count = int(self.codes.max()) + 1
        weights = np.ones((1, count)) if weights is None else weights
        found = [self._of(np.asarray(one), weights, count) for one in self.draws]
        return np.stack(found, 1)

    def _of(self, values: np.ndarray, weights: np.ndarray, count: int) -> np.ndarray:
        sums = np.zeros((count, *values.shape[1:]))
        np.add.at(sums, self.codes, values)
        summed = np.tensordot(weights, sums, 1)
        if self.policy:
            return mask_numbers(summed, self.policy)
        sizes = weights @ np.bincount(self.codes, minlength=count)
        return summed / np.maximum(sizes, 1e-12)[:, None]

    def means(self) -> np.ndarray:
        """(names,) means over draws."""
        return self.numbers()[0].mean(0)

    def spread(self) -> np.ndarray | None:
        """(names,) standard deviations over draws; None of one."""
        return self.numbers()[0].std(0, ddof=1) if len(self.draws) > 1 else None

    def interval(self, other: Counted | None = None, seed: int = 0) -> list[dict[str, Any]]:
        """Of the mean over draws, or of how much larger it is than another's: groups of test
        pictures and draws of labels are drawn anew; draw d is compared with the other's draw d."""
        value, drawn = self.means(), self._drawn(seed)
        if other is not None:
            value, drawn = value - other.means(), drawn - other._drawn(seed)
        ends = [interval_of(float(one), column) for one, column in zip(value, drawn.T, strict=True)]
        return [{"value": one.value, "low": one.low, "high": one.high} for one in ends]

    def _drawn(self, seed: int) -> np.ndarray:
        """(B, names) of bootstrap draws."""
        count = int(self.codes.max()) + 1
        weights = next(drawn_groups(count, seed, DRAWS, DRAWS)).astype(np.float64)
        found = self.numbers(weights)  # (B, D, names)
        most = np.random.default_rng(seed).random((DRAWS, len(self.draws)))
        picks = (most * len(self.draws)).astype(np.int64)
        return np.take_along_axis(found, picks[:, :, None], 1).mean(1)


def codes_of(groups: Sequence[str]) -> tuple[np.ndarray, str]:
    """(P,) int64 numbers of the groups, and what is drawn anew: "groups", or "pictures" where all
    are of one group (whose pictures are not independent) or each is its own."""
    names, codes = np.unique(np.asarray(groups), return_inverse=True)
    if 1 < len(names) < len(codes):
        return codes.astype(np.int64), "groups"
    return np.arange(len(codes)), "pictures"
