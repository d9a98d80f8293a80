"""Heads of vision transformers, against slices of a plain forward; registers are no place."""

from __future__ import annotations

import pytest
import torch

import diffeat
from tests.pipelines import pictures
from tests.vision.conftest import save_hub_model


@pytest.fixture(scope="module", params=["test_vit", "dino", "registers", "clip"])
def backbone(request, tmp_path_factory):
    if request.param == "test_vit":
        return diffeat.load("timm:test_vit@random", "cpu", "float32")
    folder = save_hub_model(request.param, tmp_path_factory.mktemp("hub") / request.param)
    return diffeat.load(f"transformers:{folder}", "cpu", "float32")


def test_heads_lie_side_by_side_in_queries_keys_and_values(backbone):
    names = [f"blocks.1:self.{letter}" for letter in "qkv"]
    counts = {b.name: b.heads for b in backbone.tensors if b.name in names}
    attention = next(  # in the library's own words
        m for m in backbone.denoiser.modules()
        if hasattr(m, "num_heads") or hasattr(m, "num_attention_heads")
    )  # fmt: skip
    said = getattr(attention, "num_heads", None) or attention.num_attention_heads
    assert set(counts.values()) == {said}
    assert said > 1
    images = pictures(1, backbone.native_size)
    whole = diffeat.extract(backbone, images, diffeat.ExtractSpec(0, names, dtype="float32"))
    asked = diffeat.ExtractSpec(0, [f"{name}.h*" for name in names], dtype="float32")
    found = diffeat.extract(backbone, images, asked)
    for name in names:
        parts = whole[name, 0].split(whole[name, 0].shape[1] // said, 1)
        assert len(parts) == said
        for head, part in enumerate(parts):
            assert torch.equal(found[f"{name}.h{head}", 0], part)
    swapped = diffeat.ExtractSpec(0, names[1], heads=(1, 0), dtype="float32")
    both = diffeat.extract(backbone, images, swapped)[names[1], 0]
    keys = whole[names[1], 0].split(whole[names[1], 0].shape[1] // said, 1)
    assert torch.equal(both, torch.cat([keys[1], keys[0]], 1))
