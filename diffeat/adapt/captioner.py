"""An implicit caption: what a denoiser is told of a picture in place of words.

    context = c("") + tanh(a) ⊙ (W·u + P)        (L, D)
    time    = e(t)  + tanh(b) ⊙ (V·u + r)        (T,)

u is a frozen CLIP's embedding of the picture, c("") the empty text's context, e(t) the network's
embedding of t. a and b start at 0, so that the network is told the empty text and t at first.
"""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import contextmanager

import torch
from torch import nn

from diffeat.backbones.base import Backbone
from diffeat.errors import SpecError
from diffeat.extraction import Conditions, Forward, Plan
from diffeat.extraction.learned_prompts import STATES
from diffeat.hooks import Tap

TIME = "time_embedding"
"""Path of the module of a U-Net of diffusers that embeds t."""
SPREAD = 0.02
"""Standard deviation of learned positions at the start, as published."""


class ImplicitCaptioner(nn.Module):
    """From a picture's embedding to contexts, and to what is added to the embedding of t.

    Args:
        empty: (L, D) context of the empty text, which stays as it is.
        image_width: numbers of a picture's embedding.
        time_width: T, numbers of the embedding of t; None: nothing is added to it.

    Source: Xu et al. 2023 (ODISE), section 3.3, and its code: a is (L, D), b (T,), L = 77.
    """

    def __init__(self, empty: torch.Tensor, image_width: int, time_width: int | None = None):
        super().__init__()
        self.register_buffer("empty", empty.detach().clone().float(), persistent=False)
        length, width = empty.shape
        self.words, self.word_positions = nn.Linear(image_width, width), _positions(length, width)
        self.word_gate = nn.Parameter(torch.zeros(length, width))
        self.time = None if time_width is None else nn.Linear(image_width, time_width)
        if time_width is not None:
            self.time_position = _positions(time_width)
            self.time_gate = nn.Parameter(torch.zeros(time_width))

    def forward(self, image: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor | None]:
        """Contexts (n, L, D), and offsets (n, T) of the embedding of t, or None.

        Args:
            image: (n, image_width) float32 embeddings of pictures.
        """
        words = self.words(image)[:, None] + self.word_positions
        context = self.empty + self.word_gate.tanh() * words
        if self.time is None:
            return context, None
        return context, self.time_gate.tanh() * (self.time(image) + self.time_position)


def _positions(*shape: int) -> nn.Parameter:
    return nn.Parameter(nn.init.trunc_normal_(torch.empty(shape), std=SPREAD))


def captioner_for(
    backbone: Backbone, image_width: int, time_offset: bool = True
) -> ImplicitCaptioner:
    """An untrained captioner for a model.

    Args:
        backbone: reads one text by cross-attention, such as Stable Diffusion 1.x or 2.x.
        image_width: numbers of a picture's embedding.
        time_offset: whether the embedding of t is added to, too.

    Raises:
        SpecError: a model that reads no text, or several; one whose embedding of t is not found.
    """
    if set(backbone.embedding_shapes) != {STATES}:
        raise SpecError(
            f"{backbone.name} is not told one text, so it cannot be told an implicit caption; "
            "expected a model such as Stable Diffusion 1.x or 2.x"
        )
    empty = Conditions(backbone)([0])[STATES][0]
    return ImplicitCaptioner(
        empty.float(), image_width, _time_width(backbone) if time_offset else None
    ).to(backbone.device)


def _time_width(backbone: Backbone) -> int:
    module = getattr(backbone.denoiser, TIME, None)
    last = getattr(module, "linear_2", None)
    if last is None:
        raise SpecError(
            f"{backbone.name} has no {TIME} with a last linear layer, so nothing can be added to "
            "its embedding of t; choose time_offset=False"
        )
    return int(last.out_features)


class CaptionedForward(Forward):
    """A `Forward` whose pictures are told implicit captions.

    All of it is in the graph of captions and offsets.

    Args:
        plan: which tensors are kept, at one level.
        time_offset: whether offsets of the embedding of t will be told.

    Raises:
        SpecError: more than one noise level.
    """

    def __init__(self, plan: Plan, time_offset: bool):
        if len(plan.levels) != 1:
            raise SpecError(f"implicit captions are told at one t; got {len(plan.levels)}")
        self._offset: torch.Tensor | None = None
        super().__init__(plan, {Tap(TIME): self._moved} if time_offset else None)

    def captioned(
        self,
        x0: torch.Tensor,
        eps: torch.Tensor | None,
        caption: tuple[torch.Tensor, torch.Tensor | None],
    ) -> dict[str, torch.Tensor]:
        """Kept tensors of pictures that are told captions.

        Args:
            x0: (n, 3, H, W) in [0, 1], on the backbone's device.
            eps: (n, C, h, w) noise; None: the clean latent.
            caption: what an `ImplicitCaptioner` makes of them.

        Returns:
            block → (n, C, h, w).
        """
        context, offset = caption
        told = {STATES: context.to(self.backbone.dtype)}
        with self._told(offset):
            return self.run(x0, self.levels.expand(len(x0), -1), told, eps)

    @contextmanager
    def _told(self, offset: torch.Tensor | None):
        self._offset = offset
        try:
            yield
        finally:
            self._offset = None

    def _moved(self, embedded: torch.Tensor) -> torch.Tensor | None:
        return None if self._offset is None else embedded + self._offset.to(embedded.dtype)


def gates(captioner: ImplicitCaptioner) -> Mapping[str, float]:
    """How far the gates have opened: the mean of |tanh a|, and of |tanh b| where there is one."""
    found = {"words": float(captioner.word_gate.detach().tanh().abs().mean())}
    if captioner.time is not None:
        found["time"] = float(captioner.time_gate.detach().tanh().abs().mean())
    return found
