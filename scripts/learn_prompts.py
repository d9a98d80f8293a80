"""Learns a prompt for matching (SD4Match's way) and writes it as a file for `--embeddings`.

    python scripts/learn_prompts.py MODEL PAIRS -b up.1 -t 261 -o prompt.safetensors
    diffeat extract MODEL PICTURES -o F.h5 --recipe sd4match --embeddings prompt.safetensors

PAIRS, and those of --validation, are what `diffeat match --pairs` takes: a data set (spair:trn), a
folder, or a list of key points. Interrupted, the same command goes on (--checkpoint).
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path

import diffeat
from diffeat.errors import DiffeatError
from diffeat.targets.pairs import open_pairs


def main(arguments: list[str] | None = None) -> int:
    """Learn and write; 0, or 1 with a message where that cannot be."""
    given = _parser().parse_args(arguments)
    try:
        learn(given)
    except (DiffeatError, ValueError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    return 0


def learn(given: argparse.Namespace) -> None:
    """What the command line asks for; the learning curve goes to stdout, a line an epoch."""
    from diffeat.adapt import PromptTuning

    if given.output.suffix != ".safetensors":
        raise ValueError(f"{given.output}: expected a path that ends in .safetensors")
    pairs = open_pairs(given.pairs)
    held = None if given.validation is None else open_pairs(given.validation)
    vision = None if given.vision is None else diffeat.FeatureStore(given.vision)
    options = {name: getattr(given, name) for name in ("noise", "latent", "size", "resample")}
    backbone = diffeat.load(given.model, device=given.device, dtype=given.dtype)
    learned = PromptTuning(
        backbone, given.block, given.timestep, kind=given.kind, tokens=given.tokens,
        start=given.start, vision=vision, epochs=given.epochs, batch_size=given.batch_size,
        options={name: value for name, value in options.items() if value is not None},
        gradient_checkpointing=given.gradient_checkpointing, random_state=given.seed,
        checkpoint=given.checkpoint,
    ).fit(pairs, held)  # fmt: skip
    if held is not None:
        print(json.dumps({"epoch": 0, **learned.start_}))
    for seen in learned.history_:
        print(json.dumps(seen))
    learned.save(given.output)
    print(f"{given.output}: the prompt of epoch {learned.best_epoch_}", file=sys.stderr)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("model", help="with one CLIP text encoder, such as sd21")
    add("pairs", help="with key points on both sides")
    add("-b", "--block", default="up.1", help="whose map is matched (default %(default)s)")
    add("-t", "--timestep", default="261", help="noise level (default %(default)s)")
    add("-o", "--output", type=Path, required=True, help="a .safetensors file")
    add("--validation", help="other pairs, on which the epoch is chosen")
    add("--kind", default="single", choices=("single", "class", "conditional"))
    add("--vision", help="feature file of a vision model, for a conditional prompt")
    add("--tokens", type=int, help="learned tokens (default: all that fit)")
    add("--start", default="", help="text that it starts from (default: empty)")
    add("--epochs", type=int, default=5)
    add("--batch-size", type=int, default=1, help="pairs of a step (default %(default)s)")
    add("--noise", help="as in an extraction")
    add("--latent", help="as in an extraction")
    add("--size", type=int, help="of the input, in pixels")
    add("--resample", help="as in an extraction")
    add("--gradient-checkpointing", action="store_true", help="less memory, more time")
    add("--seed", type=int, default=0)
    add("--device", default="auto")
    add("--dtype", default="auto")
    add("--checkpoint", help="folder from which an interrupted run goes on")
    return parser


if __name__ == "__main__":
    sys.exit(main())
