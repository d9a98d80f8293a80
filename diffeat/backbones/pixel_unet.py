"""Pixel U-Nets of DDPM pipelines (diffusers `UNet2DModel`). Ho et al. 2020."""

from __future__ import annotations

from diffeat.backbones.base import Backbone, checked_label, reject_label, reject_prompt
from diffeat.backbones.unet_blocks import list_unet_blocks, unet_multiple


class PixelUNet(Backbone):
    """An unconditional or class-conditional U-Net on pixels."""

    family = "pixel-unet"
    component = "unet"
    denoiser_classes = ("UNet2DModel",)

    @classmethod
    def accepts(cls, config):
        return config.get("class_embed_type") is None  # others want more than a class index

    def list_blocks(self):
        return list_unet_blocks(self.denoiser)

    def condition(self, prompt, label):
        reject_prompt(self.name, prompt)
        classes = self.config.get("num_class_embeds")
        if classes is None:
            reject_label(self.name, label)
            return {}
        return {"class_labels": checked_label(self.name, label, classes, null=None)}

    def call_arguments(self, x, t, condition):
        return {"sample": x, "timestep": t, **condition}

    @property
    def multiple(self):
        return unet_multiple(self.denoiser)
