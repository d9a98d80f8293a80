"""`diffeat models` and `diffeat blocks`."""

from __future__ import annotations

import json
import math
from dataclasses import asdict
from pathlib import Path

import click

from diffeat.cli.options import json_option, print_json

FAMILIES = {
    "pixel-unet": ("DDPM pipelines (UNet2DModel)", "google/ddpm-cifar10-32"),
    "stable-diffusion": (
        "Stable Diffusion 1.x, 2.x (UNet2DConditionModel)",
        "stabilityai/stable-diffusion-2-1",
    ),
    "dit": ("DiT, on VAE latents or pixels (DiTTransformer2DModel)", "facebook/DiT-XL-2-256"),
}


@click.command()
@json_option
def models(as_json: bool) -> None:
    """List the bundled models and the families that are supported."""
    bundled = _bundled()
    if as_json:
        families = [{"family": k, "covers": v[0], "example": v[1]} for k, v in FAMILIES.items()]
        print_json({"bundled": bundled, "families": families})
        return
    click.echo("Bundled models (work offline):")
    for model in bundled:
        click.echo(
            f"  {model['name']:<14} {model['denoiser']:<22} {model['parameters'] / 1e6:5.1f} M "
            f"parameters  {model['size']}×{model['size']}  {model['objective']}"
        )
    click.echo("\nFamilies (a pipeline folder or a hub id):")
    for name, (covers, example) in FAMILIES.items():
        click.echo(f"  {name:<17} {covers}, such as {example}")
    click.echo("\nNAME@random or NAME@random:SEED: the same denoiser with random weights.")


def _bundled() -> list[dict]:
    """Facts of the bundled models, read from their files without loading them."""
    from diffeat.backbones.locate import bundled_models

    found = []
    for name, folder in bundled_models().items():
        config = next(json.loads(path.read_text()) for path in folder.glob("*/config.json"))
        scheduler = json.loads((folder / "scheduler/scheduler_config.json").read_text())
        found.append(
            {
                "name": name,
                "denoiser": config["_class_name"],
                "parameters": sum(map(_count_weights, folder.glob("*/*.safetensors"))),
                "size": config["sample_size"],
                "objective": scheduler.get("prediction_type", "flow"),
            }
        )
    return found


def _count_weights(path: Path) -> int:
    """Number of values in a safetensors file, from its header."""
    with open(path, "rb") as file:
        header = json.loads(file.read(int.from_bytes(file.read(8), "little")))
    return sum(math.prod(v["shape"]) for k, v in header.items() if k != "__metadata__")


@click.command()
@click.argument("model")
@json_option
def blocks(model: str, as_json: bool) -> None:
    """List every block of MODEL in the order of execution, without loading its weights."""
    from diffeat.backbones import load

    backbone = load(model, device="meta")
    if as_json:
        print_json([asdict(block) for block in backbone.blocks])
        return
    size = backbone.native_size
    click.echo(f"{model}: {backbone.family}, {backbone.parameters / 1e6:.1f} M parameters, "
               f"maps for {size[0]}×{size[1]} pictures")  # fmt: skip
    width = max(len(block.name) for block in backbone.blocks)
    click.echo(f"{'order':>5}  {'block':<{width}}  {'kind':<11}  channels  stride  map")
    for b in backbone.blocks:
        height, wide = b.grid(size)
        click.echo(f"{b.order:>5}  {b.name:<{width}}  {b.kind:<11}  {b.channels:>8}  "
                   f"{b.stride:>6}  {height}×{wide}")  # fmt: skip
