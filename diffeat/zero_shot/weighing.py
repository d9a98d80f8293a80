"""How much each head of attention counts, told by its own map and by no label.

Heads of a text-to-image model differ: some point at what a word names, some spread evenly, some
scatter. The weights here are label-free; they are ours, in the spirit of systems that weigh heads
and layers by themselves, and reproduce no published number.
"""

from __future__ import annotations

from collections.abc import Callable

import torch

LEAST = 1e-6
"""Smallest weight, so that a word whose heads all weigh nothing has their plain mean."""
TINY = 1e-12
"""Added to sums that something is divided by."""


def even(maps: torch.Tensor) -> torch.Tensor:
    """w = 1: every head of every layer at every t counts the same.

    Args:
        maps: (n, G, K, h, w), of G heads and K words.

    Returns:
        (n, G, K).

    Source: Tang et al. 2023 (DAAM), who sum over heads, layers and steps.
    """
    return torch.ones_like(maps[..., 0, 0])


def concentration(maps: torch.Tensor) -> torch.Tensor:
    """w = 1 + Σ p·ln p / ln(h·w), with p = m / Σ m: 0 of an even map, 1 of a single cell.

    Args:
        maps: (n, G, K, h, w) ≥ 0.

    Returns:
        (n, G, K) in [0, 1].
    """
    flat = maps.flatten(-2)
    p = flat / (flat.sum(-1, keepdim=True) + TINY)
    cells = torch.tensor(float(max(2, flat.shape[-1])), device=maps.device)
    return (1 + torch.special.xlogy(p, p).sum(-1) / cells.log()).clamp(0, 1)


def coherence(maps: torch.Tensor) -> torch.Tensor:
    """Moran's I over neighbours right and below, not below 0: 0 of scatter, near 1 of smooth maps.

        w = (h·w / E) · Σ over the E pairs of neighbours d_i·d_j / Σ d_i²,    d = m - mean(m)

    Args:
        maps: (n, G, K, h, w).

    Returns:
        (n, G, K) in [0, 1]; 0 of a constant map.

    Source: Moran 1950.
    """
    d = maps - maps.mean((-2, -1), keepdim=True)
    down, across = d[..., 1:, :] * d[..., :-1, :], d[..., 1:] * d[..., :-1]
    pairs = down[0, 0, 0].numel() + across[0, 0, 0].numel()
    near = (down.sum((-2, -1)) + across.sum((-2, -1))) * d[0, 0, 0].numel() / max(1, pairs)
    return (near / ((d * d).sum((-2, -1)) + TINY**2)).clamp(0, 1)


def agreement(maps: torch.Tensor) -> torch.Tensor:
    """Pearson's correlation with the mean over the heads of the same layer, not below 0.

    Args:
        maps: (n, G, K, h, w).

    Returns:
        (n, G, K) in [0, 1].
    """
    d = maps - maps.mean((-2, -1), keepdim=True)
    mean = d.mean(1, keepdim=True)
    both = (d * mean).sum((-2, -1))
    lengths = (d * d).sum((-2, -1)).sqrt() * (mean * mean).sum((-2, -1)).sqrt()
    return (both / (lengths + TINY**2)).clamp(0, 1)


WEIGHTS: dict[str, Callable[[torch.Tensor], torch.Tensor]] = {
    "even": even,
    "concentration": concentration,
    "coherence": coherence,
    "agreement": agreement,
}
"""Name of a weighing → (n, G, K, h, w) maps → (n, G, K) weights."""


def rescaled(maps: torch.Tensor, text: torch.Tensor) -> torch.Tensor:
    """Shares of what a pixel attends to of the prompt: m_k(x) / Σ over its tokens of m_j(x).

    In a softmax most of a pixel's attention may go to the token that begins the prompt, to padding
    or, in joint attention, to the picture itself, and how much differs by pixel.

    Args:
        maps: (n, G, K, h, w) of words.
        text: (n, G, J, h, w) of all tokens of the prompt that stand for text.
    """
    return maps / (text.sum(2, keepdim=True) + TINY)
