"""Vision models on a device that is claimed; Swin of timm has its channels last."""

from __future__ import annotations

import numpy as np
import pytest
import torch

import diffeat
from diffeat.extraction import Forward, Plan
from diffeat.extraction.batch import Batch
from diffeat.extraction.views import extractor_for
from diffeat.vision import load_vision
from tests.device.claims import CUDA, claimed
from tests.extraction.common import same
from tests.vision.conftest import pictures, save_hub_model

TIMM = {
    "test_vit": (96, 64),
    "test_efficientnet": (96, 64),
    "test_convnext": (64, 96),
    "test_resnet": (64, 96),
    "swin_tiny_patch4_window7_224": (64, 64),
}
HUB = {
    "registers": (42, 56),
    "clip": (42, 56),
    "mae": (28, 28),
    "swin": (32, 64),
}


def address(name: str, folder) -> str:
    if name in TIMM:
        return f"timm:{name}@random"
    return f"transformers:{save_hub_model(name, folder / name)}"


@pytest.mark.parametrize("name", [*TIMM, *HUB])
def test_maps_are_those_of_the_cpu_and_only_the_end_waits(name, tmp_path, mode):
    size = {**TIMM, **HUB}[name]
    shown = torch.rand(2, 3, *size, generator=torch.Generator().manual_seed(1))
    spec = diffeat.ExtractSpec(0, "all", dtype="float32", size=size)
    model = address(name, tmp_path)
    expected = diffeat.extract(diffeat.load(model, device="cpu", dtype="float32"), shown, spec)
    backbone = diffeat.load(model, device="cuda", dtype="float32")
    assert all(claimed(weight) for weight in backbone.denoiser.parameters())
    plan = Plan(backbone, spec)
    extractor, batch = extractor_for(plan, None, None), Batch.of(shown, ["a", "b"], [0, 1])
    extractor(batch)
    with mode.no_waiting():
        pending = extractor.start(batch)
    found = pending.result()
    assert list(found) == list(expected)
    for key, values in expected.items():
        assert not claimed(found[key])
        same(found[key], values, 1e-4, 1e-4)
    with torch.no_grad():
        forward = Forward(plan)
        kept = forward.run(shown.to("cuda"), forward.levels.expand(2, -1), {})
    for block in plan.blocks:
        assert kept[block.name].device == CUDA
        assert kept[block.name].shape == (2, *plan.shape(block, size))


@pytest.mark.parametrize("pool", ["default", "mean"])
def test_vectors_are_those_of_the_cpu(pool, mode):
    """As `diffeat align` wants them."""
    cpu, cuda = (
        load_vision("timm:test_resnet@random", pool=pool, device=device, dtype="float32")
        for device in ("cpu", "cuda")
    )
    source = pictures(4)
    np.testing.assert_allclose(
        cuda.features(source, progress=False), cpu.features(source, progress=False),
        rtol=1e-5, atol=1e-5,
    )  # fmt: skip
    assert cuda.fingerprint == cpu.fingerprint
