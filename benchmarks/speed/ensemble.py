"""(c) An ensemble of noises in one run, against a run per member."""

from __future__ import annotations

from typing import Any

import diffeat
from benchmarks.speed.common import in_turn, ratios, rounded, tensors
from benchmarks.speed.flops import Costs, clip_text, costs
from benchmarks.speed.settings import Settings
from benchmarks.speed.surface import MODEL, PICTURES, SIZE, runner

BLOCK, TIMESTEP, MEMBERS = "up.1", 261, 8  # DIFT (Tang et al. 2023) for semantic matching
TARGET = 2.3


def measure(settings: Settings) -> dict[str, Any]:
    """Ratios by arithmetic for SD 1.5 at 512 pixels, and a measured one at a smaller size.

    The separate passes are runs of this engine with another seed each, whose results would
    still have to be averaged; each encodes the pictures again.
    """
    cost = costs(MODEL, SIZE, (BLOCK,), clip_text())
    return {
        "arithmetic": {
            "model": MODEL,
            "size": list(SIZE),
            "pictures": PICTURES,
            "gflops": {
                "encoder": cost.encoder / 1e9,
                "text": cost.text / 1e9,
                "denoiser": cost.denoiser[BLOCK] / 1e9,
            },
            "ratio": arithmetic(cost, PICTURES),
        },
        "measured": _measured(settings),
        "block": BLOCK,
        "timestep": TIMESTEP,
        "members": MEMBERS,
        "target": TARGET,
    }


def arithmetic(cost: Costs, pictures: int) -> float:
    """E·(text + N·(VAE + forward)) / (text + N·(VAE + E·forward))."""
    apart = MEMBERS * cost.run(1, [BLOCK], pictures)
    return round(apart / cost.run(MEMBERS, [BLOCK], pictures), 3)


def _measured(settings: Settings) -> dict[str, Any]:
    model = settings.model or settings.by_length("sd15@random", "unet-cifar10")
    pictures = settings.pictures or 2
    batch = settings.batch or pictures
    backbone = diffeat.load(model, settings.device)
    size = settings.size or settings.by_length((128, 128), None) or backbone.native_size
    run = runner(backbone, tensors(pictures, size, settings.seed), batch)

    def together() -> None:
        run([TIMESTEP], [BLOCK], settings.seed, MEMBERS)

    def apart() -> None:
        for member in range(MEMBERS):
            run([TIMESTEP], [BLOCK], settings.seed + member)

    one, many = in_turn((together, apart), settings.by_length(3, 2), backbone.device)
    return {
        "model": model,
        "device": str(backbone.device),
        "size": list(size),
        "pictures": pictures,
        "batch": batch,
        "together_seconds": rounded(one),
        "apart_seconds": rounded(many),
        "ratio": ratios(many, one),
        "by_arithmetic": arithmetic(costs(model, size, (BLOCK,)), pictures),
    }
