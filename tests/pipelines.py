"""Tiny pipelines with seeded random weights, saved and run by diffusers and transformers alone."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import diffusers
import torch
import transformers

NATIVE = (32, 32)  # pixels that every pipeline here is made for
TALL = (32, 48)  # not square, and not the native size
CLASSES = 5
PROMPT = "a cat"
LABEL = 2
TOKENS = 12  # length of a tokenised prompt


# --- parts ------------------------------------------------------------------------------------


def pixel_unet(**changes) -> diffusers.UNet2DModel:
    options = {
        "sample_size": 32,
        "in_channels": 3,
        "out_channels": 3,
        "layers_per_block": 2,
        "block_out_channels": (8, 16, 24),
        "down_block_types": ("DownBlock2D", "AttnDownBlock2D", "DownBlock2D"),
        "up_block_types": ("UpBlock2D", "AttnUpBlock2D", "UpBlock2D"),
        "attention_head_dim": 8,
        "norm_num_groups": 4,
    }
    return diffusers.UNet2DModel(**{**options, **changes})


def text_unet(**changes) -> diffusers.UNet2DConditionModel:
    options = {
        "sample_size": 16,
        "in_channels": 4,
        "out_channels": 4,
        "layers_per_block": 2,
        "block_out_channels": (8, 16),
        "down_block_types": ("CrossAttnDownBlock2D", "DownBlock2D"),
        "up_block_types": ("UpBlock2D", "CrossAttnUpBlock2D"),
        "attention_head_dim": 2,
        "cross_attention_dim": 16,
        "norm_num_groups": 4,
    }
    return diffusers.UNet2DConditionModel(**{**options, **changes})


def transformer(**changes) -> diffusers.DiTTransformer2DModel:
    options = {
        "sample_size": 16,
        "in_channels": 4,
        "out_channels": 8,
        "num_layers": 3,
        "num_attention_heads": 2,
        "attention_head_dim": 8,
        "patch_size": 2,
        "num_embeds_ada_norm": CLASSES,
        "norm_num_groups": 4,
    }
    return diffusers.DiTTransformer2DModel(**{**options, **changes})


def autoencoder(**changes) -> diffusers.AutoencoderKL:
    options = {
        "in_channels": 3,
        "out_channels": 3,
        "down_block_types": ("DownEncoderBlock2D",) * 2,
        "up_block_types": ("UpDecoderBlock2D",) * 2,
        "block_out_channels": (8, 16),
        "latent_channels": 4,
        "norm_num_groups": 4,
        "sample_size": 32,
        "scaling_factor": 0.7,
    }
    return diffusers.AutoencoderKL(**{**options, **changes})


def tokenizer(folder: Path) -> transformers.CLIPTokenizer:
    """A CLIP tokenizer that knows single letters and three merges."""
    letters = "abcdefghijklmnopqrstuvwxyz"
    merges = ["a t</w>", "c at</w>", "d o"]
    words = [*letters, *(f"{letter}</w>" for letter in letters), "at</w>", "cat</w>", "do"]
    words += ["<|startoftext|>", "<|endoftext|>"]
    folder.mkdir(parents=True)
    vocabulary, rules = folder / "vocab.json", folder / "merges.txt"
    vocabulary.write_text(json.dumps({word: i for i, word in enumerate(words)}), "utf-8")
    rules.write_text("\n".join(["#version: 0.2", *merges, ""]), "utf-8")
    return transformers.CLIPTokenizer.from_pretrained(str(folder), model_max_length=TOKENS)


def text_encoder(words: int, **changes) -> transformers.CLIPTextModel:
    options = {
        "vocab_size": words,
        "hidden_size": 16,
        "intermediate_size": 24,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "max_position_embeddings": TOKENS,
        "bos_token_id": words - 2,
        "eos_token_id": words - 1,
        "pad_token_id": words - 1,
    }
    return transformers.CLIPTextModel(transformers.CLIPTextConfig(**{**options, **changes}))


def noise_schedule(**changes) -> diffusers.DDPMScheduler:
    return diffusers.DDPMScheduler(**changes)


def flow_schedule() -> diffusers.FlowMatchEulerDiscreteScheduler:
    return diffusers.FlowMatchEulerDiscreteScheduler()


# --- pipelines --------------------------------------------------------------------------------


def save_pixel(folder: Path, scheduler=None, **changes) -> None:
    unet = pixel_unet(**changes)
    diffusers.DDPMPipeline(unet, scheduler or noise_schedule()).save_pretrained(folder)


def save_pixel_flow(folder: Path) -> None:
    save_pixel(folder, flow_schedule())


def save_pixel_classes(folder: Path) -> None:
    # two stages at one resolution would hide a wrong stride; one layer finds a wrong count
    save_pixel(
        folder,
        num_class_embeds=CLASSES,
        layers_per_block=1,
        block_out_channels=(8, 16),
        down_block_types=("AttnDownBlock2D", "DownBlock2D"),
        up_block_types=("UpBlock2D", "AttnUpBlock2D"),
        resnet_time_scale_shift="scale_shift",
        downsample_type="resnet",
        upsample_type="resnet",
    )


def save_pixel_grey(folder: Path) -> None:
    # no attention anywhere, not even in the middle
    save_pixel(
        folder,
        in_channels=1,
        out_channels=1,
        down_block_types=("DownBlock2D",) * 3,
        up_block_types=("UpBlock2D",) * 3,
        add_attention=False,
    )


LATENT_BETAS = {"beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear"}


def save_stable_diffusion(folder: Path, scheduler, unet: dict, encoder: dict) -> None:
    words = tokenizer(folder.parent / f"{folder.name}-words")
    diffusers.StableDiffusionPipeline(
        vae=autoencoder(),
        text_encoder=text_encoder(len(words), **encoder),
        tokenizer=words,
        unet=text_unet(**unet),
        scheduler=scheduler,
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    ).save_pretrained(folder)


def save_sd1(folder: Path) -> None:
    scheduler = diffusers.PNDMScheduler(
        **LATENT_BETAS, skip_prk_steps=True, set_alpha_to_one=False, steps_offset=1
    )
    save_stable_diffusion(folder, scheduler, {}, {})


def save_sd2(folder: Path) -> None:
    unet = {
        "block_out_channels": (8, 16, 24),
        "down_block_types": ("CrossAttnDownBlock2D",) * 2 + ("DownBlock2D",),
        "up_block_types": ("UpBlock2D",) + ("CrossAttnUpBlock2D",) * 2,
        "attention_head_dim": (1, 2, 3),
        "cross_attention_dim": 24,
        "use_linear_projection": True,
    }
    encoder = {"hidden_size": 24, "hidden_act": "gelu"}
    scheduler = diffusers.DDIMScheduler(
        **LATENT_BETAS, prediction_type="v_prediction", clip_sample=False, steps_offset=1
    )
    save_stable_diffusion(folder, scheduler, unet, encoder)


def save_dit(folder: Path) -> None:
    scheduler = diffusers.DDIMScheduler()
    diffusers.DiTPipeline(transformer(), autoencoder(), scheduler).save_pretrained(folder)


def save_dit_pixels(folder: Path, scheduler=None) -> None:
    network = transformer(sample_size=32, in_channels=3, out_channels=3, patch_size=4)
    pipeline = diffusers.DiTPipeline(network, None, scheduler or noise_schedule())
    pipeline.save_pretrained(folder)


def save_dit_flow(folder: Path) -> None:
    save_dit_pixels(folder, flow_schedule())


BUILDERS: dict[str, Callable[[Path], None]] = {
    "pixel": save_pixel,
    "pixel-classes": save_pixel_classes,
    "pixel-grey": save_pixel_grey,
    "pixel-flow": save_pixel_flow,
    "sd1": save_sd1,
    "sd2": save_sd2,
    "dit": save_dit,
    "dit-pixels": save_dit_pixels,
    "dit-flow": save_dit_flow,
}
FLOW = ("pixel-flow", "dit-flow")
TRANSFORMERS = ("dit", "dit-pixels", "dit-flow")
WITH_VAE = ("sd1", "sd2", "dit")


def build(name: str, folder: Path) -> Path:
    """Write one of BUILDERS; the same weights every time, without a trace in torch's RNG."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(sum(map(ord, name)))
        BUILDERS[name](folder)
    return folder


