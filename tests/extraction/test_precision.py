"""Half-precision models: what must stay in fp32 does, and attention runs fused."""

from __future__ import annotations

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch.overrides import TorchFunctionMode

import diffeat
from diffeat.extraction import Batch, Extractor, Plan
from tests.extraction.common import drawn, given, spec
from tests.pipelines import EACH_PATH, NATIVE, levels, pictures

HALF = ("float16", "bfloat16")
# x = alpha·x0 + sigma·eps of each kind of schedule, told in steps, in shares, and as sigma
KINDS = {"pixel": 137, "pixel-flow": 0.137, "edm": 0.37, "dit-pixels": 137}


@pytest.fixture(scope="module")
def half_of(folder_of):
    """Backbone by name and precision."""
    loaded = {}

    def backbone(name, dtype):
        if (name, dtype) not in loaded:
            loaded[name, dtype] = diffeat.load(str(folder_of(name)), device="cpu", dtype=dtype)
        return loaded[name, dtype]

    return backbone


def factors(model, backbone, t):
    """(alpha, sigma) in fp64, up to the fp32 in which diffusers multiplies alphas."""
    if model == "pixel-flow":
        return 1 - t, t
    if model == "edm":
        return 1.0, t
    level = backbone.schedule.resolve(t)
    product = np.cumprod(1 - np.linspace(0.0001, 0.02, 1000))[t]
    assert level.alpha == pytest.approx(np.sqrt(product), rel=1e-5)
    assert level.sigma == pytest.approx(np.sqrt(1 - product), rel=1e-5)
    return level.alpha, level.sigma


@pytest.mark.parametrize("dtype", HALF)
@pytest.mark.parametrize("model", KINDS)
def test_noising_is_done_in_fp32(model, dtype, half_of):
    backbone, t, images = half_of(model, dtype), KINDS[model], pictures(2)
    with given(backbone) as seen:
        diffeat.extract(backbone, images, spec(model, "net:in", t), ids=["a", "b"])
    ((x, told),) = seen
    alpha, sigma = factors(model, backbone, t)
    clean, eps = (images * 2 - 1).double(), drawn(["a", "b"], images.shape[1:]).double()
    exact = alpha * clean + sigma * eps
    if model == "edm":  # preconditioned, and told ln(sigma)/4
        exact = exact / np.sqrt(sigma**2 + 0.5**2)
        assert told.dtype == torch.float32
        torch.testing.assert_close(told.double(), torch.full((2,), np.log(t) / 4).double(),
                                   rtol=1e-6, atol=0)  # fmt: skip
    half = getattr(torch, dtype)
    assert x.dtype == half
    # rounded once: never further from the exact value than half a unit in the last place
    unit = torch.finfo(half).eps * 2.0 ** exact.abs().log2().floor().clamp(min=-14)
    assert ((x.double() - exact).abs() <= 0.5 * unit + 1e-6 * exact.abs() + 1e-7).all()
    # which arithmetic in half precision does not give
    rounded = torch.tensor(alpha).to(half) * clean.to(half) + torch.tensor(sigma).to(half) * eps.to(
        half
    )
    if model != "edm":
        assert ((rounded.double() - exact).abs() > unit).any()


@pytest.mark.parametrize("name", EACH_PATH)
@pytest.mark.parametrize("dtype", HALF)
def test_schedules_do_not_depend_on_the_precision(name, dtype, backbone_of, half_of):
    full, half = backbone_of(name).schedule, half_of(name, dtype).schedule
    for t in levels(name):
        assert full.resolve(t) == half.resolve(t)


