"""ODISE's network: captions, frozen diffusion, a pyramid of projected maps, names of masks."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import nn

from diffeat.adapt.captioner import CaptionedForward, ImplicitCaptioner
from diffeat.adapt.odise_tiles import Canvas, Frame, Size, cut, shared_noise
from diffeat.extraction import Plan
from diffeat.vision.joint import JointModel
from probes.aggregate.hyperfeature_net import ResidualBottleneck
from probes.open_vocabulary.naming import OpenVocabulary
from probes.open_vocabulary.pooling import hard_masks, pool_masks


class Pyramid(nn.Module):
    """Maps of many tensors as one map for each stride.

        p_s = sum over tensors b of stride s of B_b(nearest(r_b))

    A tensor's stride is its own, within `least` and `most`. r_b is resized by nearest to the grid
    of that stride, then projected by B_b, a residual bottleneck (1×1 to a quarter of `width`, 3×3,
    1×1 to `width`, GroupNorm, a 1×1 shortcut).

    Args:
        channels: tensor → its channels.
        strides: tensor → its stride in pixels of the network's input.
        least, most: of the pyramid.
        width: channels of its maps.

    Attributes:
        strides: of its maps, ascending.

    Source: Xu et al. 2023 (ODISE), and its code: strides 4 to 32, 512 channels.
    """

    def __init__(
        self, channels: Mapping[str, int], strides: Mapping[str, int], least: int = 4,
        most: int = 32, width: int = 512,
    ):  # fmt: skip
        super().__init__()
        self.names = tuple(channels)
        self.places = tuple(min(max(strides[name], least), most) for name in self.names)
        self.strides = tuple(sorted(set(self.places)))
        self.width = width
        self.projections = nn.ModuleList(
            ResidualBottleneck(channels[name], width) for name in self.names
        )

    def forward(self, maps: Mapping[str, torch.Tensor], size: Size) -> dict[int, torch.Tensor]:
        """Stride → (n, width, H // stride, W // stride).

        Args:
            maps: tensor → (n, C, h, w).
            size: (H, W) in pixels of the picture, or tile, that they are of.
        """
        found: dict[int, torch.Tensor] = {}
        for name, stride, project in zip(self.names, self.places, self.projections, strict=True):
            grid = size[0] // stride, size[1] // stride
            part = project(F.interpolate(maps[name].float(), grid), grid, True)
            found[stride] = found[stride] + part if stride in found else part
        return {stride: found[stride] for stride in self.strides}


@dataclass(frozen=True)
class MaskedPicture:
    """What the network is given of one picture.

    Attributes:
        x: (3, H, W) in [0, 1], resized and padded (see `Frame`).
        masks: (Q, H, W) bool, of the same frame.
        queries: (Q, D) of the proposals; None: there are none.
    """

    x: torch.Tensor
    masks: torch.Tensor
    queries: torch.Tensor | None = None


class ODISENetwork(nn.Module):
    """From pictures with masks to logits of classes. What is frozen is no part of its weights.

    Args:
        plan: the frozen model's tensors, for tiles of one size.
        clip: frozen; sees each tile.
        frame: how pictures are cut.
        captioner, pyramid, naming: what is trained.
        sites: whether masks are hard masks of the finest map's grid, as published; else they keep
            their own pixels.
        tiles_at_once: of one forward.

    Attributes:
        texts, owners: embeddings (W, E) of the words that are asked for, and their classes.
    """

    def __init__(
        self, plan: Plan, clip: JointModel, frame: Frame, captioner: ImplicitCaptioner,
        pyramid: Pyramid, naming: OpenVocabulary, sites: bool, tiles_at_once: int,
    ):  # fmt: skip
        super().__init__()
        self.captioner, self.pyramid, self.naming = captioner, pyramid, naming
        self.frame, self.sites, self.tiles_at_once = frame, sites, tiles_at_once
        self.clip = clip
        self._forward = CaptionedForward(plan, captioner.time is not None)
        backbone = plan.backbone
        native = backbone.latent_shape(backbone.native_size)[1:]
        eps = shared_noise(backbone.latent_shape(plan.size), native, plan.spec.seed)
        self._eps = None if plan.spec.noise == "none" else eps.to(backbone.device)
        self.texts: torch.Tensor | None = None
        self.owners: Sequence[int] = ()

    def told(self, texts: torch.Tensor, owners: Sequence[int]) -> ODISENetwork:
        """Ask for these words from now on; self."""
        self.texts, self.owners = texts, owners
        return self

    def forward(self, pictures: Sequence[MaskedPicture]) -> torch.Tensor:
        """(M, K) logits of all masks of all pictures, one picture after another; K + 1 with "no
        object"."""
        pooled = torch.cat([self.pooled(one.x, one.masks)[0] for one in pictures])
        queries = None
        if self.naming.query is not None:
            queries = torch.cat([one.queries for one in pictures]).to(pooled)
        return self.naming(pooled, self.texts, self.owners, queries)

    def pooled(self, x: torch.Tensor, masks: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """(Q, width) features of a picture's masks, and (Q,) which have a pixel.

        The mean over a mask of the sum of all levels, each brought to the masks bilinearly: means
        and resizing are linear, so each level is averaged by itself.
        """
        levels = self.levels(x)
        if self.sites:
            finest = levels[self.pyramid.strides[0]]
            masks = hard_masks(masks, tuple(finest.shape[1:]))
        found = [pool_masks(level, masks.to(level.device)) for level in levels.values()]
        return torch.stack([one.features for one in found]).sum(0), found[0].valid

    def levels(self, x: torch.Tensor) -> dict[int, torch.Tensor]:
        """Stride → (width, H // stride, W // stride) of a picture (3, H, W)."""
        x, size = x.to(self.clip.device), tuple(x.shape[1:])
        canvas = Canvas(size, self.pyramid.strides)
        tiles = list(self.frame.tiles(size))
        for start in range(0, len(tiles), self.tiles_at_once):
            some = tiles[start : start + self.tiles_at_once]
            parts = self.of_tiles(torch.stack([cut(x, *tile, self.frame.tile) for tile in some]),
                                  some[0][2])  # fmt: skip
            for row, (top, left, _) in enumerate(some):
                canvas.lay(top, left, {s: one[row] for s, one in parts.items()})
        return canvas.whole()

    def of_tiles(self, x0: torch.Tensor, side: int) -> dict[int, torch.Tensor]:
        """Stride → (n, width, h, w) of tiles (n, 3, tile, tile) that are `side` pixels wide."""
        maps = self.tensors(x0)
        return self.pyramid(maps, (side, side))

    def tensors(self, x0: torch.Tensor) -> dict[str, torch.Tensor]:
        """The frozen model's tensors of captioned tiles."""
        eps = None if self._eps is None else self._eps.expand(len(x0), *self._eps.shape[1:])
        backbone = self._forward.backbone
        caption = self.captioner(self.clip.pictures(x0).to(backbone.device))
        return self._forward.captioned(x0.to(backbone.device), eps, caption)
