"""Features along a trajectory: inverting a picture to noise, or painting one from noise.

Both follow the probability-flow ODE by the deterministic step of DDIM: with the network's
(x0, eps) at one level, the next is x' = alpha'·x0 + sigma'·eps. For flow and EDM models this is
Euler's step of the same ODE.

Source: Song et al. 2021 (DDIM), eq. 12; Luo et al. 2023 (features along the inversion).
"""

from __future__ import annotations

from collections.abc import Iterator

import torch

from diffeat.backbones.devices import constant
from diffeat.extraction.pending import Buffers
from diffeat.extraction.plan import Plan
from diffeat.extraction.reduce import STEP, Reducer
from diffeat.hooks import HookManager
from diffeat.noise import NoiseLevel


class Trajectory:
    """Walks from level to level and keeps the features of those that are asked for.

    Args:
        plan: with a grid of levels.
        reduce: what is kept of a tap.

    Attributes:
        generates: whether it goes from noise to picture.
    """

    def __init__(self, plan: Plan, reduce: Reducer):
        self.plan, self.reduce = plan, reduce
        self.backbone = plan.backbone
        self.generates = plan.spec.noise == "generation"
        taps = {block.name: plan.tap(block) for block in plan.blocks if not block.of_vae}
        step = {STEP: self.backbone.output_tap}
        denoiser = self.backbone.denoiser
        self._step_only = HookManager(denoiser, step, True, reduce)
        self._both = HookManager(denoiser, {**taps, **step}, True, reduce)
        self._last = HookManager(denoiser, taps, True, reduce)
        self._names = list(taps)

    def __call__(
        self, start: torch.Tensor, conditions: dict, out: Buffers, batch_size: int
    ) -> None:
        """Fill `out` for every wanted level.

        Args:
            start: (P, E, C, h, w) clean latents, or noise where it generates.
            conditions: name → (P, …).
            out: where features go.
            batch_size: rows of one forward.
        """
        count, members = start.shape[:2]
        step = max(1, batch_size // members)
        for first in range(0, count, step):
            pictures = slice(first, min(first + step, count))
            sums: dict[tuple[str, int], torch.Tensor] = {}
            for member in range(0, members, batch_size):
                part = start[pictures, member : member + batch_size]
                condition = {
                    name: value[pictures].repeat_interleave(part.shape[1], 0)
                    for name, value in conditions.items()
                }
                for key, value in self._walk(part.flatten(0, 1), condition):
                    if members > 1:
                        value = value.float().unflatten(0, part.shape[:2]).sum(1)
                    sums[key] = sums[key] + value if key in sums else value
            for (name, place), value in sums.items():
                span = slice(place * count + pictures.start, place * count + pictures.stop)
                out.put(name, span, value / members if members > 1 else value)

    def _walk(self, x: torch.Tensor, condition: dict) -> Iterator:
        """((block, index of the level), feature (n, …)) of every wanted level, (n, C, h, w) on."""
        wanted = {level.t: place for place, level in enumerate(self.plan.levels)}
        levels = self.plan.grid[::-1] if self.generates else self.plan.grid
        final = max(i for i, level in enumerate(levels) if level.t in wanted)
        if self.generates:
            x = self.backbone.schedule.start(x, levels[0])
        for i, level in enumerate(levels[: final + 1]):
            asked = level.t in wanted
            hooks = self._last if i == final else self._both if asked else self._step_only
            with hooks:
                columns = self.reduce.run(hooks, x, _row(level, x), condition)
            if asked:
                yield from (((name, wanted[level.t]), hooks[name]) for name in self._names)
            if i < final:
                x0, eps = self.backbone.schedule.split(x, hooks[STEP], *columns)
                following = levels[i + 1]
                x = following.alpha * x0 + following.sigma * eps


def _row(level: NoiseLevel, x: torch.Tensor) -> torch.Tensor:
    """(n, 3) fp64 of t, alpha, sigma: the same level for every row of x."""
    row = constant((level.t, level.alpha, level.sigma), torch.float64, x.device)
    return row.expand(len(x), 3)
