"""Diffusion transformers with class labels (diffusers `DiTTransformer2DModel`), on VAE latents
or on pixels: DiT (Peebles & Xie 2023) and SiT (Ma et al. 2024; Yu et al. 2025, REPA)."""

from __future__ import annotations

from diffeat.backbones.aliases import transformer_aliases
from diffeat.backbones.base import Backbone
from diffeat.backbones.pipeline import VAE
from diffeat.backbones.tensors import basic_block, transformer
from diffeat.hooks import Tap

FREQUENCIES_KEY = "_timestep_freq_shift"
"""Key of transformer/config.json: 0 for networks trained with the original code."""


class DiT(Backbone):
    """A class-conditional transformer; without a label it gets the null class."""

    family = "dit"
    covers = "DiT, on VAE latents or pixels (DiTTransformer2DModel)"
    example = "facebook/DiT-XL-2-256"
    component = "transformer"
    # the first DiT repositories name the class by what it was before diffusers 0.29
    denoiser_classes = ("DiTTransformer2DModel", "Transformer2DModel")
    components = {"vae": VAE}  # noqa: RUF012
    optional = ("vae",)

    @classmethod
    def accepts(cls, config, index):
        return config.get("norm_type", "ada_norm_zero") == "ada_norm_zero"

    @staticmethod
    def adjust(denoiser, config):
        """Original checkpoints embed t at frequencies that diffusers' network shifts by one."""
        from diffusers.models.embeddings import Timesteps

        for module in denoiser.modules():
            if isinstance(module, Timesteps) and FREQUENCIES_KEY in config:
                module.downscale_freq_shift = config[FREQUENCIES_KEY]

    def list_tensors(self):
        width, stride = self.denoiser.inner_dim, self.multiple
        for i, block in enumerate(self.denoiser.transformer_blocks):
            path = f"transformer_blocks.{i}"
            at = yield from transformer(f"block.{i}", path, width, stride, "attn1")
            yield from basic_block(at, block, path)

    @property
    def aliases(self):
        return transformer_aliases(self.tensors)

    @property
    def classes(self):
        return self.config["num_embeds_ada_norm"]

    @property
    def null_class(self):
        return self.classes

    def call_arguments(self, x, t, condition):
        return {"hidden_states": x, "timestep": t, **condition}

    @property
    def multiple(self):
        return self.config["patch_size"]

    # diffusers puts a DiT's patches together as a square, whatever the picture's shape was

    @property
    def output_tap(self):
        return Tap("proj_out_2")

    @property
    def output_layout(self):
        return "patches"


class SiT(DiT):
    """The same network on a straight path from picture to noise; it predicts the velocity."""

    family = "sit"
    covers = "SiT and REPA, converted by scripts/convert.py (DiTTransformer2DModel)"
    example = "sit-xl-2-256"

    @classmethod
    def accepts(cls, config, index):
        return super().accepts(config, index) and index.get("_class_name") == "SiTPipeline"
