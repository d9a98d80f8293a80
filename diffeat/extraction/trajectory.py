"""Features along a trajectory: inverting a picture to noise, or painting one from noise.

Both follow the probability-flow ODE by the deterministic step of DDIM: with the network's
(x0, eps) at one level, the next is x' = alpha'·x0 + sigma'·eps. For flow and EDM models this is
Euler's step of the same ODE.

Source: Song et al. 2021 (DDIM), eq. 12; Luo et al. 2023 (features along the inversion).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import torch

from diffeat.backbones.devices import constant
from diffeat.extraction.forward import PREDICTION, Forward
from diffeat.noise import NoiseLevel


def walk(
    forward: Forward, x: torch.Tensor, condition: Mapping[str, torch.Tensor]
) -> Iterator[tuple[tuple[str, int], torch.Tensor]]:
    """Step from level to level, and give the features of those that are asked for.

    Args:
        forward: of a plan with a grid of levels.
        x: (n, C, h, w) clean latents; standard Gaussian noise where the plan generates.
        condition: name → (n, …).

    Yields:
        ((block, place of the level in the plan), feature (n, …)).
    """
    plan, schedule = forward.plan, forward.backbone.schedule
    wanted = {level.t: place for place, level in enumerate(plan.levels)}
    grid = plan.grid[::-1] if plan.generates else plan.grid
    final = max(i for i, level in enumerate(grid) if level.t in wanted)
    if plan.generates:
        x = schedule.start(x, grid[0])
    for i, level in enumerate(grid[: final + 1]):
        asked, steps, row = level.t in wanted, i < final, _row(level, x)  # (n, 3)
        kept = forward.network(x, row, condition, features=asked, prediction=steps)
        output = kept.pop(PREDICTION, None)
        yield from (((name, wanted[level.t]), value) for name, value in kept.items())
        if steps:
            x0, eps = forward.x0_eps(x, output, row)  # (n, C, h, w) each
            x = grid[i + 1].alpha * x0 + grid[i + 1].sigma * eps


def _row(level: NoiseLevel, x: torch.Tensor) -> torch.Tensor:
    """(n, 3) fp64 of t, alpha, sigma: the same level for every row of x."""
    row = constant((level.t, level.alpha, level.sigma), torch.float64, x.device)
    return row.expand(len(x), 3)
