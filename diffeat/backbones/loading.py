"""From a pipeline folder to a `Backbone`, by diffusers' own loading code."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

from diffeat.backbones.auraflow import AuraFlow
from diffeat.backbones.base import Backbone
from diffeat.backbones.dit import DiT, SiT
from diffeat.backbones.locate import read_json
from diffeat.backbones.pipeline import Pipeline, find_pipeline
from diffeat.backbones.pixel_unet import ADM, EDM, PixelUNet
from diffeat.backbones.request import ModelRequest
from diffeat.backbones.stable_diffusion import SDXL, StableDiffusion
from diffeat.backbones.text_transformers import Flux, PixArt, StableDiffusion3
from diffeat.backbones.weights import load_component, load_denoiser
from diffeat.errors import ModelError
from diffeat.schedules import Schedule

# the first that accepts a pipeline has it, so the special stand before the general
FAMILIES: tuple[type[Backbone], ...] = (
    EDM, ADM, PixelUNet, SDXL, StableDiffusion, SiT, DiT, PixArt, StableDiffusion3, Flux, AuraFlow,
)  # fmt: skip
"""One class per family of diffusion models, in the order in which they are asked."""


def load_pipeline(request: ModelRequest) -> Backbone:
    """Load a diffusion model; see `diffeat.load`, which also arranges how it runs."""
    pipeline = find_pipeline(request)
    folder, files = pipeline.folder, pipeline.files
    family, config = _family(request.name, folder, pipeline.index)
    pipeline.denoiser = network = load_denoiser(pipeline, family)
    pipeline.config = {**network.config, **{k: v for k, v in config.items() if k[:1] == "_"}}
    files.append(folder / "scheduler" / "scheduler_config.json")
    pipeline.schedule = Schedule.from_config(read_json(files[-1]))
    pipeline.extras = _extras(pipeline, family)
    # "auto" may mean another precision elsewhere, and then another model
    pipeline.request = replace(request, dtype=str(pipeline.dtype).removeprefix("torch."))
    backbone = family(pipeline)
    _check_channels(backbone)
    return backbone


def _extras(pipeline: Pipeline, family: type[Backbone]) -> dict[str, Any]:
    """The components that the pipeline has; text encoders only where they will run."""
    found, request = {}, pipeline.request
    for component, cls in family.components.items():
        named = (pipeline.index.get(component) or [None])[0] is not None
        if (pipeline.folder / component).is_dir() and named:
            found[component] = load_component(pipeline, component, cls)
        elif request.random_seed is not None or pipeline.device.type == "meta":
            continue  # a stand-in will do
        elif named or component not in family.optional:
            raise ModelError(
                f"{request.name}: {component}/ is missing in {pipeline.folder}; a "
                f"{family.family} model needs it"
            )
    return found


def _family(
    name: str, folder: Path, index: dict[str, Any]
) -> tuple[type[Backbone], dict[str, Any]]:
    """The family whose denoiser lies in the folder, with the denoiser's configuration."""
    for family in FAMILIES:
        path = folder / family.component / "config.json"
        if index.get(family.component) and path.is_file():
            config = read_json(path)
            if config.get("_class_name") in family.denoiser_classes and family.accepts(
                config, index
            ):
                return family, config
    known = sorted({cls for family in FAMILIES for cls in family.denoiser_classes})
    raise ModelError(
        f"{name}: pipeline class {index.get('_class_name')!r} is not supported; expected a "
        f"pipeline whose denoiser is one of {', '.join(known)} in a configuration that "
        "diffeat knows (`diffeat models` lists the families)"
    )


def _check_channels(backbone: Backbone) -> None:
    """Refuse models that want more than the picture, such as inpainting's mask."""
    wanted, vae = backbone.latent_channels, backbone.vae
    given = (1, 3) if vae is None else (vae.config.latent_channels,)
    if wanted not in given:
        raise ModelError(
            f"{backbone.name}: the denoiser wants {wanted} input channels, a picture gives "
            f"{' or '.join(map(str, given))}; inpainting, depth and upscaling models need further "
            "inputs and are not supported"
        )
