"""What is learned of a prompt: token embeddings, for all pictures, by class, or by pair."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from diffeat.adapt.pair_pictures import similarities


class FixedPrompt(nn.Module):
    """K prompts of n token embeddings each: one for all, or one for each class.

    Args:
        start: (n, D) fp32 that all of them start from.
        count: K.
    """

    def __init__(self, start: torch.Tensor, count: int = 1):
        super().__init__()
        self.tokens = nn.Parameter(start.expand(count, *start.shape).clone())

    def forward(self, which: torch.Tensor) -> torch.Tensor:
        """(B,) which prompt each pair has → (B, n, D)."""
        return self.tokens[which]

    def groups(self, learning_rate: float, linear_rate: float) -> list[dict[str, Any]]:
        """For the optimizer."""
        return [{"name": "tokens", "params": [self.tokens], "lr": learning_rate}]


class ConditionalPrompt(nn.Module):
    """n token embeddings of which some follow from both pictures of a pair.

        z   = W_t·(W_c·[v_s; v_t])           concatenated channels → D, then over the sites
        e_c = tanh(a) · (max-pool(z) + p)    to c tokens; p learned positions
        e   = [global; e_c]

    a starts at 0, so the prompt starts as the global tokens and zeros.

    Args:
        start: (g, D) fp32 that the global tokens start from.
        shape: (C, m): channels and sites of the vision model's map.
        tokens: c.

    Source: Li et al. 2024 (SD4Match), its conditional prompting module: 25 global and 50
    conditional tokens, DINOv2-base. That W_t keeps the number of sites, and where a starts, is
    ours.
    """

    def __init__(self, start: torch.Tensor, shape: tuple[int, int], tokens: int):
        super().__init__()
        channels, sites = shape
        width = start.shape[1]
        self.tokens = nn.Parameter(start.clone())
        self.channels = nn.Linear(2 * channels, width, device=start.device)
        self.sites = nn.Linear(sites, sites, device=start.device)
        self.pool = nn.AdaptiveMaxPool1d(tokens)
        self.positions = nn.Parameter(torch.randn(tokens, width).to(start) * float(start.std()))
        self.gate = nn.Parameter(torch.zeros((), device=start.device))

    def forward(self, maps: torch.Tensor) -> torch.Tensor:
        """(B, 2, C, m) maps of both pictures → (B, n, D)."""
        both = maps.flatten(1, 2).transpose(1, 2)  # (B, m, 2C)
        z = self.sites(self.channels(both).transpose(1, 2))  # (B, D, m)
        found = self.pool(z).transpose(1, 2) + self.positions  # (B, c, D)
        shared = self.tokens.expand(len(maps), *self.tokens.shape)
        return torch.cat([shared, torch.tanh(self.gate) * found], 1)

    def groups(self, learning_rate: float, linear_rate: float) -> list[dict[str, Any]]:
        """For the optimizer: linear layers have a rate of their own."""
        linear = [*self.channels.parameters(), *self.sites.parameters()]
        others = [self.tokens, self.positions, self.gate]
        return [
            {"name": "tokens", "params": others, "lr": learning_rate},
            {"name": "linear", "params": linear, "lr": linear_rate},
        ]


class MatchedByPrompt(nn.Module):
    """Prompt, text encoder and denoiser as the one module that is trained; only the prompt is.

    Args:
        prompt: see above.
        encode: (B, n, D) → (B, L, D') text tensors.
        maps_of: (x_t, condition) → maps (2B, C, h, w).
        states: name of the text tensors among the conditions.
    """

    def __init__(self, prompt: nn.Module, encode: Any, maps_of: Any, states: str):
        super().__init__()
        self.prompt, self.encode, self.maps_of, self.states = prompt, encode, maps_of, states

    def forward(self, x: torch.Tensor, pair: torch.Tensor, sites: torch.Tensor, told: torch.Tensor):
        """Inputs of `PairPictures` → (P, h, w) cosines of its points with the targets' cells."""
        states = self.encode(self.prompt(told)).repeat_interleave(2, 0)  # of both pictures
        return similarities(self.maps_of(x, {self.states: states}), pair, sites)
