"""Counted operations against arithmetic by hand."""

from __future__ import annotations

import pytest
import torch
from diffusers.models.attention_processor import Attention

import diffeat
from benchmarks.speed import ensemble, surface
from benchmarks.speed.flops import Costs, clip_text, costs, count, denoiser_flops, module_flops


def test_a_convolution():
    layer = torch.nn.Conv2d(3, 8, 3, stride=2, padding=1, device="meta")
    x = torch.empty(5, 3, 12, 20, device="meta")
    assert module_flops(layer, x) == 2 * 5 * (6 * 10) * 8 * (3 * 9)


@pytest.mark.parametrize("device", ["meta", "cpu"])
def test_an_attention_layer(device):
    heads, width, inner, tokens, batch = 4, 24, 32, 49, 2
    layer = Attention(width, heads=heads, dim_head=inner // heads).to(device)
    projections = 4 * 2 * batch * tokens * width * inner  # queries, keys, values, output
    products = 2 * 2 * batch * tokens * tokens * inner  # q·k and probabilities·v, all heads
    x = torch.empty(batch, tokens, width, device=device)
    assert module_flops(layer, x) == projections + products


@pytest.mark.parametrize("device", ["meta", "cpu"])
@pytest.mark.parametrize("causal", [False, True])
@pytest.mark.parametrize("masked", [False, True])
def test_attention_alone(device, causal, masked):
    """However it is called, and whatever kernel would do it: 2 · 2 · b·h·n·m·d."""
    b, h, n, m, d = 2, 3, 16, 40, 8
    q, k = torch.empty(b, h, n, d, device=device), torch.empty(b, h, m, d, device=device)
    mask = torch.ones(n, m, dtype=torch.bool, device=device) if masked and not causal else None
    attend = torch.nn.functional.scaled_dot_product_attention
    assert count(lambda: attend(q, k, k, mask, is_causal=causal)) == 2 * 2 * b * h * n * m * d


def test_the_text_encoder():
    tokens, width, layers = 77, 768, 12
    linear = 2 * tokens * (4 * width**2 + 2 * width * 4 * width)
    attention = 2 * 2 * tokens**2 * width
    assert clip_text() == layers * (linear + attention)


def test_the_first_convolution_of_stable_diffusion():
    # at t's embedding two linear layers, 320 → 1280 → 1280; then 4 → 320 channels, 3×3
    cost = costs("sd15", (512, 512), ("conv_in",))
    embedding = 2 * (320 * 1280 + 1280 * 1280)
    assert cost.denoiser == {"conv_in": embedding + 2 * 64 * 64 * 320 * 4 * 9}


class ByHand:
    """Counts linear layers, convolutions and attention of a forward, by their shapes alone."""

    def __init__(self, network, monkeypatch):
        self.total = 0
        for module in network.modules():
            if isinstance(module, (torch.nn.Linear, torch.nn.Conv2d)):
                module.register_forward_hook(self.layer)
        attend = torch.nn.functional.scaled_dot_product_attention

        def counted(q, k, v, *args, **kwargs):
            self.total += 2 * q.numel() * k.shape[-2] + 2 * q[..., 0].numel() * v[0, 0].numel()
            return attend(q, k, v, *args, **kwargs)

        monkeypatch.setattr(torch.nn.functional, "scaled_dot_product_attention", counted)

    def layer(self, module, _inputs, output):
        self.total += 2 * output.numel() * module.weight[0].numel()


@pytest.mark.parametrize("name", ["sd1", "dit"])
def test_forwards_are_cut_after_their_block(name, folder_of, monkeypatch):
    """Against one forward of the real network whose layers are counted by hand on the way."""
    real = diffeat.load(str(folder_of(name)))  # its own, because its layers get hooks
    meta = diffeat.load(str(folder_of(name)), "meta")
    size = real.native_size
    found = denoiser_flops(meta, size, [block.name for block in real.blocks])
    assert list(found) == [block.name for block in real.blocks]
    condition = {key: value.to(real.device) for key, value in real.condition([""], [None]).items()}
    arguments = real.call_arguments(
        torch.zeros(1, *real.latent_shape(size)), torch.zeros(1), condition
    )
    by_hand, expected = ByHand(real.denoiser, monkeypatch), {}
    for block in real.blocks:
        real.denoiser.get_submodule(block.path).register_forward_hook(
            lambda *_, name=block.name: expected.update({name: by_hand.total})
        )
    with torch.no_grad():
        real.denoiser(**arguments)
    assert found == expected


def test_a_run_pays_for_the_vae_once_and_for_the_last_block():
    cost = Costs(encoder=100, denoiser={"a": 10, "b": 30}, text=7)
    assert cost.run(3, ["a", "b"], pictures=2) == 7 + 2 * (100 + 3 * 30)
    assert cost.run(3, ["a"]) == 7 + 100 + 3 * 10


def test_ratios_of_a_surface_by_hand():
    cost = Costs(encoder=100, denoiser={"a": 10, "b": 30}, text=7)
    found = surface.arithmetic(cost, levels=3, pictures=2)
    together = 7 + 2 * (100 + 90)
    assert found["per_t"] == round(3 * (7 + 2 * 130) / together, 3)
    assert found["per_cell"] == round(3 * (7 + 2 * 110 + 7 + 2 * 130) / together, 3)


def test_ratios_of_stable_diffusion_reach_their_targets():
    cost = costs("sd15", (512, 512), (*surface.BLOCKS, ensemble.BLOCK), clip_text())
    blocks = {name: cost.denoiser[name] for name in cost.denoiser if name != ensemble.BLOCK}
    found = surface.arithmetic(Costs(cost.encoder, blocks, cost.text), 11, 1000)
    assert (found["levels"], found["blocks"]) == (11, 12)
    assert found["per_cell"] >= 20
    assert found["per_t"] >= 1.9
    assert ensemble.arithmetic(cost, 1000) >= 2.3


def test_pixel_models_have_no_encoder():
    assert costs("unet-cifar10", (32, 32), ("mid",)).encoder == 0
