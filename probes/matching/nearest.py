"""The place whose feature is nearest."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch

from probes.matching.base import Matcher
from probes.matching.surfaces import Surfaces


@dataclass(eq=False, repr=False, kw_only=True)
class NearestMatcher(Matcher):
    """The place of the target that is most similar to the point; of several, the first."""

    def _numbers(self, target, window) -> int:
        return 0

    def _read(self, surfaces: Surfaces) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        row, column, score = surfaces.best()
        return (
            places(surfaces, row, column),
            as_scores(score),
            as_bools(surfaces.somewhere(row, column)),
        )


def places(surfaces: Surfaces, row: torch.Tensor, column: torch.Tensor) -> np.ndarray:
    """(n, 2) x, y of rows and columns of the window."""
    answers, window = surfaces.target.answers, surfaces.window
    x = answers.x[column.cpu().numpy() + window.columns[0]]
    return np.stack([x, answers.y[row.cpu().numpy() + window.rows[0]]], 1)


def as_scores(values: torch.Tensor) -> np.ndarray:
    return values.double().cpu().numpy()


def as_bools(values: torch.Tensor) -> np.ndarray:
    return values.cpu().numpy()
