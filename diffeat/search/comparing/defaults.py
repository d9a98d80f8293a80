"""Which cells of a model are looked at where nobody says: a small grid for validation."""

from __future__ import annotations

from collections.abc import Sequence

from diffeat.blocks import BlockInfo

SIGMAS = ("sigma=0.1", "sigma=0.3", "sigma=0.75")
"""Noise levels of a diffusion model: sigma/alpha, which means the same to every schedule."""
DEPTHS = (0.25, 0.5, 0.75, 1.0)
"""Of transformers: the blocks that end at these shares of the depth."""


def default_blocks(blocks: Sequence[BlockInfo]) -> tuple[str, ...]:
    """Names of a few outputs: the stages of a U-Net's decoder, all stages of a convolutional
    network, four blocks of a transformer at a quarter, half, three quarters and all of its depth.

    Args:
        blocks: of the model, in the order of execution.
    """
    stages = [one for one in blocks if one.kind == "stage"]
    decoder = [one for one in stages if one.part == "decoder"]
    if stages:
        return tuple(one.name for one in decoder or stages)
    layers = [one.name for one in blocks if one.kind == "transformer"] or [
        one.name for one in blocks
    ]
    places = {max(0, round(share * len(layers)) - 1) for share in DEPTHS}
    return tuple(layers[place] for place in sorted(places))
