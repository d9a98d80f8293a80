"""(b) A surface of noise levels × blocks in one run, against many runs."""

from __future__ import annotations

import fnmatch
from collections.abc import Callable, Sequence
from typing import Any

import torch

import diffeat
from benchmarks.speed.common import in_turn, ratios, rounded, seconds, tensors
from benchmarks.speed.flops import Costs, clip_text, costs
from benchmarks.speed.settings import Settings
from diffeat.backbones import Backbone
from diffeat.extraction import Features

TARGETS = {"per_cell": 20.0, "per_t": 1.9}
MODEL, SIZE = "sd15", (512, 512)
BLOCKS = ("up.*.res.*",)  # the 12 of the SD U-Net's way up
TIMESTEPS = tuple(range(1, 502, 50))
PICTURES = 1000  # of the arithmetic, so that the text encoder, once per run, hardly counts


def measure(settings: Settings) -> dict[str, Any]:
    """Ratios by arithmetic for SD 1.5 at 512 pixels, and measured ones at a smaller size.

    The many runs are this engine's own: every one encodes the pictures again and runs forwards
    that are cut off after its last block. Loading the model, which every run of a program
    would do anew, is left out, to the advantage of the many runs.
    """
    return {
        "arithmetic": {
            "model": MODEL,
            "size": list(SIZE),
            "pictures": PICTURES,
            **arithmetic(costs(MODEL, SIZE, BLOCKS, clip_text()), len(TIMESTEPS), PICTURES),
        },
        "measured": _measured(settings),
        "targets": TARGETS,
    }


def arithmetic(cost: Costs, levels: int, pictures: int) -> dict[str, Any]:
    """Operations of one run, of a run per t and of a run per cell, and their ratios.

    one run    text + N·(VAE + T·forward(last block))
    per t      T·(text + N·(VAE + forward(last block)))
    per cell   Σ over T and blocks of text + N·(VAE + forward(block))
    """
    blocks = list(cost.denoiser)
    together = cost.run(levels, blocks, pictures)
    per_t = levels * cost.run(1, blocks, pictures)
    per_cell = levels * sum(cost.run(1, [block], pictures) for block in blocks)
    return {
        "levels": levels,
        "blocks": len(blocks),
        "gflops": {
            "encoder": cost.encoder / 1e9,
            "text": cost.text / 1e9,
            "denoiser": {block: flops / 1e9 for block, flops in cost.denoiser.items()},
        },
        "teraflops": {
            "together": together / 1e12,
            "per_t": per_t / 1e12,
            "per_cell": per_cell / 1e12,
        },
        "per_cell": round(per_cell / together, 3),
        "per_t": round(per_t / together, 3),
    }


def _measured(settings: Settings) -> dict[str, Any]:
    """The same ratios by the clock. Forwards have equal rows on all sides, so that only what
    is shared counts, and not that larger batches are quicker."""
    model = settings.model or settings.by_length("sd15@random", "unet-cifar10")
    pictures = settings.pictures or 2
    batch = settings.batch or pictures
    timesteps = settings.by_length(TIMESTEPS, TIMESTEPS[:3])
    backbone = diffeat.load(model, settings.device)
    size = settings.size or settings.by_length((128, 128), None) or backbone.native_size
    blocks = surface_blocks(backbone)
    run = runner(backbone, tensors(pictures, size, settings.seed), batch)

    def together() -> None:
        run(timesteps, blocks, settings.seed)

    def per_t() -> None:
        for t in timesteps:
            run([t], blocks, settings.seed)

    def per_cell() -> None:
        for t in timesteps:
            for block in blocks:
                run([t], [block], settings.seed)

    one, each_t = in_turn((together, per_t), settings.by_length(3, 2), backbone.device)
    cells = seconds(per_cell, backbone.device)  # many runs: a mean of its own, and warm by now
    by_arithmetic = arithmetic(costs(model, size, blocks), len(timesteps), pictures)
    return {
        "model": model,
        "device": str(backbone.device),
        "size": list(size),
        "pictures": pictures,
        "batch": batch,
        "timesteps": list(timesteps),
        "blocks": blocks,
        "together_seconds": rounded(one),
        "per_t_seconds": rounded(each_t),
        "per_cell_seconds": rounded([cells]),
        "per_t": ratios(each_t, one),
        "per_cell": ratios([cells] * len(one), one),
        "by_arithmetic": {name: by_arithmetic[name] for name in TARGETS},
    }


def surface_blocks(backbone: Backbone) -> list[str]:
    """The residual blocks of a U-Net's way up; of other networks 12 blocks, evenly."""
    names = [block.name for block in backbone.blocks]
    found = [name for name in names if fnmatch.fnmatchcase(name, BLOCKS[0])]
    return found or evenly(names, 12)


def evenly(names: Sequence[str], count: int) -> list[str]:
    """`count` of the names (or all, if they are fewer), evenly, the last among them."""
    count = min(count, len(names))
    return [names[(place + 1) * len(names) // count - 1] for place in range(count)]


def runner(backbone: Backbone, images: torch.Tensor, batch: int) -> Callable[..., Features]:
    """A whole run of the engine in memory: (timesteps, blocks, seed, ensemble) → features."""

    def run(timesteps: Sequence, blocks: Sequence[str], seed: int, ensemble: int = 1) -> Features:
        spec = diffeat.ExtractSpec(
            tuple(timesteps), tuple(blocks), pool="1x1", ensemble=ensemble, seed=seed
        )
        return diffeat.extract(backbone, images, spec, batch_size=batch)

    return run
