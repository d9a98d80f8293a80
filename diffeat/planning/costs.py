"""Operations and memory of a plan's forward, counted on an architecture without weights."""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from typing import Any

import torch
from torch import nn

from diffeat.backbones import Backbone, ModelRequest
from diffeat.backbones.devices import pick_device, pick_dtype
from diffeat.extraction.plan import Plan
from diffeat.planning.flops import END, Size, encoder_flops, flops_up_to, run_bare
from diffeat.planning.live import peak_bytes


def settled_request(request: ModelRequest) -> ModelRequest:
    """The request with the precision that "auto" means here, as a loaded model has it."""
    dtype = pick_dtype(request.dtype, pick_device(request.device))
    return replace(request, dtype=str(dtype).removeprefix("torch."))


def bare_request(request: ModelRequest) -> ModelRequest:
    """The same architecture in the same precision, without weights or what is done with them."""
    settled = settled_request(request)
    return replace(
        settled, device="meta", lora=None, denoiser=None, compile=False, offload="none",
        channels_last="auto",
    )  # fmt: skip


def count_costs(plan: Plan, size: Size) -> dict[str, int]:
    """Operations of one row at a size; see `picture_flops`.

    Args:
        plan: of a backbone on the meta device.
        size: (H, W) in pixels of what one forward sees.
    """
    backbone, taps = plan.backbone, taps_of(plan)
    found = {"cut": 0, "whole": 0, "encode": encoder_flops(backbone, size)}
    if taps:
        count = partial(flops_up_to, backbone, size, text_length=plan.text_length)
        found["cut"] = max(count(taps).values())
        if plan.grid:
            found["whole"] = count({END: backbone.output_tap})[END]
    return found


def count_memory(plan: Plan, size: Size) -> dict[str, int]:
    """Bytes of activations that live at once: of one row of the denoiser, and of one picture in
    the VAE's encoder."""
    backbone, taps = plan.backbone, taps_of(plan)
    found = {"row": 0, "encode": 0}
    if taps:
        taps = {**taps, END: backbone.output_tap} if plan.grid else taps
        found["row"] = peak_bytes(
            lambda: run_bare(backbone, size, taps, lambda _n, _v: None, plan.text_length)
        )
    if (vae := backbone.vae) is not None:
        pixels = torch.empty(1, 3, *size, device="meta", dtype=vae.dtype)
        found["encode"] = peak_bytes(lambda: vae.encode(pixels))
    return found


def taps_of(plan: Plan) -> dict[str, Any]:
    """Where the denoiser's tensors are read."""
    return {block.name: plan.tap(block) for block in plan.blocks if not block.of_vae}


def weight_bytes(backbone: Backbone) -> tuple[int, int]:
    """Bytes of all components as they will run, and of the largest of them."""
    modules = [backbone.denoiser, *(m for m in backbone.extras.values()
               if isinstance(m, nn.Module))]  # fmt: skip
    each = [
        sum(t.numel() * t.element_size() for t in (*m.parameters(), *m.buffers())) for m in modules
    ]
    return sum(each), max(each)
