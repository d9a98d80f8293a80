"""From prompts to the tensors that text-conditional denoisers are given."""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from diffeat.backbones.devices import visiting
from diffeat.errors import SpecError
from diffeat.noise import picture_noise


@dataclass(frozen=True)
class TextReader:
    """A tokenizer whose tokens are among the text tokens that a denoiser attends to.

    Attributes:
        tokenizer: of transformers.
        length: tokens of a prompt.
        first: where they begin among the denoiser's text tokens.
        lower: whether prompts are stripped and brought to lower case first.
    """

    tokenizer: Any
    length: int
    first: int = 0
    lower: bool = False

    @classmethod
    def among(cls, extras: Mapping[str, Any], name: str, *more: Any, **how: Any) -> tuple:
        """One of a pipeline's tokenizers; () where that is not here."""
        found = extras.get(name)
        return () if found is None else (cls(found, *more, **how),)


def tokenise(
    tokenizer: Any, prompts: Sequence[str], length: int, model: str, cut: bool = False
) -> Any:
    """Token ids and mask, padded to `length`.

    Args:
        tokenizer: of transformers.
        prompts: P texts.
        length: tokens per prompt.
        model: its name, for messages.
        cut: shorten what is too long with a warning, as models do that read the whole prompt
            with another encoder.

    Raises:
        SpecError: a prompt is longer than `length` tokens and may not be cut.
    """
    for prompt in prompts:
        ids = tokenizer(prompt, verbose=False).input_ids
        asked = len(ids)
        if asked > length and not cut:
            lost = tokenizer.decode(ids[length - 1 :], skip_special_tokens=True).strip()
            raise SpecError(f"the prompt has {asked} tokens, {model} takes {length}; shorten it: "
                            f"{prompt[:60]!r} (too much: {lost[:60]!r})")  # fmt: skip
        if asked > length:
            warnings.warn(
                f"{model}: one of its text encoders reads only the first {length} of {asked} "
                f"tokens of {prompt[:60]!r}",
                stacklevel=2,
            )
    return tokenizer(
        list(prompts), padding="max_length", max_length=length, truncation=True,
        return_tensors="pt",
    )  # fmt: skip


@torch.no_grad()
def clip_states(
    tokenizer: Any, encoder: nn.Module, prompts: Sequence[str], model: str,
    device: torch.device, layer: int = -1, cut: bool = False,
) -> tuple[torch.Tensor, torch.Tensor]:  # fmt: skip
    """Token states and pooled vector of a CLIP text encoder.

    Args:
        layer: -1 is the last state, after the final norm; -2 the one before the last layer.

    Returns:
        (P, L, D) and (P, D'): the projection where the encoder has one, else the pooled state.
    """
    tokens = tokenise(tokenizer, prompts, tokenizer.model_max_length, model, cut)
    use_mask = getattr(encoder.config, "use_attention_mask", False)
    mask = tokens.attention_mask.to(device) if use_mask else None
    with visiting(encoder, device):
        out = encoder(tokens.input_ids.to(device), attention_mask=mask, output_hidden_states=True)
    states = out.last_hidden_state if layer == -1 else out.hidden_states[layer]
    pooled = getattr(out, "text_embeds", None)
    return states, out.pooler_output if pooled is None else pooled


@torch.no_grad()
def t5_states(
    tokenizer: Any, encoder: nn.Module, prompts: Sequence[str], length: int, model: str,
    device: torch.device, masked: bool = False,
) -> tuple[torch.Tensor, torch.Tensor]:  # fmt: skip
    """Token states of a T5 encoder and the mask of real tokens.

    Args:
        length: tokens per prompt.
        masked: whether the encoder itself ignores the padding, as the model was trained.

    Returns:
        (P, L, D) and (P, L).
    """
    tokens = tokenise(tokenizer, prompts, length, model)
    mask = tokens.attention_mask.to(device)
    with visiting(encoder, device):
        out = encoder(tokens.input_ids.to(device), attention_mask=mask if masked else None)
    return out[0], mask


def text_length(tokenizer: Any, most: int) -> int:
    """Tokens per prompt: the model's own length, or the tokenizer's where that is smaller."""
    return most if tokenizer is None else min(most, tokenizer.model_max_length)


def stand_in(prompts: Sequence[str], shapes: dict[str, tuple[int, ...]]) -> dict[str, torch.Tensor]:
    """Seeded Gaussian embeddings, for random twins of models whose text encoder is not here.

    Args:
        prompts: P texts; equal texts give equal embeddings.
        shapes: name → shape of one prompt's tensor; masks are all ones.

    Returns:
        name → (P, …) fp32.
    """
    return {
        name: torch.ones(len(prompts), *shape)
        if name.endswith("mask")
        else torch.stack(
            [torch.from_numpy(picture_noise(0, f"{name}\0{text}", 0, shape)) for text in prompts]
        )
        for name, shape in shapes.items()
    }
