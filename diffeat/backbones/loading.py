"""From a pipeline folder to a `Backbone`, by diffusers' own loading code."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

from diffeat.backbones.auraflow import AuraFlow
from diffeat.backbones.base import Backbone, Parts
from diffeat.backbones.devices import pick_device, pick_dtype
from diffeat.backbones.dit import DiT, SiT
from diffeat.backbones.locate import ModelName, locate, read_json
from diffeat.backbones.pixel_unet import ADM, EDM, PixelUNet
from diffeat.backbones.placing import arrange
from diffeat.backbones.request import ModelRequest
from diffeat.backbones.stable_diffusion import SDXL, StableDiffusion
from diffeat.backbones.text_transformers import Flux, PixArt, StableDiffusion3
from diffeat.backbones.weights import Loader
from diffeat.errors import ModelError, SpecError
from diffeat.schedules import Schedule
from diffeat.vision.backbone import load_backbone
from diffeat.vision.names import is_vision

# the first that accepts a pipeline has it, so the special stand before the general
FAMILIES: tuple[type[Backbone], ...] = (
    EDM, ADM, PixelUNet, SDXL, StableDiffusion, SiT, DiT, PixArt, StableDiffusion3, Flux, AuraFlow,
)  # fmt: skip


def load(
    name: str,
    device: str = "auto",
    dtype: str = "auto",
    allow_pickle: bool = False,
    lora: str | Path | None = None,
    denoiser: str | Path | None = None,
    *,
    channels_last: bool | str = "auto",
    compile: bool = False,
    offload: str = "none",
) -> Backbone:
    """Load a pretrained diffusion model, or a vision model to compare it with.

    Args:
        name: a bundled or known model, a diffusers pipeline folder or a hub id. "@random" or
            "@random:SEED" behind it gives the same denoiser with seeded random weights. VAE and
            text encoder keep theirs, where the folder has them; otherwise the VAE is random too
            and prompts become seeded Gaussian embeddings. Vision models: "timm:NAME", also with
            "@WEIGHTS.safetensors" or "@random"; "transformers:FOLDER" or a hub id.
        device: "cpu", "cuda", "cuda:1", …; "auto" takes a GPU where there is one; "meta"
            builds the architecture without weights.
        dtype: "float32", "float16" or "bfloat16" (or "fp32", "fp16", "bf16"); "auto" is float32
            on a CPU and bfloat16 on a GPU. The noise schedule keeps its own.
        allow_pickle: also load pickled weights (.bin), which can run code; only for files
            that you trust.
        lora: a .safetensors file of LoRA weights, merged into the denoiser.
        denoiser: weights that take the place of the denoiser's: a .safetensors file, or a
            folder of the same architecture, such as CleanDIFT's U-Net.
        channels_last: whether convolutions see maps with the channels innermost; "auto" chooses
            by device and precision (see `diffeat.backbones.placing`).
        compile: run the denoiser's blocks through torch.compile, except those inside which a
            tensor is read.
        offload: "none"; "vae" keeps the VAE on the CPU and has it visit the device for each
            batch; "blocks" does so with each block of the denoiser too, for small GPUs.

    Returns:
        The backbone, in evaluation mode, without gradients.

    Raises:
        ModelError: unknown, incomplete or unsupported model, or pickled weights.
        DeviceError: the device does not exist here.
        NumericsError: the weights hold inf or nan.
        SpecError: an option that cannot be meant.
    """
    request = ModelRequest(
        name, device, dtype, allow_pickle, lora, denoiser, channels_last, compile, offload
    )
    if is_vision(name):
        backbone = load_backbone(request)
        arrange(backbone)
        return backbone
    target = pick_device(request.device)
    precision = pick_dtype(request.dtype, target)
    wanted = ModelName.parse(name)
    folder = locate(wanted, allow_pickle, weights=target.type != "meta")
    index = read_json(folder / "model_index.json")
    family, config = _family(name, folder, index)
    loader = Loader(folder, wanted.random_seed, target, precision, allow_pickle, offload)
    network = loader.denoiser(family)
    if target.type == "meta" and (denoiser or lora):
        raise SpecError("device 'meta' has no weights to replace; leave denoiser and lora out")
    if denoiser is not None:
        loader.swap(network, Path(denoiser).expanduser())
    if lora is not None:
        loader.merge_lora(network, Path(lora).expanduser(), family)
    scheduler = read_json(folder / "scheduler" / "scheduler_config.json")
    loader.files.append(folder / "scheduler" / "scheduler_config.json")
    extras = _extras(name, family, folder, index, loader)
    backbone = family(
        Parts(
            name=name,
            denoiser=network,
            config={**network.config, **{k: v for k, v in config.items() if k[:1] == "_"}},
            pipeline=str(index.get("_class_name")),
            schedule=Schedule.from_config(scheduler),
            device=target,
            files=tuple(loader.files),
            random_seed=wanted.random_seed,
            extras=extras,
            changes=tuple(
                f"{what} {path}" for what, path in (("denoiser", denoiser), ("lora", lora)) if path
            ),
            index=index,
        )
    )
    _check_channels(backbone)
    # "auto" may mean another precision elsewhere, and then another model
    backbone.request = replace(request, dtype=str(precision).removeprefix("torch."))
    arrange(backbone)
    return backbone


def _extras(name, family: type[Backbone], folder: Path, index, loader: Loader) -> dict[str, Any]:
    """The components that the pipeline has; text encoders only where they will run."""
    found = {}
    for component, part in family.components.items():
        named = (index.get(component) or [None])[0] is not None
        if (folder / component).is_dir() and named:
            found[component] = loader.component(component, part)
        elif loader.seed is not None or loader.device.type == "meta":
            continue  # a stand-in will do
        elif named or part.required:
            raise ModelError(
                f"{name}: {component}/ is missing in {folder}; a {family.family} model needs it"
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
