"""PCK: the share of key points that are found."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from probes.pairs import as_points


def pck(found: Any, truth: Any, reference: float, alpha: float, strict: bool = False) -> np.ndarray:
    """(n,) bool: |found − truth| ≤ alpha·reference (`strict`: <).

    Args:
        found, truth: (n, 2) x, y in one frame's pixels.
        reference: pixels, such as the larger side of the target's box.
    """
    distance = np.linalg.norm(as_points(found) - as_points(truth), axis=1)
    return distance < alpha * reference if strict else distance <= alpha * reference


class PCK:
    """Streaming PCK of pairs."""

    def __init__(self, alphas: Sequence[float] = (0.1, 0.05), strict: bool = False):
        self.alphas, self.strict = tuple(alphas), strict
        self.right: list[list[int]] = []
        self.points: list[int] = []

    def update(self, found: Any, truth: Any, reference: float) -> np.ndarray:
        """Count one pair; (n, alphas) bool."""
        hits = [pck(found, truth, reference, alpha, self.strict) for alpha in self.alphas]
        self.right.append([int(hit.sum()) for hit in hits])
        self.points.append(len(hits[0]))
        return np.stack(hits, 1)

    def compute(self, aggregate: str = "point") -> dict[float, float]:
        """Alpha → share of points ("point"), or the mean share of a pair ("pair")."""
        right, points = np.array(self.right), np.array(self.points)
        shares = (
            right.sum(0) / points.sum()
            if aggregate == "point"
            else (right / points[:, None]).mean(0)
        )
        return dict(zip(self.alphas, shares.tolist(), strict=True))
