"""DDPM-Seg's head: an ensemble of small MLPs on the hypercolumn of a pixel."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from types import MappingProxyType
from typing import Any

import numpy as np
import torch
from torch import nn

from probes.cells import Cells
from probes.checks import check_choice, check_counts, pick_device
from probes.dense.base import Segmenter, Strips
from probes.dense.column import Column
from probes.dense.draws import SAMPLINGS
from probes.dense.early_stop import EarlyStop
from probes.dense.ensemble_net import EnsembleNet, Folded, ensemble_objective, vote
from probes.dense.pixels import PixelPool
from probes.dense.truth import Masks
from probes.held_out import split_rows, validation_share
from probes.maps import Maps
from probes.network import NetworkHead, Shapes
from probes.objectives import Objective
from probes.training import Training

FEW_CLASSES, NARROW, WIDE = 30, (128, 32), (256, 128)
"""Hidden widths as published: narrow ones below 30 classes."""
VALIDATED = 1024
"""Pixels of a picture that score an epoch."""
TOP = 10
"""A picture is as uncertain as the tenth of its pixels that are most so."""
DDPM_SEG: Mapping[str, Any] = MappingProxyType({
    "members": 10, "hidden": None, "standardize": False, "sampling": "uniform", "fewest": 20,
    "steps": None, "pixels": None, "epochs": 100, "batch_size": 64, "optimizer": "adam",
    "learning_rate": 1e-3, "weight_decay": 0.0, "schedule": "constant", "stop_after": 50,
    "stop_from": 5,
})  # fmt: skip
"""Arguments of `PixelMLPEnsemble` as published: every labelled pixel in every epoch."""


@dataclass(eq=False, repr=False, kw_only=True)
class PixelMLPEnsemble(Segmenter, NetworkHead):
    """Several MLPs on pixels, trained at once; they vote.

        head = PixelMLPEnsemble(random_state=0).fit(cells, masks, classes=names)
        masks = list(head.predict(cells))              # (H, W) of the pictures' sizes
        doubts = head.picture_uncertainty(cells)       # (N,)

    Each member has its own initial weights and its own order of the sampled pixels, so that it
    learns what it would alone; maps are read once for all. A pixel's class is what most members
    say (of several the lowest), its probabilities are their mean, and its uncertainty is their
    Jensen-Shannon divergence, which is large where they contradict each other:

        H(mean of p_m) − mean of H(p_m)

    The hypercolumn is never built: training reads single pixels (see `PixelPool`); prediction
    multiplies by the first layer of all members on the maps' own grids, in strips.

    `PixelMLPEnsemble(**DDPM_SEG)` trains as published. By default training takes `steps` of
    standardised pixels, scored and ended early by validation pictures where there are any
    (`patience`), not by the loss of single batches.

    Args:
        members: how many.
        hidden: widths of the hidden layers; None: (128, 32), or (256, 128) from 30 classes on.
        standardize: pixels have mean 0 and variance 1 in every channel (not as published).
        sampling: "uniform", as published, or "balanced": every class as often.
        fewest: a class with fewer pixels than that in a training picture does not count there.
        class_weight: (K,) weights in the loss; "balanced": by the inverse of how often; None: 1.
        steps: of the whole training, cut into `epochs` equal parts (rounded up). None: an epoch is
            a pass.
        pixels: of a picture in a pass, on average. None: as many as make one pass of an epoch, so
            that it reads every picture once; without `steps` all that count.
        stop_after: a member ends where its batch loss had no new minimum for more steps than that
            (published: 50); None: it does not. stop_from: epoch from which it counts.
        batch_size: pixels of a step and member.
        memory_mb: of the pool of pixels; a quarter of it for validation.

    All others are those of `NetworkHead`.

    Attributes:
        cells_, shapes_: the (block, t), and their (C, h, w). classes_, ignore_, seen_: those of
            `Segmenter`.

    Further attributes: see `NetworkHead`.

    Source: Baranchuk et al. 2022, "Label-efficient semantic segmentation with diffusion models".
    """

    members: int = 10
    hidden: tuple[int, ...] | None = None
    standardize: bool = True
    sampling: str = "uniform"
    fewest: int = 20
    class_weight: Any = None
    steps: int | None = 2000
    pixels: int | None = None
    stop_after: int | None = None
    stop_from: int = 5
    optimizer: str = "adam"
    weight_decay: float = 0.0
    schedule: str = "constant"
    epochs: int = 10
    batch_size: int = 64
    memory_mb: float = 256

    # training

    def fit(
        self,
        cells: Any,
        masks: Any,
        validation: Any = None,
        *,
        classes: int | Sequence[str] | None = None,
        ignore: int = 255,
        groups: Any = None,
    ):
        """Train the members.

        Args:
            cells: `probes.Cells` of (N, C, h, w) maps, with the pictures' sizes.
            masks: N (H, W) label maps of the pictures' size.
            validation: what scores every epoch: a share of the pictures, by groups where there are
                any; or (cells, masks). None: `validation_fraction`.
            classes: K or K names; None: as many as the labels say.
            ignore: label of pixels that do not count.
            groups: (N,) of the pictures, which are never in both parts.

        Returns:
            self.

        Raises:
            ValueError: cells that are no maps, masks of another size or with other labels, no
                pixel that counts, parameters out of range, a loss that is not finite.

        Warns:
            UserWarning: classes that training lacks.
        """
        self._check()
        how = self._training()
        cells, truth = self._opened(cells, masks, classes, ignore)
        self.n_features_in_, self.n_outputs_ = len(self.cells_), len(self.classes_)
        device = pick_device(self.device, cells.rows(self.cells_[0]).values)
        randomness = self._randomness(device)
        rows, held = self._held(cells, truth, validation, groups, randomness.numpy)
        pool = self._pool(cells, truth, rows, device)
        self._note_seen(pool.counts.sum(0))
        if held is not None:
            held = self._validation(*held, pool)
        about = {name: getattr(self, name) for name in ("members", "standardize", "sampling",
                 "fewest", "steps", "stop_after", "stop_from")}  # fmt: skip
        weights = self._class_weights(pool)
        about |= {"class_weight": None if weights is None else weights.tolist()}
        about |= {"pool": pool.capacity}
        objective = ensemble_objective(self.n_outputs_, weights)
        self._run(how, objective, pool, held, randomness, **about)
        self.module_.forget_gradients()
        return self

    def _check(self) -> None:
        check_counts(self, "members", "batch_size", "epochs", "fewest", "stop_from")
        check_choice("sampling", self.sampling, SAMPLINGS)
        for name in ("steps", "pixels", "stop_after", "hidden"):
            if getattr(self, name) is not None:
                check_counts(self, name)
        if self.augment is not None:
            raise ValueError("augment moves maps, and the members are trained on single pixels; "
                             "expected None")  # fmt: skip

    def _training(self) -> Training:
        return replace(super()._training(), fused=self.optimizer.startswith("adam"))

    def _pool(self, cells: Cells, truth: Masks, rows: np.ndarray, device) -> PixelPool:
        """The training pixels, standardised if asked for."""
        steps = None if self.steps is None else math.ceil(self.steps / self.epochs)
        pool = PixelPool(
            cells, truth, keys=self.cells_, rows=rows, size=self.batch_size, steps=steps,
            pixels=self.pixels, sampling=self.sampling, fewest=self.fewest, members=self.members,
            memory=int(self.memory_mb * 2**20), device=device,
        )  # fmt: skip
        if self.standardize:
            pool.moments = pool.measured()
        return pool

    def _validation(self, cells: Cells, truth: Masks, rows: np.ndarray, like: PixelPool):
        """A few pixels of every validation picture, kept, as the training's are."""
        memory = int(self.memory_mb * 2**20) // 4
        each = sum(4 * shape[0] for shape in self.shapes_)
        pixels = min(VALIDATED, max(1, memory // each // len(rows)))
        pool = PixelPool(cells, truth, keys=self.cells_, rows=rows, size=1, pixels=pixels,
                         members=self.members, memory=memory, device=like.device)  # fmt: skip
        pool.moments = like.moments
        return pool

    def _held(self, cells: Cells, truth: Masks, validation: Any, groups: Any, rng):
        """Training rows; and cells, masks and rows of validation, or None."""
        every = np.arange(len(cells))
        fraction = validation_share(validation, self.validation_fraction, "masks")
        if isinstance(validation, (tuple, list)):
            other = self._checked(validation[0])
            named = Masks(validation[1], other, truth.classes, truth.ignore, "validation masks")
            return every, (other, named, np.arange(len(other)))
        rows, kept = split_rows(len(cells), fraction, groups, rng)
        return rows, (cells, truth, kept) if fraction else None

    def _class_weights(self, pool: PixelPool) -> torch.Tensor | None:
        if self.class_weight is None:
            return None
        if isinstance(self.class_weight, str):
            check_choice("class_weight", self.class_weight, ("balanced",))
            return torch.from_numpy(pool.weights()).float()
        found = np.asarray(self.class_weight, np.float64)
        if found.shape != self.classes_.shape or not (np.isfinite(found) & (found >= 0)).all():
            raise ValueError(f"class_weight has shape {found.shape}; expected a number >= 0 for "
                             f"each of {len(self.classes_)} classes")  # fmt: skip
        return torch.from_numpy(found).float()

    def _build(self, shapes: Shapes, outputs: int, batches: Any) -> nn.Module:
        hidden = self.hidden or (NARROW if outputs < FEW_CLASSES else WIDE)
        net = EnsembleNet(self.members, sum(shape[0] for shape in shapes), hidden, outputs)
        if getattr(batches, "moments", None) is not None:
            net.mean, net.deviation = batches.moments
        return net if self.stop_after is None else net.stoppable()

    def _ended(self, module: nn.Module, objective: Objective) -> Callable[[int], bool] | None:
        if self.stop_after is None:
            return None
        return EarlyStop(module, objective.loss, self.stop_after, self.stop_from)

    def _objective(self) -> Objective:
        return ensemble_objective(self.n_outputs_)

    # prediction

    def _strips(self, maps: Maps) -> Strips:
        """(M, K, r, W) logits; those of classes that training lacked are −inf."""
        device = pick_device(self.device, maps[self.cells_[0]])
        folded = Folded.of(self._on(device), torch.from_numpy(self.seen_).to(device))
        column = Column(maps, self.cells_, device)
        for first, strip in column.linear(folded.first, folded.bias):
            logits = folded.logits(strip)  # (M, r·W, K)
            yield first, logits.unflatten(1, strip.shape[1:]).movedim(3, 1)

    def _say(self, strip: torch.Tensor) -> torch.Tensor:
        found = strip.argmax(1)  # (M, r, W)
        return vote(found.flatten(1), strip.shape[1]).view(found.shape[1:])

    def _share(self, strip: torch.Tensor) -> torch.Tensor:
        return strip.softmax(1).mean(0)

    def _doubt(self, strip: torch.Tensor) -> torch.Tensor:
        """The members' Jensen-Shannon divergence in nats, ≥ 0."""
        return divergence(strip.softmax(1))

    @property
    def most_uncertain(self) -> float:
        """ln min(K, M) of K classes and M members."""
        return math.log(max(2, min(len(self.classes_), self.members)))

    def picture_uncertainty(self, cells: Any) -> np.ndarray:
        """(N,) float64: the mean of each picture's most uncertain tenth of pixels."""
        return np.array([top_mean(one) for one in self.uncertainty(cells)])


def divergence(shares: torch.Tensor) -> torch.Tensor:
    """(M, K, …) probabilities → (…): H(mean over M) − mean over M of H, in nats."""
    total = torch.special.entr(shares.mean(0)).sum(0)
    return (total - torch.special.entr(shares).sum(1).mean(0)).clamp_(min=0)


def top_mean(uncertainty: np.ndarray) -> float:
    """The mean of the largest tenth of (H, W) numbers, at least one of them."""
    count = max(1, uncertainty.size // TOP)
    return float(np.partition(uncertainty.reshape(-1), -count)[-count:].mean(dtype=np.float64))
