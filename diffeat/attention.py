"""Attention maps of fused attention: the arguments of the dot product, and maps from them.

Fused kernels never hold the probabilities. They are computed here, from the same queries and
keys, only where somebody asked for them and only as much as is kept. Where they are edited, all
of them are held, and what the module goes on with is computed from them.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch.overrides import TorchFunctionMode

CHUNK = 1 << 24
"""Most scores (batch × queries × keys) that are held at once."""


@dataclass(frozen=True)
class AttentionInputs:
    """What a scaled dot product attends with.

    Attributes:
        query: (N, heads, L, D), after every norm and rotation that the model applies.
        key: (N, heads, M, D).
        mask: None, or (…, L, M): boolean (True attends) or added to the scores.
        scale: factor of the scores; 1/sqrt(D) in most models.
        value: (N, heads, M, Dv), or fewer heads, each of several queries'; None where nobody said.
        edited: (N, heads, L, M) probabilities that stand in place of the softmax; None: it holds.
        dropout: share of the probabilities that training sets to 0.
    """

    query: torch.Tensor
    key: torch.Tensor
    mask: torch.Tensor | None
    scale: float
    value: torch.Tensor | None = None
    edited: torch.Tensor | None = None
    dropout: float = 0.0

    @classmethod
    def from_call(cls, query, key, value, attn_mask=None, dropout_p=0.0, is_causal=False,
                  scale=None, enable_gqa=False) -> AttentionInputs:  # fmt: skip
        """From the arguments of torch's `scaled_dot_product_attention`."""
        if enable_gqa:
            key = key.repeat_interleave(query.shape[1] // key.shape[1], 1)
        if is_causal:
            shape = (query.shape[-2], key.shape[-2])
            attn_mask = torch.ones(shape, dtype=torch.bool, device=query.device).tril()
        scale = 1 / math.sqrt(query.shape[-1]) if scale is None else scale
        return cls(query, key, attn_mask, scale, value, dropout=dropout_p)

    def probabilities(
        self,
        heads: Sequence[int] | None = None,
        queries: slice | torch.Tensor = slice(None),
        keys: slice | torch.Tensor = slice(None),
    ) -> torch.Tensor:
        """softmax(scale · q·kᵀ + mask) over all keys, in fp32, of what is asked for.

        One head and a bounded number of queries are worked on at a time.

        Args:
            heads: which heads are kept apart; None is their mean.
            queries: which queries are kept, by slice or index.
            keys: which keys are kept, by slice or index.

        Returns:
            (N, L', M') for the mean over heads, else (N, heads', L', M').
        """
        if self.edited is not None:
            found = self.edited[:, :, queries][..., keys]
            return found.mean(1) if heads is None else found[:, list(heads)]
        query = self.query[:, :, queries]
        step = max(1, CHUNK // max(1, len(query) * self.key.shape[2]))
        starts = range(0, query.shape[2], step)

        def of_head(head: int, start: int) -> torch.Tensor:
            return self._rows(head, query, queries, start, step)[..., keys]

        if heads is not None:
            parts = [torch.stack([of_head(h, s) for h in heads], 1) for s in starts]
            return parts[0] if len(parts) == 1 else torch.cat(parts, 2)
        count = self.query.shape[1]
        return torch.cat([sum(of_head(h, s) for h in range(count)) / count for s in starts], 1)

    def output(self) -> torch.Tensor:
        """probabilities · v, (N, heads, L, Dv) in the precision of v, worked out in fp32."""
        weights = self.edited
        if weights is None:
            weights = self.probabilities(range(self.query.shape[1]))
        if self.dropout:
            weights = F.dropout(weights, self.dropout)
        shared = weights.shape[1] // self.value.shape[1]  # more than 1: grouped queries
        value = self.value if shared == 1 else self.value.repeat_interleave(shared, 1)
        return (weights @ value.float()).to(value.dtype)

    def _rows(self, head: int, query, queries, start: int, step: int) -> torch.Tensor:
        """(N, l, M) probabilities of one head for queries start … start + step."""
        rows = slice(start, start + step)
        scores = query[:, head, rows].float() @ self.key[:, head].float().transpose(1, 2)
        scores = scores * self.scale
        if self.mask is not None:
            full = (len(query), self.query.shape[1], self.query.shape[2], self.key.shape[2])
            mask = self.mask.expand(full)[:, head, queries][:, rows]
            if mask.dtype == torch.bool:
                found = scores.masked_fill(~mask, -torch.inf).softmax(-1)
                return found.where(mask.any(-1, True), 0.0)  # nothing to attend to: not nan
            scores = scores + mask.float()
        return scores.softmax(-1)


class AttentionWatch(TorchFunctionMode):
    """While entered, hands the arguments of every scaled dot product to `callback`.

    What it returns, if anything, is the dot product's result; otherwise torch computes it.
    """

    def __init__(self, callback: Callable[[AttentionInputs], torch.Tensor | None]):
        super().__init__()
        self.callback = callback

    def __torch_function__(self, func: Callable, types: Any, args=(), kwargs=None) -> Any:
        if func is F.scaled_dot_product_attention:
            result = self.callback(AttentionInputs.from_call(*args, **(kwargs or {})))
            if result is not None:
                return result
        return func(*args, **(kwargs or {}))
