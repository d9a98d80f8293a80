"""Features that gradients pass through are those of an extraction."""

from __future__ import annotations

import numpy as np
import pytest
import torch

import diffeat
from diffeat.adapt.forward import NoisyFeatures, frozen
from diffeat.errors import SpecError


@pytest.mark.parametrize("model", ["pixel", "sd1", "dit"])
@pytest.mark.parametrize("latent", ["mean", "sample"])
def test_evaluation_equals_an_extraction(backbone_of, held, model, latent):
    backbone = backbone_of(model)
    names = tuple(block.name for block in backbone.blocks)[-6:-1:2]
    spec = diffeat.ExtractSpec((20,), names, latent=latent, seed=3, dtype="float32", size=(32, 32))
    pixels = torch.from_numpy(np.stack([np.asarray(held.load(k)) for k in range(4)]))
    pixels = pixels.permute(0, 3, 1, 2).contiguous()
    ids = list(held.ids[:4])
    expected = diffeat.extract(backbone, pixels.float() / 255, spec, ids=ids)
    features = NoisyFeatures(backbone, spec)
    found = features(features.noisy(pixels, ids))
    assert list(found) == list(names)
    for name in names:
        torch.testing.assert_close(found[name].detach(), expected[name, 20], rtol=1e-5, atol=1e-5)


def test_gradients_equal_finite_differences(backbone_of):
    backbone = backbone_of("pixel")
    features = NoisyFeatures(backbone, diffeat.ExtractSpec((20,), ("mid",), dtype="float32"))
    generator = torch.Generator().manual_seed(0)
    x, way, along = (torch.randn(1, 3, 32, 32, generator=generator) for _ in range(3))
    x.requires_grad_(True)
    value = features(x)["mid"]
    along = torch.randn(value.shape, generator=generator)
    (slope,) = torch.autograd.grad((value * along).sum(), x)
    with torch.no_grad():
        step = 1e-2
        up, down = (features(x + sign * step * way)["mid"] for sign in (1, -1))
        measured = ((up - down) * along).sum() / (2 * step)
    torch.testing.assert_close((slope * way).sum(), measured, rtol=1e-2, atol=1e-2)


def test_fresh_noise_comes_from_the_generator(backbone_of, held):
    features = NoisyFeatures(backbone_of("pixel"), diffeat.ExtractSpec((20,), ("mid",)))
    pixels = torch.zeros(2, 3, 32, 32, dtype=torch.uint8)
    one, same, other = (
        features.noisy(pixels, ["a", "b"], torch.Generator().manual_seed(seed))
        for seed in (0, 0, 1)
    )
    assert torch.equal(one, same)
    assert not torch.equal(one, other)
    alpha = features.backbone.schedule.resolve(20).alpha
    sigma = features.backbone.schedule.resolve(20).sigma
    eps = (one + alpha) / sigma  # black pictures are -1
    assert abs(float(eps.mean())) < 0.1
    assert float(eps.std()) == pytest.approx(1, abs=0.1)


def test_frozen_gives_back_what_it_froze(backbone_of):
    layer = torch.nn.Linear(2, 2)
    layer.bias.requires_grad_(False)
    with frozen(layer):
        assert not layer.weight.requires_grad
    assert layer.weight.requires_grad
    assert not layer.bias.requires_grad


@pytest.mark.parametrize(
    "fields",
    [
        {"timesteps": (20, 60)},
        {"ensemble": 2},
        {"noise": "inversion"},
        {"pool": "1x1"},
        {"prompt": "a photo of a {class}"},
    ],
)
def test_what_cannot_be_trained_through_is_refused(backbone_of, fields):
    spec = {"timesteps": (20,), "blocks": ("mid",), **fields}
    with pytest.raises(SpecError, match="training through a backbone expects"):
        NoisyFeatures(backbone_of("sd1"), diffeat.ExtractSpec(**spec))
