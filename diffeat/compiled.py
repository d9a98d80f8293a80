"""Blocks whose forward is compiled, while hooks on the block itself stay outside.

torch.compile does not see hooks that are attached later, so a block inside which something is
read or edited has to run as it was written; `HookManager` sees to that.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import nn

BACKEND = "inductor"
VARIANTS = 64
"""Blocks of one class that may differ in shape; torch's own limit, 8, is below a U-Net's."""


class CompiledForward:
    """Stands in for a module's `forward`.

    Attributes:
        paused: how many hook managers want the module to run as it was written.
    """

    def __init__(self, forward: Callable):
        self.eager, self.paused = forward, 0
        self.compiled = torch.compile(forward, backend=BACKEND)

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        return (self.eager if self.paused else self.compiled)(*args, **kwargs)


def compile_forward(module: nn.Module) -> None:
    """Compile a module's forward, at its first use."""
    config = torch._dynamo.config
    name = "recompile_limit" if hasattr(config, "recompile_limit") else "cache_size_limit"
    setattr(config, name, max(VARIANTS, getattr(config, name)))
    module.forward = CompiledForward(module.forward)


def compiled_forward(module: nn.Module) -> CompiledForward | None:
    """What `compile_forward` put in a module, if it did."""
    found = module.__dict__.get("forward")
    return found if isinstance(found, CompiledForward) else None
