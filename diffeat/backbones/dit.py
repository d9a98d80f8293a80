"""Diffusion transformers with class labels (diffusers `DiTTransformer2DModel`), on VAE latents
or on pixels. Peebles & Xie 2023."""

from __future__ import annotations

from diffeat.backbones.base import Backbone, checked_label, reject_prompt
from diffeat.blocks import BlockInfo


class DiT(Backbone):
    """A class-conditional transformer; without a label it gets the null class."""

    family = "dit"
    component = "transformer"
    # the first DiT repositories name the class by what it was before diffusers 0.29
    denoiser_classes = ("DiTTransformer2DModel", "Transformer2DModel")
    may_need = ("vae",)

    @classmethod
    def accepts(cls, config):
        return config.get("norm_type", "ada_norm_zero") == "ada_norm_zero"

    def list_blocks(self):
        width = self.denoiser.inner_dim
        return [
            BlockInfo(f"block.{i}", f"transformer_blocks.{i}", "transformer", "blocks",
                      width, self.multiple, "NLD", i)
            for i in range(len(self.denoiser.transformer_blocks))
        ]  # fmt: skip

    def condition(self, prompt, label):
        reject_prompt(self.name, prompt)
        classes = self.config["num_embeds_ada_norm"]
        return {"class_labels": checked_label(self.name, label, classes, null=classes)}

    def call_arguments(self, x, t, condition):
        return {"hidden_states": x, "timestep": t, **condition}

    @property
    def multiple(self):
        return self.config["patch_size"]
