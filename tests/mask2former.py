"""A tiny Mask2Former and a tiny CLIP on disk, as transformers saves them."""

from __future__ import annotations

from pathlib import Path

import torch

from tests import parts

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


def save_clip(folder: Path) -> Path:
    """A tiny CLIP with its tokenizer and preprocessing."""
    import transformers as hf

    hf.utils.logging.disable_progress_bar()
    tokenizer = parts.tokenizer(folder)
    small = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2,
             "intermediate_size": 32}  # fmt: skip
    text = {**small, "vocab_size": len(tokenizer), "max_position_embeddings": 20,
            "bos_token_id": len(tokenizer) - 2, "eos_token_id": len(tokenizer) - 1}  # fmt: skip
    vision = {**small, "image_size": 28, "patch_size": 14}
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        config = hf.CLIPConfig(text_config=text, vision_config=vision, projection_dim=8)
        hf.CLIPModel(config).save_pretrained(folder)
    hf.CLIPImageProcessor(size={"shortest_edge": 28}, crop_size={"height": 28, "width": 28}
                          ).save_pretrained(folder)  # fmt: skip
    return folder
