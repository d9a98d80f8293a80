"""How much work a plan is, counted in forwards, and what identifies such work again.

Plain numbers and texts, so that they travel to whoever tells the user (see `diffeat.planning`).
"""

from __future__ import annotations

import math
from dataclasses import asdict
from typing import Any

import torch

from diffeat.backbones.devices import pick_device
from diffeat.backbones.request import ModelRequest
from diffeat.extraction.batch_size import UNIMPORTANT
from diffeat.extraction.conditions import Conditions
from diffeat.extraction.plan import Plan
from diffeat.hashing import fingerprint
from diffeat.noise import CLEAN_FAMILIES


def effort_of(plan: Plan, conditions: Conditions, sharing: int = 1) -> dict[str, Any]:
    """What one picture takes.

    Returns:
        evaluations: runs of the denoiser for one view of one member;
        forwards: rows of the denoiser per picture, evaluations · members · views;
        walks: whether they follow each other along a trajectory, so that all but the last are
            whole;
        encodes: runs of the VAE per picture, one a view; 0 without a VAE;
        texts: distinct prompts, each encoded once;
        timed: whether the model has noise levels at all;
        work, rate: keys under which operations of a forward, and operations per second, are kept.
    """
    views, members = view_count(plan, plan.size or plan.backbone.native_size), plan.spec.ensemble
    evaluations = evaluation_count(plan)
    return {
        "evaluations": evaluations,
        "walks": bool(plan.grid),
        "forwards": evaluations * members * views,
        "encodes": views if plan.backbone.vae is not None else 0,
        "texts": conditions.texts,
        "timed": plan.backbone.family not in CLEAN_FAMILIES,
        "work": work_key(plan),
        "rate": rate_key(plan.backbone.request, plan.backbone.parameters, run_size(plan), sharing),
    }


def evaluation_count(plan: Plan) -> int:
    """Runs of the denoiser for one latent: one a level; of a trajectory, one a step of the way."""
    if all(block.of_vae for block in plan.blocks):
        return 0
    if not plan.grid:
        return len(plan.levels)
    grid = plan.grid[::-1] if plan.generates else plan.grid
    wanted = {level.t for level in plan.levels}
    return 1 + max(place for place, level in enumerate(grid) if level.t in wanted)


def view_count(plan: Plan, size: tuple[int, int]) -> int:
    """Tiles and mirror images of a picture of (H, W) pixels; 1 is the picture itself."""
    tile = plan.spec.tile or size
    tiles = math.prod(math.ceil(side / part) for side, part in zip(size, tile, strict=True))
    return tiles * (2 if plan.spec.flip else 1)


def run_size(plan: Plan) -> tuple[int, int]:
    """(H, W) in pixels of what one forward sees; the model's own where pictures keep theirs."""
    return plan.spec.tile or plan.size or plan.backbone.native_size


def work_key(plan: Plan) -> str:
    """Identifies how many operations a forward is: the architecture, what is kept, the sizes."""
    spec = {k: v for k, v in plan.spec.to_dict().items() if k not in UNIMPORTANT}
    model = plan.backbone.name, plan.backbone.family, plan.backbone.parameters
    return fingerprint("work", *model, spec, plan.text_length)


def rate_key(
    request: ModelRequest, parameters: int, size: tuple[int, int], sharing: int = 1
) -> str:
    """Identifies how fast a model runs here: the network, its precision, the device, the size."""
    device = pick_device(request.device)
    cuda = device.type == "cuda"
    how = {
        name: value for name, value in asdict(request).items()
        if name in ("name", "dtype", "channels_last", "compile", "offload")
    }  # fmt: skip
    where = torch.cuda.get_device_name(device) if cuda else str(device)
    threads = 0 if cuda else torch.get_num_threads()
    return fingerprint("rate", how, parameters, size, where, threads, torch.__version__, sharing)
