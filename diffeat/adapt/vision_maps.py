"""A vision model's maps of both pictures of a pair, from features that lie in a file or memory."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch

from diffeat.errors import SpecError
from diffeat.targets.pairs import PairTargets


class VisionMaps:
    """Pairs → (B, 2, C, m) maps of source and target, read by picture id.

    Args:
        features: a `FeatureStore`, or `Features` in memory, with one t.
        block: whose maps; None: the only one.
        pairs: whose pictures; None where only the shape is asked for.

    Attributes:
        shape: (C, m), channels and sites.

    Raises:
        SpecError: no maps, several blocks, or pictures that have no features.
    """

    def __init__(self, features: Any, block: str | None = None, pairs: PairTargets | None = None):
        if features is None:
            raise SpecError("a conditional prompt needs vision features of the pictures (vision=)")
        names = [getattr(one, "name", one) for one in getattr(features, "blocks", ())]
        if block is None and len(names) != 1:
            raise SpecError(f"vision features have blocks {names}; say which (vision_block)")
        if not names or (block is not None and block not in names):
            raise SpecError(f"vision features have no block {block!r}; expected one of {names}")
        levels = features[names[0] if block is None else block]
        if len(levels) != 1:
            raise SpecError(f"vision features have {len(levels)} t; expected one")
        (self._maps,) = levels.values()
        if len(self._maps.shape) != 4:
            raise SpecError(
                f"vision features are {tuple(self._maps.shape)}; expected maps (N, C, h, w), "
                "without pooling"
            )
        self.shape = (int(self._maps.shape[1]), int(np.prod(self._maps.shape[2:])))
        self.fingerprint = str(getattr(features, "fingerprint", "in memory"))
        self._rows = None if pairs is None else self._found(features.ids, pairs)

    def _found(self, ids: Any, pairs: PairTargets) -> np.ndarray:
        """(P, 2) rows of the pairs' pictures."""
        rows = np.stack(pairs.rows(list(ids)), 1)
        if (rows < 0).any():
            pair, side = np.argwhere(rows < 0)[0]
            name = (pairs.source, pairs.target)[side][pair]
            raise SpecError(
                f"picture {name!r} of {pairs.name} has no vision features; extract them for all"
            )
        return rows

    def __call__(self, some: np.ndarray) -> torch.Tensor:
        """(B,) pairs → (B, 2, C, m) fp32."""
        found = [
            torch.as_tensor(np.asarray(self._maps[int(row)])).float().flatten(1)
            for row in self._rows[some].reshape(-1)
        ]
        return torch.stack(found).unflatten(0, (-1, 2))
