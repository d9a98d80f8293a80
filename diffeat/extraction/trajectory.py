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
    forward: Forward,
    x: torch.Tensor,
    condition: Mapping[str, torch.Tensor],
    null: Mapping[str, torch.Tensor] | None = None,
    guidance: float = 1.0,
    whole: bool = False,
) -> Iterator[tuple[tuple[str, int], torch.Tensor]]:
    """Step from level to level, and give the features of those that are asked for.

    Args:
        forward: of a plan with a grid of levels.
        x: (n, C, h, w) clean latents; standard Gaussian noise where the plan generates.
        condition: name → (n, …).
        null: the empty condition, for guidance: every step goes by null + guidance · (output -
            null), with null for its own output; features stay those under the condition.
        guidance: see `null`.
        whole: go on to the end of the levels, and then give the clean latents.

    Yields:
        ((block, place of the level in the plan), feature (n, …)); at last, where it is whole,
        ((PREDICTION, -1), (n, C, h, w)).

    Source: Ho and Salimans 2022 (guidance), eq. 6.
    """
    plan, schedule = forward.plan, forward.backbone.schedule
    wanted = {level.t: place for place, level in enumerate(plan.levels)}
    grid = plan.grid[::-1] if plan.generates else plan.grid
    final = len(grid) - 1 if whole else max(i for i, one in enumerate(grid) if one.t in wanted)
    if plan.generates:
        x = schedule.start(x, grid[0])
    for i, level in enumerate(grid[: final + 1]):
        asked, row = level.t in wanted, _row(level, x)  # (n, 3)
        steps = i < final or (whole and level.sigma > 0)
        if not asked and not steps:  # the end, where x is clean
            continue
        kept = forward.network(x, row, condition, features=asked, prediction=steps)
        output = kept.pop(PREDICTION, None)
        yield from (((name, wanted[level.t]), value) for name, value in kept.items())
        if not steps:
            continue
        if null is not None:
            free = forward.network(x, row, null, features=False, prediction=True)[PREDICTION]
            output = free + guidance * (output - free)
        x0, eps = forward.x0_eps(x, output, row)  # (n, C, h, w) each
        x = x0 if i == final else grid[i + 1].alpha * x0 + grid[i + 1].sigma * eps
    if whole:
        yield (PREDICTION, -1), x


def _row(level: NoiseLevel, x: torch.Tensor) -> torch.Tensor:
    """(n, 3) fp64 of t, alpha, sigma: the same level for every row of x."""
    row = constant((level.t, level.alpha, level.sigma), torch.float64, x.device)
    return row.expand(len(x), 3)
