"""Features in memory, by block and noise level."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from typing import Any

import numpy as np
import torch

from diffeat.cells import MOST, Levels, cell_lines, pictures_text
from diffeat.errors import SpecError, brief
from diffeat.extraction.plan import Plan
from diffeat.noise import asked_as, format_t

Key = tuple[str, float]
"""(block name, native t)."""


class Features(Mapping[Key, torch.Tensor]):
    """Features of some pictures, by (block, t).

    `features["up.1", 20]` is a tensor (N, C, H, W), or (N, C·k·k) when pooled; t may be
    written as in the spec, as the native timestep or as a ratio that becomes one of them
    ("sigma=0.3"), and the block by any of its names. `features["up.1"]` is a mapping of all t of a
    block (see `diffeat.cells.Levels`).

    Attributes:
        ids: N picture ids.
        labels: (N,) int64 class indices where the pictures are those of a source with labels,
            else None.
        class_names: names of the classes, by index; () without labels.
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
        ids: Sequence[str],
        labels: np.ndarray | None = None,
        class_names: Sequence[str] = (),
    ):
        self.ids, self.labels, self.class_names = list(ids), labels, tuple(class_names)
        self.blocks, self.levels = plan.blocks, plan.levels
        self.boxes, self.sizes, self.placements = boxes, sizes, placements
        self._plan, self._values = plan, values

    def __getitem__(self, key: tuple[str, Any] | str) -> torch.Tensor | Levels:
        if isinstance(key, str) and (name := self._name(key)) is not None:
            steps = [level.t for level in self.levels]
            return Levels(name, steps, lambda t: self[name, t])
        if isinstance(key, tuple) and len(key) == 2 and (name := self._name(key[0])) is not None:
            t = key[1]
            with suppress(SpecError, KeyError, TypeError):
                if (name, t) in self._values:  # native t, before a flow time is thought of
                    return self._values[name, t]
                return self._values[name, self._plan.level(t).t]
        raise KeyError(f"no features of {_wanted(key)}; expected {self._have()}")

    def _name(self, block: Any) -> str | None:
        """The block that is meant, by any of its names."""
        name = self._plan.backbone.aliases.get(block, block) if isinstance(block, str) else None
        return name if any(name == one.name for one in self.blocks) else None

    def _have(self) -> str:
        have = [f"({name}, {format_t(t)})" for name, t in self._values]
        return "one of " + ", ".join(have[:MOST]) + (", …" if len(have) > MOST else "")

    def __iter__(self) -> Iterator[Key]:
        return iter(self._values)

    def __len__(self) -> int:
        return len(self._values)

    def __repr__(self) -> str:
        first = self.levels[0].t
        cells = [(b.name, self._values[b.name, first].shape, b.stride) for b in self.blocks]
        asked = {level.t: text for written, level in zip(self._plan.asked, self.levels, strict=True)
                 if (text := asked_as(written, level.t)) is not None}  # fmt: skip
        dtype = str(self._plan.dtype).removeprefix("torch.")
        head = f"Features of {pictures_text(len(self.ids), self.class_names)}, {dtype}"
        return "\n".join([head, *cell_lines(cells, self.levels, asked)])


def _wanted(key: Any) -> str:
    """What was asked for, as messages show it."""
    if isinstance(key, tuple) and len(key) == 2:
        return f"block {brief(key[0])} at t={key[1] if isinstance(key[1], str) else brief(key[1])}"
    return brief(key)
