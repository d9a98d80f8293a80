"""What every backbone is: a denoiser with all that its forward needs."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any, ClassVar

import torch
from torch import nn

from diffeat.blocks import BlockInfo
from diffeat.errors import SpecError
from diffeat.hashing import files_fingerprint, fingerprint
from diffeat.noise import Schedule

TORCH_DTYPES = {
    "float32": torch.float32,
    "float16": torch.float16,
    "bfloat16": torch.bfloat16,
}


@dataclass(frozen=True)
class Latents:
    """Clean pictures in the space that the denoiser works in.

    Attributes:
        mean: (P, C, h, w) the picture itself, or the mean of the VAE's posterior, scaled.
        std: its standard deviation, scaled, where there is a posterior.
    """

    mean: torch.Tensor
    std: torch.Tensor | None = None


@dataclass
class Parts:
    """What a family's loader hands over; see `diffeat.backbones.loading`.

    Attributes:
        name: what the user asked for.
        denoiser: the network that is tapped.
        schedule: its noise schedule.
        device: where forwards run; "meta" for an architecture without weights.
        files: every weight and configuration file that was used.
        random_seed: seed of random weights, or None for the real ones.
        extras: further components by their name in the pipeline: "vae", "text_encoder", …
    """

    name: str
    denoiser: nn.Module
    schedule: Schedule
    device: torch.device
    files: tuple[Path, ...]
    random_seed: int | None
    extras: dict[str, Any]


class Backbone(ABC):
    """A pretrained diffusion model as a feature extractor. One subclass per family.

    A family says which classes it covers, where its blocks are, and how its denoiser is
    called; everything else lives here. To add one: subclass, set the class attributes, write
    `list_blocks`, `condition` and `call_arguments`, and add it to `FAMILIES`.

    Class attributes:
        family: name of the family.
        component: the denoiser's name in the pipeline folder.
        denoiser_classes: diffusers classes of the denoiser that belong to this family.
        needs: further components that must be in the folder.
        may_need: further components that are used where they are.
    """

    family: ClassVar[str]
    component: ClassVar[str]
    denoiser_classes: ClassVar[tuple[str, ...]]
    needs: ClassVar[tuple[str, ...]] = ()
    may_need: ClassVar[tuple[str, ...]] = ()

    def __init__(self, parts: Parts):
        self.name = parts.name
        self.denoiser = parts.denoiser
        self.schedule = parts.schedule
        self.device = parts.device
        self.random_seed = parts.random_seed
        self._files = parts.files
        self.vae = parts.extras.get("vae")
        self.extras = parts.extras

    # --- what a family writes -----------------------------------------------------------

    @classmethod
    def accepts(cls, config: dict[str, Any]) -> bool:
        """Whether a denoiser with this configuration belongs to the family."""
        return True

    @abstractmethod
    def list_blocks(self) -> list[BlockInfo]:
        """All blocks in the order of execution; strides in cells of the latent."""

    @abstractmethod
    def condition(self, prompt: str, label: int | None) -> dict[str, torch.Tensor]:
        """Tensors of shape (1, …) that every call of the denoiser gets, from prompt or label."""

    @abstractmethod
    def call_arguments(
        self, x: torch.Tensor, t: torch.Tensor, condition: dict[str, torch.Tensor]
    ) -> dict[str, Any]:
        """Keyword arguments of the denoiser's forward.

        Args:
            x: (n, C, h, w) noisy latents.
            t: (n,) native timesteps.
            condition: what `condition` returned, expanded to (n, …).
        """

    @property
    @abstractmethod
    def multiple(self) -> int:
        """Latent heights and widths must be multiples of this."""

    # --- what all families share --------------------------------------------------------

    @cached_property
    def blocks(self) -> tuple[BlockInfo, ...]:
        """All blocks in the order of execution; strides in pixels of the picture."""
        factor = self.latent_factor
        return tuple(
            replace(block, stride=block.stride * factor, order=order)
            for order, block in enumerate(self.list_blocks())
        )

    @cached_property
    def fingerprint(self) -> str:
        """Hash of all files that were loaded, of the random seed and of the precision."""
        return fingerprint(files_fingerprint(self._files), self.random_seed, str(self.dtype))

    @property
    def config(self) -> dict[str, Any]:
        return self.denoiser.config

    @property
    def dtype(self) -> torch.dtype:
        """Precision of the denoiser's weights."""
        return next(self.denoiser.parameters()).dtype

    @property
    def parameters(self) -> int:
        """Number of parameters of the denoiser."""
        return sum(weight.numel() for weight in self.denoiser.parameters())

    @property
    def latent_factor(self) -> int:
        """Pixels per latent cell: 1 for pixel models, 2^(stages - 1) with a VAE."""
        return 1 if self.vae is None else 2 ** (len(self.vae.config.block_out_channels) - 1)

    @property
    def native_size(self) -> tuple[int, int]:
        """(H, W) in pixels that the model was trained on."""
        size = self.config["sample_size"]
        if size is None:
            raise SpecError(f"{self.name} names no size of its own; give one (--size)")
        height, width = (size, size) if isinstance(size, int) else size
        return height * self.latent_factor, width * self.latent_factor

    def check_size(self, size: tuple[int, int]) -> None:
        """SpecError if pictures of (H, W) pixels do not fit the model's stages or patches."""
        step = self.multiple * self.latent_factor
        if size[0] % step or size[1] % step:
            own = self.config["sample_size"] and self.native_size
            hint = f"; its own size is {own[0]}×{own[1]}" if own else ""
            raise SpecError(
                f"size {size[0]}×{size[1]} does not fit {self.name}: height and width must be "
                f"multiples of {step}{hint}"
            )

    def latent_shape(self, size: tuple[int, int]) -> tuple[int, int, int]:
        """(C, h, w) of one latent for a picture of (H, W) pixels."""
        factor = self.latent_factor
        return self.config["in_channels"], size[0] // factor, size[1] // factor

    @torch.no_grad()
    def encode(self, pixels: torch.Tensor) -> Latents:
        """Bring pictures to the denoiser's space; the VAE runs once per picture.

        Args:
            pixels: (P, 3, H, W) in [0, 1], on the backbone's device.

        Returns:
            Latents in fp32: 2·pixels - 1, or (posterior - shift)·scale of the VAE's config.
        """
        x = pixels * 2 - 1
        if self.vae is None:
            channels = self.config["in_channels"]
            if channels == 1:
                x = x.mean(1, keepdim=True)
            elif channels != 3:
                raise SpecError(f"{self.name} wants {channels} channels; expected 1 or 3")
            return Latents(x)
        posterior = self.vae.encode(x.to(self.vae.dtype)).latent_dist
        scale = self.vae.config.scaling_factor
        shift = getattr(self.vae.config, "shift_factor", None) or 0.0
        return Latents((posterior.mean.float() - shift) * scale, posterior.std.float() * scale)

    def __repr__(self) -> str:
        return (
            f"<{type(self).__name__} {self.name!r}: {self.parameters / 1e6:.1f} M parameters, "
            f"{len(self.blocks)} blocks, {self.dtype}, {self.device}>"
        )


def reject_prompt(model: str, prompt: str) -> None:
    """SpecError when a prompt is given to a model without text encoder."""
    if prompt:
        raise SpecError(f"{model} has no text encoder; leave the prompt empty")


def reject_label(model: str, label: int | None) -> None:
    """SpecError when a class label is given to a model without classes."""
    if label is not None:
        raise SpecError(f"{model} is not class-conditional; leave the label out")


def checked_label(model: str, label: int | None, classes: int, null: int | None) -> torch.Tensor:
    """The class index as a (1,) int64 tensor; `null` stands in for None.

    Raises:
        SpecError: out of range, or no label for a model without a null class.
    """
    if label is None and null is None:
        raise SpecError(f"{model} needs a class label; expected 0 … {classes - 1}")
    if label is not None and not 0 <= label < classes:
        raise SpecError(f"label {label} is out of range for {model}; expected 0 … {classes - 1}")
    return torch.tensor([null if label is None else label])
