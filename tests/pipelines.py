"""Tiny pipelines with seeded random weights, saved by diffusers and transformers alone.

`tests.plain` runs them without diffeat; `tests.reference` says what every tensor must be.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import diffusers
import pytest
import torch

from tests import parts
from tests.parts import (
    CLASSES,
    LABEL,
    LONG_TOKENS,
    NATIVE,
    PROMPT,
    TALL,
    TOKENS,
    autoencoder,
    flow_schedule,
    noise_schedule,
    pixel_unet,
    shifted_autoencoder,
    text_encoder,
    text_unet,
    tokenizer,
    transformer,
)
from tests.plain import Plain
from tests.reference import reference, references, tensor_names

__all__ = [
    "BUILDERS",
    "CLASSES",
    "FLOW",
    "JOINT",
    "LABEL",
    "LABELLED",
    "LONG_TOKENS",
    "NATIVE",
    "PIXART",
    "PROMPT",
    "PROMPTED",
    "TALL",
    "TOKENS",
    "TRANSFORMERS",
    "WITH_VAE",
    "Plain",
    "autoencoder",
    "build",
    "flow_schedule",
    "gaussian",
    "levels",
    "noise_schedule",
    "pictures",
    "pixel_unet",
    "prompt_and_label",
    "reference",
    "references",
    "save_pixel",
    "save_stable_diffusion",
    "tensor_names",
    "text_encoder",
    "text_unet",
    "tokenizer",
    "transformer",
]


# --- U-Nets on pixels -------------------------------------------------------------------------


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


def save_adm(folder: Path, **changes) -> None:
    save_pixel(
        folder,
        noise_schedule(variance_type="learned_range"),
        out_channels=6,
        layers_per_block=1,
        down_block_types=("ResnetDownsampleBlock2D", "AttnDownBlock2D", "AttnDownBlock2D"),
        up_block_types=("AttnUpBlock2D", "AttnUpBlock2D", "ResnetUpsampleBlock2D"),
        resnet_time_scale_shift="scale_shift",
        downsample_type="resnet",
        upsample_type="resnet",
        attn_norm_num_groups=4,
        **changes,
    )


def save_adm_classes(folder: Path) -> None:
    save_adm(folder, num_class_embeds=CLASSES)


def save_edm(folder: Path) -> None:
    scheduler = diffusers.EDMEulerScheduler(sigma_min=0.002, sigma_max=80.0, sigma_data=0.5)
    save_by_hand(folder, "EDMPipeline", unet=pixel_unet(layers_per_block=1), scheduler=scheduler)


# --- U-Nets with text -------------------------------------------------------------------------

LATENT_BETAS = {"beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear"}


def save_stable_diffusion(folder: Path, scheduler, unet: dict, encoder: dict) -> None:
    words = tokenizer(_words(folder))
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


def save_sdxl(folder: Path) -> None:
    # the second tokenizer pads with another word than the first
    first, second = tokenizer(_words(folder)), tokenizer(_words(folder, 2), pad="!")
    diffusers.StableDiffusionXLPipeline(
        vae=autoencoder(scaling_factor=0.3),
        text_encoder=text_encoder(len(first), hidden_size=8, num_hidden_layers=3),
        text_encoder_2=text_encoder(len(second), projection=20, hidden_act="gelu"),
        tokenizer=first,
        tokenizer_2=second,
        unet=parts.sdxl_unet(text_width=8 + 16, pooled_width=20),
        scheduler=diffusers.EulerDiscreteScheduler(
            **LATENT_BETAS, steps_offset=1, timestep_spacing="leading"
        ),
        force_zeros_for_empty_prompt=True,
        add_watermarker=False,
    ).save_pretrained(folder)


# --- transformers -----------------------------------------------------------------------------


def save_dit(folder: Path) -> None:
    scheduler = diffusers.DDIMScheduler()
    diffusers.DiTPipeline(transformer(), autoencoder(), scheduler).save_pretrained(folder)


def save_dit_pixels(folder: Path, scheduler=None) -> None:
    network = transformer(sample_size=32, in_channels=3, out_channels=3, patch_size=4)
    pipeline = diffusers.DiTPipeline(network, None, scheduler or noise_schedule())
    pipeline.save_pretrained(folder)


def save_dit_flow(folder: Path) -> None:
    save_dit_pixels(folder, flow_schedule())


def save_sit(folder: Path) -> None:
    scheduler = flow_schedule(num_train_timesteps=1)
    network = parts.scaled(transformer(), "timestep_embedder", 4)
    save_by_hand(folder, "SiTPipeline", transformer=network, vae=autoencoder(), scheduler=scheduler)
    add_to_config(folder / "transformer", _timestep_freq_shift=0)


def save_pixart_sigma(folder: Path, pipeline=diffusers.PixArtSigmaPipeline, **changes) -> None:
    words = parts.t5_tokenizer(_words(folder))
    pipeline(
        tokenizer=words,
        text_encoder=parts.t5_encoder(len(words), 20),
        vae=autoencoder(),
        transformer=parts.pixart_transformer(20, **changes),
        scheduler=diffusers.DPMSolverMultistepScheduler(),
    ).save_pretrained(folder)


def save_pixart_alpha(folder: Path) -> None:
    save_pixart_sigma(folder, diffusers.PixArtAlphaPipeline, use_additional_conditions=True)


def save_sd3(folder: Path, long_text: bool = True, **changes) -> None:
    first, second = tokenizer(_words(folder)), tokenizer(_words(folder, 2), pad="!")
    third = parts.t5_tokenizer(_words(folder, 3)) if long_text else None
    diffusers.StableDiffusion3Pipeline(
        transformer=parts.sd3_transformer(text_width=28, pooled_width=10 + 20, **changes),
        scheduler=flow_schedule(shift=3.0),
        vae=shifted_autoencoder(),
        text_encoder=text_encoder(len(first), projection=10, hidden_size=8),
        tokenizer=first,
        text_encoder_2=text_encoder(len(second), projection=20, hidden_act="gelu"),
        tokenizer_2=second,
        text_encoder_3=parts.t5_encoder(len(third), 28) if long_text else None,
        tokenizer_3=third,
    ).save_pretrained(folder)


def save_sd35(folder: Path) -> None:
    save_sd3(folder, long_text=False, qk_norm="rms_norm", dual_attention_layers=(0,))


def save_flux(folder: Path, guidance: bool = True) -> None:
    first, second = tokenizer(_words(folder)), parts.t5_tokenizer(_words(folder, 2))
    diffusers.FluxPipeline(
        scheduler=flow_schedule(shift=3.0, use_dynamic_shifting=True),
        vae=shifted_autoencoder(),
        text_encoder=text_encoder(len(first)),
        tokenizer=first,
        text_encoder_2=parts.t5_encoder(len(second), 20),
        tokenizer_2=second,
        transformer=parts.flux_transformer(20, 16, guidance),
    ).save_pretrained(folder)
    # FLUX has no size of its own in its configuration
    add_to_config(folder / "transformer", _sample_size=16)


def save_flux_schnell(folder: Path) -> None:
    save_flux(folder, guidance=False)


def save_auraflow(folder: Path) -> None:
    words = parts.llama_tokenizer(_words(folder))
    diffusers.AuraFlowPipeline(
        tokenizer=words,
        text_encoder=parts.umt5_encoder(len(words), 20),
        vae=autoencoder(scaling_factor=0.3),
        transformer=parts.auraflow_transformer(20),
        scheduler=flow_schedule(shift=1.73),
    ).save_pretrained(folder)


# --- all of them ------------------------------------------------------------------------------

BUILDERS: dict[str, Callable[[Path], None]] = {
    "pixel": save_pixel,
    "pixel-classes": save_pixel_classes,
    "pixel-grey": save_pixel_grey,
    "pixel-flow": save_pixel_flow,
    "adm": save_adm,
    "adm-classes": save_adm_classes,
    "edm": save_edm,
    "sd1": save_sd1,
    "sd2": save_sd2,
    "sdxl": save_sdxl,
    "dit": save_dit,
    "dit-pixels": save_dit_pixels,
    "dit-flow": save_dit_flow,
    "sit": save_sit,
    "pixart-sigma": save_pixart_sigma,
    "pixart-alpha": save_pixart_alpha,
    "sd3": save_sd3,
    "sd35": save_sd35,
    "flux": save_flux,
    "flux-schnell": save_flux_schnell,
    "auraflow": save_auraflow,
}

PATHS = ("pixel", "adm", "sd1", "sdxl", "dit", "pixart-alpha", "sd35", "flux", "auraflow")
"""One pipeline of each kind of path through the code."""
EACH_PATH = [
    name if name in PATHS else pytest.param(name, marks=pytest.mark.slow) for name in BUILDERS
]
"""Every pipeline, of which those that go a path once more are for the slow tests."""
JOINT = ("sd3", "sd35", "flux", "flux-schnell", "auraflow")  # text and image attend as one
PIXART = ("pixart-sigma", "pixart-alpha")
TRANSFORMERS = ("dit", "dit-pixels", "dit-flow")  # with classes, told t = 0 … 1000
FLOW = ("pixel-flow", "dit-flow", *JOINT)  # "sit" too, whose t ends at 1
LABELLED = ("pixel-classes", "adm-classes", *TRANSFORMERS, "sit")
PROMPTED = ("sd1", "sd2", "sdxl", *PIXART, *JOINT)
WITH_VAE = (*PROMPTED, "dit", "sit")


def levels(name: str) -> tuple[float, float]:
    """Two native t of a pipeline, the noisier one first."""
    return {"sit": (0.6, 0.03), "edm": (2.5, 0.05)}.get(name, (600, 30))


def build(name: str, folder: Path) -> Path:
    """Write one of BUILDERS; the same weights every time, without a trace in torch's RNG."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(sum(map(ord, name)))
        BUILDERS[name](folder)
    return folder


