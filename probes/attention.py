"""GDC's attention head: a few transformer layers with a class token over a map."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from torch.nn import functional as F

from probes.batches import Batches
from probes.checks import check_counts
from probes.network import NetworkProbe, Shapes


class AttentionTrunk(nn.Module):
    """Maps of one t → the class token's vector (n, width).

    Each map is averaged to min(H, limit) × min(W, limit) cells, normalised (LayerNorm over
    C, H and W together), brought to `width` channels by a 1×1 convolution and cut into
    tokens. A class token, initially 0, and the tokens of all maps go through `depth`
    transformer layers (norm first, MLP of 4·width, GELU), without positions: the LayerNorm's
    weights differ from place to place.

    Args:
        shapes: (C, H, W) per map; (C,) is a map of one place.
        width: of the tokens, D.
        heads: of the attention.
        depth: layers.
        limit: largest side of a pooled map.
        dropout: inside the layers, in training.
        qkv_bias: whether queries, keys and values have a bias; the published heads have none.
    """

    def __init__(
        self,
        shapes: Sequence[tuple[int, ...]],
        width: int = 1024,
        heads: int = 8,
        depth: int = 2,
        limit: int = 16,
        dropout: float = 0.0,
        qkv_bias: bool = False,
    ):
        super().__init__()
        if width % heads:
            raise ValueError(f"width={width} does not divide into heads={heads}")
        shapes = [(*shape, 1, 1)[:3] for shape in shapes]
        self.grids = [tuple(min(side, limit) for side in shape[1:]) for shape in shapes]
        places = zip(shapes, self.grids, strict=True)
        self.norms = nn.ModuleList(nn.LayerNorm((shape[0], *grid)) for shape, grid in places)
        self.embeds = nn.ModuleList(nn.Conv2d(shape[0], width, 1) for shape in shapes)
        self.token = nn.Parameter(torch.zeros(1, 1, width))
        options = {"activation": "gelu", "batch_first": True, "norm_first": True}
        self.layers = nn.ModuleList(
            nn.TransformerEncoderLayer(width, heads, 4 * width, dropout, **options)
            for _ in range(depth)
        )
        for layer in [] if qkv_bias else self.layers:  # torch's own switch drops all biases
            layer.self_attn.register_parameter("in_proj_bias", None)

    def forward(self, maps: Sequence[torch.Tensor]) -> torch.Tensor:
        tokens = [self.token.expand(len(maps[0]), -1, -1)]
        for x, grid, norm, embed in zip(maps, self.grids, self.norms, self.embeds, strict=True):
            x = x[..., None, None] if x.ndim == 2 else x
            x = embed(norm(F.adaptive_avg_pool2d(x, grid)))
            tokens.append(x.flatten(2).transpose(1, 2))
        x = torch.cat(tokens, 1)
        for layer in self.layers:
            x = layer(x)
        return x[:, 0]


class AttentionHead(nn.Module):
    """An `AttentionTrunk` over maps of one t, and a linear layer: (n, C, H, W) … → (n, K)."""

    def __init__(self, shapes: Sequence[tuple[int, ...]], classes: int, **trunk):
        super().__init__()
        self.trunk = AttentionTrunk(shapes, **trunk)
        self.head = nn.Linear(self.trunk.token.shape[-1], classes)

    def forward(self, *maps: torch.Tensor) -> torch.Tensor:
        return self.head(self.trunk(maps))


def trunk_options(probe: NetworkProbe) -> dict[str, Any]:
    """The options of `AttentionTrunk` that an estimator has, checked."""
    check_counts(probe, "width", "heads", "depth", "limit")
    if not isinstance(probe.qkv_bias, bool):
        raise ValueError(f"qkv_bias={probe.qkv_bias!r}; expected True or False")
    names = ("width", "heads", "depth", "limit", "dropout", "qkv_bias")
    return {name: getattr(probe, name) for name in names}


@dataclass(eq=False, repr=False, kw_only=True)
class AttentionProbe(NetworkProbe):
    """Transformer layers with a class token over the places of one map.

    Args:
        width, heads, depth, limit, dropout, qkv_bias: see `AttentionTrunk`. The published head
            has width 1024, 8 heads, 2 layers; the defaults here are narrower.

    All others are those of `NetworkProbe`. X is (N, C, H, W), or (N, D) for one place. The
    head begins with a LayerNorm; features come as they are.

    Source: GDC (Mukhopadhyay et al. 2023, "Diffusion models beat GANs on image classification"),
    the attention head; also that of DifFormer for one block and t.
    """

    width: int = 256
    heads: int = 8
    depth: int = 2
    limit: int = 16
    dropout: float = 0.0
    qkv_bias: bool = False

    def _build(self, shapes: Shapes, classes: int, batches: Batches) -> nn.Module:
        if len(shapes[0]) == 1:
            warnings.warn(
                f"vectors of {shapes[0][0]} features are one place each, so there is nothing to "
                "attend to; give maps (N, C, H, W), such as --pool none extracts",
                stacklevel=4,
            )
        return AttentionHead(shapes, classes, **trunk_options(self))
