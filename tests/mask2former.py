"""A tiny Mask2Former on disk, as transformers saves it."""

from __future__ import annotations

from pathlib import Path

import torch

NAMES = ("cat", "dog", "sky")
QUERIES, WIDTH = 6, 32


def mask2former(seed: int = 0):
    """The network; nothing of its weights is zero that a fault could hide behind."""
    import transformers as hf

    swin = hf.SwinConfig(
        image_size=64, embed_dim=8, depths=[1, 1, 1, 1], num_heads=[1, 1, 2, 2], window_size=4,
        out_features=["stage1", "stage2", "stage3", "stage4"],
    )  # fmt: skip
    config = hf.Mask2FormerConfig(
        backbone_config=swin, feature_size=WIDTH, mask_feature_size=WIDTH, hidden_dim=WIDTH,
        encoder_feedforward_dim=32, encoder_layers=1, decoder_layers=2, num_attention_heads=2,
        dim_feedforward=32, num_queries=QUERIES, id2label=dict(enumerate(NAMES)),
    )  # fmt: skip
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return hf.Mask2FormerForUniversalSegmentation(config).eval()


def save_mask2former(folder: Path, seed: int = 0) -> Path:
    """A folder with weights and preprocessing: short side 64, sides that 32 divides."""
    from transformers import Mask2FormerImageProcessor
    from transformers.utils import logging

    logging.disable_progress_bar()
    mask2former(seed).save_pretrained(folder)
    size = {"shortest_edge": 64, "longest_edge": 128}
    Mask2FormerImageProcessor(size=size, size_divisor=32).save_pretrained(folder)
    return folder
