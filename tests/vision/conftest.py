"""Pictures, and tiny vision models on disk."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

from diffeat.images import ArraySource

TINY = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2,
        "intermediate_size": 32}  # fmt: skip
SQUARE = {**TINY, "image_size": 28, "patch_size": 14}


def pictures(count: int = 5, side: int = 32, seed: int = 0) -> ArraySource:
    """Colourful noise; ids p0, p1, …"""
    pixels = np.random.default_rng(seed).integers(0, 256, (count, side, side, 3), np.uint8)
    return ArraySource("made", tuple(f"p{k}" for k in range(count)), None, (), pixels)


def _models() -> dict[str, Callable]:
    import transformers as hf

    text = {**TINY, "vocab_size": 50, "bos_token_id": 0, "eos_token_id": 1}
    clip = {"text_config": text, "vision_config": SQUARE, "projection_dim": 8}
    conv = {"num_stages": 2, "hidden_sizes": [8, 16], "depths": [1, 1], "image_size": 28}
    registers = {**SQUARE, "num_register_tokens": 3}
    return {
        "dino": lambda: hf.Dinov2Model(hf.Dinov2Config(**SQUARE)),
        "registers": lambda: hf.Dinov2WithRegistersModel(hf.Dinov2WithRegistersConfig(**registers)),
        "vit": lambda: hf.ViTModel(hf.ViTConfig(**SQUARE)),
        "mae": lambda: hf.ViTMAEModel(hf.ViTMAEConfig(**SQUARE)),
        "clip": lambda: hf.CLIPModel(hf.CLIPConfig(**clip)),
        "siglip": lambda: hf.SiglipVisionModel(hf.SiglipVisionConfig(**SQUARE)),
        "convnext": lambda: hf.ConvNextModel(hf.ConvNextConfig(**conv)),
        "resnet": lambda: hf.ResNetModel(hf.ResNetConfig(
            embedding_size=8, hidden_sizes=[16, 24], depths=[1, 1], layer_type="basic")),
        "swin": lambda: hf.SwinModel(hf.SwinConfig(
            image_size=32, embed_dim=8, depths=[2, 1], num_heads=[2, 2], window_size=4)),
    }  # fmt: skip


def save_hub_model(name: str, folder: Path) -> Path:
    """Save a tiny model of transformers, with weights that hide nothing, and its preprocessing."""
    from transformers import BitImageProcessor
    from transformers.utils import logging

    logging.disable_progress_bar()
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = _models()[name]()
        for weight in model.parameters():  # zeros and ones would hide what is left out
            torch.nn.init.normal_(weight, std=0.3)
    model.save_pretrained(folder)
    size = {"shortest_edge": 32}
    crop = {"height": 28, "width": 28}
    BitImageProcessor(size=size, crop_size=crop).save_pretrained(folder)
    return folder


@pytest.fixture
def saved(tmp_path) -> Callable[[str], Path]:
    """A folder with a tiny model of transformers and its preprocessing, by name."""
    return lambda name: save_hub_model(name, tmp_path / name)


def by_hand(source: ArraySource, folder_side: int, mean, std) -> torch.Tensor:
    """(N, 3, side, side): the middle of the pictures, scaled; nothing is resized."""
    edge = (source.pixels.shape[1] - folder_side) // 2
    inner = source.pixels[:, edge : edge + folder_side, edge : edge + folder_side]
    values = (inner / 255 - np.array(mean)) / np.array(std)
    return torch.from_numpy(values.transpose(0, 3, 1, 2).astype(np.float32))
