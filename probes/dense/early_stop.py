"""The end of each member's training by its own loss, as DDPM-Seg's code has it."""

from __future__ import annotations

import torch

from probes.dense.ensemble_net import EnsembleNet, MemberLoss


class EarlyStop:
    """A member ends where its loss has had no new minimum for more than `patience` steps.

    Those that have ended stay as they were in that step, while the others go on; that is why it
    has to be asked after every step. Where it stands lies in the network, as `stop_…`, and goes
    with it into checkpoints.

    Args:
        net: trained in place.
        loss: gives the losses of the step.
        patience: steps.
        first: epoch from which it counts, 1-based.
    """

    def __init__(self, net: EnsembleNet, loss: MemberLoss, patience: int, first: int):
        self.net, self.loss, self.patience, self.first = net, loss, patience, first
        self.frozen: list[torch.Tensor] | None = None

    def __call__(self, epoch: int) -> bool:
        """Whether all have ended; `epoch` is 0-based."""
        if epoch + 1 < self.first:
            return False
        best, waited, ended = self.net.stop_best, self.net.stop_waited, self.net.stop_ended
        if self.frozen is None:  # also where a training goes on
            self.frozen = [one.clone() for one in self.net.states()]
        elif ended.any():
            for now, then in zip(self.net.states(), self.frozen, strict=True):
                now[ended] = then[ended]
        better = self.loss.last < best
        best.copy_(torch.where(better, self.loss.last, best))
        waited.copy_(torch.where(better, torch.zeros_like(waited), waited + 1))
        new = (waited > self.patience) & ~ended
        if new.any():
            for now, then in zip(self.net.states(), self.frozen, strict=True):
                then[new] = now[new]
            ended |= new
        return bool(ended.all())
