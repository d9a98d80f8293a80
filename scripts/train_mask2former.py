"""Train a small Mask2Former from nothing on pictures with segments; saved as transformers does it.

    python scripts/train_mask2former.py masks:horses:train mask2former-horses
    diffeat segment PICTURES --proposals mask2former-horses -o segments/

What it is for: proposals where no published weights are at hand, and figures of documents that
anybody can have again. A CPU takes about a quarter of an hour. The architecture is Mask2Former's
with a Swin of 1.7 million parameters; pictures are squashed to a square, mirrored, cropped and made
lighter or darker; AdamW, warm-up and cosine.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import click
import numpy as np
import torch
from PIL import Image

from diffeat.progress import counted, say
from diffeat.targets.panoptic import PanopticTargets, open_segments

MEAN, STD = np.array([0.485, 0.456, 0.406]), np.array([0.229, 0.224, 0.225])
LEAST = 4
"""Pixels of a segment, at the size that is trained at."""


@dataclass(frozen=True)
class Example:
    """A picture as it is trained on.

    Attributes:
        pixels: (S, S, 3) uint8.
        masks: (n, S, S) bool.
        labels: (n,) int64.
    """

    pixels: np.ndarray
    masks: np.ndarray
    labels: np.ndarray


def read(targets: PanopticTargets, side: int) -> list[Example]:
    """All pictures with a segment, in memory."""
    source, found = targets.pictures(), []
    for row in range(len(targets)):
        image = source.load(row).convert("RGB").resize((side, side), Image.Resampling.BILINEAR)
        ids, segments = targets.segmented(row)
        small = np.asarray(Image.fromarray(ids).resize((side, side), Image.Resampling.NEAREST))
        kept = [one for one in segments
                if not one["crowd"] and (small == one["id"]).sum() >= LEAST]  # fmt: skip
        if kept:
            masks = np.stack([small == one["id"] for one in kept])
            labels = np.array([one["class"] for one in kept], np.int64)
            found.append(Example(np.asarray(image), masks, labels))
    return found


def augmented(one: Example, rng: np.random.Generator) -> tuple[torch.Tensor, ...]:
    """(3, S, S) normalised pixels, masks and labels: mirrored, cropped to 3/4 or more, lighter."""
    side = len(one.pixels)
    pixels, masks = one.pixels, one.masks
    if rng.random() < 0.5:
        pixels, masks = pixels[:, ::-1], masks[:, :, ::-1]
    height, width = rng.integers(3 * side // 4, side + 1, 2)
    top, left = rng.integers(0, side - height + 1), rng.integers(0, side - width + 1)
    cut = np.ascontiguousarray(pixels[top : top + height, left : left + width])
    cut = np.asarray(Image.fromarray(cut).resize((side, side), Image.Resampling.BILINEAR))
    centres = np.arange(side) + 0.5
    rows = top + (centres * height / side).astype(int)
    columns = left + (centres * width / side).astype(int)
    masks = masks[:, rows][:, :, columns]
    there = masks.any((1, 2))
    values = (cut / 255 * rng.uniform(0.8, 1.2)).clip(0, 1)
    values = ((values - MEAN) / STD).transpose(2, 0, 1).astype(np.float32)
    return (torch.from_numpy(values), torch.from_numpy(masks[there].astype(np.float32)),
            torch.from_numpy(one.labels[there]))  # fmt: skip


def network(classes: tuple[str, ...], side: int, queries: int, width: int):
    """A small Mask2Former with random weights."""
    import transformers as hf

    swin = hf.SwinConfig(
        image_size=side, patch_size=4, embed_dim=width // 2, depths=[1, 1, 2, 1],
        num_heads=[1, 2, 4, 8], window_size=max(1, side // 16),
        out_features=["stage1", "stage2", "stage3", "stage4"],
    )  # fmt: skip
    return hf.Mask2FormerForUniversalSegmentation(hf.Mask2FormerConfig(
        backbone_config=swin, feature_size=width, mask_feature_size=width, hidden_dim=width,
        encoder_feedforward_dim=2 * width, encoder_layers=1, decoder_layers=4,
        num_attention_heads=4, dim_feedforward=2 * width, num_queries=queries,
        id2label=dict(enumerate(classes)), train_num_points=1024,
    ))  # fmt: skip


def train(
    targets: PanopticTargets, out: Path, *, steps: int = 1300, side: int = 96, queries: int = 12,
    width: int = 64, batch: int = 6, rate: float = 5e-4, seed: int = 0,
) -> list[float]:  # fmt: skip
    """Train, and save weights and preprocessing.

    Returns:
        The loss of every step.
    """
    from transformers import Mask2FormerImageProcessor

    torch.manual_seed(seed)
    rng = np.random.default_rng(seed)
    examples = read(targets, side)
    model = network(targets.classes, side, queries, width).train()
    optimizer = torch.optim.AdamW(model.parameters(), lr=rate, weight_decay=0.05)
    losses = []
    with counted(steps, desc="train", unit="steps") as bar:
        for step in range(steps):
            for group in optimizer.param_groups:
                decay = 0.5 * (1 + np.cos(np.pi * step / steps))
                group["lr"] = rate * min(1.0, (step + 1) / 50) * decay
            drawn = rng.integers(0, len(examples), batch)
            pixels, masks, labels = zip(*(augmented(examples[k], rng) for k in drawn), strict=True)
            loss = model(pixel_values=torch.stack(pixels), mask_labels=list(masks),
                         class_labels=list(labels)).loss  # fmt: skip
            optimizer.zero_grad()
            loss.backward()
            torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimizer.step()
            losses.append(float(loss.detach()))
            bar.update(1)
    model.eval().save_pretrained(out)
    size = {"height": side, "width": side}
    Mask2FormerImageProcessor(size=size, size_divisor=32).save_pretrained(out)
    return losses


@click.command()
@click.argument("segments")
@click.argument("out", type=click.Path(path_type=Path))
@click.option("--steps", type=click.IntRange(1), default=1300, show_default=True)
@click.option("--queries", type=click.IntRange(1), default=12, show_default=True)
@click.option("--seed", type=int, default=0, show_default=True)
def main(segments: str, out: Path, steps: int, queries: int, seed: int) -> None:
    """Train on SEGMENTS, "masks:NAME" or "FOLDER:SPLIT" in COCO's panoptic layout."""
    targets = open_segments(segments)
    losses = train(targets, out, steps=steps, queries=queries, seed=seed)
    say(f"{out}: {len(targets)} pictures, {steps} steps, loss {np.mean(losses[:20]):.3g} → "
        f"{np.mean(losses[-20:]):.3g}")  # fmt: skip


if __name__ == "__main__":
    main()
