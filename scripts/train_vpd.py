"""Trains a VPD: a text-to-image model that is told classes, with a head for masks or depth.

    python scripts/train_vpd.py MODEL clothing:train --validation clothing:val -o vpd.safetensors
    diffeat segment MODEL PICTURES --head vpd.safetensors -o masks/

What is trained on is a named set, or a folder, as `diffeat probe --masks` or `--depth` takes it.
Interrupted, the same command goes on (--checkpoint).
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path

import diffeat
from diffeat.errors import DiffeatError
from diffeat.targets.dense import open_dense


def main(arguments: list[str] | None = None) -> int:
    """Train and write; 0, or 1 with a message where that cannot be."""
    given = _parser().parse_args(arguments)
    try:
        train(given)
    except (DiffeatError, ValueError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    return 0


def train(given: argparse.Namespace) -> None:
    """What the command line asks for; the learning curve goes to stdout, a line an epoch."""
    from diffeat.adapt import VPD

    if given.output.suffix != ".safetensors":
        raise ValueError(f"{given.output}: expected a path that ends in .safetensors")
    targets, held = (
        None if name is None else open_dense(name) for name in (given.targets, given.validation)
    )
    words = given.words or targets.classes
    if not words:
        raise ValueError("depth has no classes; say words that pictures may show (--words)")
    named = ("blocks", "attention", "t", "size", "templates", "width", "last", "max_depth",
             "epochs", "batch_size", "learning_rate", "backbone_learning_rate")  # fmt: skip
    options = {name: getattr(given, name) for name in named if getattr(given, name) is not None}
    vpd = VPD(
        diffeat.load(given.model, device=given.device, dtype=given.dtype), words,
        task="depth" if targets.kind == "depth" else "segmentation", finetune=given.finetune,
        random_state=given.seed, checkpoint=given.checkpoint, **options,
    ).fit(targets, held)  # fmt: skip
    if held is not None:
        print(json.dumps({"epoch": 0, **vpd.start_}))
    for seen in vpd.history_:
        print(json.dumps(seen))
    vpd.save(given.output)
    print(f"{given.output}: epoch {vpd.best_epoch_}", file=sys.stderr)


def _names(text: str) -> tuple[str, ...]:
    return tuple(text.split(","))


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("model", help="with one CLIP text encoder, such as sd15")
    add("targets", help="pictures with masks or depth")
    add("-o", "--output", type=Path, required=True, help="a .safetensors file")
    add("--validation", help="other pictures, on which the epoch is chosen")
    add("--words", help="cat,dog or a file with synonyms (default: the classes' names)")
    add("-b", "--blocks", type=_names, help="maps (default: the published)")
    add("--attention", type=_names, help="cross-attention (default: as published, of depth none)")
    add("-t", type=int, help="what the model is told (default 1)")
    add("--size", type=int, help="of the input, in pixels (default: the model's)")
    add("--templates", help="imagenet-80 (default), photo, plain, or a .txt file")
    add("--finetune", action="store_true", help="train the denoiser, too, as published")
    add("--width", type=int, help="of the head")
    add("--last", type=int, help="of the depth head")
    add("--max-depth", type=float, help="metres")
    add("--epochs", type=int)
    add("--batch-size", type=int, help="pictures of a step")
    add("--learning-rate", type=float)
    add("--backbone-learning-rate", type=float)
    add("--seed", type=int, default=0)
    add("--device", default="auto")
    add("--dtype", default="auto")
    add("--checkpoint", help="folder from which an interrupted run goes on")
    return parser


if __name__ == "__main__":
    sys.exit(main())
