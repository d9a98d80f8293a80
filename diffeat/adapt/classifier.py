"""A classifier that is trained through the backbone: what its kinds share."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from functools import cached_property, partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn

from diffeat.adapt.forward import NoisyFeatures
from diffeat.backbones.base import Backbone
from diffeat.conditioned import conditioned
from diffeat.errors import NumericsError, SpecError
from diffeat.extraction.noising import noise_names, seeded_by_content
from diffeat.images import Source, load_batches
from diffeat.progress import counted
from diffeat.specs import ExtractSpec
from probes.batches import Batch
from probes.objectives import CROSS_ENTROPY
from probes.randomness import Randomness
from probes.training import Diverged, Training, train

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


SCHEDULES = {"cosine": "cosine-by-step", "step": "step"}
"""The loop's schedule of each name here."""
OPTIMIZERS = ("adamw", "sgd")


class Through(nn.Module):
    """Head and backbone as the one module that is trained: x_t (N, C, h, w) → logits (N, K).

    Args:
        head: of the maps.
        parts: what else is trained, by name. A denoiser stays in eval mode: no dropout of its own.
        map_of: x_t → maps, through the backbone.
    """

    def __init__(
        self, head: nn.Module, parts: dict[str, nn.Module], map_of: Callable[..., torch.Tensor]
    ):
        super().__init__()
        self.head, self.parts, self.map_of = head, nn.ModuleDict(parts), map_of

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.head(self.map_of(x).float())

    def train(self, mode: bool = True) -> Through:
        self.training = mode
        self.head.train(mode)
        for name, part in self.parts.items():
            part.train(mode and name != "denoiser")
        return self


class Pictures:
    """Pictures as the loop takes them: decoded when their turn comes, noised, x_t and classes.

    Args:
        classifier: whose backbone, noise level and augmentation.
        source: with labels.
    """

    def __init__(self, classifier: BackboneClassifier, source: Source):
        self.classifier, self.source = classifier, source
        self.device = torch.device(classifier.backbone.device)
        self.steps = len(spans_of(len(source), classifier.batch_size, training=True))

    def __len__(self) -> int:
        return len(self.source)

    @cached_property
    def _names(self) -> list[str]:
        """What seeds each picture's own noise."""
        spec = self.classifier.noisy.plan.spec
        digests = self.source.digests() if seeded_by_content(spec) else None
        return noise_names(spec, self.source.ids, digests, range(len(self.source)))

    def shuffled(self, rng: np.random.Generator, most: int | None = None) -> Iterator[Batch]:
        """One epoch in a new order, augmented, with fresh noise; or only its first `most`."""
        some = self.source.take(rng.permutation(len(self.source))[:most])
        noise = torch.Generator().manual_seed(int(rng.integers(1 << 62)))
        for ids, pixels, targets in self._decoded(some, training=True):
            pixels = self.classifier.augmented(pixels, rng)
            yield [self.classifier.noisy.noisy(pixels, ids, noise)], targets

    def ordered(self) -> Iterator[Batch]:
        """All, each with its own noise, as an extraction has it."""
        for ids, pixels, targets in self._decoded(self.source, training=False):
            yield [self.classifier.noisy.noisy(pixels, ids)], targets

    def _decoded(
        self, source: Source, training: bool
    ) -> Iterator[tuple[list[str], torch.Tensor, torch.Tensor]]:
        """(ids, pixels uint8, class indices on the device) of each batch."""
        plan, spec = self.classifier.noisy.plan, self.classifier.noisy.plan.spec
        spans = spans_of(len(source), self.classifier.batch_size, training)
        loaded = load_batches(
            source, spans, plan.size, spec.fit, spec.resample, self.classifier.workers,
            mirror=spec.mirror,
        )  # fmt: skip
        for batch in loaded:
            targets = source.labels[batch.indices] if source.labels is not None else []
            # fresh noise has no seeds
            names = source.ids if training else self._names
            ids = [names[index] for index in batch.indices]
            targets = torch.as_tensor(np.asarray(targets, np.int64))
            yield ids, torch.from_numpy(batch.pixels), targets.to(self.device)


