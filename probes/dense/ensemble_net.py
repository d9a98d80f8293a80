"""Several small MLPs on pixels as one network: every layer is one batched product."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from itertools import pairwise
from typing import Any

import torch
from torch import nn
from torch.nn import functional as F

from probes.metrics.classification import MeanIoU
from probes.objectives import Objective

INITIAL = 0.02
"""Deviation of initial weights."""


class EnsembleNet(nn.Module):
    """M times d → hidden → ReLU → BatchNorm → hidden → ReLU → BatchNorm → K, member by member.

        h_m = norm(relu(W_m1·x_m + b_m1)), …, logits_m = W_m3·h_m + b_m3

    Weights begin as N(0, 0.02²), biases as 0, norms as 1 and 0; members share nothing.

    Args:
        members: M. channels: d. hidden: widths. classes: K.

    Attributes:
        mean, deviation: (d,) what inputs were standardised by before they came here; `Folded`
            does it too.
        weights, biases: of each layer (M, out, in) and (M, 1, out).

    Source: Baranchuk et al. 2022, "Label-efficient semantic segmentation with diffusion models",
    their code's pixel classifier.
    """

    def __init__(self, members: int, channels: int, hidden: Sequence[int], classes: int):
        super().__init__()
        self.members, widths = members, [channels, *hidden, classes]
        self.register_buffer("mean", torch.zeros(channels))
        self.register_buffer("deviation", torch.ones(channels))
        pairs = list(pairwise(widths))
        self.weights = nn.ParameterList(
            INITIAL * torch.randn(members, after, before) for before, after in pairs
        )
        self.biases = nn.ParameterList(torch.zeros(members, 1, after) for _, after in pairs)
        self.norms = nn.ModuleList(MemberNorm(members, width) for width in hidden)
        self._kept = GradientRoom()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """(B, M, d) → (B, M, K)."""
        x = Product.apply(x.transpose(0, 1), self.weights[0], self._kept) + self.biases[0]
        for norm, weight, bias in zip(self.norms, self.weights[1:], self.biases[1:], strict=True):
            x = torch.baddbmm(bias, norm(x.relu()), weight.transpose(1, 2))
        return x.transpose(0, 1)

    def forget_gradients(self) -> None:
        """Give their memory back."""
        self.zero_grad(set_to_none=True)
        self._kept = GradientRoom()

    def stoppable(self) -> EnsembleNet:
        """The same, with room for what `EarlyStop` notes of every member."""
        most = torch.finfo(torch.float32).max
        self.register_buffer("stop_best", torch.full((self.members,), most))
        self.register_buffer("stop_waited", torch.zeros(self.members, dtype=torch.int64))
        self.register_buffer("stop_ended", torch.zeros(self.members, dtype=torch.bool))
        return self

    def states(self) -> list[torch.Tensor]:
        """All that training changes, member by member along axis 0."""
        return [
            one
            for name, one in self.state_dict().items()
            if name not in ("mean", "deviation") and not name.startswith("stop_")
        ]


class MemberNorm(nn.Module):
    """BatchNorm of (M, B, H) over B; one row alone, which has no variance, by running moments."""

    def __init__(self, members: int, width: int, eps: float = 1e-5, momentum: float = 0.1):
        super().__init__()
        self.eps, self.momentum = eps, momentum
        self.scale = nn.Parameter(torch.ones(members, width))
        self.shift = nn.Parameter(torch.zeros(members, width))
        self.register_buffer("running_mean", torch.zeros(members, width))
        self.register_buffer("running_var", torch.ones(members, width))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        members, rows, width = x.shape
        flat = x.transpose(0, 1).reshape(rows, members * width)
        flat = F.batch_norm(
            flat, self.running_mean.view(-1), self.running_var.view(-1), self.scale.view(-1),
            self.shift.view(-1), self.training and rows > 1, self.momentum, self.eps,
        )  # fmt: skip
        return flat.view(rows, members, width).transpose(0, 1)

    def affine(self) -> tuple[torch.Tensor, torch.Tensor]:
        """(M, H) factor and summand that it is, once it is trained."""
        factor = self.scale / (self.running_var + self.eps).sqrt()
        return factor, self.shift - self.running_mean * factor


class GradientRoom:
    """Memory of a gradient, taken once: that of a first layer is dear to get in every step."""

    def __init__(self) -> None:
        self.room: torch.Tensor | None = None

    def __deepcopy__(self, memo: Any) -> GradientRoom:
        return GradientRoom()

    def __reduce__(self) -> tuple:
        return GradientRoom, ()

    def like(self, weight: torch.Tensor) -> torch.Tensor:
        if (
            self.room is None
            or self.room.shape != weight.shape
            or self.room.device != weight.device
        ):
            self.room = torch.empty_like(weight)
        return self.room


class Product(torch.autograd.Function):
    """(M, B, d)·(M, H, d)ᵀ → (M, B, H); inputs get no gradient, as they are data.

    On a CPU the gradients of weights are products member by member, which takes a third of the
    batched one's time, and are written where those of the step before lay.
    """

    @staticmethod
    def forward(ctx, x, weight, kept):
        ctx.save_for_backward(x, weight)
        ctx.kept = kept
        return torch.bmm(x, weight.transpose(1, 2))

    @staticmethod
    def backward(ctx, gradient):
        x, weight = ctx.saved_tensors
        if weight.is_cuda:
            return None, torch.bmm(gradient.transpose(1, 2), x), None
        room = ctx.kept.like(weight) if weight.grad is None else torch.empty_like(weight)
        for member, into in enumerate(room):
            torch.mm(gradient[member].T, x[member], out=into)
        if weight.grad is None:  # autograd itself would copy it
            weight.grad = room
            return None, None, None
        return None, room, None


@dataclass
class Folded:
    """A trained `EnsembleNet` for prediction: standardisation and norms are in the weights.

    Attributes:
        first, bias: (M·H, d) and (M·H,) of the first layer of all members.
        rest: (M, before, after) and (M, 1, after) of the others.
    """

    first: torch.Tensor
    bias: torch.Tensor
    rest: list[tuple[torch.Tensor, torch.Tensor]]

    @classmethod
    def of(cls, net: EnsembleNet, seen: torch.Tensor) -> Folded:
        """Classes that are not `seen`, (K,) bool, have the logit −inf."""
        with torch.no_grad():
            first = net.weights[0].detach().flatten(0, 1)
            bias = net.biases[0].detach().reshape(-1)
            if (net.mean != 0).any() or (net.deviation != 1).any():
                first = first / net.deviation
                bias = bias - first @ net.mean
            rest = []
            for norm, weight, shift in zip(net.norms, net.weights[1:], net.biases[1:], strict=True):
                factor, summand = norm.affine()
                matrix = (weight * factor[:, None]).transpose(1, 2).contiguous()
                rest.append((matrix, shift + summand[:, None] @ weight.transpose(1, 2)))
            matrix, shift = rest[-1]
            rest[-1] = matrix, shift.masked_fill(~seen, float("-inf"))
        return cls(first, bias, rest)

    def logits(self, strip: torch.Tensor) -> torch.Tensor:
        """(M·H, r, W) of the first layer, which is used up → (M, r·W, K)."""
        members = len(self.rest[0][0])
        x = strip.permute(1, 2, 0).flatten(0, 1).relu_()
        x = x.unflatten(1, (members, -1)).transpose(0, 1)  # (M, P, H)
        for place, (matrix, shift) in enumerate(self.rest):
            x = torch.baddbmm(shift, x.relu_() if place else x, matrix)
        return x


class MemberLoss:
    """Every member's own cross-entropy, so that all learn as if alone.

    Attributes:
        last: (M,) of the last step.
    """

    def __init__(self, weight: torch.Tensor | None = None):
        self.weight, self.last = weight, torch.zeros(0)

    def __call__(self, output: torch.Tensor, target: torch.Tensor, reduction: str) -> torch.Tensor:
        """(B, M, K), (B, M) → the gradient of the sum over members, with the value of the mean."""
        weight = None if self.weight is None else self.weight.to(output)
        flat = F.cross_entropy(output.flatten(0, 1), target.flatten(), weight, reduction="none")
        each = flat.view(target.shape)
        if reduction == "sum":
            return each.sum() / target.shape[1]
        weighed = len(target) if weight is None else weight[target].sum(0)
        each = each.sum(0) / weighed
        self.last = each.detach()
        total = each.sum()
        return total - (total - each.mean()).detach()


def ensemble_objective(classes: int, weight: torch.Tensor | None = None) -> Objective:
    """Cross-entropy of the members, validated by the mean intersection over union of their vote.

    Args:
        classes: K. weight: (K,) of the classes.

    Returns:
        The objective of outputs (B, M, K) and targets (B, M).
    """
    return Objective(
        "pixel ensemble", MemberLoss(weight), len, "mean_iou", partial(MeanIoU, classes), True,
        lambda output: vote(output.argmax(2).T, classes)[:, None].expand(output.shape[:2]),
        lambda output: vote(output.argmax(2).T, classes), "int64",
    )  # fmt: skip


def vote(found: torch.Tensor, classes: int) -> torch.Tensor:
    """(M, P) classes → (P,): what most members say; of several the lowest."""
    counts = torch.zeros(classes, found.shape[1], dtype=torch.int32, device=found.device)
    counts.scatter_add_(0, found, torch.ones_like(found, dtype=torch.int32))
    return counts.argmax(0)
