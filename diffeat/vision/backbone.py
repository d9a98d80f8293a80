"""A vision model of timm or transformers as a source of features, beside diffusion models."""

from __future__ import annotations

from dataclasses import replace
from functools import cached_property
from pathlib import Path

import torch

from diffeat.backbones.base import Backbone
from diffeat.backbones.devices import constant, pick_device, pick_dtype
from diffeat.backbones.pipeline import Pipeline
from diffeat.backbones.request import ModelRequest
from diffeat.errors import SpecError
from diffeat.hashing import fingerprint
from diffeat.noise import CLEAN_FAMILIES, NO_T, NoiseLevel, format_t
from diffeat.schedules import Schedule
from diffeat.specs import ExtractSpec
from diffeat.vision.hub_networks import load_from_hub
from diffeat.vision.measure import Measured, measure
from diffeat.vision.names import VisionName
from diffeat.vision.network import Network, weights_hash
from diffeat.vision.timm_networks import load_timm

UNUSED = {"lora": None, "denoiser": None, "compile": False, "offload": "none"}
"""Arguments of `diffeat.load` that are for diffusion models, and their defaults."""


class CleanSchedule(Schedule):
    """One level without noise: t = 0, alpha = 1, sigma = 0."""

    def __init__(self) -> None:
        super().__init__(1, "none")

    def at(self, t):
        if t != 0:
            raise SpecError(
                f"t={format_t(t)}: a vision model sees clean pictures and has no noise levels; "
                "leave t out (-t), or give 0"
            )
        return NoiseLevel(NO_T, 1.0, 0.0)

    def of_snr(self, asked, snr):
        raise SpecError(f"t={asked!r}: a vision model sees clean pictures; leave t out, or give 0")

    def grid(self, steps):
        return (self.at(0),)

    def predict_x0_eps(self, x, output, t, alpha, sigma):
        return x, torch.zeros_like(x)


class Vision(Backbone):
    """A network that sees clean pictures: its latent is the picture, normalised as it expects.

    Args:
        request: what was asked for.
        network: what the library gives; it is moved to the device.
        measured: its tensors.
        device, dtype: where and in which precision it runs.
    """

    family = CLEAN_FAMILIES[0]
    covers = "networks of timm and transformers: ViT, DINOv2, DINOv3, CLIP, Swin, ConvNeXt, ResNet"
    example = "timm:vit_small_patch14_dinov2.lvd142m"
    component = ""
    denoiser_classes = ()

    def __init__(
        self,
        request: ModelRequest,
        network: Network,
        measured: Measured,
        device: torch.device,
        dtype: torch.dtype,
    ):
        self.network, self._measured = network, measured
        self.library = network.facts["library"]
        meta = device.type == "meta"  # has no weights to take a hash of
        self._weights = "" if meta else weights_hash(network.module, request.name)
        module = network.module if meta else network.module.to(device, dtype)
        super().__init__(
            Pipeline(
                # "auto" may mean another precision elsewhere, and then another model
                request=replace(request, dtype=str(dtype).removeprefix("torch.")),
                device=device,
                dtype=dtype,
                folder=Path(),
                index={"_class_name": type(network.module).__name__},
                denoiser=module.requires_grad_(False).eval(),
                config={"in_channels": 3, "sample_size": measured.size},
                schedule=CleanSchedule(),
            )
        )

    @property
    def random_seed(self):
        return VisionName.parse(self.name).seed

    @cached_property
    def fingerprint(self):
        """Hash of the weights, the architecture, the preprocessing and the precision."""
        return fingerprint(self._weights, self.network.facts, str(self.dtype))

    def list_tensors(self):
        return list(self._measured.blocks)

    def _network_tensors(self):
        return []  # its input is the picture, and it predicts none

    @property
    def aliases(self):
        """Counted from the end, blocks.-1; stages by number whatever a network calls them."""
        found = {}
        for word, kind in (("blocks", "transformer"), ("stages", "stage")):
            names = [b.name for b in self.blocks if b.kind == kind]
            found |= {f"{word}.{k - len(names)}": name for k, name in enumerate(names)}
            found |= {f"{word}.{k}": name for k, name in enumerate(names)}
        return {alias: name for alias, name in found.items() if alias != name}

    @property
    def multiple(self):
        return self._measured.step

    def check_size(self, size):
        super().check_size(size)
        if not self._measured.free and tuple(size) != self.native_size:
            own = "×".join(map(str, self.native_size))
            raise SpecError(
                f"size {size[0]}×{size[1]} does not fit {self.name}: its positions are those of "
                f"{own} pixels, and it cannot interpolate them; leave the size out, or give {own}"
            )

    def settled(self, spec: ExtractSpec) -> ExtractSpec:
        """Without noise, which is what the default means here."""
        if spec.noise not in ("per-image", "none"):
            raise SpecError(
                f"noise={spec.noise}: a vision model sees clean pictures; leave the noise out"
            )
        for name, plain in (("ensemble", 1), ("latent", "mean"), ("scale_latent", True)):
            if (value := getattr(spec, name)) != plain:
                raise SpecError(
                    f"{name}={value!r}: {self.name} is a vision model, without noise or latents; "
                    f"leave {name} out"
                )
        return replace(spec, noise="none")

    @property
    def class_names(self):
        return None

    def encode(self, pixels, scaled=True):
        """((pixels - mean) / std, None): (P, 3, H, W) fp32, which has no spread."""
        mean, std = (
            constant(values, torch.float32, pixels.device).view(-1, 1, 1)
            for values in (self.network.mean, self.network.std)
        )
        return (pixels - mean) / std, None

    def default_rows(self, size):
        """16 at 224×224 pixels, where the first maps are large; 64 where pictures are small."""
        return min(64, 16 * 224**2 // (size[0] * size[1]))

    def call_arguments(self, x, t, condition):
        return self.network.arguments(x)


def load_backbone(request: ModelRequest) -> Vision:
    """Load the vision model that is asked for; see `diffeat.load`.

    Raises:
        SpecError: an option that is for diffusion models.
        ModelError: unknown, not here and not to be fetched, incomplete, pickled, no vision model.
    """
    for name, plain in UNUSED.items():
        if getattr(request, name) != plain:
            raise SpecError(
                f"{name}={getattr(request, name)!r} is for diffusion models; {request.name} is a "
                f"vision model: leave {name} out"
            )
    device = pick_device(request.device)
    dtype = pick_dtype(request.dtype, device)
    wanted, bare = VisionName.parse(request.name), device.type == "meta"
    if wanted.library == "timm":
        network = load_timm(wanted, request.allow_pickle, bare)
    else:
        network = load_from_hub(wanted, request.allow_pickle, bare, pooler=False)
    return Vision(request, network, measure(network), device, dtype)
