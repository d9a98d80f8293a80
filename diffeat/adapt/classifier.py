"""A classifier that is trained through the backbone: the loop that its kinds share."""

from __future__ import annotations

import math
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn
from tqdm import tqdm

from diffeat.adapt.forward import NoisyFeatures
from diffeat.backbones.base import Backbone
from diffeat.conditioned import conditioned
from diffeat.errors import NumericsError, SpecError
from diffeat.images import Source, load_batches
from diffeat.specs import ExtractSpec

SETTLING = 16
"""Batches from which BatchNorm's moments are taken after an epoch."""
Head = Callable[[tuple[int, int, int], int], nn.Module]
"""((C, h, w), K) → module from maps (N, C, h, w) to logits (N, K)."""


def linear_head(shape: tuple[int, int, int], classes: int, pool: int = 2) -> nn.Module:
    """Average pool to pool×pool cells, BatchNorm without parameters, linear."""
    side = min(pool, *shape[1:])
    return nn.Sequential(
        nn.AdaptiveAvgPool2d(side),
        nn.Flatten(),
        nn.BatchNorm1d(shape[0] * side**2, affine=False),
        nn.Linear(shape[0] * side**2, classes),
    )


def _cosine(step: int, steps: int, epochs: int) -> float:
    """Factor of the learning rates in a step (from 0), of `steps` in each of the epochs."""
    return 0.5 * (1 + math.cos(math.pi * min(1.0, step / (epochs * steps))))


