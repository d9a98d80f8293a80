"""Options for the fields of a spec, made from what `diffeat.specs` says of them; and back again."""

from __future__ import annotations

import os
import warnings
from collections.abc import Callable
from dataclasses import Field, fields
from pathlib import Path
from typing import Any

import click

from diffeat.cli.options import NONE, class_label, comma_list, index_list, option, pixel_size
from diffeat.errors import SpecError
from diffeat.specs import HELP, ExtractSpec, read_spec_file

TEXTS = ("prompt", "captions", "embeddings")
"""Fields of a spec that say what the text is; one at a time."""
TILED = ("tile_noise", "tile_layout")
"""Fields of a spec that say more of its tiles."""

READ: dict[str, dict[str, Any]] = {
    "str": {},
    "str | None": {},
    "int": {"type": int},
    "float | None": {"type": float},
    "bool": {"default": None},
    "int | str | None": {"callback": class_label},
    "tuple[Level, ...]": {"callback": comma_list},
    "tuple[str, ...]": {"callback": comma_list},
    "tuple[int, ...]": {"callback": index_list},
    "tuple[int, ...] | None": {"callback": index_list},
    "tuple[int, int] | int | None": {"callback": pixel_size},
}
"""How the text of an option is read, by the type of its field. No option has a default: what is
not given is left to the spec file, the recipe and the spec."""
SHORT = {"timesteps": "-t", "blocks": "-b"}
OPPOSITE = {"scale_latent": "raw-latent", "flip": "no-flip", "mirror": "no-mirror"}
"""What the flag that says no is called."""

MADE = tuple(name for name in HELP if name not in ("timesteps", "blocks", "pool", "dtype"))
"""Fields of a spec that say how the features of a MODEL are made."""


def spec_options(*names: str, before: str = "", **otherwise: dict[str, Any]) -> Callable:
    """A decorator that adds options for fields of a spec.

    Args:
        names: of the fields, in the order of the help; all of them if none is given.
        before: stands before every help text.
        otherwise: field → keywords of click that differ; "flag" is another name of the option.
    """
    described = {field.name: field for field in fields(ExtractSpec)}

    def add(command: Callable) -> Callable:
        for name in reversed(names or tuple(HELP)):
            command = _spec_option(described[name], before, otherwise.get(name, {}))(command)
        return command

    return add


def _spec_option(field: Field, before: str, changed: dict[str, Any]) -> Callable:
    """The option of one field."""
    how = {**READ[field.type], **changed}
    flag = how.pop("flag", f"--{field.name.replace('_', '-')}")
    if field.name in OPPOSITE:
        flag += f"/--{OPPOSITE[field.name]}"
    words = HELP[field.name].replace("{default}", str(field.default))
    if before and words[1:2].islower():
        words = words[0].lower() + words[1:]
    names = [SHORT[field.name], flag] if field.name in SHORT else [flag]
    return option(*names, **{"help": before + words, **how})


recipe_option = option("--recipe", help="Fields of a published system (see `diffeat recipes`).")
spec_file_option = option(
    "--spec",
    "spec_file",
    type=click.Path(path_type=Path, dir_okay=False),
    help="TOML or JSON file of spec fields, over the recipe's; options win over both.",
)


def spec_of(
    recipe: str | None, spec_file: Path | None, values: dict, known: dict[str, Any] | None = None
):
    """The spec of the options, over the fields of the file, of the recipe, and of what is `known`
    of the model without being asked."""
    from diffeat.recipes import load_recipe

    names = {field.name for field in fields(ExtractSpec)}
    chosen = {name: value for name, value in values.items() if value is not None and name in names}
    given: dict = dict(known or {})
    file = {} if spec_file is None else read_spec_file(spec_file)
    for layer in (load_recipe(recipe).fields if recipe else {}, file, chosen):
        if any(layer.get(name) for name in TEXTS):  # one of them replaces those below
            given = {name: value for name, value in given.items() if name not in TEXTS}
        if layer.get("tile") == NONE:  # no tiles, so nothing of what lies below says of them
            given = {name: value for name, value in given.items() if name not in TILED}
        given |= layer
    given = {name: None if value == NONE else value for name, value in given.items()}
    for name, short in SHORT.items():
        if not given.get(name):
            raise SpecError(
                f"no {name} given; expected {short}, --recipe, or --spec with a file that has them"
            )
    return ExtractSpec.from_dict(given)


def check_recipe_option(recipe: str | None, model: str, spec: ExtractSpec) -> None:
    """Refuse a recipe that the model cannot follow; say it where the paper had another model.

    The model's architecture is built without weights for it.
    """
    if recipe is None:
        return
    from diffeat.loading import load
    from diffeat.planning.recipe_fit import check_recipe
    from diffeat.recipes import load_recipe

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # whoever works with the model will say it
        found = check_recipe(load_recipe(recipe), load(model, "meta"), spec)
    if found and os.environ.get("RANK", "0") == "0":  # of torchrun
        click.echo(f"warning: {found}", err=True)
