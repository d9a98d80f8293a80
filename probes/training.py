"""The one loop that trains every head which is a torch module."""

from __future__ import annotations

import copy
import math
import numbers
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.nn import functional as F
from tqdm import tqdm

from probes.batches import Batches

OPTIMIZERS = ("adamw", "adam", "sgd", "lars")
SCHEDULES = ("cosine", "step", "constant")

Augment = Callable[[list[torch.Tensor], np.random.Generator], list[torch.Tensor]]


@dataclass(frozen=True)
class Training:
    """How a head is trained; the fields are those of `probes.network.NetworkProbe`."""

    optimizer: str
    learning_rate: float
    weight_decay: float
    momentum: float
    schedule: str
    epochs: int
    batch_size: int
    patience: int | None
    augment: Augment | None
    progress: bool | None

    def __post_init__(self) -> None:
        _one_of("optimizer", self.optimizer, OPTIMIZERS)
        _one_of("schedule", self.schedule, SCHEDULES)
        check_number("learning_rate", self.learning_rate, 0 < self.learning_rate < math.inf, "> 0")
        check_number("weight_decay", self.weight_decay, 0 <= self.weight_decay < math.inf, ">= 0")
        check_number("momentum", self.momentum, 0 <= self.momentum < 1, "in [0, 1)")
        check_number("epochs", self.epochs, self.epochs >= 1, ">= 1")
        check_number("batch_size", self.batch_size, self.batch_size >= 1, ">= 1")
        if self.patience is not None:
            check_number("patience", self.patience, self.patience >= 1, ">= 1, or None")


def _one_of(name: str, value: Any, known: tuple[str, ...]) -> None:
    if value not in known:
        raise ValueError(f"{name}={value!r}; expected one of {', '.join(known)}")


def check_counts(head: Any, *names: str) -> None:
    """ValueError unless these parameters, or all their members, are whole numbers >= 1."""
    for name in names:
        value = getattr(head, name)
        for number in value if isinstance(value, (tuple, list)) else (value,):
            good = isinstance(number, numbers.Integral) and number >= 1
            check_number(name, value, good, "(or several) that is whole and >= 1")


def check_number(name: str, value: Any, good: bool, expected: str) -> None:
    """ValueError that says what was expected, unless the number is good."""
    if not good:
        raise ValueError(f"{name}={value!r}; expected a number {expected}")


def rate(schedule: str, epoch: int, epochs: int) -> float:
    """What the learning rate is multiplied by in an epoch (0-based); it changes once an epoch.

    - cosine: (1 + cos(pi·epoch/epochs))/2
    - step: 0.1 to the power of the quarters of the epochs that are over (each 7 of 28)
    - constant: 1

    Source: Loshchilov & Hutter 2017, equation 5, without restarts.
    """
    if schedule == "cosine":
        return 0.5 * (1 + math.cos(math.pi * epoch / epochs))
    if schedule == "step":
        return 0.1 ** (4 * epoch // epochs)
    return 1.0


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


def make_optimizer(
    parameters: Iterable[nn.Parameter], how: Training, fused: bool = False
) -> torch.optim.Optimizer:
    """torch's Adam, AdamW or SGD, or LARS, at the rate of the first epoch."""
    plain = {"lr": how.learning_rate, "weight_decay": how.weight_decay}
    if how.optimizer == "adam":
        return torch.optim.Adam(parameters, fused=fused, **plain)
    if how.optimizer == "adamw":
        return torch.optim.AdamW(parameters, fused=fused, **plain)
    kind = torch.optim.SGD if how.optimizer == "sgd" else LARS
    return kind(parameters, momentum=how.momentum, **plain)


def mirror(parts: list[torch.Tensor], rng: np.random.Generator) -> list[torch.Tensor]:
    """Mirror the maps of a random half of the pictures, the same ones in all arrays.

    A stand-in for mirrored pictures: a mirrored map is near the map of the mirrored picture,
    but not equal to it. Vectors are left alone.
    """
    which = torch.from_numpy(rng.random(len(parts[0])) < 0.5).to(parts[0].device)
    return [
        torch.where(which[:, None, None, None], part.flip(-1), part) if part.ndim == 4 else part
        for part in parts
    ]


def train(
    module: nn.Module,
    how: Training,
    batches: Batches,
    validation: Batches | None,
    rng: np.random.Generator,
    name: str,
) -> tuple[list[dict[str, float]], int]:
    """Minimise the mean cross-entropy of `module(*arrays)` → (n, K) logits.

    Args:
        module: on the device of the batches; trained in place, left in eval mode.
        validation: scored after each epoch. With `how.patience`, training ends after so many
            epochs without a better accuracy, and the weights of the best epoch come back.
        rng: for the order of rows and `how.augment`; the module's own dropout takes torch's.
        name: of the head, for the bar and for errors.

    Returns:
        The learning curve: per epoch a dict of epoch (1-based), loss (mean over the epoch,
        as trained), learning_rate, seconds, and with validation: validation_loss,
        validation_accuracy. And the epoch whose weights the module has.

    Raises:
        ValueError: the loss is not finite any more.
    """
    optimizer = make_optimizer(module.parameters(), how, next(module.parameters()).is_cuda)
    history: list[dict[str, float]] = []
    best, kept, weights = -1.0, how.epochs, None
    hide = None if how.progress is None else not how.progress
    with tqdm(total=how.epochs * len(batches), desc=name, unit="row", disable=hide) as bar:
        for epoch in range(how.epochs):
            seen = _epoch(module, how, batches, optimizer, epoch, rng, name, bar)
            if validation is not None:
                accuracy, loss = evaluate(module, validation)
                seen |= {"validation_loss": loss, "validation_accuracy": accuracy}
            history.append(seen)
            bar.set_postfix({k: f"{v:.4g}" for k, v in seen.items() if k != "seconds"})
            if how.patience is None or validation is None:
                continue
            if accuracy > best:
                best, kept, weights = accuracy, epoch + 1, copy.deepcopy(module.state_dict())
            elif epoch + 1 - kept >= how.patience:
                break
    if weights is not None:
        module.load_state_dict(weights)
    module.eval()
    return history, kept


def _epoch(module, how, batches, optimizer, epoch, rng, name, bar) -> dict[str, float]:
    began = time.perf_counter()
    now = how.learning_rate * rate(how.schedule, epoch, how.epochs)
    for group in optimizer.param_groups:
        group["lr"] = now
    module.train()
    total = torch.zeros((), dtype=torch.float64, device=batches.device)
    for parts, targets in batches.shuffled(rng):
        if how.augment is not None:
            parts = how.augment(parts, rng)
        loss = F.cross_entropy(module(*parts), targets)
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        optimizer.step()
        total += loss.detach() * len(targets)
        bar.update(len(targets))
    mean = float(total) / len(batches)
    if not math.isfinite(mean):
        raise ValueError(
            f"{name}: the loss became {mean} in epoch {epoch + 1} at learning rate {now:g}; "
            "lower learning_rate or standardise the features"
        )
    seconds = time.perf_counter() - began
    return {"epoch": epoch + 1, "loss": mean, "learning_rate": now, "seconds": seconds}


def evaluate(module: nn.Module, batches: Batches) -> tuple[float, float]:
    """Accuracy in [0, 1] and mean cross-entropy over all rows."""
    module.eval()
    right, loss = 0.0, 0.0
    with torch.no_grad():
        for parts, targets in batches.ordered():
            logits = module(*parts)
            right += float((logits.argmax(1) == targets).sum())
            loss += float(F.cross_entropy(logits, targets, reduction="sum"))
    return right / len(batches), loss / len(batches)
