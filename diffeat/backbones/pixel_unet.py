"""Pixel U-Nets: DDPM pipelines (Ho et al. 2020), OpenAI's ADM (Dhariwal & Nichol 2021), NVlabs'
EDM (Karras et al. 2022) and DDAE's DDPM and EDM (Xiang et al. 2023), all `UNet2DModel`."""

from __future__ import annotations

from diffeat.backbones.aliases import adm_aliases, unet_aliases
from diffeat.backbones.base import Backbone
from diffeat.backbones.unet_blocks import list_unet_tensors, unet_multiple
from diffeat.backbones.unet_variants import DDAE_KEY, DDPMPP_KEY, to_adm, to_ddae, to_ddpmpp


class PixelUNet(Backbone):
    """An unconditional or class-conditional U-Net on pixels."""

    family = "pixel-unet"
    covers = "DDPM pipelines (UNet2DModel)"
    example = "google/ddpm-cifar10-32"
    component = "unet"
    denoiser_classes = ("UNet2DModel",)

    @classmethod
    def accepts(cls, config, index):
        return config.get("class_embed_type") is None  # others want more than a class index

    @staticmethod
    def adjust(denoiser, config):
        """Some of OpenAI's have their own number of heads, or embed t in other channels."""
        to_ddae(denoiser) if config.get(DDAE_KEY) else to_adm(denoiser)

    def list_tensors(self):
        return list_unet_tensors(self.denoiser)

    @property
    def classes(self):
        return self.config.get("num_class_embeds")

    @property
    def aliases(self):
        return unet_aliases(self.tensors)

    def call_arguments(self, x, t, condition):
        return {"sample": x, "timestep": t, **condition}

    @property
    def multiple(self):
        return unet_multiple(self.denoiser)


class ADM(PixelUNet):
    """Resnets that are scaled and shifted by the time; mostly a learned variance.

    Resolutions change in resnets, or in convolutions as in improved-diffusion's (2021).
    """

    family = "adm"
    covers = "OpenAI's ADM, converted by scripts/convert.py (UNet2DModel)"
    example = "adm-256"

    @classmethod
    def accepts(cls, config, index):
        resampling = (config.get("downsample_type"), config.get("upsample_type"))
        scaled = config.get("resnet_time_scale_shift") == "scale_shift"
        # diffusers' own default is a convolution
        both = {"conv" if kind is None else kind for kind in resampling}
        return super().accepts(config, index) and scaled and both in ({"resnet"}, {"conv"})

    @property
    def aliases(self):
        return {**super().aliases, **adm_aliases(self.tensors)}


class EDM(PixelUNet):
    """A network F inside a preconditioning, told ln(sigma)/4; the schedule does both."""

    family = "edm"
    covers = "EDM: unconditional DDPM++, converted, or a UNet2DModel with an EDM scheduler"
    example = "edm-cifar10"

    @classmethod
    def accepts(cls, config, index):
        scheduler = str((index.get("scheduler") or [None, ""])[-1])
        return super().accepts(config, index) and scheduler.startswith("EDM")

    @staticmethod
    def adjust(denoiser, config):
        """NVlabs' DDPM++ differs from diffusers' U-Net in ways that no configuration says."""
        if config.get(DDPMPP_KEY):
            to_ddpmpp(denoiser)
        elif config.get(DDAE_KEY):
            to_ddae(denoiser)
