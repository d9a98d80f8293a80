"""Classes as vectors of a backbone's own text encoder."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import torch

from diffeat.backbones.base import Backbone
from diffeat.backbones.conditioning import clip_states
from diffeat.errors import SpecError
from diffeat.words.templates import templates_of, texts_of
from diffeat.words.vocabulary import Vocabulary

STATES = "encoder_hidden_states"
"""The one text tensor of models that this is for."""
AT_ONCE = 64
"""Texts of one forward."""


def class_embeddings(
    backbone: Backbone, vocabulary: Any, templates: str | Path | Iterable[str] = "imagenet-80"
) -> torch.Tensor:
    """Classes as means over what the text encoder makes of their words in templates.

        c_k = mean over words w of class k, over templates s, of pooled(s with w)

    `pooled` is the last state, after the final norm, of the token that ends a text; nothing is
    brought to unit length. A denoiser that is given them as context attends to K tokens, one a
    class.

    Args:
        backbone: reads one text with a CLIP text encoder, such as Stable Diffusion 1.x or 2.x.
        vocabulary: K classes: see `Vocabulary.of`.
        templates: see `templates_of`.

    Returns:
        (K, D) float32 on the backbone's device.

    Raises:
        SpecError: a model that reads no text, or by several encoders; a text that is longer than
            it reads; equal words.

    Source: Zhao et al. 2023 (VPD), section 3.2: class names in 80 templates, averaged; its code
    takes the encoder's pooled output. Means over synonyms are ours: VPD has one word a class.
    """
    words = Vocabulary.of(vocabulary)
    templates = templates_of(templates)
    encoder, tokenizer = (backbone.extras.get(part) for part in ("text_encoder", "tokenizer"))
    if encoder is None or tokenizer is None or set(backbone.embedding_shapes) != {STATES}:
        raise SpecError(
            f"{backbone.name} has no one text encoder that classes could be named by; expected a "
            "model such as Stable Diffusion 1.x or 2.x"
        )
    texts, pooled = texts_of(words.words, templates), []
    for start in range(0, len(texts), AT_ONCE):
        some = texts[start : start + AT_ONCE]
        _, vectors = clip_states(tokenizer, encoder, some, backbone.name, backbone.device)
        pooled.append(vectors.float())
    each = torch.cat(pooled).unflatten(0, (len(words.words), len(templates))).mean(1)  # (W, D)
    owners = torch.tensor(words.owners, device=each.device)
    found = each.new_zeros(len(words), each.shape[1]).index_add_(0, owners, each)
    return found / torch.bincount(owners, minlength=len(words))[:, None]
