"""What a head minimises, and how it is validated. Plain objects: no head has a loss inside."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any, Protocol

import torch
from torch.nn import functional as F

from probes.metrics.classification import Accuracy, MeanIoU
from probes.metrics.ranking import MeanAveragePrecision
from probes.metrics.regression import R2Score


class Measure(Protocol):
    """A number of predictions and truths that come in batches."""

    def update(self, found: torch.Tensor, truth: torch.Tensor) -> Any:
        """Take note of a batch."""

    def compute(self) -> float:
        """The number of all batches."""


@dataclass(frozen=True)
class Objective:
    """What is minimised, and by which number an epoch is judged.

    Attributes:
        name: for errors and checkpoints.
        loss: (output, target, "mean" or "sum") → the mean or the sum of the terms, a scalar.
        terms: target → how many terms that mean is over; an int or a scalar tensor.
        metric: name of the validation number: `validation_METRIC` in a learning curve.
        measure: makes an empty accumulator of it, which is given `found(output)` and targets.
        higher_is_better: the direction of that number.
        found: output → what is predicted, as the measure takes it.
        predict: output → what a head's `predict` gives.
        dtype: of targets, for numpy.
        gaps: whether nan among targets stands for what is missing.
        maps: whether targets are maps (n, H, W), which augmentation moves with the features.
        unknown: of maps, the target of what shows nothing, such as `ignore`; None: there is none.
    """

    name: str
    loss: Callable[..., torch.Tensor]
    terms: Callable[[torch.Tensor], Any]
    metric: str
    measure: Callable[[], Measure]
    higher_is_better: bool
    found: Callable[[torch.Tensor], torch.Tensor]
    predict: Callable[[torch.Tensor], torch.Tensor]
    dtype: str
    gaps: bool = False
    maps: bool = False
    unknown: float | None = None

    def better(self, score: float, best: float | None) -> bool:
        """Whether a validation number beats the best so far; nan never does."""
        if best is None:
            return score == score
        return score > best if self.higher_is_better else score < best


def _plain(function: Callable[..., torch.Tensor], output, target, reduction: str, **more):
    return function(output, target, reduction=reduction, **more)


def _pixels(output, target, reduction: str, ignore: int = -100) -> torch.Tensor:
    """Over pixels that count; 0 where none does."""
    if reduction == "mean" and not (target != ignore).any():
        return output.sum() * 0
    return F.cross_entropy(output, target, ignore_index=ignore, reduction=reduction)


def _known(function, output, target, reduction: str, **more) -> torch.Tensor:
    """Over numbers that are known; 0 where none is."""
    if output.shape != target.shape:
        raise ValueError(
            f"outputs of shape {tuple(output.shape)} for targets {tuple(target.shape)}; expected "
            "the same"
        )
    known = ~torch.isnan(target)
    terms = function(output, torch.where(known, target, output.detach()), reduction="none", **more)
    total = (terms * known).sum()
    return total if reduction == "sum" else total / known.sum().clamp(min=1)


def _argmax(output: torch.Tensor) -> torch.Tensor:
    return output.argmax(1)


def _same(output: torch.Tensor) -> torch.Tensor:
    return output


CROSS_ENTROPY = Objective(
    "cross-entropy", partial(_plain, F.cross_entropy), len, "accuracy", Accuracy, True,
    _argmax, _argmax, "int64",
)  # fmt: skip
"""Outputs (n, K), targets (n,) class indices: mean of -log softmax(output)[target]."""

BINARY_CROSS_ENTROPY = Objective(
    "binary cross-entropy", partial(_plain, F.binary_cross_entropy_with_logits),
    torch.Tensor.numel, "mean_average_precision", MeanAveragePrecision, True,
    _same, lambda output: (output > 0).long(), "float32",
)  # fmt: skip
"""Several labels: outputs (n, K), targets (n, K) 0/1; mean over rows and labels of
-log sigmoid(±output)."""

SQUARED_ERROR = Objective(
    "squared error", partial(_known, F.mse_loss), lambda target: (~torch.isnan(target)).sum(),
    "r2", R2Score, True, _same, _same, "float32", gaps=True,
)  # fmt: skip
"""Real numbers: outputs and targets of one shape; mean of (output - target)² where target is
not nan. For maps that augmentation has to move: `dataclasses.replace(SQUARED_ERROR, maps=True)`."""


def huber(delta: float = 1.0) -> Objective:
    """As `SQUARED_ERROR`, with e²/2 up to `delta` and delta·(|e| - delta/2) beyond.

    Args:
        delta: where the square ends, in units of the targets.

    Returns:
        The objective; (n,) or (n, M) numbers, nan is missing.

    Source: Huber 1964.
    """
    return Objective(
        f"huber {delta:g}", partial(_known, F.huber_loss, delta=delta), SQUARED_ERROR.terms,
        "r2", R2Score, True, _same, _same, "float32", gaps=True,
    )  # fmt: skip


def pixel_cross_entropy(classes: int, ignore: int = 255) -> Objective:
    """Maps as targets: outputs (n, K, H, W), targets (n, H, W) class indices.

    The mean of -log softmax(output)[target] over the pixels that are not `ignore`; validated by
    the mean intersection over union of the classes that occur.

    Args:
        classes: K.
        ignore: target of pixels that do not count.

    Returns:
        The objective of a head whose module gives (n, K, H, W).
    """
    return Objective(
        "pixel cross-entropy", partial(_pixels, ignore=ignore),
        lambda target: (target != ignore).sum(),
        "mean_iou", partial(MeanIoU, classes, ignore), True, _argmax, _argmax, "int64", maps=True,
        unknown=ignore,
    )  # fmt: skip
