"""Optimizers and schedules of the learning rate, each a table of plain objects."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from types import MappingProxyType
from typing import Any

import torch

Schedule = Callable[[int, int, int], float]
"""(step from 0, steps of an epoch, epochs) → what learning rates are multiplied by."""


def cosine(step: int, steps: int, epochs: int) -> float:
    """(1 + cos(pi·epoch/epochs))/2; it changes once an epoch.

    Source: Loshchilov & Hutter 2017, equation 5, without restarts.
    """
    return 0.5 * (1 + math.cos(math.pi * (step // steps) / epochs))


def cosine_by_step(step: int, steps: int, epochs: int) -> float:
    """(1 + cos(pi·s/S))/2 in step s of all S."""
    return 0.5 * (1 + math.cos(math.pi * min(1.0, step / (epochs * steps))))


def quarters(step: int, steps: int, epochs: int) -> float:
    """0.1 to the power of the quarters of the epochs that are over (each 7 of 28)."""
    return 0.1 ** (4 * (step // steps) // epochs)


def constant(step: int, steps: int, epochs: int) -> float:
    """1."""
    return 1.0


SCHEDULES: Mapping[str, Schedule] = MappingProxyType({
    "cosine": cosine, "step": quarters, "constant": constant, "cosine-by-step": cosine_by_step,
})  # fmt: skip


class LARS(torch.optim.Optimizer):
    """Gradient descent whose step is scaled, matrix by matrix, to the size of the weights.

        d = g + weight_decay·w,  d ← d·trust·|w|/|d|  (matrices only, where neither norm is 0)
        v ← momentum·v + d,      w ← w - learning rate·v

    Vectors (biases, scales of norms) take the plain gradient, without decay.

    Source: You, Gitman & Ginsburg 2017, algorithm 1, with trust 0.001.
    """

    def __init__(self, params, lr: float, weight_decay: float, momentum: float, trust=0.001):
        defaults = {"lr": lr, "weight_decay": weight_decay, "momentum": momentum, "trust": trust}
        super().__init__(params, defaults)

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for group in self.param_groups:
            for weights in group["params"]:
                if weights.grad is not None:
                    self._move(weights, group)
        return loss

    def _move(self, weights: torch.Tensor, group: dict[str, Any]) -> None:
        step = weights.grad
        if weights.ndim > 1:
            step = step + group["weight_decay"] * weights
            size, length = weights.norm(), step.norm()
            scaled = group["trust"] * size / length
            step = step * torch.where((size > 0) & (length > 0), scaled, torch.ones_like(size))
        state = self.state[weights]
        state["v"] = state["v"] * group["momentum"] + step if "v" in state else step.clone()
        weights -= group["lr"] * state["v"]


OPTIMIZERS: Mapping[str, type[torch.optim.Optimizer]] = MappingProxyType({
    "adamw": torch.optim.AdamW, "adam": torch.optim.Adam, "sgd": torch.optim.SGD, "lars": LARS,
})  # fmt: skip


def make_optimizer(
    groups: Sequence[dict[str, Any]],
    kind: str,
    learning_rate: float,
    weight_decay: float,
    momentum: float,
    fused: bool = False,
) -> torch.optim.Optimizer:
    """One of `OPTIMIZERS`; Adam and AdamW in one fused kernel on a GPU, or where it is asked for.

    Args:
        groups: {"params": list of weights, "lr": their rate where it is another one}.
        momentum: of sgd and lars.
    """
    plain = {"lr": learning_rate, "weight_decay": weight_decay}
    if kind.startswith("adam"):
        fused = fused or all(weight.is_cuda for group in groups for weight in group["params"])
        return OPTIMIZERS[kind](groups, fused=fused, **plain)
    return OPTIMIZERS[kind](groups, momentum=momentum, **plain)
