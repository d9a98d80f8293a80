"""Learned token embeddings on their way through a frozen text encoder."""

from __future__ import annotations

import torch
from torch import nn

from diffeat.backbones.base import Backbone
from diffeat.backbones.conditioning import tokenise
from diffeat.errors import SpecError
from diffeat.extraction.learned_prompts import STATES
from diffeat.hooks import HookManager


class TokenEncoder:
    """Token embeddings → text tensors: the text encoder with the words' rows replaced.

        states = encoder(BOS, e_1 … e_n, EOS, padding …)

    What stands in place of words e_1 … e_n comes out of the encoder's own table for all other
    tokens, and positions are added as always. Gradients pass through; no weight is trained.

    Args:
        backbone: a model with one CLIP text encoder (Stable Diffusion 1.x, 2.x).
        tokens: n; None: all that fit.

    Attributes:
        length: L, tokens of a prompt.
        tokens: n.
        width: D of a token embedding.

    Raises:
        SpecError: no text encoder, several, or fewer than n places.

    Source: Li et al. 2024 (SD4Match), its prompts; textual inversion (Gal et al. 2023) has one.
    """

    def __init__(self, backbone: Backbone, tokens: int | None = None):
        self.tokenizer = backbone.extras.get("tokenizer")
        self.encoder: nn.Module | None = backbone.extras.get("text_encoder")
        plain = set(backbone.embedding_shapes) == {STATES}
        if self.encoder is None or self.tokenizer is None or not plain:
            raise SpecError(
                f"{backbone.name} has no text encoder that prompts could be learned through; "
                "expected a model with one CLIP text encoder, such as Stable Diffusion 1.x or 2.x"
            )
        if getattr(self.encoder.config, "model_type", "") != "clip_text_model":
            raise SpecError(
                f"{backbone.name} reads text with {type(self.encoder).__name__}; expected CLIP's"
            )
        self.name = backbone.name
        self.length = int(backbone.embedding_shapes[STATES][0])
        self.tokens = self.length - 2 if tokens is None else tokens
        if not 1 <= self.tokens <= self.length - 2:
            raise SpecError(
                f"tokens={tokens}; expected 1 … {self.length - 2}, since {backbone.name} reads "
                f"{self.length} with the two that begin and end a prompt"
            )
        self._table = self.encoder.get_input_embeddings()
        self._path = next(n for n, m in self.encoder.named_modules() if m is self._table)
        self.width = self._table.weight.shape[1]

    def ids(self, text: str = "") -> torch.Tensor:
        """(L,) token ids of a text, with beginning, end and padding."""
        found = tokenise(self.tokenizer, [text], self.length, self.name).input_ids[0]
        return found.to(self._table.weight.device)

    @torch.no_grad()
    def embedded(self, text: str) -> torch.Tensor:
        """(n, D) fp32 embeddings of a text's words, its end, and padding behind it.

        Raises:
            SpecError: more words than n.
        """
        words = len(self.tokenizer(text).input_ids) - 2
        if words > self.tokens:
            raise SpecError(f"{text!r} has {words} tokens; expected at most {self.tokens}")
        return self._table(self.ids(text)[1 : self.tokens + 1]).float()

    @torch.no_grad()
    def spread(self) -> float:
        """Standard deviation of the numbers in the encoder's table."""
        return float(self._table.weight.float().std())

    def __call__(self, embedded: torch.Tensor) -> torch.Tensor:
        """(B, n, D) token embeddings → (B, L, D') text tensors, in the graph.

        The weights must lie on the device of `embedded` (see `visiting`).
        """
        ids = self.ids().to(embedded.device)
        ids[self.tokens + 1] = self.tokenizer.eos_token_id
        ids[self.tokens + 2 :] = self.tokenizer.pad_token_id

        def words(rows: torch.Tensor) -> torch.Tensor:
            inner = embedded.to(rows.dtype)
            return torch.cat([rows[:, :1], inner, rows[:, self.tokens + 1 :]], 1)

        with HookManager(self.encoder, {}, edits={self._path: words}):
            out = self.encoder(ids.expand(len(embedded), -1))
        return out.last_hidden_state
