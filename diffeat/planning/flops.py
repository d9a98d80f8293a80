"""Floating point operations by torch's counter, over networks without weights.

An operation counts as `torch.utils.flop_counter` counts it: matrix products, convolutions and
attention, two for a multiplication with its addition; norms, activations and copies are left
out. On the meta device nothing is computed, so a model of any size is counted in a second.
Attention is counted as its two products, whatever kernels this torch has: see `counter`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from diffeat.backbones import Backbone
from diffeat.backbones.conditioning import stand_in
from diffeat.blocks import resolve_blocks
from diffeat.hooks import HookManager

Size = tuple[int, int]


@torch.no_grad()
def denoiser_flops(backbone: Backbone, size: Size, blocks: Sequence[str]) -> dict[str, int]:
    """Block → operations of one row's forward until it is read, all read off a single forward.

    Args:
        backbone: on the meta device.
        size: (H, W) in pixels.
        blocks: names, wildcards or groups.
    """
    found = resolve_blocks(tuple(blocks), backbone.tensors, backbone.aliases)
    x = torch.empty(1, *backbone.latent_shape(size), device="meta", dtype=backbone.dtype)
    call = backbone.call_arguments(x, torch.zeros(1, device="meta"), bare_condition(backbone))
    with counter() as counted:
        hooks = HookManager(
            backbone.denoiser,
            {block.name: block.where for block in found},
            stop_after_last=True,
            transform=lambda _name, _value: counted.get_total_flops(),
        )
        with hooks:
            hooks.run(**call)
        return {block.name: hooks[block.name] for block in found}


def bare_condition(backbone: Backbone, text_length: int | None = None) -> dict[str, torch.Tensor]:
    """One row of conditions on the meta device, of the right shapes."""
    shapes = dict(backbone.embedding_shapes)
    for name, shape in shapes.items():
        if text_length and (name == "encoder_hidden_states" or name.endswith("mask")):
            shapes[name] = (text_length, *shape[1:])
    found = {
        name: value if name.endswith("mask") else value.to(backbone.dtype)
        for name, value in (stand_in([""], shapes) if shapes else {}).items()
    }
    if backbone.classes is not None:
        found["class_labels"] = torch.zeros(1, dtype=torch.long)
    return {name: value.to("meta") for name, value in found.items()}


def encoder_flops(backbone: Backbone, size: Size) -> int:
    """Operations of the VAE's encoder for one picture; 0 for models on pixels."""
    if backbone.vae is None:
        return 0
    pixels = torch.empty(1, 3, *size, device="meta", dtype=backbone.vae.dtype)
    return count(lambda: backbone.vae.encode(pixels))


def text_flops(backbone: Backbone) -> int | None:
    """Operations of the text encoders for one prompt; 0 without text, None where they are not
    here, as in known models, of which only the denoiser's configuration comes with diffeat."""
    if not backbone.embedding_shapes:
        return 0
    needed = backbone.components.keys() - set(backbone.optional)
    if not needed <= backbone.extras.keys():
        return None
    return count(lambda: backbone.encode_prompts([""]))


@torch.no_grad()
def count(work: Callable[[], Any]) -> int:
    """Operations of whatever `work` does."""
    with counter() as counted:
        work()
    return counted.get_total_flops()


@contextmanager
def counter() -> Iterator[FlopCounterMode]:
    """torch's counter, under which attention is always two products of matrices.

    Which fused kernels of attention the counter knows differs between torch's versions and
    devices, and what it does not know counts as nothing. Products are known everywhere, so
    attention of b heads-times-pictures, n queries, m keys and width d counts 2 · 2 · b·n·m·d.
    """
    with sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counted:
        yield counted
