"""What stands beside figures of matching: points that stay where they are, whatever is shown."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np

from diffeat.search.matching.bound import BoundPairs
from probes.metrics.conventions import Convention
from probes.metrics.pck import PCK

SAME_PLACE = "the same place of the picture"


def same_place(points: np.ndarray, source: np.ndarray, target: np.ndarray) -> np.ndarray:
    """(n, 2) where points would lie if the target were the source, squashed to its size.

        x' = (x + ½)·W'/W − ½

    Args:
        points: (n, 2) x, y in pixels of the source.
        source, target: (2,) H, W in pixels of the upright pictures.
    """
    return (points + 0.5) * (target / source)[::-1] - 0.5


def same_place_pck(
    bound: BoundPairs, rows: Iterable[int], alphas: Sequence[float],
    conventions: Sequence[Convention],
) -> PCK:  # fmt: skip
    """What is right of some pairs where every point stays at the same place, which sees nothing.

    Args:
        rows: which pairs.
        alphas, conventions: of the counting.

    Returns:
        The counts, in the order of the rows.
    """
    pairs, found = bound.pairs, PCK(alphas, conventions)
    for row in rows:
        source, target = bound.sizes[pairs.source[row]], bound.sizes[pairs.target[row]]
        points = same_place(pairs.source_points[row], source, target)
        found.update(points, pairs.target_points[row], **bound.about(row))
    return found
