"""Floating point operations by torch's counter, over networks without weights.

An operation counts as `torch.utils.flop_counter` counts it: matrix products, convolutions and
attention, two for a multiplication with its addition; norms, activations and copies are left
out. On the meta device nothing is computed, so a model of any size is counted in a second.
Attention is counted as its two products, whatever kernels this torch has: see `counter`.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

import diffeat
from diffeat.backbones import Backbone
from diffeat.blocks import resolve_blocks
from diffeat.hooks import HookManager


@dataclass(frozen=True)
class Costs:
    """Operations of one picture.

    Attributes:
        encoder: the VAE encoder; 0 for models on pixels.
        denoiser: block → one forward that is cut off after that block, in the order of
            execution.
        text: the text encoder, per prompt.
    """

    encoder: int
    denoiser: Mapping[str, int]
    text: int = 0

    def run(self, levels: int, blocks: Sequence[str], pictures: int = 1) -> int:
        """One run of the engine: text once, the VAE once per picture, a forward per t.

            text + pictures · (encoder + levels · forward up to the last of the blocks)

        Args:
            levels: forwards per picture: noise levels × ensemble members.
            blocks: what is kept.
            pictures: how many.
        """
        last = max(self.denoiser[block] for block in blocks)
        return self.text + pictures * (self.encoder + levels * last)


def costs(model: str, size: tuple[int, int], blocks: Sequence[str], text: int = 0) -> Costs:
    """Costs of one picture of (H, W) pixels.

    Args:
        model: what `diffeat.load` takes.
        size: in pixels.
        blocks: names or wildcards.
        text: operations of the text encoder per prompt, see `clip_text`.
    """
    backbone = diffeat.load(model, "meta", "float32")
    encoder = 0
    if backbone.vae is not None:
        pixels = torch.empty(1, 3, *size, device="meta")
        encoder = count(lambda: backbone.vae.encode(pixels))
    return Costs(encoder, denoiser_flops(backbone, size, blocks), text)


def denoiser_flops(
    backbone: Backbone, size: tuple[int, int], blocks: Sequence[str]
) -> dict[str, int]:
    """Block → operations of one forward up to it, all read off a single forward."""
    found = resolve_blocks(tuple(blocks), backbone.tensors, backbone.aliases)
    x = torch.empty(1, *backbone.latent_shape(size), device="meta", dtype=backbone.dtype)
    condition = backbone.condition([""], [None])
    condition = {name: value.to("meta") for name, value in condition.items()}
    t = torch.zeros(1, device="meta")
    with counter() as counted, torch.no_grad():
        hooks = HookManager(
            backbone.denoiser,
            {block.name: block.where for block in found},
            stop_after_last=True,
            transform=lambda _name, _value: counted.get_total_flops(),
        )
        with hooks:
            hooks.run(**backbone.call_arguments(x, t, condition))
        return {block.name: hooks[block.name] for block in found}


def clip_text() -> int:
    """CLIP's text encoder of Stable Diffusion 1.x (ViT-L/14: 12 layers of width 768), a prompt."""
    from transformers import CLIPTextConfig, CLIPTextModel

    with torch.device("meta"):
        encoder = CLIPTextModel(
            CLIPTextConfig(
                hidden_size=768, intermediate_size=3072, num_hidden_layers=12,
                num_attention_heads=12, max_position_embeddings=77,
            )
        )  # fmt: skip
        tokens = torch.zeros(1, 77, dtype=torch.long)
    return count(lambda: encoder.eval()(tokens))


def module_flops(module: nn.Module, *inputs: torch.Tensor) -> int:
    """Operations of one call of a module."""
    return count(lambda: module(*inputs))


@torch.no_grad()
def count(work) -> int:
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
