"""Text-to-image transformers: PixArt (Chen et al. 2024), Stable Diffusion 3 (Esser et al. 2024)
and FLUX (Black Forest Labs 2024)."""

from __future__ import annotations

from abc import abstractmethod

import torch
import torch.nn.functional as F

from diffeat.backbones.aliases import transformer_aliases
from diffeat.backbones.base import Backbone
from diffeat.backbones.conditioning import TextReader, clip_states, t5_states, text_length
from diffeat.backbones.devices import constant
from diffeat.backbones.pipeline import CLIP, CLIP_PROJECTED, CLIP_TOKENIZER, T5, T5_TOKENIZER, VAE
from diffeat.backbones.tensors import (
    Tensors,
    attention,
    basic_block,
    feed_forward,
    joint_attention,
    single_attention,
    transformer,
)
from diffeat.hooks import Tap


class TextTransformer(Backbone):
    """What text-to-image transformers on VAE latents share."""

    component = "transformer"
    stages = (("block", "transformer_blocks"),)
    """(name, path) of the lists of blocks, in the order of execution."""

    def list_tensors(self):
        for name, path in self.stages:
            for i, block in enumerate(self.denoiser.get_submodule(path)):
                yield from self.list_block(block, f"{name}.{i}", f"{path}.{i}")

    @abstractmethod
    def list_block(self, block, name: str, path: str) -> Tensors:
        """One block with its further tensors."""

    @property
    def width(self) -> int:
        """D of the tokens."""
        return self.denoiser.inner_dim

    @property
    def aliases(self):
        return transformer_aliases(self.tensors)

    def call_arguments(self, x, t, condition):
        return {"hidden_states": x, "timestep": t, "return_dict": False, **condition}

    @property
    def multiple(self):
        return self.config["patch_size"]


class PixArt(TextTransformer):
    """Cross-attention to a T5's states; one modulation for all blocks."""

    family = "pixart"
    covers = "PixArt-Alpha, PixArt-Sigma (PixArtTransformer2DModel)"
    example = "PixArt-alpha/PixArt-Sigma-XL-2-1024-MS"
    # PixArt's repositories name the class by what it was before diffusers 0.29
    denoiser_classes = ("PixArtTransformer2DModel", "Transformer2DModel")
    components = {"vae": VAE, "text_encoder": T5, "tokenizer": T5_TOKENIZER}  # noqa: RUF012

    @classmethod
    def accepts(cls, config, index):
        return config.get("norm_type") == "ada_norm_single"

    def list_block(self, block, name, path):
        at = yield from transformer(name, path, self.width, self.multiple, "attn1")
        yield from basic_block(at, block, path)

    @property
    def embedding_shapes(self):
        most = 300 if "Sigma" in str(self.index.get("_class_name")) else 120
        length = text_length(self.extras.get("tokenizer"), most)
        width = self.config["caption_channels"] or self.config["cross_attention_dim"]
        return {"encoder_hidden_states": (length, width), "encoder_attention_mask": (length,)}

    @property
    def text_readers(self):
        length = self.embedding_shapes["encoder_attention_mask"][0]
        return TextReader.among(self.extras, "tokenizer", length, lower=True)

    def encode_prompts(self, prompts):
        """The T5's last state and the mask of real tokens; it was trained on lower case."""
        length = self.embedding_shapes["encoder_attention_mask"][0]
        states, mask = t5_states(
            self.extras["tokenizer"], self.extras["text_encoder"],
            [prompt.lower().strip() for prompt in prompts], length, self.name, self.device,
            masked=True,
        )  # fmt: skip
        return {"encoder_hidden_states": states, "encoder_attention_mask": mask}

    def call_arguments(self, x, t, condition):
        """PixArt-Alpha is told the picture's size; Sigma is not."""
        added = {"resolution": None, "aspect_ratio": None}
        if self.denoiser.use_additional_conditions:
            height, width = (side * self.latent_factor for side in x.shape[2:])
            told = {"resolution": (height, width), "aspect_ratio": (height / width,)}
            added = {
                name: constant(value, x.dtype, x.device).expand(len(x), -1)
                for name, value in told.items()
            }
        return {**super().call_arguments(x, t, condition), "added_cond_kwargs": added}


