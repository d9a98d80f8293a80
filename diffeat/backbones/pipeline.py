"""A pipeline folder of diffusers: how it is wanted, and what has been loaded from it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import nn

from diffeat.backbones.devices import pick_device, pick_dtype
from diffeat.backbones.locate import locate, read_json
from diffeat.backbones.request import ModelRequest
from diffeat.schedules import Schedule

VAE = "diffusers.AutoencoderKL"
CLIP = "transformers.CLIPTextModel"
CLIP_PROJECTED = "transformers.CLIPTextModelWithProjection"
CLIP_TOKENIZER = "transformers.CLIPTokenizer"
T5 = "transformers.T5EncoderModel"
T5_TOKENIZER = "transformers.T5TokenizerFast"


@dataclass
class Pipeline:
    """What a backbone is made of; see `diffeat.backbones.loading`, which fills it.

    Attributes:
        request: what the user asked for.
        device: where forwards run; "meta" for an architecture without weights.
        dtype: precision of the weights.
        folder: where it lies.
        index: what model_index.json says.
        files: every weight and configuration file that was used.
        denoiser: the network that is tapped.
        config: its configuration, as in the file.
        schedule: its noise schedule.
        extras: further components by their name in the pipeline: "vae", "text_encoder", …
        learned_t: the t that weights which took the denoiser's place were trained for, if any.
        decoder_form: the VAE's decoder without weights; None where there is none.
        decoder: reads its weights, which are needed only where its tensors are asked for.
    """

    request: ModelRequest
    device: torch.device
    dtype: torch.dtype
    folder: Path
    index: dict[str, Any] = field(default_factory=dict)
    files: list[Path] = field(default_factory=list)
    denoiser: nn.Module | None = None
    config: dict[str, Any] = field(default_factory=dict)
    schedule: Schedule | None = None
    extras: dict[str, Any] = field(default_factory=dict)
    learned_t: float | None = None
    decoder_form: nn.Module | None = None
    decoder: Callable[[], nn.Module] | None = None


def find_pipeline(request: ModelRequest) -> Pipeline:
    """The pipeline that is asked for, nothing of it loaded yet; see `diffeat.load`."""
    device = pick_device(request.device)
    dtype = pick_dtype(request.dtype, device)
    folder = locate(request, weights=device.type != "meta")
    return Pipeline(request, device, dtype, folder, read_json(folder / "model_index.json"))
