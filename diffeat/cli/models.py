"""`diffeat models` and `diffeat blocks`."""

from __future__ import annotations

import json
import math
from pathlib import Path

import click

from diffeat.cli.options import NONE, comma_list, json_option, option, print_json
from diffeat.cli.outputs import command
from diffeat.cli.spec_options import spec_options


@command()
@json_option
def models(as_json: bool) -> None:
    """List the bundled models, the known ones and the families that are supported."""
    from diffeat.backbones.loading import FAMILIES
    from diffeat.vision.backbone import Vision

    bundled, known = _bundled(), _known()
    families = [
        {"family": family.family, "covers": family.covers, "example": family.example}
        for family in sorted((*FAMILIES, Vision), key=lambda family: family.family)
    ]
    if as_json:
        print_json({"bundled": bundled, "known": known, "families": families})
        return
    click.echo("Bundled models (work offline):")
    for model in bundled:
        click.echo(
            f"  {model['name']:<14} {model['denoiser']:<22} {model['parameters'] / 1e6:5.1f} M "
            f"parameters  {model['size']}×{model['size']}  {model['objective']}"
        )
    click.echo("\nKnown models (configurations come with diffeat, weights from the hub):")
    for model in known:
        where = model["hub_id"] or "no hub; convert the checkpoint with scripts/convert.py"
        millions = model["parameters"] / 1e6
        click.echo(f"  {model['name']:<14} {millions:9,.1f} M parameters  {where}")
    click.echo(
        "\nFamilies (a pipeline folder or a hub id; of vision models timm:… or transformers:…):"
    )
    for family in families:
        click.echo(f"  {family['family']:<17} {family['covers']}, such as {family['example']}")
    click.echo(
        "\nNAME@random or NAME@random:SEED: the same denoiser with random weights, also of known "
        "models."
    )


def _known() -> list[dict]:
    """Facts of the known models, from their configuration files."""
    from diffeat.backbones.locate import known_models, read_json

    found = []
    for name, folder in known_models().items():
        index = read_json(folder / "model_index.json")
        found.append({"name": name, "hub_id": index["_hub_id"],
                      "parameters": index["_parameters"], "source": index["_source"]})  # fmt: skip
    return found


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


@command()
@click.argument("model")
@option("--tensors", is_flag=True, help="Also every kind of tensor of each block.")
@option("-b", "--blocks", "patterns", callback=comma_list,
              help="Only these: names, wildcards, groups or a paper's names.")  # fmt: skip
@option("--aliases", is_flag=True, help="List the names that papers gave to its tensors.")
@spec_options("size")
@json_option
def blocks(model: str, tensors: bool, patterns, aliases: bool, size, as_json: bool) -> None:
    """List the blocks of MODEL in the order of execution, without loading its weights.

    Shapes are those of one picture's feature: C×H×W, or tokens × D for text. Where there are
    heads, NAME.h3 is one of them, and NAME.h* every one.
    """
    from diffeat.blocks import resolve_blocks
    from diffeat.loading import load

    backbone = load(model, device="meta")
    if aliases:
        _print_aliases(backbone.aliases, as_json)
        return
    shown = backbone.tensors if tensors else backbone.blocks
    if patterns:
        shown = resolve_blocks(patterns, backbone.tensors, backbone.aliases)
    size = backbone.native_size if size in (None, NONE) else size
    backbone.check_size(size)
    rows = [_facts(backbone, block, size) for block in shown]
    if as_json:
        print_json(rows)
        return
    click.echo(f"{model}: {backbone.family}, {backbone.parameters / 1e6:.1f} M parameters, "
               f"shapes for {size[0]}×{size[1]} pictures")  # fmt: skip
    weights = 2 * backbone.parameters / 1e9
    kept = 2 * sum(math.prod(row["shape"]) for row in rows) / 1e6
    click.echo(f"weights {weights:,.2f} GB in bfloat16; the tensors below {kept:,.2f} MB per "
               "picture and t in float16")  # fmt: skip
    width = max(len(row["name"]) for row in rows)
    click.echo(f"{'order':>5}  {'block':<{width}}  {'kind':<11}  channels  stride  heads  shape")
    for row in rows:
        shape = "×".join(map(str, row["shape"]))
        click.echo(
            f"{row['order']:>5}  {row['name']:<{width}}  {row['kind']:<11}  "
            f"{row['channels']:>8}  {row['stride']:>6}  {row['heads'] or '-':>5}  {shape}"
        )


def _facts(backbone, block, size: tuple[int, int]) -> dict:
    """What one line of the list says; a text tensor has no stride."""
    from diffeat.extraction.plan import tensor_shape

    names = ("name", "path", "kind", "part", "stride", "layout", "order", "tensor", "heads")
    shape = tensor_shape(backbone, block, size)
    channels = shape[-1] if block.is_text else shape[0]
    return {name: getattr(block, name) for name in names} | {
        "channels": channels,
        "shape": list(shape),
    }


def _print_aliases(aliases: dict[str, str], as_json: bool) -> None:
    if as_json:
        print_json(aliases)
        return
    width = max(map(len, aliases), default=0)
    for alias, name in aliases.items():
        click.echo(f"{alias:<{width}}  {name}")
