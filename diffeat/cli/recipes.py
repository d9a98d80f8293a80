"""`diffeat recipes` and `diffeat channels`."""

from __future__ import annotations

from dataclasses import asdict

import click

from diffeat.cli.options import (
    json_option,
    model_fields,
    model_options,
    open_pictures,
    option,
    print_json,
    threads_option,
)
from diffeat.cli.outputs import command
from diffeat.cli.spec_options import spec_of, spec_options


@command()
@click.argument("name", required=False)
@json_option
def recipes(name: str | None, as_json: bool) -> None:
    """List the recipes of published systems, or show the recipe NAME in full.

    Use one with: diffeat extract MODEL PICTURES -o F.h5 --recipe NAME; options on the command
    line win.
    """
    from diffeat.recipes import load_recipe, recipe_names

    found = [load_recipe(each) for each in ([name] if name else recipe_names())]
    if as_json:
        print_json([asdict(recipe) for recipe in found])
        return
    if name is None:
        width = max(len(recipe.name) for recipe in found)
        for recipe in found:
            click.echo(f"{recipe.name:<{width}}  {recipe.title} [made for {recipe.model}]")
            click.echo(f"{'':<{width}}    {recipe.source}")
        return
    recipe = found[0]
    click.echo(f"{recipe.name}: {recipe.title}")
    click.echo(f"  source  {recipe.source}")
    click.echo(f"  model   {recipe.model}")
    click.echo(f"  made for {recipe.made_for}; with other models `extract` warns or refuses")
    for field, value in recipe.fields.items():
        shown = ", ".join(map(str, value)) if isinstance(value, list) else value
        click.echo(f"  {field} = {shown}")
    for note in recipe.notes:
        click.echo(f"  - {note}")


@command()
@click.argument("model")
@click.argument("pictures")
@spec_options(
    "timesteps", "blocks", "prompt", "label",
    timesteps={"required": True},
    blocks={"required": True, "help": "Tensors, such as block.*:in."},
    label={"type": int, "callback": None, "help": "For class-conditional models: an index."},
)  # fmt: skip
@option("--ratio", default=10.0, show_default=True,
              help="Massive is what is so many times the median channel.")  # fmt: skip
@option("--limit", type=click.IntRange(1), default=8, show_default=True,
              help="How many pictures.")  # fmt: skip
@model_options
@json_option
@threads_option
def channels(model, pictures, ratio, limit, as_json, **values) -> None:
    """Find massive channels of MODEL: those far above all others in magnitude.

    Give them to `diffeat extract --discard` with tensors such as block.9:adaln.
    """
    from diffeat.backbones import ModelRequest
    from diffeat.extraction import load_for, massive_channels
    from diffeat.noise import format_t
    from diffeat.progress import track

    source = open_pictures(pictures)
    source = source.limit(min(limit, len(source)))
    spec = spec_of(None, None, values)
    backbone = load_for(ModelRequest(model, **model_fields(values)), spec)
    images = [source.load(index) for index in range(len(source))]
    found = massive_channels(
        backbone, images, spec, ratio,
        lambda numbers: track(numbers, desc="channels", unit="pictures"),
    )  # fmt: skip
    if as_json:
        print_json([asdict(each) for each in found])
        return
    for each in found:
        shown = ", ".join(
            f"{c} ({r:.0f}×)" for c, r in zip(each.channels, each.ratios, strict=True)
        )
        click.echo(f"{each.block} t={format_t(each.t)}: {shown or 'none'}")
