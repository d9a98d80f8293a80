"""Heads that bring clean features to a noise level, while they are trained."""

from __future__ import annotations

import torch
from torch import nn

from probes.noise_conditional import sinusoids


class FiLMHead(nn.Module):
    """f + W_2·silu((1 + gamma(t))·W_1·norm(f) + beta(t)) at every site; W_2 is 0 at the start.

    Args:
        channels: C.
        width: of the embedding of t.

    Source: Stracke et al. 2025 (CleanDIFT), its projection heads; FiLM (Perez et al. 2018).
    """

    def __init__(self, channels: int, width: int = 64):
        super().__init__()
        self.width = width
        self.norm = nn.GroupNorm(1, channels)
        self.first = nn.Conv2d(channels, channels, 1)
        self.modulation = nn.Sequential(
            nn.Linear(width, channels), nn.SiLU(), nn.Linear(channels, 2 * channels)
        )
        self.last = nn.Conv2d(channels, channels, 1)
        for weights in (*self.modulation[-1].parameters(), *self.last.parameters()):
            nn.init.zeros_(weights)

    def forward(self, f: torch.Tensor, t: torch.Tensor) -> torch.Tensor:
        """f: (n, C, h, w); t: (n,) → (n, C, h, w)."""
        gamma, beta = self.modulation(sinusoids(t.float(), self.width))[..., None, None].chunk(2, 1)
        inner = (1 + gamma) * self.first(self.norm(f)) + beta
        return f + self.last(nn.functional.silu(inner))
