"""Operations and memory of a plan's forward, counted on an architecture without weights."""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import nn

from diffeat.backbones import Backbone, ModelRequest
from diffeat.backbones.devices import pick_device, pick_dtype
from diffeat.extraction.forward import Forward
from diffeat.extraction.plan import Plan
from diffeat.planning.flops import Size, bare_condition, count
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
    forward = Forward(plan)
    found = {"cut": 0, "whole": 0, "encode": _vae_flops(forward, size)}
    if forward.taps:
        found["cut"] = count(lambda: run_row(forward, size))
        if plan.grid:
            found["whole"] = count(lambda: run_row(forward, size, prediction=True))
    return found


def count_memory(plan: Plan, size: Size) -> dict[str, int]:
    """Bytes of activations that live at once: of one row of the denoiser, and of one picture in
    the VAE."""
    found, forward, vae = {"row": 0, "encode": 0}, Forward(plan), plan.backbone.vae
    if forward.taps:
        found["row"] = peak_bytes(lambda: run_row(forward, size, prediction=bool(plan.grid)))
    if vae is not None:
        found["encode"] = peak_bytes(lambda: forward.posterior(_pixels(size)))
    return found


def _pixels(size: Size) -> torch.Tensor:
    return torch.empty(1, 3, *size, device="meta")


def _vae_flops(forward: Forward, size: Size) -> int:
    """Operations of the VAE for one picture; 0 for models on pixels."""
    if forward.backbone.vae is None:
        return 0
    return count(lambda: forward.posterior(_pixels(size)))


@torch.no_grad()
def run_row(forward: Forward, size: Size, prediction: bool = False) -> dict[str, torch.Tensor]:
    """One row through a denoiser without weights, as an extraction runs it; with its prediction,
    alone, where a trajectory goes on."""
    plan, backbone = forward.plan, forward.backbone
    x = torch.empty(1, *backbone.latent_shape(size), device="meta")
    condition = bare_condition(backbone, plan.text_length)
    return forward.network(
        x, forward.levels[:1], condition, features=not prediction, prediction=prediction
    )


def weight_bytes(backbone: Backbone) -> tuple[int, int]:
    """Bytes of all components as they will run, and of the largest of them."""
    modules = [backbone.denoiser, *(m for m in backbone.extras.values()
               if isinstance(m, nn.Module))]  # fmt: skip
    each = [
        sum(t.numel() * t.element_size() for t in (*m.parameters(), *m.buffers())) for m in modules
    ]
    return sum(each), max(each)