# --- the same pipelines, run without diffeat -----------------------------------------------------


@dataclass(frozen=True)
class Plain:
    """The parts of a saved pipeline as diffusers and transformers load them.

    Attributes:
        name: key of BUILDERS.
        folder: where it was saved.
        dtype: of all weights.
    """

    name: str
    folder: Path
    dtype: torch.dtype = torch.float32

    @cached_property
    def denoiser(self) -> torch.nn.Module:
        if self.name in TRANSFORMERS:
            cls, part = diffusers.DiTTransformer2DModel, "transformer"
        elif self.name in ("sd1", "sd2"):
            cls, part = diffusers.UNet2DConditionModel, "unet"
        else:
            cls, part = diffusers.UNet2DModel, "unet"
        return cls.from_pretrained(self.folder / part, torch_dtype=self.dtype).eval()

    @cached_property
    def vae(self) -> diffusers.AutoencoderKL:
        cls = diffusers.AutoencoderKL
        return cls.from_pretrained(self.folder / "vae", torch_dtype=self.dtype).eval()

    @cached_property
    def scheduler(self) -> diffusers.DDPMScheduler:
        return diffusers.DDPMScheduler.from_pretrained(self.folder / "scheduler")

    @torch.no_grad()
    def posterior(self, pixels: torch.Tensor):
        return self.vae.encode((pixels * 2 - 1).to(self.dtype)).latent_dist

    def encode(self, pixels: torch.Tensor) -> torch.Tensor:
        """Clean pictures where the denoiser works."""
        if self.name in WITH_VAE:
            return self.posterior(pixels).mean.float() * self.vae.config.scaling_factor
        x = pixels * 2 - 1
        return x.mean(1, keepdim=True) if self.name == "pixel-grey" else x

    def noisy(self, clean: torch.Tensor, noise: torch.Tensor, t: float) -> torch.Tensor:
        if self.name in FLOW:
            return (1 - t / 1000) * clean + t / 1000 * noise
        return self.scheduler.add_noise(clean, noise, torch.full((len(clean),), t))

    @torch.no_grad()
    def condition(self, count: int, prompt: str = PROMPT, label: int = LABEL) -> dict:
        """What the denoiser's forward wants besides the input and t."""
        labels = {"class_labels": torch.full((count,), label)}
        if self.name in TRANSFORMERS or self.name == "pixel-classes":
            return labels
        if self.name not in ("sd1", "sd2"):
            return {}
        words = transformers.CLIPTokenizer.from_pretrained(str(self.folder / "tokenizer"))
        network = transformers.CLIPTextModel.from_pretrained(self.folder / "text_encoder")
        network = network.to(self.dtype).eval()
        tokens = words(prompt, padding="max_length", max_length=TOKENS, return_tensors="pt")
        states = network(tokens.input_ids).last_hidden_state
        return {"encoder_hidden_states": states.expand(count, -1, -1)}

    @torch.no_grad()
    def activations(
        self, paths, x: torch.Tensor, t: float, condition: dict | None = None
    ) -> dict[str, torch.Tensor]:
        """Outputs of submodules in a whole forward, by path, in the order in which they came."""
        found: dict[str, torch.Tensor] = {}

        def keep(path):
            def hook(_module, _inputs, output):
                while not isinstance(output, torch.Tensor):
                    output = output[0]
                found[path] = output.detach().clone()

            return hook

        if condition is None:
            condition = self.condition(len(x))
        times = torch.full((len(x),), t, dtype=torch.float32 if self.name in FLOW else torch.int64)
        handles = [
            self.denoiser.get_submodule(path).register_forward_hook(keep(path)) for path in paths
        ]
        try:
            self.denoiser(x.to(self.dtype), times, **condition)
        except RuntimeError:
            # diffusers puts the patches of a DiT together as a square; all blocks ran before that
            if self.name not in TRANSFORMERS or x.shape[2] == x.shape[3]:
                raise
        finally:
            for handle in handles:
                handle.remove()
        return found

    def maps(self, paths, x, t: float, condition: dict | None = None) -> dict[str, torch.Tensor]:
        """`activations`, with tokens brought to maps (N, C, H, W)."""
        found = self.activations(paths, x, t, condition)
        if self.name not in TRANSFORMERS:
            return found
        rows, columns = (n // self.denoiser.config.patch_size for n in x.shape[2:])
        return {
            path: tokens.reshape(len(x), rows, columns, -1).permute(0, 3, 1, 2)
            for path, tokens in found.items()
        }


def prompt_and_label(name: str) -> dict:
    """The fields of a spec that say what `Plain.condition` says by default."""
    if name in ("sd1", "sd2"):
        return {"prompt": PROMPT}
    return {"label": LABEL} if name in TRANSFORMERS or name == "pixel-classes" else {}


def pictures(count: int, size: tuple[int, int] = NATIVE, seed: int = 0) -> torch.Tensor:
    """Random pictures (N, 3, H, W) in [0, 1]."""
    return torch.rand(count, 3, *size, generator=torch.Generator().manual_seed(seed))


def gaussian(*shape: int, seed: int = 1) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))
