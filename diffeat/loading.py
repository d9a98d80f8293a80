"""From a name to a model that is ready to run."""

from __future__ import annotations

from pathlib import Path

from diffeat.backbones.base import Backbone
from diffeat.backbones.loading import load_pipeline
from diffeat.backbones.placing import arrange
from diffeat.backbones.request import ModelRequest
from diffeat.vision.backbone import load_backbone
from diffeat.vision.names import is_vision


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
    return load_model(
        ModelRequest(
            name, device, dtype, allow_pickle, lora, denoiser, channels_last, compile, offload
        )
    )


def load_model(request: ModelRequest) -> Backbone:
    """Load what a request asks for; see `load`."""
    backbone = load_backbone(request) if is_vision(request.name) else load_pipeline(request)
    arrange(backbone)
    return backbone