def save_by_hand(folder: Path, pipeline: str, **components) -> None:
    """Save components as the folder of a pipeline class that diffusers does not have."""
    index = {"_class_name": pipeline, "_diffusers_version": diffusers.__version__}
    for part, component in components.items():
        component.save_pretrained(folder / part)
        index[part] = ["diffusers", type(component).__name__]
    (folder / "model_index.json").write_text(json.dumps(index, indent=2), "utf-8")


def add_to_config(folder: Path, **entries) -> None:
    """Write private entries, which diffusers skips, into a saved component's config.json."""
    path = folder / "config.json"
    config = json.loads(path.read_text("utf-8"))
    path.write_text(json.dumps({**config, **entries}, indent=2), "utf-8")


def _words(folder: Path, number: int = 1) -> Path:
    """Where a tokenizer is made before the pipeline saves it."""
    return folder.parent / f"{folder.name}-words-{number}"


def prompt_and_label(name: str) -> dict:
    """The fields of a spec that say what `Plain.condition` says by default."""
    if name in PROMPTED:
        return {"prompt": PROMPT}
    return {"label": LABEL} if name in LABELLED else {}


def pictures(count: int, size: tuple[int, int] = NATIVE, seed: int = 0) -> torch.Tensor:
    """Random pictures (N, 3, H, W) in [0, 1]."""
    return torch.rand(count, 3, *size, generator=torch.Generator().manual_seed(seed))


def gaussian(*shape: int, seed: int = 1) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))
