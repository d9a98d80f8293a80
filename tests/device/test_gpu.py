"""On a real CUDA device, where there is one: `pytest -m gpu`.

The tolerances are those of fp32 sums in another order, with TF32 off; nobody has run them yet.
"""

from __future__ import annotations

import numpy as np
import pytest
import torch

import diffeat
from diffeat.extraction import Plan, draw_noise
from diffeat.extraction.batch import Batch
from diffeat.extraction.noising import upload_noise
from diffeat.extraction.views import extractor_for
from tests.device.test_forwards import IDS, SPECS
from tests.device.test_probes import HEADS, parts
from tests.extraction.common import same, spec
from tests.pipelines import levels, pictures

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="torch sees no CUDA device here"),
]


@pytest.fixture(autouse=True)
def full_precision(monkeypatch):
    """Convolutions in fp32 as products are, not in TF32, whose mantissa has 10 bits."""
    monkeypatch.setattr(torch.backends.cudnn, "allow_tf32", False)


def on(folder, device: str):
    return diffeat.load(str(folder), device=device, dtype="float32")


def test_features_of_every_family_are_those_of_the_cpu(name, backbone_of, folder_of):
    asked = spec(name, ("**", "net:x0"), levels(name))
    expected = diffeat.extract(backbone_of(name), pictures(2), asked, ids=IDS)
    found = diffeat.extract(on(folder_of(name), "cuda"), pictures(2), asked, ids=IDS)
    assert list(found) == list(expected)
    for key, values in expected.items():
        assert found[key].device.type == "cpu"
        same(found[key], values, 1e-3, 1e-3)


@pytest.mark.parametrize("case", ["attention", "members", "inversion", "tiles", "flipped"])
def test_kinds_of_specs(case, backbone_of, folder_of):
    model, blocks, options = SPECS[case]
    grid = backbone_of(model).schedule.grid(options.get("steps", 5))
    asked = spec(model, blocks, (grid[3].t, grid[1].t), **options)
    expected = diffeat.extract(backbone_of(model), pictures(2), asked, ids=IDS)
    found = diffeat.extract(on(folder_of(model), "cuda"), pictures(2), asked, ids=IDS)
    for key, values in expected.items():
        same(found[key], values, 1e-3, 1e-3)


def test_the_host_does_not_wait(name, folder_of):
    """Torch itself raises where it would wait."""
    backbone = on(folder_of(name), "cuda")
    asked = spec(name, "**", levels(name), pool="2x2")
    extractor = extractor_for(Plan(backbone, asked), None, None)
    batch = Batch.of(pictures(2), IDS, [0, 1])
    extractor(batch)
    torch.cuda.set_sync_debug_mode("error")
    try:
        pending = extractor.start(batch)
    finally:
        torch.cuda.set_sync_debug_mode("default")
    assert all(torch.isfinite(values).all() for values in pending.result().values())


@pytest.mark.parametrize("noise", ["per-image", "shared", "uniform"])
def test_noise_is_the_same_to_the_last_bit(noise, backbone_of):
    plan = Plan(backbone_of("pixel"), spec("pixel", "mid", noise=noise))
    eps, _ = draw_noise(plan, IDS, (32, 32))
    assert torch.equal(upload_noise(eps, torch.device("cuda")).cpu(), eps)


@pytest.mark.parametrize("head", HEADS)
def test_a_head_is_that_of_the_cpu(head):
    found, expected = HEADS[head]("cuda"), HEADS[head]("cpu")
    for one, other in zip(parts(found), parts(expected), strict=True):
        np.testing.assert_allclose(one, other, rtol=5e-3, atol=5e-3)


@pytest.mark.parametrize("model", ["test_vit", "test_convnext", "swin_tiny_patch4_window7_224"])
def test_maps_of_vision_models_are_those_of_the_cpu(model):
    asked = diffeat.ExtractSpec(0, "all", dtype="float32", size=64)
    expected, found = (
        diffeat.extract(
            diffeat.load(f"timm:{model}@random", device=device, dtype="float32"),
            pictures(2, (64, 64)), asked,
        )
        for device in ("cpu", "cuda")
    )  # fmt: skip
    for key, values in expected.items():
        same(found[key], values, 1e-3, 1e-3)
