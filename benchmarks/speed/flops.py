"""Operations of whole runs, by the counter of `diffeat.planning`, over networks without weights."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import nn

import diffeat
from diffeat.planning.flops import count, denoiser_flops, encoder_flops


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
    encoder = encoder_flops(backbone, size)
    return Costs(encoder, denoiser_flops(backbone, size, blocks), text)


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
