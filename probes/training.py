"""The one loop that trains whatever is trained: heads, and what goes through a backbone."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from torch import nn
from tqdm import tqdm

from probes.batches import Batch
from probes.checkpoints import (
    checkpoint_path,
    optimizer_tensors,
    read_checkpoint,
    restore_optimizer,
    write_checkpoint,
)
from probes.checks import check_choice, check_number
from probes.objectives import Objective
from probes.optimizers import OPTIMIZERS, SCHEDULES, make_optimizer
from probes.randomness import Randomness

Augment = Callable[[list[torch.Tensor], np.random.Generator], list[torch.Tensor]]
LOOKED = 2.0
"""Seconds between two looks at the loss of an epoch that is under way; each waits for a GPU."""


class Data(Protocol):
    """What is trained on: batches of inputs and targets, on the device of the module."""

    device: torch.device
    steps: int

    def __len__(self) -> int:
        """Rows of an epoch; `steps` are its batches."""

    def shuffled(self, rng: np.random.Generator) -> Iterator[Batch]:
        """One epoch in a new order."""

    def ordered(self) -> Iterator[Batch]:
        """All rows, the same every time."""


class Diverged(ValueError):
    """The loss is nan or inf."""


@dataclass(frozen=True)
class Training:
    """How something is trained.

    Attributes:
        optimizer: of `probes.optimizers.OPTIMIZERS`.
        learning_rate: of the first step, of groups that have none of their own.
        weight_decay: of the optimizer's kind (decoupled for adamw).
        momentum: of sgd and lars.
        schedule: of `probes.optimizers.SCHEDULES`, for all groups.
        epochs: at most.
        batch_size: rows of a step.
        patience: training ends after so many epochs without a better validation number, and the
            best epoch's weights come back.
        augment: what is done to the inputs of a step.
        progress: whether there is a bar; None: where the output is a terminal. Or what makes one,
            as a context: (total, initial=…, desc=…, unit=…), the unit in the plural.
        checkpoint: a folder, or a .safetensors file, that is written after every epoch, and from
            which a training that was interrupted goes on.
        keep_best: the best epoch's weights come back also without `patience`.
        fused: Adam in one kernel on a CPU too; a few times faster with many weights, and other
            last bits.
    """

    optimizer: str
    learning_rate: float
    weight_decay: float
    momentum: float
    schedule: str
    epochs: int
    batch_size: int
    patience: int | None = None
    augment: Augment | None = None
    progress: bool | Callable[..., Any] | None = None
    checkpoint: str | Path | None = None
    keep_best: bool = False
    fused: bool = False

    def check(self) -> None:
        """ValueError for a field that is out of range."""
        check_choice("optimizer", self.optimizer, tuple(OPTIMIZERS))
        check_choice("schedule", self.schedule, tuple(SCHEDULES))
        check_number("learning_rate", self.learning_rate, 0 < self.learning_rate < math.inf, "> 0")
        check_number("weight_decay", self.weight_decay, 0 <= self.weight_decay < math.inf, ">= 0")
        check_number("momentum", self.momentum, 0 <= self.momentum < 1, "in [0, 1)")
        check_number("epochs", self.epochs, self.epochs >= 1, ">= 1")
        check_number("batch_size", self.batch_size, self.batch_size >= 1, ">= 1")
        if self.patience is not None:
            check_number("patience", self.patience, self.patience >= 1, ">= 1, or None")

    def identity(self) -> dict[str, Any]:
        """What the result depends on, as plain values."""
        skipped = ("progress", "checkpoint", "augment", "fused")
        known = {f.name: getattr(self, f.name) for f in fields(self) if f.name not in skipped}
        augment = getattr(self.augment, "__qualname__", type(self.augment).__qualname__)
        return {**known, "augment": augment}


@dataclass
class Standing:
    """Where a training stands after some epochs."""

    epoch: int = 0
    history: list[dict[str, float]] = field(default_factory=list)
    best: float | None = None
    best_epoch: int = 0
    best_weights: dict[str, torch.Tensor] | None = None
    ended: bool = False


def train(
    module: nn.Module,
    objective: Objective,
    data: Data,
    how: Training,
    randomness: Randomness,
    *,
    validation: Data | None = None,
    groups: Sequence[dict[str, Any]] | None = None,
    settle: Callable[[np.random.Generator], None] | None = None,
    ended: Callable[[int], bool] | None = None,
    about: Mapping[str, Any] | None = None,
    name: str = "training",
    unit: str = "row",
) -> tuple[list[dict[str, float]], int]:
    """Minimise the objective of `module(*inputs)` over epochs of data.

    Args:
        module: on the device of the data; trained in place, left in eval mode.
        data: see `Data`; a step is one of its batches.
        randomness: entered by the caller: order and augmentation take its numpy generator, and the
            module's own dropout torch's.
        validation: scored after each epoch.
        groups: {"params", "lr"} with rates of their own; None: all weights of the module.
        settle: called after the steps of an epoch, before it is scored (moments of BatchNorm).
        ended: asked after every step, with the epoch from 0; True ends the training there.
        about: what a checkpoint has to agree with besides `how`: seeds, data.
        name, unit: of the bar, and for errors.

    Returns:
        The learning curve: per epoch a dict of epoch (1-based), loss (mean over the epoch, as
        trained), learning_rate (of its first step), seconds, and with validation:
        validation_loss, validation_METRIC. And the epoch whose weights the module has.

    Raises:
        Diverged: the loss is not finite any more.
        ValueError: the checkpoint is of another training.
    """
    groups = groups or [{"params": list(module.parameters())}]
    optimizer = make_optimizer(
        groups, how.optimizer, how.learning_rate, how.weight_decay, how.momentum, how.fused
    )
    about = _about(module, objective, data, validation, how, about or {}, name)
    path = None if how.checkpoint is None else checkpoint_path(how.checkpoint)
    at = _resumed(path, about, module, optimizer, randomness)
    loop = _Loop(module, objective, data, how, randomness, optimizer, name, ended, at.ended)
    total, done = how.epochs * len(data), at.epoch * len(data)
    with _bar(how, total, done, name, unit) as bar:
        while at.epoch < how.epochs and not (loop.over or _given_up(at, how, validation)):
            seen = loop.epoch(at.epoch, bar)
            if settle is not None:
                settle(randomness.numpy)
            if validation is not None:
                seen |= validate(module, objective, validation)
            _note(at, seen, module, objective, how, validation)
            at.ended = loop.over
            bar.set_postfix({k: f"{v:.4g}" for k, v in seen.items() if k != "seconds"})
            if path is not None:
                _keep(path, about, at, module, optimizer, randomness)
    if at.best_weights is not None:
        module.load_state_dict(at.best_weights)
    module.eval()
    return at.history, at.best_epoch


def _bar(how: Training, total: int, done: int, name: str, unit: str) -> Any:
    """Counts the rows of all epochs."""
    if callable(how.progress):
        return how.progress(total, initial=done, desc=name, unit=f"{unit}s")
    hide = None if how.progress is None else not how.progress
    return tqdm(total=total, initial=done, desc=name, unit=unit, disable=hide)


@dataclass
class _Loop:
    """The steps of one training."""

    module: nn.Module
    objective: Objective
    data: Data
    how: Training
    randomness: Randomness
    optimizer: torch.optim.Optimizer
    name: str
    ended: Callable[[int], bool] | None = None
    over: bool = False

    def __post_init__(self) -> None:
        self.rates = [group["lr"] for group in self.optimizer.param_groups]

    def epoch(self, epoch: int, bar: Any) -> dict[str, float]:
        """One pass over the data; its entry of the learning curve."""
        objective, data, optimizer, rng = (
            self.objective, self.data, self.optimizer, self.randomness.numpy
        )  # fmt: skip
        began = looked = time.perf_counter()
        first = epoch * data.steps
        factor = self._slow_down(first)
        self.module.train()
        total, count = torch.zeros((), dtype=torch.float64, device=data.device), 0
        for step, (inputs, targets) in enumerate(data.shuffled(rng), first):
            self._slow_down(step)
            # inputs: (n, …) arrays; targets: (n,) classes, (n, M) numbers, (n, H, W) maps …
            inputs, targets = augmented(inputs, targets, objective, self.how.augment, rng)
            loss = objective.loss(self.module(*inputs), targets, "mean")
            optimizer.zero_grad(set_to_none=True)
            loss.backward()
            optimizer.step()
            terms = objective.terms(targets)
            total += loss.detach() * terms
            count = count + terms  # a tensor where the device has to count them
            bar.update(len(targets))
            if time.perf_counter() - looked > LOOKED:
                self._look(total, count, epoch, factor, bar)
                looked = time.perf_counter()
            if self.ended is not None and self.ended(epoch):
                self.over = True
                break
        mean = self._look(total, count, epoch, factor, bar)
        rate, seconds = self.how.learning_rate * factor, time.perf_counter() - began
        return {"epoch": epoch + 1, "loss": mean, "learning_rate": rate, "seconds": seconds}

    def _slow_down(self, step: int) -> float:
        """Set the rates of a step; the factor of the schedule."""
        factor = SCHEDULES[self.how.schedule](step, self.data.steps, self.how.epochs)
        for group, rate in zip(self.optimizer.param_groups, self.rates, strict=True):
            group["lr"] = rate * factor
        return factor

    def _look(self, total, count, epoch: int, factor: float, bar: Any) -> float:
        mean = float(total) / max(1, int(count))
        if not math.isfinite(mean):
            raise Diverged(
                f"{self.name}: the loss became {mean} in epoch {epoch + 1} at learning rate "
                f"{self.how.learning_rate * factor:g}; lower learning_rate or standardise the "
                "features"
            )
        bar.set_postfix(epoch=epoch + 1, loss=f"{mean:.4g}")
        return mean


def augmented(
    inputs: list[torch.Tensor],
    targets: torch.Tensor,
    objective: Objective,
    augment: Augment | None,
    rng: np.random.Generator,
) -> tuple[list[torch.Tensor], torch.Tensor]:
    """A batch after augmentation; maps as targets (n, H, W) are moved with it, as (n, 1, H, W).

    An augmentation with an attribute `joint` is given them by themselves, see
    `probes.augment.random_crop_scale`.
    """
    if augment is None:
        return inputs, targets
    if not objective.maps:
        return augment(inputs, rng), targets
    if getattr(augment, "joint", False):
        return augment(inputs, rng, targets, objective.unknown)
    *inputs, moved = augment([*inputs, targets[:, None]], rng)
    return inputs, moved[:, 0]


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


def validate(module: nn.Module, objective: Objective, data: Data) -> dict[str, float]:
    """Mean loss and validation number over all rows: validation_loss, validation_METRIC."""
    module.eval()
    measure, loss, count = objective.measure(), 0.0, 0
    with torch.no_grad():
        for inputs, targets in data.ordered():
            output = module(*inputs)
            measure.update(objective.found(output), targets)
            loss += float(objective.loss(output, targets, "sum"))
            count += int(objective.terms(targets))
    return {
        "validation_loss": loss / max(1, count),
        f"validation_{objective.metric}": measure.compute(),
    }


def _given_up(at: Standing, how: Training, validation: Data | None) -> bool:
    patient = how.patience is None or validation is None
    return not patient and at.epoch - at.best_epoch >= how.patience


def _note(at: Standing, seen, module, objective, how: Training, validation) -> None:
    """Write an epoch down, and keep its weights if they are the best so far."""
    at.epoch += 1
    at.history.append(seen)
    if validation is None or (how.patience is None and not how.keep_best):
        at.best_epoch = at.epoch
        return
    score = seen[f"validation_{objective.metric}"]
    if objective.better(score, at.best):
        at.best, at.best_epoch, at.best_weights = score, at.epoch, _weights(module)


def _weights(module: nn.Module) -> dict[str, torch.Tensor]:
    return {name: value.detach().cpu().clone() for name, value in module.state_dict().items()}


def _about(module, objective, data, validation, how, about, name: str) -> dict[str, Any]:
    """What a checkpoint is of."""
    shapes = {key: list(value.shape) for key, value in module.state_dict().items()}
    return {
        "name": name, "objective": objective.name, "rows": len(data),
        "validation rows": None if validation is None else len(validation), "weights": shapes,
        **how.identity(), **about,
    }  # fmt: skip


def _keep(path: Path, about, at: Standing, module, optimizer, randomness) -> None:
    drawn, states = randomness.state()
    state = {
        "epoch": at.epoch, "history": at.history, "best": at.best, "best_epoch": at.best_epoch,
        "numpy": drawn, "ended": at.ended,
    }  # fmt: skip
    tensors = {
        "weights": module.state_dict(), "best": at.best_weights or {},
        "optimizer": optimizer_tensors(optimizer), "random": states,
    }  # fmt: skip
    write_checkpoint(path, about, state, tensors)


def _resumed(path: Path | None, about, module, optimizer, randomness) -> Standing:
    """Where a checkpoint stood, with everything set back to it; else the beginning."""
    found = None if path is None else read_checkpoint(path, about)
    if found is None:
        return Standing()
    state, tensors = found
    module.load_state_dict(tensors["weights"])
    restore_optimizer(optimizer, tensors.get("optimizer", {}))
    randomness.restore(state["numpy"], tensors["random"])
    return Standing(
        state["epoch"],
        state["history"],
        state["best"],
        state["best_epoch"],
        tensors.get("best"),
        state.get("ended", False),
    )
