"""Training through a backbone on a device that is claimed."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from diffeat.adapt import DifFeed, FineTuning
from diffeat.adapt.forward import NoisyFeatures
from tests.adapt.conftest import draw
from tests.device.claims import CUDA, claimed
from tests.extraction.common import same, spec
from tests.pipelines import EACH_PATH, levels, pictures

IDS = ["a", "b"]


@pytest.mark.parametrize("noise", ["per-image", "shared", "none", "uniform"])
@pytest.mark.parametrize("fresh", [False, True])
def test_the_layer_noises_on_the_device(noise, fresh, backbone_of, claimed_backbone, mode):
    """Noise is drawn by the CPU's generators, so x_t is the CPU's; then it travels."""
    pixels, found = (pictures(2) * 255).to(torch.uint8), []
    for backbone in (backbone_of("sd1"), claimed_backbone("sd1")):
        layer = NoisyFeatures(backbone, spec("sd1", "mid", noise=noise, latent="sample"))
        generator = torch.Generator().manual_seed(3) if fresh else None
        found.append(layer.noisy(pixels, IDS, generator))
    assert found[1].device == CUDA
    same(found[1].cpu(), found[0])


@pytest.mark.parametrize("name", EACH_PATH)
def test_gradients_pass_through_every_family(name, backbone_of, claimed_backbone, mode):
    """The layer's maps, and the gradient of their sum to x_t, are those of the CPU."""
    blocks = [block.name for block in backbone_of(name).blocks if not block.of_vae]
    pixels, seen = (pictures(2) * 255).to(torch.uint8), []
    for backbone in (backbone_of(name), claimed_backbone(name)):
        layer = NoisyFeatures(backbone, spec(name, blocks[-1], levels(name)[0]))
        x = layer.noisy(pixels, IDS).requires_grad_()
        (maps,) = layer(x).values()
        maps.square().mean().backward()
        seen.append((maps.detach(), x.grad))
    assert all(value.device == CUDA for value in seen[1])
    for one, other in zip(seen[1], seen[0], strict=True):
        same(one.cpu(), other)


@pytest.mark.parametrize("kind", [FineTuning, DifFeed])
def test_classifiers_learn_there_what_they_learn_on_the_cpu(
    kind, backbone_of, claimed_backbone, mode
):
    training, held = draw(10, 0), draw(4, 1)
    answers = []
    for backbone in (backbone_of("pixel"), claimed_backbone("pixel")):
        model = kind(backbone, "up.0", 20, epochs=1, batch_size=5, shift=2, progress=False)
        model.fit(training, held)
        answers.append((model.predict_proba(held), [e["loss"] for e in model.history_]))
        weights = model.module_.parameters()
        assert {claimed(weight) for weight in weights} == {backbone.device.type == "cuda"}
    np.testing.assert_allclose(answers[1][0], answers[0][0], rtol=2e-3, atol=2e-3)
    np.testing.assert_allclose(answers[1][1], answers[0][1], rtol=2e-3)


def test_a_classifier_goes_on_from_its_checkpoint(claimed_backbone, tmp_path, mode):
    """A fit that finds one that has ended gives its answers, weights and all."""
    options = {"batch_size": 5, "shift": 2, "progress": False, "unfreeze": "up.0"}
    source = draw(10, 0)

    def model(epochs, **more):
        return FineTuning(claimed_backbone("pixel"), "up.0", 20, epochs=epochs, **options, **more)

    path = tmp_path / "kept.safetensors"
    expected = model(1, checkpoint=path).fit(source).predict_proba(source)
    resumed = model(1, checkpoint=path).fit(source).predict_proba(source)
    np.testing.assert_allclose(resumed, expected, rtol=1e-6)
