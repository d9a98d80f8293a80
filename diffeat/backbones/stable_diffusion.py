"""Stable Diffusion 1.x and 2.x (Rombach et al. 2022) and SDXL (Podell et al. 2024), diffusers
`UNet2DConditionModel`."""

from __future__ import annotations

import torch

from diffeat.backbones.aliases import latent_unet_aliases, unet_aliases
from diffeat.backbones.base import Backbone
from diffeat.backbones.conditioning import TextReader, clip_states, text_length
from diffeat.backbones.devices import constant
from diffeat.backbones.pipeline import CLIP, CLIP_PROJECTED, CLIP_TOKENIZER, VAE
from diffeat.backbones.unet_blocks import list_unet_tensors, unet_multiple

CLIP_LENGTH = 77  # tokens per prompt


class StableDiffusion(Backbone):
    """A text-conditional U-Net on VAE latents, with one CLIP text encoder."""

    family = "stable-diffusion"
    covers = "Stable Diffusion 1.x, 2.x (UNet2DConditionModel)"
    example = "stable-diffusion-v1-5/stable-diffusion-v1-5"
    component = "unet"
    lora_loader = "StableDiffusionXLLoraLoaderMixin"
    denoiser_classes = ("UNet2DConditionModel",)
    components = {"vae": VAE, "text_encoder": CLIP, "tokenizer": CLIP_TOKENIZER}  # noqa: RUF012

    @classmethod
    def accepts(cls, config, index):
        # image variations and class-conditional upscalers want more inputs
        more = ("class_embed_type", "num_class_embeds", "encoder_hid_dim_type")
        plain = all(config.get(name) is None for name in more)
        return plain and config.get("addition_embed_type") is None

    def list_tensors(self):
        return list_unet_tensors(self.denoiser)

    @property
    def aliases(self):
        tensors = self.tensors
        encoder = [] if self.vae is None else self.vae.encoder.down_blocks
        decoder = [] if self._decoder_form is None else self._decoder_form[1].up_blocks
        return {**unet_aliases(tensors), **latent_unet_aliases(tensors, encoder, decoder)}

    @property
    def embedding_shapes(self):
        length = text_length(self.extras.get("tokenizer"), CLIP_LENGTH)
        return {"encoder_hidden_states": (length, self.config["cross_attention_dim"])}

    @property
    def text_readers(self):
        length = self.embedding_shapes["encoder_hidden_states"][0]
        return TextReader.among(self.extras, "tokenizer", length)

    def encode_prompts(self, prompts):
        """The text encoder's last hidden state."""
        states, _ = clip_states(
            self.extras["tokenizer"], self.extras["text_encoder"], prompts, self.name, self.device
        )
        return {"encoder_hidden_states": states}

    def call_arguments(self, x, t, condition):
        return {"sample": x, "timestep": t, "return_dict": False, **condition}

    @property
    def multiple(self):
        return unet_multiple(self.denoiser)


class SDXL(StableDiffusion):
    """Two text encoders, a pooled embedding, and the picture's size as a condition."""

    family = "sdxl"
    covers = "Stable Diffusion XL base (UNet2DConditionModel)"
    example = "stabilityai/stable-diffusion-xl-base-1.0"
    components = {  # noqa: RUF012
        **StableDiffusion.components,
        "text_encoder_2": CLIP_PROJECTED,
        "tokenizer_2": CLIP_TOKENIZER,
    }

    @classmethod
    def accepts(cls, config, index):
        first = (index.get("text_encoder") or [None])[0]  # the refiner has only the second
        return config.get("addition_embed_type") == "text_time" and first is not None

    @property
    def embedding_shapes(self):
        pooled = (
            self.config["projection_class_embeddings_input_dim"]
            - 6 * self.config["addition_time_embed_dim"]
        )
        return {**super().embedding_shapes, "text_embeds": (pooled,)}

    def encode_prompts(self, prompts):
        """Both encoders' states before the last layer, side by side; the second's projection."""
        states = []
        for number in ("", "_2"):
            tokenizer, encoder = (self.extras[n + number] for n in ("tokenizer", "text_encoder"))
            state, pooled = clip_states(
                tokenizer, encoder, prompts, self.name, self.device, layer=-2
            )
            states.append(state)
        return {"encoder_hidden_states": torch.cat(states, -1), "text_embeds": pooled}

    def call_arguments(self, x, t, condition):
        """Original and target size are the picture's, uncropped."""
        condition = dict(condition)
        height, width = (side * self.latent_factor for side in x.shape[2:])
        ids = constant((height, width, 0, 0, height, width), x.dtype, x.device)
        added = {"text_embeds": condition.pop("text_embeds"), "time_ids": ids.expand(len(x), 6)}
        return {**super().call_arguments(x, t, condition), "added_cond_kwargs": added}
