"""Whether a recipe is used on a model that it was made for, and what to do where it is not."""

from __future__ import annotations

from diffeat.backbones import Backbone
from diffeat.blocks import resolve_blocks
from diffeat.errors import SpecError
from diffeat.extraction.plan import Plan
from diffeat.recipes import MadeFor, Recipe
from diffeat.specs import ExtractSpec

CLOSE = 0.01
"""Numbers of parameters that differ by less, as a share, count as the same."""
SHOWN = 12
"""Blocks that a message lists."""


def check_recipe(recipe: Recipe, backbone: Backbone, spec: ExtractSpec) -> str:
    """Compare a recipe's model with the one that it is used on.

    Args:
        recipe: which.
        backbone: the model; one without weights will do.
        spec: the recipe's fields with what the user put in their place.

    Returns:
        What differs from the paper's model; "" where nothing is known to.

    Raises:
        SpecError: the model cannot do it: it lacks a tensor, a text encoder, a size or a t.
    """
    made = f"recipe {recipe.name} was made for {recipe.model} ({recipe.made_for})"
    differ = differences(recipe.made_for, backbone)
    this = f"{backbone.name} is {describe(backbone)}"
    lacking = _lacking(backbone, spec)
    if lacking:
        raise SpecError(
            f"{made}; {this}, and has no tensor {' or '.join(map(repr, lacking[:3]))}. It has "
            f"{_blocks_of(backbone)}: choose some with -b (and what fits them with -t and --size), "
            f"or another model (`diffeat recipes {recipe.name}`)"
        )
    if spec.prompt and recipe.fields.get("prompt") == spec.prompt and not backbone.embedding_shapes:
        raise SpecError(
            f"{made}; {this}, which reads no text, and the recipe has the prompt {spec.prompt!r}: "
            '--prompt "" leaves it out'
        )
    try:
        Plan(backbone, spec)
    except SpecError as error:
        raise SpecError(
            f"{made}; {this}, which cannot do it: {error}. Put other fields in place of the "
            "recipe's (-t, -b, --size, …), or use another model"
        ) from error
    if not differ:
        return ""
    return (
        f"{made}; {this}: other {', '.join(differ)}, so this is not what the paper did"
        f"{_run_size(backbone, spec)}"
    )


def describe(backbone: Backbone) -> str:
    """Family, own size and parameters of a model, in the words of `MadeFor`."""
    return str(MadeFor((backbone.family,), _sides(backbone), (_millions(backbone),)))


def differences(made_for: MadeFor, backbone: Backbone) -> list[str]:
    """In which of family, size and parameters a model is none of those of the paper."""
    millions, sides = _millions(backbone), _sides(backbone)
    same = {
        "family": backbone.family in made_for.families,
        "size": not made_for.sizes or not sides or sides[0] in made_for.sizes,
        "number of parameters": not made_for.parameters
        or any(abs(millions / wanted - 1) < CLOSE for wanted in made_for.parameters),
    }
    return [name for name, is_so in same.items() if not is_so]


def _millions(backbone: Backbone) -> float:
    return backbone.parameters / 1e6


def _sides(backbone: Backbone) -> tuple[int, ...]:
    """The model's own side in pixels, where it has one and is square."""
    try:
        height, width = backbone.native_size
    except SpecError:
        return ()
    return (height,) if height == width else ()


def _run_size(backbone: Backbone, spec: ExtractSpec) -> str:
    """That it runs at another size than its own, where it does."""
    own = _sides(backbone)
    if not spec.size or not own or spec.size == own * 2:
        return ""
    height, width = spec.size
    return f"; it runs at {height}×{width} pixels, --size {own[0]} is its own size"


def _lacking(backbone: Backbone, spec: ExtractSpec) -> list[str]:
    """The patterns of a spec that select nothing in a model."""
    found = []
    for pattern in spec.blocks:
        try:
            resolve_blocks(pattern, backbone.tensors, backbone.aliases)
        except SpecError:
            found.append(pattern)
    return found


def _blocks_of(backbone: Backbone) -> str:
    stages = [block.name for block in backbone.blocks if block.kind in ("stage", "mid")]
    names = stages or [block.name for block in backbone.blocks]
    return ", ".join(names if len(names) <= SHOWN else [*names[: SHOWN - 1], "…"])
