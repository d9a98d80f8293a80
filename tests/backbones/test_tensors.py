"""Every tensor of every family against a plain forward of diffusers with plain torch hooks."""

from __future__ import annotations

import pytest
import torch

import diffeat
from tests.pipelines import (
    NATIVE,
    TALL,
    gaussian,
    levels,
    pictures,
    prompt_and_label,
    references,
    tensor_names,
)

EXACT = {"rtol": 1e-5, "atol": 1e-5}


def case(name, size, backbone, plain, t):
    images = pictures(2, size)
    eps = gaussian(2, *backbone.latent_shape(size))
    clean = plain.encode(images)
    return images, eps, clean, plain.noisy(clean, eps, t)


@pytest.mark.parametrize(("size", "steps"), [(NATIVE, slice(1)), (TALL, slice(2))])
def test_every_tensor_equals_a_plain_forward(name, size, steps, backbone_of, plain_of):
    backbone, plain = backbone_of(name), plain_of(name)
    names = [block.name for block in backbone.tensors]
    for t in levels(name)[steps]:
        images, eps, clean, noisy = case(name, size, backbone, plain, t)
        spec = diffeat.ExtractSpec(t, names, dtype="float32", **prompt_and_label(name))
        features = diffeat.extract(backbone, images, spec, noise=eps)
        expected = references(plain, names, clean, noisy, t, pixels=images)
        for tensor in names:
            torch.testing.assert_close(
                features[tensor, features.levels[0].t],
                expected[tensor],
                rtol=1e-5,
                atol=1e-6 if tensor.endswith(".map") else 1e-5,
                msg=lambda text, tensor=tensor, t=t: f"{tensor} at t={t}: {text}",
            )


def test_no_tensor_is_left_out(name, backbone_of, plain_of):
    declared = [block.name for block in backbone_of(name).tensors]
    assert len(set(declared)) == len(declared)
    assert set(declared) == set(tensor_names(plain_of(name)))
