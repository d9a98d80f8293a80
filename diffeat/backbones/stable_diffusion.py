"""Stable Diffusion 1.x and 2.x (diffusers `UNet2DConditionModel`). Rombach et al. 2022."""

from __future__ import annotations

import torch

from diffeat.backbones.base import Backbone, reject_label
from diffeat.backbones.unet_blocks import list_unet_blocks, unet_multiple
from diffeat.errors import SpecError


class StableDiffusion(Backbone):
    """A text-conditional U-Net on VAE latents, with one CLIP text encoder."""

    family = "stable-diffusion"
    component = "unet"
    denoiser_classes = ("UNet2DConditionModel",)
    needs = ("vae", "text_encoder", "tokenizer")

    @classmethod
    def accepts(cls, config):
        # SDXL, image variations and class-conditional upscalers want more inputs
        more = (
            "addition_embed_type",
            "class_embed_type",
            "num_class_embeds",
            "encoder_hid_dim_type",
        )
        return all(config.get(name) is None for name in more)

    def list_blocks(self):
        return list_unet_blocks(self.denoiser)

    @torch.no_grad()
    def condition(self, prompt, label):
        """The text encoder's last hidden state, (1, L, D); it leaves the device afterwards."""
        reject_label(self.name, label)
        encoder, tokenizer = self.extras["text_encoder"], self.extras["tokenizer"]
        length = tokenizer.model_max_length
        asked = len(tokenizer(prompt).input_ids)
        if asked > length:
            raise SpecError(
                f"the prompt has {asked} tokens, {self.name} takes {length}; shorten it"
            )
        tokens = tokenizer(prompt, padding="max_length", max_length=length, return_tensors="pt")
        use_mask = getattr(encoder.config, "use_attention_mask", False)
        mask = tokens.attention_mask.to(self.device) if use_mask else None
        encoder.to(self.device)
        states = encoder(tokens.input_ids.to(self.device), attention_mask=mask)[0]
        if self.device.type != "cpu":
            encoder.to("cpu")
        return {"encoder_hidden_states": states.to(self.dtype)}

    def call_arguments(self, x, t, condition):
        return {"sample": x, "timestep": t, "return_dict": False, **condition}

    @property
    def multiple(self):
        return unet_multiple(self.denoiser)