class StableDiffusion3(TextTransformer):
    """Joint attention over image and text, each with weights of its own; three text encoders."""

    family = "sd3"
    covers = "Stable Diffusion 3, 3.5 (SD3Transformer2DModel)"
    example = "stabilityai/stable-diffusion-3-medium-diffusers"
    denoiser_classes = ("SD3Transformer2DModel",)
    lora_loader = "SD3LoraLoaderMixin"
    components = {  # noqa: RUF012
        "vae": VAE,
        "text_encoder": CLIP_PROJECTED,
        "tokenizer": CLIP_TOKENIZER,
        "text_encoder_2": CLIP_PROJECTED,
        "tokenizer_2": CLIP_TOKENIZER,
        "text_encoder_3": T5,
        "tokenizer_3": T5_TOKENIZER,
    }
    optional = ("text_encoder_3", "tokenizer_3")

    def list_block(self, block, name, path):
        tap = Tap(path, item=1)
        at = yield from transformer(name, path, self.width, self.multiple, "attn", tap)
        if not block.context_pre_only:
            yield at.also("text", Tap(path), self.width, "text", 0)
        yield from joint_attention(at, block.attn, f"{path}.attn", "first")
        if getattr(block, "attn2", None) is not None:  # of the image alone, in SD 3.5
            yield from attention(at, block.attn2, f"{path}.attn2", "dual")
        yield feed_forward(at, block.ff, f"{path}.ff")

    @property
    def largest(self):
        return self.config["pos_embed_max_size"] * self.multiple

    @property
    def embedding_shapes(self):
        clip = text_length(self.extras.get("tokenizer"), 77)
        length = clip + text_length(self.extras.get("tokenizer_3"), 256)
        return {
            "encoder_hidden_states": (length, self.config["joint_attention_dim"]),
            "pooled_projections": (self.config["pooled_projection_dim"],),
        }

    @property
    def text_readers(self):
        clip = text_length(self.extras.get("tokenizer"), 77)
        rest = self.embedding_shapes["encoder_hidden_states"][0] - clip
        of_t5 = TextReader.among(self.extras, "tokenizer_3", rest, clip)
        return TextReader.among(self.extras, "tokenizer", clip) + of_t5

    def encode_prompts(self, prompts):
        """CLIP states side by side, padded to the T5's width, then the T5's tokens."""
        t5 = self.extras.get("text_encoder_3")
        states, pools = [], []
        for number in ("", "_2"):
            state, pooled = clip_states(
                self.extras[f"tokenizer{number}"], self.extras[f"text_encoder{number}"], prompts,
                self.name, self.device, layer=-2, cut=t5 is not None,
            )  # fmt: skip
            states.append(state)
            pools.append(pooled)
        clip = torch.cat(states, -1)
        length, width = self.embedding_shapes["encoder_hidden_states"]
        clip = F.pad(clip, (0, width - clip.shape[-1]))
        rest = length - clip.shape[1]
        if t5 is None:  # the model was trained to do without
            tokens = clip.new_zeros(len(prompts), rest, width)
        else:
            tokens, _ = t5_states(
                self.extras["tokenizer_3"], t5, prompts, rest, self.name, self.device
            )
        both = torch.cat([clip, tokens.to(clip.dtype)], 1)
        return {"encoder_hidden_states": both, "pooled_projections": torch.cat(pools, -1)}


class Flux(TextTransformer):
    """Double blocks (image and text apart), then single blocks (one sequence, text first).

    Latents are packed: a token holds 2×2 cells. Models distilled for guidance are told 3.5, as
    their pipeline does by default.
    """

    family = "flux"
    covers = "FLUX.1 (FluxTransformer2DModel)"
    example = "black-forest-labs/FLUX.1-dev"
    denoiser_classes = ("FluxTransformer2DModel",)
    lora_loader = "FluxLoraLoaderMixin"
    components = {  # noqa: RUF012
        "vae": VAE,
        "text_encoder": CLIP,
        "tokenizer": CLIP_TOKENIZER,
        "text_encoder_2": T5,
        "tokenizer_2": T5_TOKENIZER,
    }
    stages = (("block", "transformer_blocks"), ("single", "single_transformer_blocks"))
    packing = 2
    guidance = 3.5

    def list_block(self, block, name, path):
        single = name.startswith("single")
        at = yield from transformer(
            name, path, self.width, 2, "attn", Tap(path, item=1), "last" if single else "all"
        )
        yield at.also("text", Tap(path), self.width, "text", 0)
        if single:
            yield from single_attention(at, block.attn, f"{path}.attn", "last")
            inner = Tap(f"{path}.act_mlp")
            yield at.also("ff.inner", inner, block.mlp_hidden_dim, "NLD", tokens="last")
        else:
            yield from joint_attention(at, block.attn, f"{path}.attn", "last")
            yield feed_forward(at, block.ff, f"{path}.ff")

    @property
    def multiple(self):
        return self.packing

    @property
    def native_size(self):
        if self.config.get("_sample_size"):
            return super().native_size
        return (128 * self.latent_factor,) * 2  # what its pipeline paints

    @property
    def embedding_shapes(self):
        length = text_length(self.extras.get("tokenizer_2"), 512)
        return {
            "encoder_hidden_states": (length, self.config["joint_attention_dim"]),
            "pooled_projections": (self.config["pooled_projection_dim"],),
        }

    @property
    def text_readers(self):
        length = self.embedding_shapes["encoder_hidden_states"][0]
        return TextReader.among(self.extras, "tokenizer_2", length)

    def encode_prompts(self, prompts):
        """The T5's tokens; CLIP gives the pooled vector."""
        _, pooled = clip_states(
            self.extras["tokenizer"], self.extras["text_encoder"], prompts, self.name,
            self.device, cut=True,
        )  # fmt: skip
        length = self.embedding_shapes["encoder_hidden_states"][0]
        states, _ = t5_states(
            self.extras["tokenizer_2"], self.extras["text_encoder_2"], prompts, length,
            self.name, self.device,
        )  # fmt: skip
        return {"encoder_hidden_states": states, "pooled_projections": pooled}

    def call_arguments(self, x, t, condition):
        """Packed latents with their positions; the time as a share of 1."""
        n, _, h, w = x.shape
        side = self.packing
        tokens = x.unflatten(3, (w // side, side)).unflatten(2, (h // side, side))
        tokens = tokens.permute(0, 2, 4, 1, 3, 5).flatten(3).flatten(1, 2)
        rows, columns = torch.meshgrid(
            torch.arange(h // side, device=x.device),
            torch.arange(w // side, device=x.device),
            indexing="ij",
        )
        places = torch.stack([torch.zeros_like(rows), rows, columns], -1).flatten(0, 1)
        length = condition["encoder_hidden_states"].shape[1]
        arguments = super().call_arguments(tokens, (t / self.schedule.steps).to(x.dtype), condition)
        arguments |= {"img_ids": places.to(x.dtype), "txt_ids": x.new_zeros(length, 3)}
        if self.config.get("guidance_embeds"):
            arguments["guidance"] = torch.full((n,), self.guidance, device=x.device)
        return arguments