@pytest.mark.parametrize("dtype", HALF)
@pytest.mark.parametrize("model", KINDS)
def test_the_predicted_picture_is_worked_out_in_fp32(model, dtype, half_of):
    backbone, t = half_of(model, dtype), KINDS[model]
    features = diffeat.extract(
        backbone, pictures(1), spec(model, ("net:in", "net:out", "net:x0"), t), ids=["a"]
    )
    key = features.levels[0].t
    out = features["net:out", key].double()[:, :3]
    alpha, sigma = factors(model, backbone, t)
    clean, eps = (pictures(1) * 2 - 1).double(), drawn(["a"], (3, *NATIVE)).double()
    x = alpha * clean + sigma * eps
    total = sigma**2 + 0.5**2
    expected = {
        "pixel": lambda: (x - sigma * out) / alpha,
        "dit-pixels": lambda: (x - sigma * out) / alpha,
        "pixel-flow": lambda: x - sigma * out,
        "edm": lambda: 0.25 / total * x + sigma * 0.5 / np.sqrt(total) * out,
    }[model]()
    torch.testing.assert_close(features["net:x0", key].double(), expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("dtype", HALF)
@pytest.mark.parametrize("batch_size", [2, 16])
def test_members_are_averaged_in_fp32(dtype, batch_size, half_of):
    backbone, members, rows = half_of("pixel", dtype), 5, []
    hook = backbone.denoiser.up_blocks[1].register_forward_hook(
        lambda _module, _inputs, output: rows.append(output.clone())
    )
    try:
        asked = spec("pixel", "up.1", ensemble=members)
        found = diffeat.extract(backbone, pictures(1), asked, batch_size=batch_size)["up.1", 200]
    finally:
        hook.remove()
    apart = torch.cat(rows)
    assert apart.dtype == getattr(torch, dtype)
    mean = apart.double().mean(0, keepdim=True).float()
    torch.testing.assert_close(found, mean, rtol=1e-6, atol=1e-6)
    assert not torch.allclose(found, apart.mean(0, keepdim=True).float(), rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("dtype", HALF)
def test_half_precision_is_near_full(name, dtype, backbone_of, half_of):
    t = levels(name)[1]
    asked = spec(name, "all", t)
    full = diffeat.extract(backbone_of(name), pictures(1), asked)
    half = diffeat.extract(half_of(name, dtype), pictures(1), asked)
    unit = torch.finfo(getattr(torch, dtype)).eps
    for key, values in full.items():
        assert values.dtype == half[key].dtype == torch.float32
        assert (half[key] - values).norm() < 20 * unit * values.norm(), key


# --- attention ------------------------------------------------------------------------------------


class Kernels(TorchFunctionMode):
    """Counts fused attention, and what attention by hand is made of."""

    def __init__(self):
        super().__init__()
        self.fused = self.by_hand = 0

    def __torch_function__(self, func, types, args=(), kwargs=None):
        self.fused += func is F.scaled_dot_product_attention
        self.by_hand += func in (torch.softmax, torch.Tensor.softmax, F.softmax, torch.baddbmm)
        return func(*args, **(kwargs or {}))


def ran_in(backbone):
    """The attention modules that run, as a list that grows, and what stops that."""
    ran = []
    modules = list(backbone.denoiser.modules())
    if backbone.vae is not None:
        modules += [*backbone.vae.encoder.modules(), *backbone.vae_decoder.modules()]
    handles = [
        module.register_forward_hook(lambda module, *_: ran.append(module))
        for module in modules
        if type(module).__name__.endswith("Attention")
    ]
    return ran, handles


@pytest.mark.parametrize("name", EACH_PATH)
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_attention_is_fused_wherever_no_map_is_asked_for(name, dtype, half_of):
    backbone, t = half_of(name, dtype), levels(name)[0]
    maps = [b.name for b in backbone.tensors if b.layout == "map"]

    def count(blocks):
        extractor = Extractor(Plan(backbone, spec(name, blocks, t)))  # the text is encoded here
        ran, handles = ran_in(backbone)
        try:
            with Kernels() as kernels:
                extractor(Batch.of(pictures(1), ["a"]))
        finally:
            for handle in handles:
                handle.remove()
        return len(ran), kernels.fused, kernels.by_hand

    ran, fused, by_hand = count([b.name for b in backbone.tensors if b.layout != "map"])
    assert ran == fused
    assert by_hand == 0
    assert (ran > 0) == bool(maps)
    for block in maps[:1]:
        ran, fused, by_hand = count([block, "net:out"])
        assert ran == fused  # also the one that is watched
        assert by_hand > 0
