"""Pretrained diffusion models as feature extractors for recognition.

    backbone = diffeat.load("unet-cifar10")
    spec = diffeat.ExtractSpec(timesteps=(20, 60), blocks=("up.0", "up.1"), pool="2x2")
    features = diffeat.extract(backbone, images, spec)
    features["up.1", 20]

Names are imported when they are first used, so `import diffeat` is quick. It lets threads that
wait sleep, where the environment does not say otherwise (see `diffeat.threads`).
"""

from __future__ import annotations

import importlib
from typing import Any

from diffeat._version import __version__
from diffeat.threads import let_waiting_sleep

_HOMES = {
    "Backbone": "diffeat.backbones",
    "BlockInfo": "diffeat.blocks",
    "DiffeatError": "diffeat.errors",
    "ExtractSpec": "diffeat.specs",
    "FeatureStore": "diffeat.store",
    "Features": "diffeat.extraction",
    "HookManager": "diffeat.hooks",
    "Tap": "diffeat.hooks",
    "aggregate": "diffeat.aggregation",
    "extract": "diffeat.extraction",
    "extract_to_file": "diffeat.jobs",
    "load": "diffeat.loading",
    "load_recipe": "diffeat.recipes",
    "massive_channels": "diffeat.extraction",
    "open_source": "diffeat.images",
    "set_threads": "diffeat.threads",
}
__all__ = ["__version__", *_HOMES]

let_waiting_sleep()  # here, before anything loads torch: it counts in worker processes, too


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'diffeat' has no attribute {name!r}")
    value = getattr(importlib.import_module(_HOMES[name]), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
