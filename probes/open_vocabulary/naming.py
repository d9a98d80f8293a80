"""Names of masks: their features beside embeddings of words.

Letters of the shapes: n masks, C channels of their features, W words with embeddings of E numbers,
K classes; a class has one word or several, of which the best counts.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.nn import functional as F

from probes.lazy import as_tensor

TEMPERATURE = 0.07
"""1 / exp(s) at the start of a training, as published."""
LARGEST_SCALE = 100.0
"""exp(s) is no larger, as published."""


class OpenVocabulary(nn.Module):
    """What ODISE names a mask by; learned with some words, and asked with any.

        e = MLP(LN(linear(LN f) [+ query])),    v_w = T t_w
        logit_k = exp(s) · max over words w of class k of cos(e, v_w)

    f are pooled features of a mask, t_w embeddings of words. The MLP has three layers with ReLU
    between them. `void` adds logit_K of "no object", whose embedding is learned.

    Args:
        channels: C.
        text_width: E.
        query_width: numbers of a proposal's query; None: there are no queries.
        width: of what is compared.
        hidden: inside.
        void: whether "no object" is a class more.
        nothing: (E,) what its embedding starts from, such as that of an empty text; None: 0.

    Source: Xu et al. 2023 (ODISE), and its code: 256 and 256, exp(s) from 1 / .07 to at most 100.
    The linear layer that brings queries of another width to `hidden` is ours.
    """

    def __init__(
        self,
        channels: int,
        text_width: int,
        *,
        query_width: int | None = None,
        width: int = 256,
        hidden: int = 256,
        void: bool = False,
        nothing: torch.Tensor | None = None,
    ):
        super().__init__()
        self.pooled = nn.Sequential(nn.LayerNorm(channels), nn.Linear(channels, hidden))
        self.query = None if query_width is None else nn.Linear(query_width, hidden)
        self.embed = nn.Sequential(
            nn.LayerNorm(hidden), nn.Linear(hidden, hidden), nn.ReLU(), nn.Linear(hidden, hidden),
            nn.ReLU(), nn.Linear(hidden, width),
        )  # fmt: skip
        self.text = nn.Linear(text_width, width)
        self.scale = nn.Parameter(torch.tensor(math.log(1 / TEMPERATURE)))
        start = torch.zeros(text_width) if nothing is None else nothing.detach().clone().float()
        self.void = nn.Parameter(start) if void else None

    def forward(
        self,
        features: torch.Tensor,
        texts: torch.Tensor,
        owners: Sequence[int],
        queries: torch.Tensor | None = None,
    ) -> torch.Tensor:
        """(n, K) logits, or (n, K + 1) with "no object" last.

        Args:
            features: (n, C) float32.
            texts: (W, E) embeddings of words.
            owners: W class indices.
            queries: (n, query_width), of a head that was made for them.

        Raises:
            ValueError: queries that are missing or not expected, owners that are no classes.
        """
        if (queries is None) != (self.query is None):
            raise ValueError(
                "queries are given to a head that was made without" if self.query is None else
                "this head reads the proposals' queries too; give them"
            )  # fmt: skip
        inner = self.pooled(features)
        if queries is not None:
            inner = inner + self.query(queries)
        masks = F.normalize(self.embed(inner), dim=1)  # (n, width)
        words = F.normalize(self.text(texts), dim=1)  # (W, width)
        scale = self.scale.exp().clamp(max=LARGEST_SCALE)
        found = by_class(scale * masks @ words.T, owners)
        if self.void is None:
            return found
        nothing = F.normalize(self.text(self.void), dim=0)
        return torch.cat([found, scale * (masks @ nothing)[:, None]], 1)


def plain_logits(
    features: Any, texts: Any, owners: Sequence[int], scale: float = LARGEST_SCALE
) -> torch.Tensor:
    """Without training: scale times the best cosine over a class' words.

    Features and embeddings lie in one space, such as a CLIP's joint one.

    Args:
        features: (n, E) of masks; a row of zeros has a cosine of 0 with all.
        texts: (W, E) of words.
        owners: W class indices.
        scale: 1 / temperature; CLIP's own is 100.

    Returns:
        (n, K) float logits; their softmax are the probabilities of the classes.

    Raises:
        ValueError: other shapes, or owners that are no classes.
    """
    features, texts = (
        one if isinstance(one, torch.Tensor) else as_tensor(np.asarray(one, np.float32))
        for one in (features, texts)
    )
    if features.ndim != 2 or texts.ndim != 2 or features.shape[1] != texts.shape[1]:
        raise ValueError(
            f"features have shape {tuple(features.shape)}, embeddings {tuple(texts.shape)}; "
            "expected (n, E) and (W, E) of one space"
        )
    cosines = F.normalize(features, dim=1) @ F.normalize(texts, dim=1).T
    return by_class(scale * cosines, owners)


def by_class(words: torch.Tensor, owners: Sequence[int]) -> torch.Tensor:
    """(n, W) logits of words → (n, K) of classes: the largest of each class' words.

    Args:
        words: (n, W) logits.
        owners: W class indices, 0 … K − 1, each at least once.

    Raises:
        ValueError: another number of owners, or a class without a word.
    """
    owners = torch.as_tensor(list(owners), dtype=torch.int64)
    count = int(owners.max()) + 1 if len(owners) else 0
    if len(owners) != words.shape[1] or len(owners.unique()) != count or int(owners.min()) < 0:
        raise ValueError(
            f"{len(owners)} owners of {words.shape[1]} words name {len(owners.unique())} classes; "
            "expected one for each word, and each of 0 … K − 1 at least once"
        )
    best = words.new_full((len(words), count), -torch.inf)
    return best.scatter_reduce(1, owners.to(words.device).expand(len(words), -1), words, "amax")