def _quarters(step: int, steps: int, epochs: int) -> float:
    """As `_cosine`: a tenth after each quarter of the epochs (each 7 of 28)."""
    return 0.1 ** (4 * (step // steps) // epochs)


OPTIMIZERS = {"adamw": torch.optim.AdamW, "sgd": torch.optim.SGD}
SCHEDULES = {"cosine": _cosine, "step": _quarters}


class BackboneClassifier(ABC):
    """Pictures in, classes out, with gradients through the denoiser.

    Every epoch goes through the pictures in a new order, with new noise, mirrored and shifted;
    what is predicted uses each picture's own noise, as an extraction does, so it is the same
    every time. AdamW with a cosine schedule, unless told otherwise; with validation pictures, the
    best epoch's weights are kept and it stops when none of the last `patience` was better.

    Args:
        backbone: from `diffeat.load`, best in float32.
        block: whose map the head is given.
        t: noise level.
        head: see `Head`; the default is `linear_head`.
        options: further fields of the spec: latent, noise, prompt, label, size, fit.
        epochs: at most.
        batch_size: pictures of one step.
        learning_rate: of the head.
        weight_decay: of everything.
        optimizer: "adamw", or "sgd" without momentum.
        schedule: of the learning rates: "cosine", which changes every step, (1 + cos(pi·s/S))/2;
            or "step", 0.1 to the power of the quarters of the epochs that are over.
        flip: mirror every other picture while training.
        shift: and move it by up to so many pixels, edges being repeated.
        patience: epochs without a better validation accuracy; None goes through all.
        random_state: seed of order, noise, augmentation and weights.
        workers: decoding threads.
        progress: None shows a bar where the output is a terminal.

    Attributes:
        classes_: names of the classes.
        head_: the trained head.
        parameters_: how many numbers are trained, the head's included.
        history_: per epoch: loss, validation accuracy, seconds.
        best_epoch_: the epoch, from 1, whose weights were kept.
    """

    def __init__(
        self,
        backbone: Backbone,
        block: str,
        t: int | float | str,
        *,
        head: Head = linear_head,
        options: dict[str, Any] | None = None,
        epochs: int = 10,
        batch_size: int = 64,
        learning_rate: float = 1e-3,
        weight_decay: float = 0.05,
        optimizer: str = "adamw",
        schedule: str = "cosine",
        flip: bool = True,
        shift: int = 0,
        patience: int | None = None,
        random_state: int = 0,
        workers: int = 2,
        progress: bool | None = None,
    ):
        self.backbone, self.block, self.t, self.head = backbone, block, t, head
        self.options = options
        self.epochs, self.batch_size = epochs, batch_size
        self.learning_rate, self.weight_decay = learning_rate, weight_decay
        self.optimizer, self.schedule = optimizer, schedule
        self.flip, self.shift, self.patience = flip, shift, patience
        self.random_state, self.workers, self.progress = random_state, workers, progress

    # --- what a kind writes -------------------------------------------------------------

    @abstractmethod
    def _build(self) -> list[dict]:
        """Make what is trained besides the head; its groups for the optimizer."""

    @abstractmethod
    def _trained(self) -> dict[str, nn.Module]:
        """The modules that are trained besides the head, by name."""

    @abstractmethod
    def _noisy(self) -> NoisyFeatures:
        """Makes x_t of pictures."""

    @abstractmethod
    def _map(self, x: torch.Tensor) -> torch.Tensor:
        """(N, C, h, w) of x_t."""

    # --- what all share -----------------------------------------------------------------

    def fit(self, source: Source, validation: Source | None = None) -> BackboneClassifier:
        """Train on the pictures of a source.

        Args:
            source: with labels.
            validation: other pictures with the same classes, on which the epoch is chosen.

        Returns:
            self.

        Raises:
            SpecError: labels are missing, or classes do not fit; or see `NoisyFeatures`.
            NumericsError: the loss is nan or inf.
        """
        self._check()
        if self.patience is not None and validation is None:
            raise SpecError(
                f"patience={self.patience} needs validation pictures; give some, or None"
            )
        _check_labels(source, validation)
        self.classes_ = tuple(source.class_names)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(self.random_state)
            groups = self._build()
            plan = self._noisy().plan
            shape = plan.map_shape(plan.blocks[-1])
            self.head_ = self.head(shape, len(self.classes_)).to(self.backbone.device)
        groups.append({"params": list(self.head_.parameters()), "lr": self.learning_rate})
        self.parameters_ = sum(weight.numel() for one in groups for weight in one["params"])
        self._optimize(source, validation, groups)
        return self

    def _check(self) -> None:
        least = {"epochs": 1, "batch_size": 2, "shift": 0, "workers": 1, "weight_decay": 0,
                 "learning_rate": 0}  # fmt: skip
        for name, smallest in least.items():
            if not getattr(self, name) >= smallest:
                raise SpecError(f"{name}={getattr(self, name)}; expected at least {smallest}")
        self._check_options()
        if self.patience is not None and self.patience < 1:
            raise SpecError(f"patience={self.patience}; expected at least 1, or None")
        for name, choices in (("optimizer", OPTIMIZERS), ("schedule", SCHEDULES)):
            if getattr(self, name) not in choices:
                expected = " or ".join(map(repr, choices))
                raise SpecError(f"{name}={getattr(self, name)!r}; expected {expected}")

    def _check_options(self) -> None:
        known = {"latent", "noise", "prompt", "label", "size", "fit", "resample"}
        if unknown := set(self.options or {}) - known:
            raise SpecError(
                f"options {', '.join(sorted(unknown))}; expected some of {', '.join(sorted(known))}"
            )

        if why := conditioned(self._spec((self.block,))):
            raise SpecError(
                f"{self.backbone.name}: a classifier whose pictures are conditioned on their own "
                f"targets ({why}) would be told the answer; choose one label or prompt for all, "
                "or none"
            )

    def _check_trained(self) -> None:
        if not hasattr(self, "head_"):
            raise SpecError(f"this {type(self).__name__} is not trained yet; call fit first")

    def _optimize(self, source: Source, validation: Source | None, groups: list[dict]) -> None:
        optimizer = OPTIMIZERS[self.optimizer](groups, weight_decay=self.weight_decay)
        steps = len(self._spans(len(source), training=True))
        schedule = torch.optim.lr_scheduler.LambdaLR(
            optimizer, partial(SCHEDULES[self.schedule], steps=steps, epochs=self.epochs)
        )
        rng = np.random.default_rng(self.random_state)
        self.history_, self.best_epoch_ = [], 0
        best, kept = -1.0, None
        hide = None if self.progress is None else not self.progress
        for epoch in range(1, self.epochs + 1):
            began = time.monotonic()
            loss = self._epoch(source, optimizer, schedule, rng, epoch, hide)
            entry = {"epoch": epoch, "loss": loss}
            self._settle(source, rng)
            if validation is not None:
                entry["validation"] = self.score(validation)
            entry["seconds"] = round(time.monotonic() - began, 3)
            self.history_.append(entry)
            if validation is None or entry["validation"] > best:
                self.best_epoch_ = epoch
            if validation is not None and entry["validation"] > best:
                best, kept = entry["validation"], self._state()
            if self.patience is not None and epoch - self.best_epoch_ >= self.patience:
                break
        if kept is not None:
            self._restore(kept)

    def _epoch(self, source, optimizer, schedule, rng, epoch: int, hide: bool | None) -> float:
        """One pass over the pictures; the mean loss."""
        order = rng.permutation(len(source))
        noise = torch.Generator().manual_seed(int(rng.integers(1 << 62)))
        shuffled = source.take(order)
        spans = self._spans(len(order), training=True)
        total = count = 0
        with tqdm(total=len(order), desc=f"epoch {epoch}", unit="img", disable=hide) as bar:
            for ids, pixels, targets in self._batches(shuffled, spans):
                x = self._noisy().noisy(self._augmented(pixels, rng), ids, noise)
                loss = F.cross_entropy(self._logits(x, training=True), targets)
                if not torch.isfinite(loss):
                    raise NumericsError(
                        f"the loss is {loss.item()} in epoch {epoch}; lower the learning rate, or "
                        "load the model in float32"
                    )
                optimizer.zero_grad(set_to_none=True)
                loss.backward()
                optimizer.step()
                schedule.step()
                total, count = total + loss.item() * len(ids), count + len(ids)
                bar.update(len(ids))
                bar.set_postfix(loss=f"{total / count:.3f}")
        return total / count

    @torch.no_grad()
    def _settle(self, source: Source, rng: np.random.Generator) -> None:
        """Give every BatchNorm the moments of the weights as they are now.

        The running ones lag by tens of steps, which would bias short trainings and the choice
        of the epoch. They are taken anew over at most `SETTLING` batches, as while training.
        """
        norms = [
            module
            for part in self._modules().values()
            for module in part.modules()
            if isinstance(module, nn.modules.batchnorm._BatchNorm) and module.track_running_stats
        ]
        if not norms:
            return
        momenta = [norm.momentum for norm in norms]
        for norm in norms:
            norm.reset_running_stats()
            norm.momentum = None  # a plain mean over batches
        few = source.take(rng.permutation(len(source))[: SETTLING * self.batch_size])
        noise = torch.Generator().manual_seed(int(rng.integers(1 << 62)))
        for ids, pixels, _ in self._batches(few, self._spans(len(few), training=True)):
            x = self._noisy().noisy(self._augmented(pixels, rng), ids, noise)
            self._logits(x, training=True)
        for norm, momentum in zip(norms, momenta, strict=True):
            norm.momentum = momentum

    def predict_proba(self, source: Source) -> np.ndarray:
        """(N, K) probabilities of pictures."""
        self._check_trained()
        found = []
        with torch.no_grad():
            for ids, pixels, _ in self._batches(source, self._spans(len(source))):
                x = self._noisy().noisy(pixels, ids)
                found.append(self._logits(x, training=False).softmax(1).cpu())
        return torch.cat(found).numpy()

    def predict(self, source: Source) -> np.ndarray:
        """(N,) class indices, into `classes_`."""
        return self.predict_proba(source).argmax(1)

    def score(self, source: Source) -> float:
        """Accuracy in [0, 1]."""
        self._check_trained()
        _check_labels(source, classes=self.classes_)
        return float((self.predict(source) == source.labels).mean())

    def _logits(self, x: torch.Tensor, training: bool) -> torch.Tensor:
        self.head_.train(training)
        for name, module in self._trained().items():
            module.train(training and name != "denoiser")  # no dropout of its own
        return self.head_(self._map(x).float())

    def _spec(self, blocks: tuple[str, ...]) -> ExtractSpec:
        return ExtractSpec((self.t,), blocks, seed=self.random_state, **(self.options or {}))

    def _spans(self, count: int, training: bool = False) -> list[tuple[int, int]]:
        """Batches; in training none of one picture, whose variance BatchNorm would divide by."""
        size = self.batch_size
        spans = [(start, min(start + size, count)) for start in range(0, count, size)]
        if training and len(spans) > 1 and spans[-1][1] - spans[-1][0] == 1:
            spans = [*spans[:-2], (spans[-2][0], count)]
        return spans

    def _batches(self, source: Source, spans) -> Iterator[tuple[list[str], torch.Tensor, Any]]:
        """(ids, pixels uint8, class indices on the device) of each span."""
        spec, plan = self._noisy().plan.spec, self._noisy().plan
        loaded = load_batches(
            source, spans, plan.size, spec.fit, spec.resample, self.workers, mirror=spec.mirror
        )
        for batch in loaded:
            targets = source.labels[batch.indices] if source.labels is not None else []
            ids = [source.ids[index] for index in batch.indices]
            targets = torch.as_tensor(np.asarray(targets, np.int64))
            yield ids, torch.from_numpy(batch.pixels), targets.to(self.backbone.device)

    def _augmented(self, pixels: torch.Tensor, rng: np.random.Generator) -> torch.Tensor:
        """Mirrored and shifted pictures."""
        if self.flip:
            mirrored = torch.from_numpy(rng.random(len(pixels)) < 0.5)
            pixels = torch.where(mirrored[:, None, None, None], pixels.flip(3), pixels)
        if not self.shift:
            return pixels
        far, (height, width) = self.shift, pixels.shape[2:]
        wide = F.pad(pixels.float(), (far,) * 4, mode="replicate").to(pixels.dtype)
        corners = rng.integers(0, 2 * far + 1, (len(pixels), 2))
        return torch.stack(
            [w[:, y : y + height, x : x + width] for w, (y, x) in zip(wide, corners, strict=True)]
        )

    def _modules(self) -> dict[str, nn.Module]:
        return {"head": self.head_, **self._trained()}

    def _state(self) -> dict[str, dict[str, torch.Tensor]]:
        return {
            name: {key: value.detach().cpu().clone() for key, value in module.state_dict().items()}
            for name, module in self._modules().items()
        }

    def _restore(self, state: dict[str, dict[str, torch.Tensor]]) -> None:
        for name, module in self._modules().items():
            module.load_state_dict(state[name])


def _check_labels(
    source: Source, validation: Source | None = None, classes: tuple[str, ...] | None = None
) -> None:
    for one in (source, *([] if validation is None else [validation])):
        if one.labels is None:
            raise SpecError(f"{one.name} has no labels; expected one subfolder per class")
        wanted = classes or tuple(source.class_names)
        if tuple(one.class_names) != wanted:
            raise SpecError(
                f"{one.name} has classes {', '.join(one.class_names)[:200]}; expected those of "
                f"the training: {', '.join(wanted)[:200]}"
            )
    if classes is None and len(np.unique(source.labels)) < 2:
        raise SpecError(f"{source.name} has pictures of one class only; expected at least two")
