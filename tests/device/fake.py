"""torch's own fake tensors on a CUDA device that is not there: shapes and devices, no values.

They see what torch itself does behind a call, in C++ too, where `tests.device.claims`
sees only the call; but nothing can be compared, and a look at a number is an error.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch._subclasses.fake_tensor import FakeTensorMode

from diffeat.backbones import Backbone
from diffeat.backbones.devices import constant


@contextmanager
def fake() -> Iterator[FakeTensorMode]:
    """What is made or moved in here is fake, on whatever device; modules take new parameters."""
    before = torch.__future__.get_overwrite_module_params_on_conversion()
    torch.__future__.set_overwrite_module_params_on_conversion(True)
    constant.cache_clear()
    try:
        with FakeTensorMode(allow_non_fake_inputs=True) as mode:
            yield mode
    finally:
        torch.__future__.set_overwrite_module_params_on_conversion(before)
        constant.cache_clear()


def move(backbone: Backbone) -> Backbone:
    """A backbone that was loaded on the CPU, on the fake device from now on."""
    decoder = None if backbone.vae is None else backbone.vae_decoder
    for module in (backbone.denoiser, backbone.vae, decoder):
        if module is not None:
            module.to("cuda")
    backbone.device = torch.device("cuda")
    return backbone
