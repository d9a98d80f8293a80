"""Matches of a whole grid."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True, eq=False)
class Flow:
    """Where a grid of places of one picture was found in another.

    Attributes:
        points: (h', w', 2) float64 x, y in pixels of the upright target.
        score: (h', w') float64, higher is better.
        valid: (h', w') bool.
        x, y: (w',) and (h',) float64 pixels of the source: place [i, j] is x[j], y[i].
    """

    points: np.ndarray
    score: np.ndarray
    valid: np.ndarray
    x: np.ndarray
    y: np.ndarray