def spans_of(count: int, size: int, training: bool) -> list[tuple[int, int]]:
    """Batches; in training none of one picture, whose variance BatchNorm would divide by."""
    spans = [(start, min(start + size, count)) for start in range(0, count, size)]
    if training and len(spans) > 1 and spans[-1][1] - spans[-1][0] == 1:
        spans = [*spans[:-2], (spans[-2][0], count)]
    return spans


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
        progress: None shows a bar on a terminal, a line a minute elsewhere.
        checkpoint: a folder, or a .safetensors file: written after every epoch; a fit that was
            interrupted goes on from it, to the same bits.

    Attributes:
        classes_: names of the classes.
        head_: the trained head.
        module_: head and backbone as the one module that was trained.
        parameters_: how many numbers are trained, the head's included.
        history_: per epoch: epoch, loss, learning_rate (the head's, of the first step), seconds,
            and with validation pictures validation_loss, validation_accuracy.
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
        checkpoint: str | Path | None = None,
    ):
        self.backbone, self.block, self.t, self.head = backbone, block, t, head
        self.options = options
        self.epochs, self.batch_size = epochs, batch_size
        self.learning_rate, self.weight_decay = learning_rate, weight_decay
        self.optimizer, self.schedule = optimizer, schedule
        self.flip, self.shift, self.patience = flip, shift, patience
        self.random_state, self.workers, self.progress = random_state, workers, progress
        self.checkpoint = checkpoint

    # --- what a kind writes -------------------------------------------------------------

    @abstractmethod
    def _build(self) -> list[dict]:
        """Make what is trained besides the head; its groups for the optimizer."""

    @abstractmethod
    def _trained(self) -> dict[str, nn.Module]:
        """The modules that are trained besides the head, by name."""

    @property
    @abstractmethod
    def noisy(self) -> NoisyFeatures:
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
        seed, device = self.random_state, self.backbone.device
        with Randomness(seed, seed, device) as randomness:
            groups = self._build()
            plan = self.noisy.plan
            shape = plan.map_shape(plan.blocks[-1])
            self.head_ = self.head(shape, len(self.classes_)).to(device)
            self.module_ = Through(self.head_, self._trained(), self._map)
            groups.append({"params": list(self.head_.parameters()), "lr": self.learning_rate})
            self.parameters_ = sum(weight.numel() for one in groups for weight in one["params"])
            self._optimize(source, validation, groups, randomness)
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

    def _optimize(
        self, source: Source, validation: Source | None, groups: list[dict], randomness: Randomness
    ) -> None:
        training = Pictures(self, source)
        how = Training(
            self.optimizer, self.learning_rate, self.weight_decay, 0.0, SCHEDULES[self.schedule],
            self.epochs, self.batch_size, self.patience,
            progress=partial(counted, show=self.progress), checkpoint=self.checkpoint,
            keep_best=True,
        )  # fmt: skip
        try:
            self.history_, self.best_epoch_ = train(
                self.module_, CROSS_ENTROPY, training, how, randomness,
                validation=None if validation is None else Pictures(self, validation),
                groups=groups, settle=partial(self._settle, training),
                about=self._about(source, validation), name=type(self).__name__, unit="picture",
            )  # fmt: skip
        except Diverged as error:
            raise NumericsError(
                f"{error}; or load the model in float32, if it is in half precision"
            ) from error

    def _about(self, source: Source, validation: Source | None) -> dict[str, Any]:
        """What a checkpoint has to agree with: model, spec, pictures, seed, augmentation."""
        if self.checkpoint is None:
            return {}
        spec = self.noisy.plan.spec
        pictures = [None if one is None else one.content() for one in (source, validation)]
        return {
            "model": self.backbone.fingerprint, "spec": spec.to_dict(), "pictures": pictures,
            "flip": self.flip, "shift": self.shift, "random_state": self.random_state,
        }  # fmt: skip

    @torch.no_grad()
    def _settle(self, training: Pictures, rng: np.random.Generator) -> None:
        """Give every BatchNorm the moments of the weights as they are now.

        The running ones lag by tens of steps, which would bias short trainings and the choice
        of the epoch. They are taken anew over at most `SETTLING` batches, as while training.
        """
        norms = [
            module
            for module in self.module_.modules()
            if isinstance(module, nn.modules.batchnorm._BatchNorm) and module.track_running_stats
        ]
        if not norms:
            return
        momenta = [norm.momentum for norm in norms]
        for norm in norms:
            norm.reset_running_stats()
            norm.momentum = None  # a plain mean over batches
        for (x,), _ in training.shuffled(rng, SETTLING * self.batch_size):
            self.module_(x)
        for norm, momentum in zip(norms, momenta, strict=True):
            norm.momentum = momentum

    def predict_proba(self, source: Source) -> np.ndarray:
        """(N, K) probabilities of pictures."""
        return torch.from_numpy(self._logits(source)).softmax(1).numpy()

    def predict(self, source: Source) -> np.ndarray:
        """(N,) class indices, into `classes_`."""
        return self._logits(source).argmax(1)

    def score(self, source: Source) -> float:
        """Accuracy in [0, 1]."""
        self._check_trained()
        _check_labels(source, classes=self.classes_)
        return float((self.predict(source) == source.labels).mean())

    @torch.no_grad()
    def _logits(self, source: Source) -> np.ndarray:
        """(N, K), each picture with its own noise."""
        self._check_trained()
        module = self.module_.eval()
        return np.concatenate(
            [module(x).cpu().numpy() for (x,), _ in Pictures(self, source).ordered()]
        )

    def _spec(self, blocks: tuple[str, ...]) -> ExtractSpec:
        return ExtractSpec((self.t,), blocks, seed=self.random_state, **(self.options or {}))

    def augmented(self, pixels: torch.Tensor, rng: np.random.Generator) -> torch.Tensor:
        """Mirrored and shifted pictures, (N, 3, H, W) uint8."""
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
