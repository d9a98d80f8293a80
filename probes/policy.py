"""A policy per picture: which of several arms is pulled for it, learnt from rewards."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.nn import functional as F

from probes.batches import Batches
from probes.checks import check_counts, check_number
from probes.lazy import Rows
from probes.network import NetworkHead, Shapes, softmax, standardizer
from probes.objectives import Objective


class MeanReward:
    """Mean reward of the likeliest arm: update with (n, A) logits and (n, A) rewards."""

    def __init__(self) -> None:
        self.total, self.count = 0.0, 0

    def update(self, found: torch.Tensor, truth: torch.Tensor) -> MeanReward:
        pulled = truth.gather(1, found.argmax(1, keepdim=True))
        self.total += float(pulled.double().sum())
        self.count += len(truth)
        return self

    def compute(self) -> float:
        return self.total / self.count if self.count else float("nan")


def _reinforce(
    output: torch.Tensor, target: torch.Tensor, reduction: str, *, entropy: float, draws: int
) -> torch.Tensor:
    """See `reinforce`; the value is exact, the gradient is that of the draws."""
    log_pi = F.log_softmax(output, 1)  # (n, A)
    spread = -(log_pi.exp() * log_pi).sum(1)  # H(π): (n,)
    loss = -(log_pi.exp() * target).sum(1).detach() - entropy * spread
    if output.requires_grad:
        arms = torch.multinomial(log_pi.detach().exp(), draws, replacement=True)  # (n, M)
        r = target.gather(1, arms)
        others = (r.sum(1, keepdim=True) - r) / (draws - 1)  # mean of the other draws
        drawn = -(log_pi.gather(1, arms) * (r - others)).mean(1)
        loss = loss + drawn - drawn.detach()
    return loss.sum() if reduction == "sum" else loss.mean()


def reinforce(entropy: float = 0.01, draws: int = 4) -> Objective:
    """The policy gradient: outputs (n, A) logits of π(a | x), targets (n, A) rewards.

        ∇L = -E_{a ~ π}[(r_a - b)·∇ log π(a | x)] - entropy·∇H(π(· | x))

    with M draws of a picture and the mean of its other draws for a baseline b, which changes the
    variance and not the mean. The value is the exact -E[r] - entropy·H(π), also in validation.

    Args:
        entropy: weight of the bonus, in units of the rewards.
        draws: M, at least 2.

    Returns:
        The objective; validated by the mean reward of the likeliest arm.

    Source: Williams 1992 (REINFORCE), with the baseline of Kool, van Hoof & Welling 2019.
    """
    return Objective(
        f"reinforce {entropy:g}", partial(_reinforce, entropy=entropy, draws=draws), len,
        "reward", MeanReward, True, lambda output: output, lambda output: output.argmax(1),
        "float32",
    )  # fmt: skip


@dataclass(eq=False, repr=False, kw_only=True)
class PolicyHead(NetworkHead):
    """π(a | x): a small network that looks at a picture and chooses an arm for it.

    Of pictures (N, 3, H, W) a network like LeNet: two 5×5 convolutions (6 and 16 channels), each
    with ReLU and 2×2 maxima, then layers of 120 and 84; of vectors (N, D) one layer of `hidden`.

    Args:
        entropy: weight of the entropy bonus, in units of the rewards.
        draws: arms that are drawn of a picture and step, at least 2.
        hidden: width of the layer, of vectors.
        standardize: begin with mean 0 and variance 1 per channel or number of the training rows.

    All others are those of `NetworkHead`. `fit(X, rewards, X_validation, rewards_validation)`,
    with (N, A) rewards of every arm; the gradient sees those of the drawn arms alone.

    Attributes:
        n_arms_: A.
        history_: with validation: validation_loss, validation_reward (of the likeliest arm).

    Source: RepFusion (Yang & Wang 2023), whose policy is a network of this kind over 1000 t.
    """

    entropy: float = 0.01
    draws: int = 4
    hidden: int = 64
    standardize: bool = True

    def _objective(self) -> Objective:
        return reinforce(self.entropy, self.draws)

    def _encode(self, y: Any) -> tuple[Rows, int]:
        rewards, _ = super()._encode(y)
        if len(rewards.shape) != 2 or rewards.shape[1] < 2:
            raise ValueError(
                f"rewards of shape {rewards.shape}; expected (N, A), one for each of two arms at "
                "least"
            )
        self.n_arms_ = rewards.shape[1]
        return rewards, self.n_arms_

    def _encode_again(self, y: Any, count: int) -> Rows:
        rewards = super()._encode_again(y, count)
        if rewards.shape[1:] != (self.n_arms_,):
            raise ValueError(f"validation rewards of shape {rewards.shape}; expected "
                             f"({count}, {self.n_arms_}), as for training")  # fmt: skip
        return rewards

    def _build(self, shapes: Shapes, outputs: int, batches: Batches) -> nn.Module:
        check_number("entropy", self.entropy, 0 <= self.entropy < np.inf, ">= 0")
        check_number("draws", self.draws, self.draws >= 2, ">= 2")
        check_counts(self, "hidden")
        (shape,) = shapes
        first = standardizer(self.standardize, batches)
        if len(shape) == 1:
            return nn.Sequential(
                first, nn.Linear(shape[0], self.hidden), nn.ReLU(), nn.Linear(self.hidden, outputs)
            )
        return nn.Sequential(first, *_lenet(shape, outputs))

    def predict(self, X: Any) -> np.ndarray:
        """(N,) the likeliest arm of each picture."""
        return self._logits(self._checked(X)).argmax(1)

    def predict_proba(self, X: Any) -> np.ndarray:
        """(N, A) float32 π(a | x)."""
        return softmax(self._logits(self._checked(X)))

    def score(self, X: Any, rewards: Any) -> float:
        """Mean reward of the likeliest arm."""
        rewards = np.asarray(rewards)
        return float(rewards[np.arange(len(rewards)), self.predict(X)].mean())


def _lenet(shape: tuple[int, ...], outputs: int) -> list[nn.Module]:
    """LeCun et al. 1998, figure 2, with ReLU and maxima, for inputs of any size from 16 on."""
    channels, *sides = shape
    if min(sides) < 16:
        raise ValueError(f"pictures of {sides[0]}×{sides[1]}; expected 16×16 at least")
    left = [((side - 4) // 2 - 4) // 2 for side in sides]
    return [
        nn.Conv2d(channels, 6, 5), nn.ReLU(), nn.MaxPool2d(2),
        nn.Conv2d(6, 16, 5), nn.ReLU(), nn.MaxPool2d(2), nn.Flatten(),
        nn.Linear(16 * left[0] * left[1], 120), nn.ReLU(), nn.Linear(120, 84), nn.ReLU(),
        nn.Linear(84, outputs),
    ]  # fmt: skip
