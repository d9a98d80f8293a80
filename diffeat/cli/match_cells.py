"""Which (block, t) `diffeat match` goes by: of a feature file, or of a model that is run now."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import fields
from typing import Any

import click

from diffeat.cli.spec_options import check_recipe_option, spec_of
from diffeat.errors import SpecError
from diffeat.specs import PLACEHOLDERS, ExtractSpec

SHOWN = 12
"""Cells that a message names."""
Cell = tuple[str, float]
"""(block, native t)."""


def cells_words(cells: Sequence[Cell]) -> str:
    """ "up.1 at t=20, up.1 at t=60"; of very many the first."""
    from diffeat.noise import shown_t

    shown = ", ".join(f"{block}{shown_t(t, ' at t=')}" for block, t in cells[:SHOWN])
    return shown + (f", … {len(cells)} in all" if len(cells) > SHOWN else "")


def check_one(name: str, cells: Sequence[Cell], values: dict[str, Any]) -> None:
    """UsageError where there are several cells, and nothing says what becomes of them."""
    each = values["each"] and values["pairs"]
    if len(cells) == 1 or values["combine"] or each:
        return
    pairs = ", or --each for a table of each" if values["pairs"] else ""
    raise click.UsageError(
        f"{name} has {len(cells)} cells here: {cells_words(cells)}; choose one with -b and -t, or "
        f"--combine for the sum of their similarities{pairs}"
    )


def refuse_options_of_models(what: str, values: dict[str, Any]) -> None:
    """UsageError for options that say how features are made, where they are made already."""
    names = {field.name for field in fields(ExtractSpec)} - {"timesteps", "blocks"}
    names |= {"recipe", "spec_file", "category", "batch_size", "cache"}
    given = [f"--{name.replace('_', '-')}" for name in values if name in names and values[name]]
    if given:
        raise click.UsageError(
            f"{', '.join(given)}: for a model that is run now; the features of {what} are made "
            "already"
        )


def spec_of_maps(model: str, values: dict[str, Any]) -> ExtractSpec:
    """The spec of the options; it asks for maps, and says what is shown where a prompt asks.

    Raises:
        SpecError: a pool, or a prompt that waits for a word that nothing gives.
    """
    from diffeat.vision.names import defaults_for

    spec = spec_of(values["recipe"], values["spec_file"], values, defaults_for(model))
    if spec.pool != "none":
        raise SpecError(
            f"pool={spec.pool} gives vectors, in which no place can be found; give --pool none"
        )
    check_recipe_option(values["recipe"], model, spec)
    return spec


def named(spec: ExtractSpec, category: str | None) -> ExtractSpec:
    """A spec whose prompt says what both pictures show.

    Raises:
        SpecError: the prompt asks for it and no category is given, or the other way round.
    """
    from dataclasses import replace

    asked = [word for word in PLACEHOLDERS if word in spec.prompt]
    if bool(asked) != bool(category):
        raise SpecError(
            f"the prompt {spec.prompt!r} asks for what the pictures show; give --category WORD, or "
            "another --prompt"
            if asked
            else f"--category {category}: no prompt asks for it; give --prompt 'a photo of a "
            "{class}'"
        )
    for word in asked:
        spec = replace(spec, prompt=spec.prompt.replace(word, category))
    return spec
