"""What every backbone is: a denoiser with all that its forward needs."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Sequence
from contextlib import nullcontext
from dataclasses import replace
from functools import cached_property
from typing import Any, ClassVar

import torch
from torch import nn

from diffeat.backbones.classes import class_names_of
from diffeat.backbones.conditioning import TextReader, stand_in
from diffeat.backbones.devices import upload, visiting
from diffeat.backbones.learned_t import with_learned_t
from diffeat.backbones.pipeline import Pipeline
from diffeat.backbones.tensors import unpack, unpatchify, vae_tensors
from diffeat.blocks import BlockInfo, in_order
from diffeat.errors import SpecError
from diffeat.hashing import files_fingerprint, fingerprint
from diffeat.hooks import Tap
from diffeat.noise import NoiseLevel
from diffeat.specs import ExtractSpec


class Backbone(ABC):
    """A pretrained diffusion model as a feature extractor. One subclass per family.

    A family says which classes it covers, where its tensors are, and how its denoiser is
    called; everything else lives here. To add one: subclass, set the class attributes, write
    `list_tensors` and `call_arguments` (and `embedding_shapes` and `encode_prompts`, if it
    reads text), and add it to `FAMILIES`.

    Class attributes:
        family: name of the family.
        covers: which models these are, in a few words.
        example: a hub id or known name.
        component: the denoiser's name in the pipeline folder.
        denoiser_classes: diffusers classes of the denoiser that belong to this family.
        components: the further components of the pipeline, "package.class" by name.
        optional: those of them that the family can do without.
        lora_loader: diffusers class that reads LoRA files of this family, if there is one.
        library: the package whose code the denoiser is.
    """

    family: ClassVar[str]
    covers: ClassVar[str]
    example: ClassVar[str]
    component: ClassVar[str]
    denoiser_classes: ClassVar[tuple[str, ...]]
    components: ClassVar[dict[str, str]] = {}
    optional: ClassVar[tuple[str, ...]] = ()
    lora_loader: ClassVar[str | None] = None
    library: str = "diffusers"

    def __init__(self, pipeline: Pipeline):
        self.request = pipeline.request
        self.device = pipeline.device
        self.denoiser = pipeline.denoiser
        self.config = pipeline.config
        self.schedule = pipeline.schedule
        self.extras = pipeline.extras
        self.vae = pipeline.extras.get("vae")
        self.index = pipeline.index
        self.files = tuple(pipeline.files)
        self.channels_last = False
        self.learned_t = pipeline.learned_t
        self._decoder_form, self._read_decoder = pipeline.decoder_form, pipeline.decoder

    # --- what a family writes -----------------------------------------------------------

    @classmethod
    def accepts(cls, config: dict[str, Any], index: dict[str, Any]) -> bool:
        """Whether a denoiser with this configuration, in such a pipeline, is of this family."""
        return True

    adjust: ClassVar[Callable[[nn.Module, dict[str, Any]], None] | None] = None
    """Changes a freshly built denoiser where no configuration of diffusers says enough."""

    @abstractmethod
    def list_tensors(self) -> Iterable[BlockInfo]:
        """Every block's output and behind it its further tensors, in the order of execution.

        Strides are in latent cells; ranks are given later (see `in_order`).
        """

    @abstractmethod
    def call_arguments(
        self, x: torch.Tensor, t: torch.Tensor, condition: dict[str, torch.Tensor]
    ) -> dict[str, Any]:
        """Keyword arguments of the denoiser's forward.

        Args:
            x: (n, C, h, w) noisy latents, as the schedule gives them to the network.
            t: (n,) what the schedule tells the network, fp32 or int64.
            condition: what `condition` returned, one row per row of x.
        """

    @property
    @abstractmethod
    def multiple(self) -> int:
        """Latent heights and widths must be multiples of this."""

    @property
    def embedding_shapes(self) -> dict[str, tuple[int, ...]]:
        """Text tensors that the denoiser is given, and the shape of one prompt's; {} if none."""
        return {}

    def text_tokens(self, length: int | None = None) -> int:
        """Text tokens that the denoiser attends to, for prompts or embeddings of a length."""
        return length or self.embedding_shapes["encoder_hidden_states"][0]

    @property
    def text_readers(self) -> tuple[TextReader, ...]:
        """The tokenizers whose tokens these are; () where they are not here."""
        return ()

    @property
    def registers(self) -> int:
        """Learned tokens that stand before the text's wherever text tokens are listed."""
        return 0

    @property
    def largest(self) -> int | None:
        """Most latent cells in a row or column, where positions come from a table."""
        return None

    def encode_prompts(self, prompts: Sequence[str]) -> dict[str, torch.Tensor]:
        """The tensors of `embedding_shapes`, (P, …), on the backbone's device."""
        raise SpecError(f"{self.name} has no text encoder")

    @property
    def classes(self) -> int | None:
        """Number of classes that it is conditioned on, or None."""
        return None

    @cached_property
    def class_names(self) -> tuple[str, ...] | None:
        """Names of these classes, by index; None where nobody says (see `class_names_of`)."""
        return class_names_of(self.request.base, self.index, self.classes)

    @property
    def null_class(self) -> int | None:
        """Index that stands for "no class", where the model has one."""
        return None

    @property
    def aliases(self) -> dict[str, str]:
        """Names that papers gave to its tensors → canonical names."""
        return {}

    def settled(self, spec: ExtractSpec) -> ExtractSpec:
        """A spec with the defaults that this model needs; SpecError for what it cannot do."""
        return with_learned_t(spec, self._learned_t_as_written, self.name)

    # --- what all families share --------------------------------------------------------

    @property
    def _learned_t_as_written(self) -> int | float | None:
        """The learned t as a spec says it: of flow models a fraction in [0, 1] is a flow time."""
        t = self.learned_t
        if t is None or t.is_integer():
            return None if t is None else int(t)
        return self.schedule.spell(NoiseLevel(t, 1.0, 0.0)) if t < 1 else t

    @property
    def name(self) -> str:
        """What the user asked for."""
        return self.request.name

    @property
    def random_seed(self) -> int | None:
        """Seed of random weights, or None for the real ones."""
        return self.request.random_seed

    @property
    def changes(self) -> tuple[str, ...]:
        """What took the place of, or was merged into, the denoiser's weights."""
        return self.request.changes

    @cached_property
    def tensors(self) -> tuple[BlockInfo, ...]:
        """Every tensor that can be a feature; strides in pixels of the picture."""
        found = [
            replace(block, stride=block.stride * self.latent_factor)
            for block in (*in_order(self.list_tensors()), *self._network_tensors())
        ]
        if self.vae is not None:
            found = [*vae_tensors(self.vae, self._decoder_form), *found]
        return tuple(found)

    @cached_property
    def blocks(self) -> tuple[BlockInfo, ...]:
        """The outputs of all blocks of the denoiser, in the order of execution."""
        return tuple(block for block in self.tensors if block.is_output)

    def _network_tensors(self) -> list[BlockInfo]:
        """What enters and leaves the network, and the clean picture that it predicts."""
        side, out = self.packing, self.output_tap
        how = {"kind": "network", "part": "network", "order": 0}
        return [
            BlockInfo("net:in", "", channels=self.latent_channels * side**2, stride=side,
                      layout="NLD" if side > 1 else "NCHW", tensor="in", tap=Tap("", "input"),
                      **how),
            BlockInfo("net:out", out.path, channels=self.output_channels * side**2, stride=side,
                      layout=self.output_layout, tensor="out", tap=out, **how),
            BlockInfo("net:x0", out.path, channels=self.latent_channels, stride=1, layout="x0",
                      tensor="x0", tap=out, **how),
        ]  # fmt: skip

    # how the network's input and output lie in memory; families that pack override these

    packing: ClassVar[int] = 1
    """Side of the squares of latent cells that the network is given as one token; 1: none."""

    @property
    def output_tap(self) -> Tap:
        """Where the network's prediction is read."""
        return Tap("")

    @property
    def output_layout(self) -> str:
        """ "NCHW", or "patches" where it is read as tokens of patch² cells, or "NLD"."""
        return "NLD" if self.packing > 1 else "NCHW"

    @property
    def output_channels(self) -> int:
        """Channels of the prediction, in latent cells; more than the latent's with a variance."""
        return (self.config.get("out_channels") or self.config["in_channels"]) // self.packing**2

    @property
    def latent_channels(self) -> int:
        """Channels of one latent cell."""
        return self.config["in_channels"] // self.packing**2

    def to_latent(self, output: torch.Tensor, grid: tuple[int, int]) -> torch.Tensor:
        """The prediction as a latent, (n, C, h, w); a learned variance is left out.

        Args:
            output: what `output_tap` read.
            grid: (h, w) of the latent.
        """
        if self.output_layout == "patches":
            output = unpatchify(output, grid, self.multiple)
        elif self.output_layout == "NLD":
            output = unpack(output, grid, self.packing)
        return output[:, : self.latent_channels]

    @torch.no_grad()
    def condition(
        self, prompts: Sequence[str], labels: Sequence[int | None]
    ) -> dict[str, torch.Tensor]:
        """Tensors (P, …) that the denoiser is given for P pictures' prompts and labels, on the
        backbone's device.

        Raises:
            SpecError: prompts for a model without text encoder, labels for one without
                classes, or labels out of range.
        """
        found: dict[str, torch.Tensor] = {}
        shapes = self.embedding_shapes
        if not shapes and any(prompts):
            raise SpecError(
                f"{self.name} has no text encoder; leave out the prompt, or the recipe with one"
            )
        if shapes and prompts:
            known = self.components.keys() - set(self.optional) <= self.extras.keys()
            found = self.encode_prompts(prompts) if known else stand_in(prompts, shapes)
            found = {
                name: value if name.endswith("mask") else value.to(self.dtype)
                for name, value in found.items()
            }
        if self.classes is not None:
            found["class_labels"] = torch.tensor([self._checked(label) for label in labels])
        elif any(label is not None for label in labels):
            raise SpecError(f"{self.name} is not class-conditional; leave the label out")
        return {name: value.to(self.device) for name, value in found.items()}

    def _checked(self, label: int | None) -> int:
        """A class index in range; the null class stands in for None."""
        if label is None and self.null_class is None:
            raise SpecError(f"{self.name} needs a class label; expected 0 … {self.classes - 1}")
        if label is not None and not 0 <= label < self.classes:
            raise SpecError(
                f"label {label} is out of range for {self.name}; expected 0 … {self.classes - 1}"
            )
        return self.null_class if label is None else label

    @cached_property
    def fingerprint(self) -> str:
        """Hash of all files that were loaded, of the random seed and of the precision."""
        return fingerprint(files_fingerprint(self.files), self.random_seed, str(self.dtype))

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
        size = self.config.get("sample_size") or self.config.get("_sample_size")
        if size is None:
            raise SpecError(f"{self.name} names no size of its own; give one (--size)")
        height, width = (size, size) if isinstance(size, int) else size
        return height * self.latent_factor, width * self.latent_factor

    @property
    def step(self) -> int:
        """Heights and widths of pictures must be multiples of this many pixels."""
        return self.multiple * self.latent_factor

    def check_size(self, size: tuple[int, int]) -> None:
        """SpecError if pictures of (H, W) pixels do not fit the model's stages or patches."""
        step, own = self.step, self.config.get("sample_size") and self.native_size
        hint = f"; its own size is {own[0]}×{own[1]}" if own else ""
        if min(size) < 1 or size[0] % step or size[1] % step:
            raise SpecError(
                f"size {size[0]}×{size[1]} does not fit {self.name}: height and width must be "
                f"multiples of {step}{hint}"
            )
        most = self.largest and self.largest * self.latent_factor
        if most and max(size) > most:
            raise SpecError(
                f"size {size[0]}×{size[1]} is too large for {self.name}: its table of positions "
                f"ends at {most} pixels{hint}"
            )

    def latent_shape(self, size: tuple[int, int]) -> tuple[int, int, int]:
        """(C, h, w) of one latent for a picture of (H, W) pixels."""
        factor = self.latent_factor
        return self.latent_channels, size[0] // factor, size[1] // factor

    def encode(
        self, pixels: torch.Tensor, scaled: bool = True
    ) -> tuple[torch.Tensor, torch.Tensor | None]:
        """Bring pictures to the denoiser's space; the VAE runs once per picture.

        Args:
            pixels: (P, 3, H, W) in [0, 1], on the backbone's device.
            scaled: with the shift and scale that the denoiser was trained with.

        Returns:
            (mean, std), each (P, C, h, w) fp32: 2·pixels - 1 and None, or the moments of the
            VAE's posterior, (posterior - shift)·scale by its configuration.
        """
        x = pixels * 2 - 1
        if self.vae is None:
            channels = self.latent_channels
            if channels == 1:
                x = x.mean(1, keepdim=True)
            elif channels != 3:
                raise SpecError(f"{self.name} wants {channels} channels; expected 1 or 3")
            return x, None
        x = self.as_input(x.to(self.vae.dtype))
        with visiting(self.vae, self.device) if self.vae_visits else nullcontext():
            posterior = self.vae.encode(x).latent_dist
        shift, scale = self._shift_and_scale if scaled else (0.0, 1.0)
        return (posterior.mean.float() - shift) * scale, posterior.std.float() * scale

    @cached_property
    def vae_decoder(self) -> nn.Module:
        """(post_quant_conv, decoder) of the VAE; its weights are read when this is first asked."""
        found = self._read_decoder()
        if self.channels_last:
            found.to(memory_format=torch.channels_last)
        return found

    def decoded(self, mean: torch.Tensor, scaled: bool = True) -> torch.Tensor:
        """What the VAE's decoder is given for clean latents: (P, C, h, w), unscaled.

        Args:
            mean, scaled: as `encode` gave and took them.
        """
        shift, scale = self._shift_and_scale if scaled else (0.0, 1.0)
        return self.as_input((mean / scale + shift).to(self.vae.dtype))

    def default_rows(self, size: tuple[int, int]) -> int:
        """Rows of one forward, unless asked for otherwise: 64 at 32×32 latents, less at larger."""
        _, height, width = self.latent_shape(size)
        return min(64, 65536 // (height * width))

    @property
    def vae_visits(self) -> bool:
        """Whether the VAE lives on the CPU, whatever the device is."""
        return self.request.offload != "none"

    def as_input(self, maps: torch.Tensor) -> torch.Tensor:
        """Maps (n, C, h, w) in the memory format that the convolutions run in."""
        if not self.channels_last:
            return maps
        return maps.contiguous(memory_format=torch.channels_last)

    @cached_property
    def _shift_and_scale(self) -> tuple[Any, Any]:
        """Of the VAE's configuration: numbers, or (C, 1, 1) tensors where channels differ."""
        config, each = self.vae.config, []
        for name in ("latents_mean", "latents_std"):
            value = config.get(name)
            each.append(None if value is None else upload(torch.tensor(value), self.device))
        scale = config.scaling_factor
        if each[0] is None or each[1] is None:
            return config.get("shift_factor") or 0.0, scale
        return each[0].view(-1, 1, 1), scale / each[1].view(-1, 1, 1)

    def __repr__(self) -> str:
        return (
            f"<{type(self).__name__} {self.name!r}: {self.parameters / 1e6:.1f} M parameters, "
            f"{len(self.blocks)} blocks, {self.dtype}, {self.device}>"
        )
