"""What was counted of clips, so that numbers over any draw of clips follow from it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from probes.metrics.intervals import DRAWS, Interval, drawn_groups, interval_of


@dataclass(frozen=True)
class Measures:
    """Which numbers a kind of truth gives.

    Attributes:
        names: of the numbers, the one that chooses first.
        of: (names, M) weights of the M shares that are counted.
    """

    names: tuple[str, ...]
    of: np.ndarray


MASKS = Measures(("J&F", "J", "F"), np.array([[0.5, 0.5], [1, 0], [0, 1]]))


def joints(alphas: Sequence[float]) -> Measures:
    """PCK at each alpha."""
    return Measures(tuple(f"PCK@{alpha:g}" for alpha in alphas), np.eye(len(alphas)))


@dataclass(frozen=True)
class Counted:
    """Of S clips, K kinds of things that count alike, and M shares:

        number = of · mean over k of (sum over s of above / sum over s of below)

    Masks are of one kind: above are the sums of J and F over the objects of a clip, below how many
    objects there are. Joints are of one kind each: above are how many are right, below how many
    there are.

    Attributes:
        above: (S, K, M); below: (S, K).
        measures: which numbers follow.
    """

    above: np.ndarray
    below: np.ndarray
    measures: Measures

    def numbers(self, weights: np.ndarray | None = None) -> np.ndarray:
        """(B, names) numbers for (B, S) weights of the clips; None: each counts once, B = 1."""
        if weights is None:
            weights = np.ones((1, len(self.above)))
        above = np.tensordot(weights, self.above, 1)  # (B, K, M)
        below = (weights @ self.below)[..., None]
        known = below > 0
        shares = np.divide(above, below, out=np.zeros_like(above), where=known)
        mean = shares.sum(1) / known.sum(1)  # a kind that no clip shows does not count
        return mean @ self.measures.of.T

    def of_clips(self) -> np.ndarray:
        """(S, names) of each clip alone."""
        return self.numbers(np.eye(len(self.above)))

    def intervals(self, other: Counted | None = None, seed: int = 0) -> list[Interval]:
        """Of every number, or of how much larger it is than another's; clips are drawn anew."""
        draws = next(drawn_groups(len(self.above), seed, DRAWS, DRAWS)).astype(np.float64)
        values, drawn = self.numbers()[0], self.numbers(draws)
        if other is not None:
            values, drawn = values - other.numbers()[0], drawn - other.numbers(draws)
        return [interval_of(float(value), one) for value, one in zip(values, drawn.T, strict=True)]


def stacked(each: Sequence[tuple[np.ndarray, np.ndarray]], measures: Measures) -> Counted:
    """Of (above, below) of each clip."""
    above, below = (np.stack(part).astype(np.float64) for part in zip(*each, strict=True))
    return Counted(above, below, measures)
