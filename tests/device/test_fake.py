"""One forward of every family with torch's fake tensors on a CUDA device, without gradients,
for which autograd asks the driver."""

from __future__ import annotations

import pytest
import torch
from torch import nn

import diffeat
from diffeat.extraction import PREDICTION, Conditions, Forward, Plan
from tests.device.claims import CUDA
from tests.device.fake import fake, move
from tests.extraction.common import spec
from tests.pipelines import levels

SIZE = (32, 32)
FAMILIES = ("edm", "adm-classes", "pixel", "sdxl", "sd1", "sit", "dit", "pixart-alpha", "sd3",
            "flux", "auraflow")  # fmt: skip


def check(backbone, asked) -> None:
    """One forward keeps what the plan says; the condition was made on the CPU."""
    condition = Conditions.of_spec(backbone, asked)([0, 0])
    if backbone.vae is not None:
        assert backbone.vae_decoder is not None  # a fake one could not be read from a file
    with fake():
        condition = {name: value.to("cuda") for name, value in condition.items()}
        plan = Plan(move(backbone), asked)
        forward = Forward(plan)
        x0 = torch.zeros(2, 3, *SIZE, device="cuda")
        eps = torch.zeros(2, *backbone.latent_shape(SIZE), device="cuda")
        with torch.no_grad():
            kept = forward.run(x0, forward.levels.expand(2, -1), condition, eps, prediction=True)
        for predicted in kept.pop(PREDICTION):
            assert (predicted.device, predicted.shape) == (CUDA, eps.shape)
        for block in plan.blocks:
            if block.name != "vae":
                assert kept[block.name].device == CUDA, block.name
                assert kept[block.name].shape == (2, *plan.shape(block, SIZE)), block.name
                assert kept[block.name].dtype == torch.float32


@pytest.mark.parametrize("name", FAMILIES)
def test_every_tensor_has_its_shape_on_the_device(name, folder_of):
    """Blocks, attention, text and the clean picture, unpooled; one model of each family."""
    backbone = diffeat.load(str(folder_of(name)), device="cpu", dtype="float32")
    check(backbone, spec(name, ("**", "net:x0"), levels(name)[0]))


@pytest.mark.parametrize(
    ("model", "blocks", "options"),
    [
        ("pixel", "up.1.attn.0:self.map", {}),
        ("sd1", "mid.attn.0:cross.map", {"heads": (0,), "tokens": (0, 2), "pool": "2x2"}),
        ("flux", ("block.1:*.map", "single.0:text"), {}),
        ("dit", "block.1:adaln", {"discard": (1, 3)}),
    ],
    ids=["self", "cross", "joint", "discard"],
)
def test_what_is_made_inside_the_hooks(model, blocks, options, folder_of):
    backbone = diffeat.load(str(folder_of(model)), device="cpu", dtype="float32")
    check(backbone, spec(model, blocks, 200, **options))


@pytest.mark.parametrize("name", ["test_vit", "test_resnet"])
def test_vision_models(name):
    backbone = diffeat.load(f"timm:{name}@random", device="cpu", dtype="float32")
    asked = diffeat.ExtractSpec(0, "all", dtype="float32", size=64)
    with fake(), torch.no_grad():
        plan = Plan(move(backbone), asked)
        forward = Forward(plan)
        pixels = torch.zeros(2, 3, 64, 64, device="cuda")
        kept = forward.run(pixels, forward.levels.expand(2, -1), {})
        for block in plan.blocks:
            assert kept[block.name].device == CUDA
            assert kept[block.name].shape == (2, *plan.shape(block, (64, 64)))


# --- what the fake device refuses -----------------------------------------------------------------

FAULTS = {
    "a constant": lambda x: x + torch.arange(3),
    "an input": lambda x: nn.Linear(3, 3).to("cuda")(torch.ones(2, 3)),
    "numpy": lambda x: x.numpy(),
    "item": lambda x: x.sum().item(),
    "bool": lambda x: bool(x.any()),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_faults_raise(fault):
    with fake():
        x = torch.ones(2, 3, device="cuda")
        with pytest.raises((RuntimeError, TypeError)):
            FAULTS[fault](x)
