"""DifFeed: what the decoder found is fed back to the encoder, and the network runs again."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

import torch
import torch.nn.functional as F
from torch import nn

from diffeat.adapt.classifier import BackboneClassifier
from diffeat.adapt.forward import NoisyFeatures, frozen
from diffeat.backbones.base import Backbone
from diffeat.blocks import BlockInfo
from diffeat.errors import SpecError


@dataclass(frozen=True)
class Link:
    """One connection from the decoder to the encoder.

    Attributes:
        source: a unit of the decoder, whose output is fed back.
        target: path of the module whose output it is added to: what that unit is given as
            its skip, so the sum goes into the encoder's trunk and into the skip.
        channels: of the target.
    """

    source: BlockInfo
    target: str
    channels: int


def encoder_outputs(denoiser: nn.Module) -> list[str]:
    """Paths of the modules whose outputs a U-Net of diffusers keeps as skips, in their order."""
    found = ["conv_in"]
    for i, stage in enumerate(denoiser.down_blocks):
        place = f"down_blocks.{i}"
        kind = "attentions" if getattr(stage, "attentions", None) else "resnets"
        found += [f"{place}.{kind}.{j}" for j in range(len(stage.resnets))]
        found += [f"{place}.downsamplers.{j}" for j in range(len(stage.downsamplers or ()))][:1]
    return found


def decoder_units(backbone: Backbone) -> list[BlockInfo]:
    """The units of the up path, each a resnet with its attention, and upsampler at the end."""
    outputs = {block.path: block for block in backbone.blocks}
    found = []
    for i, stage in enumerate(backbone.denoiser.up_blocks):
        kind = "attentions" if getattr(stage, "attentions", None) else "resnets"
        paths = [f"up_blocks.{i}.{kind}.{j}" for j in range(len(stage.resnets))]
        found += [outputs[path] for path in [*paths[:-1], f"up_blocks.{i}"]]
    return found


def feedback_links(backbone: Backbone, units: Sequence[int] | None = None) -> tuple[Link, ...]:
    """Connections from units of the decoder to the skips that they consume.

    Unit d of the decoder (from 0) takes the (d + 1)-th skip from the end; in the numbering of
    the paper, b = 20 + d of 37 feeds 38 - b.

    Args:
        backbone: a U-Net of diffusers.
        units: which; None takes the middle one of every stage, which for ADM are the paper's
            b = 21, 24, 27, 30, 33, 36.

    Returns:
        A link for each unit, in the order of `units`.

    Raises:
        SpecError: no U-Net, or units that it does not have.

    Source: DifFeed (Mukhopadhyay et al. 2024, "Do text-free diffusion models learn
    discriminative visual representations?").
    """
    denoiser = backbone.denoiser
    if not hasattr(denoiser, "down_blocks") or not hasattr(denoiser, "up_blocks"):
        raise SpecError(f"{backbone.name} is no U-Net; feedback needs an encoder and a decoder")
    decoder, skips = decoder_units(backbone), encoder_outputs(denoiser)
    if units is None:
        units, first = [], 0
        for stage in denoiser.up_blocks:
            units.append(first + len(stage.resnets) // 2)
            first += len(stage.resnets)
    wrong = [d for d in units if not 0 <= d < len(decoder)]
    if wrong or not units:
        raise SpecError(f"units {list(units)}; expected some of 0 … {len(decoder) - 1}")
    channels = _channels(denoiser)
    return tuple(
        Link(decoder[d], skips[len(skips) - 1 - d], channels[len(skips) - 1 - d]) for d in units
    )


def _channels(denoiser: nn.Module) -> list[int]:
    """Channels of the skips, in their order."""
    widths = denoiser.config.block_out_channels
    found = [widths[0]]
    for width, stage in zip(widths, denoiser.down_blocks, strict=True):
        found += [width] * (len(stage.resnets) + len((stage.downsamplers or ())[:1]))
    return found


class Feedback(nn.Module):
    """Trainable connections: for each, 1×1 convolution without bias, BatchNorm, ReLU, resize.

    Args:
        links: from `feedback_links`.

    Source: as `feedback_links`.
    """

    def __init__(self, links: Sequence[Link]):
        super().__init__()
        self.links = tuple(links)
        self.convert = nn.ModuleList(
            nn.Sequential(
                nn.Conv2d(link.source.channels, link.channels, 1, bias=False),
                nn.BatchNorm2d(link.channels),
                nn.ReLU(),
            )
            for link in self.links
        )
        self._given: dict[str, torch.Tensor] = {}

    def give(self, maps: dict[str, torch.Tensor]) -> None:
        """Take the decoder's maps of the first pass: block → (N, C, h, w)."""
        self._given = {
            link.target: convert(maps[link.source.name].float())
            for link, convert in zip(self.links, self.convert, strict=True)
        }

    def forget(self) -> None:
        """What follows is a plain pass."""
        self._given = {}

    def edits(self) -> dict:
        """What `HookManager` does to the encoder's outputs: adds what was given, resized."""
        return {link.target: self._adding(link.target) for link in self.links}

    def _adding(self, target: str):
        def add(output: torch.Tensor) -> torch.Tensor | None:
            given = self._given.get(target)
            if given is None:
                return None
            given = F.interpolate(given, output.shape[2:], mode="bilinear", align_corners=False)
            return output + given.to(output.dtype)

        return add


PROTOCOL: Mapping[str, Any] = MappingProxyType({
    "optimizer": "sgd", "learning_rate": 1e-2, "weight_decay": 0.0, "schedule": "step",
    "epochs": 28, "batch_size": 16,
})  # fmt: skip
"""How the published DifFeed is trained: `DifFeed(backbone, "gdc:24", 150, head=…, **PROTOCOL)`
with the attention head; a tenth of the rate every 7 epochs."""


class DifFeed(BackboneClassifier):
    """A classifier on a frozen U-Net that runs twice, its decoder fed back to its encoder.

    Pass 1, without gradient, keeps maps of the decoder; each goes through 1×1 convolution,
    BatchNorm, ReLU and a bilinear resize, and is added to the output of the encoder that its
    unit consumes as skip; pass 2, of the same x_t, gives the block for the head. Connections
    and head are trained.

    Args:
        units: of the decoder that are fed back (see `feedback_links`).
        others: see `BackboneClassifier`.

    Attributes:
        feedback_: the trained `Feedback`.

    Source: DifFeed (Mukhopadhyay et al. 2024; there t = 150, b = 24, attention head, and trained
    by `PROTOCOL`).
    """

    def __init__(self, *args, units: Sequence[int] | None = None, **named):
        super().__init__(*args, **named)
        self.units = units

    def _build(self) -> list[dict]:
        links = feedback_links(self.backbone, self.units)
        feedback = self.feedback_ = Feedback(links).to(self.backbone.device)
        sources = tuple(dict.fromkeys(link.source.name for link in links))
        self._first = NoisyFeatures(self.backbone, self._spec(sources))
        self._second = NoisyFeatures(self.backbone, self._spec((self.block,)), feedback.edits())
        return [{"params": list(feedback.parameters()), "lr": self.learning_rate}]

    def _trained(self) -> dict[str, nn.Module]:
        return {"feedback": self.feedback_}

    @property
    def noisy(self) -> NoisyFeatures:
        return self._second

    def _map(self, x: torch.Tensor) -> torch.Tensor:
        with frozen(self.backbone.denoiser):
            with torch.no_grad():
                maps = self._first(x)
            self.feedback_.give(maps)
            try:
                (found,) = self._second(x).values()
            finally:
                self.feedback_.forget()
        return found
