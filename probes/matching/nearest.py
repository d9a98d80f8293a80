"""The place whose feature is nearest."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch.nn.functional import normalize

from probes.maps import Maps
from probes.matching.base import Matcher
from probes.pairs import Matches, as_points


class NearestMatcher(Matcher):
    """The pixel of the target whose feature has the largest cosine with the point's own.

    Plain: the target's maps are upsampled to the picture.
    """

    def __init__(self, metric: str = "cosine", resolution: str = "picture",
                 normalise: str = "after", weights: Any = None, device: str = "auto",
                 memory_mb: float = 512):  # fmt: skip
        self.metric, self.resolution, self.normalise = metric, resolution, normalise
        self.weights, self.device, self.memory_mb = weights, device, memory_mb

    def match(
        self, source: Maps, target: Maps, points: Any, *, region: Any = None, check: Any = None
    ) -> Matches:
        points = as_points(points)
        if not source.valid(points).all():
            raise ValueError("points outside the source")
        height, width = target.size
        found = self._similarities(source, target, points).reshape(len(points), height * width)
        best = found.argmax(1)
        at = np.stack([best % width, best // width], 1).astype(np.float64)
        score = found.max(1).astype(np.float64) if len(points) else np.zeros(0)
        return Matches(at, score, np.ones(len(points), bool))

    def similarity(self, source: Maps, target: Maps, point: Any) -> np.ndarray:
        return self._similarities(source, target, as_points([point]))[0]

    def _similarities(self, source: Maps, target: Maps, points: np.ndarray) -> np.ndarray:
        """(n, H, W) float32 sums of the cosines of all cells."""
        total = np.zeros((len(points), *target.size), np.float32)
        for cell in source.values:
            wanted = torch.as_tensor(np.asarray(source.sample(cell, points)[0]))
            there = torch.as_tensor(np.asarray(target.resize(cell)[0]))
            total += torch.einsum(
                "nc,chw->nhw", normalize(wanted, dim=1), normalize(there, dim=0)
            ).numpy()
        return total
