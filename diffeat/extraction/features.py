"""Features in memory, by block and noise level."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
import torch

from diffeat.errors import SpecError
from diffeat.extraction.plan import Plan
from diffeat.noise import format_t

Key = tuple[str, float]
"""(block name, native t)."""


class Features(Mapping[Key, torch.Tensor]):
    """Features of some pictures, by (block, t).

    `features["up.1", 20]` is a tensor (N, C, H, W), or (N, C·k·k) when pooled; t may be
    written as in the spec or as the native timestep, and the block by any of its names.

    Attributes:
        blocks: BlockInfo of every block, in the order of execution.
        levels: NoiseLevel of every t, in the order of the spec.
        boxes: (N, 4) top, left, height, width in pixels of what shows the picture (the rest is
            padding), where pictures were fitted; None for tensors.
        sizes: (N, 2) int32; H, W in pixels of each picture as decoded and upright.
        placements: (N, 4) float64; sx, tx, sy, ty of each input (see `diffeat.coords`). Tensors
            are their own input.
    """

    def __init__(
        self,
        plan: Plan,
        values: dict[Key, torch.Tensor],
        boxes: np.ndarray | None,
        sizes: np.ndarray,
        placements: np.ndarray,
    ):
        self.blocks, self.levels = plan.blocks, plan.levels
        self.boxes, self.sizes, self.placements = boxes, sizes, placements
        self._plan, self._values = plan, values

    def __getitem__(self, key: tuple[str, Any]) -> torch.Tensor:
        if key in self._values:  # native t, before a flow time is thought of
            return self._values[key]
        block, t = key
        try:
            name = self._plan.backbone.aliases.get(block, block)
            if (name, t) in self._values:
                return self._values[name, t]
            return self._values[name, self._plan.level(t).t]
        except (KeyError, SpecError):
            have = ", ".join(f"({name}, {format_t(t)})" for name, t in self._values)
            raise KeyError(
                f"no features of block {block!r} at t={t}; expected one of {have}"
            ) from None

    def __iter__(self) -> Iterator[Key]:
        return iter(self._values)

    def __len__(self) -> int:
        return len(self._values)

    def __repr__(self) -> str:
        cells = (f"({name!r}, {format_t(t)}): {tuple(v.shape)}" for (name, t), v in self.items())
        return f"Features({', '.join(cells)})"
