"""VPD's network: classes as context, a denoiser on clean latents, and a head on what it keeps.

    c' = c + gamma ⊙ MLP(c)                                  (K, D), gamma begins at 1e-4
    maps, attention = denoiser(z, t, c')                     z is not noised
    A_s = mean over layers with grid s of their cross-attention, (K, s, s), heads averaged
    y = head(maps and A_s, those of one grid side by side)

Source: Zhao et al. 2023 (VPD), section 3.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import nn

from diffeat.errors import SpecError
from diffeat.extraction import Forward, Plan
from diffeat.extraction.learned_prompts import STATES
from probes.dense.pyramid import GridNet

GAMMA = 1e-4
"""What the adapter's scale begins at, as published."""


class TextAdapter(nn.Module):
    """Context tokens, moved a little by what is learned.

        c' = c + gamma ⊙ W_2 gelu(W_1 c)

    Args:
        width: D of a token.

    Source: Zhao et al. 2023 (VPD), equation 4, and its code: both layers are as wide as the
    tokens, gamma has a number a channel.
    """

    def __init__(self, width: int):
        super().__init__()
        self.mlp = nn.Sequential(nn.Linear(width, width), nn.GELU(), nn.Linear(width, width))
        self.gamma = nn.Parameter(torch.full((width,), GAMMA))

    def forward(self, classes: torch.Tensor) -> torch.Tensor:
        """(K, D) → (K, D)."""
        return classes + self.gamma * self.mlp(classes)


class ClassForward:
    """Clean pictures, told classes in place of a prompt → maps, in the graph of the context.

    Args:
        plan: maps and cross-attention at one level.

    Attributes:
        features: names of the maps that are taken as they are.
        attention: grid (h, w) → names of the cross-attention that is averaged there.
        shapes: (C, h, w) of what `__call__` gives.

    Raises:
        SpecError: no maps, tensors of text, attention that is none of the picture's to the classes.
    """

    def __init__(self, plan: Plan):
        _check_tensors(plan)
        self.forward, self.plan = Forward(plan), plan
        self.features = [block.name for block in plan.blocks if not block.is_attention]
        self.attention: dict[tuple[int, int], list[str]] = {}
        for block in plan.blocks:
            if block.is_attention:
                self.attention.setdefault(block.grid(plan.size), []).append(block.name)
        kept = {block.name: plan.map_shape(block) for block in plan.blocks}
        self.shapes = [kept[name] for name in self.features]
        self.shapes += [kept[names[0]] for names in self.attention.values()]

    def __call__(self, pixels: torch.Tensor, context: torch.Tensor) -> list[torch.Tensor]:
        """Maps (n, C, h, w) float32, then averaged cross-attention (n, K, h, w), grid by grid.

        Args:
            pixels: (n, 3, H, W) uint8.
            context: (K, D) float32 tokens, one a class, the same for all pictures.
        """
        backbone = self.plan.backbone
        told = {STATES: context.to(backbone.dtype).expand(len(pixels), -1, -1)}
        x0 = pixels.to(backbone.device).float() / 255
        with torch.no_grad():
            z, _ = self.forward.encode(x0)  # (n, 1, C, h, w)
        levels = self.forward.levels.expand(len(pixels), -1)
        kept: Mapping[str, torch.Tensor] = self.forward.network(z[:, 0], levels, told)
        maps = [kept[name].float() for name in self.features]
        return maps + [
            torch.stack([kept[name].float() for name in names]).mean(0)
            for names in self.attention.values()
        ]


def _check_tensors(plan: Plan) -> None:
    if not any(block.has_grid and not block.is_attention for block in plan.blocks):
        raise SpecError("no block has a map; expected some, such as vpd:1")
    if odd := [one.name for one in plan.blocks if one.is_text]:
        raise SpecError(f"blocks {', '.join(odd)} have no map; expected maps")
    for block in plan.blocks:
        if block.is_attention and (block.queries, block.keys) != ("image", "text"):
            raise SpecError(f"{block.name} is attention of the {block.queries} to the "
                            f"{block.keys}; expected that of the picture to the classes "
                            "(:cross.map)")  # fmt: skip


class VPDNetwork(nn.Module):
    """Adapter, denoiser and head as one module: (n, 3, H, W) uint8 → scores or metres.

    The denoiser is a part of it only where it is trained.

    Args:
        classes: (K, D) of `class_embeddings`.
        forward_of: the denoiser's forward.
        head: takes the maps.
        denoiser: weights that are trained, too.
    """

    def __init__(
        self, classes: torch.Tensor, forward_of: ClassForward, head: GridNet,
        denoiser: nn.Module | None = None,
    ):  # fmt: skip
        super().__init__()
        self.register_buffer("classes", classes.detach().clone().float())
        self.adapter = TextAdapter(classes.shape[1])
        self.head, self.denoiser = head, denoiser
        self._forward = forward_of

    def train(self, mode: bool = True) -> VPDNetwork:
        """As any module; the denoiser's own dropout stays off, so that its maps are those that
        are seen later."""
        super().train(mode)
        if self.denoiser is not None:
            self.denoiser.eval()
        return self

    @property
    def context(self) -> torch.Tensor:
        """(K, D) tokens that the denoiser is told."""
        return self.adapter(self.classes)

    def maps(self, pixels: torch.Tensor) -> list[torch.Tensor]:
        """What the head takes; see `ClassForward`."""
        return self._forward(pixels, self.context)

    def forward(self, pixels: torch.Tensor) -> torch.Tensor:
        return self.head(*self.maps(pixels))

    def grid(self, pixels: torch.Tensor) -> torch.Tensor:
        """(n, D, h, w) on the head's own grid."""
        return self.head.grid(*self.maps(pixels))
