"""Published extraction recipes as data files: title, source, model, notes, made_for, and a spec."""

from __future__ import annotations

import tomllib
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from diffeat.errors import SpecError, nearest
from diffeat.specs import ExtractSpec

FOLDER = Path(__file__).parent


@dataclass(frozen=True)
class MadeFor:
    """The models that a paper used, as far as a configuration tells them.

    Attributes:
        families: of models (see `diffeat models`).
        sizes: sides in pixels that they were trained on; empty where no matter.
        parameters: of the denoiser, in millions; empty where no matter.
    """

    families: tuple[str, ...]
    sizes: tuple[int, ...] = ()
    parameters: tuple[float, ...] = ()

    def __str__(self) -> str:
        sizes = " or ".join(f"{size}×{size}" for size in self.sizes)
        millions = " or ".join(f"{count:,.1f} M" for count in self.parameters)
        parts = [
            " or ".join(self.families),
            sizes and f"{sizes} pixels",
            millions and f"{millions} parameters",
        ]
        return ", ".join(filter(None, parts))


@dataclass(frozen=True)
class Recipe:
    """How a published system extracts its features.

    Attributes:
        name: what the user types.
        title: system and task.
        source: paper.
        model: known name or hub id that it was published with.
        made_for: the models of the paper, to compare others with (see `planning.recipe_fit`).
        notes: what a spec cannot say, and what differs from the original.
        fields: fields of the ExtractSpec that differ from its defaults.
    """

    name: str
    title: str
    source: str
    model: str
    made_for: MadeFor
    notes: tuple[str, ...]
    fields: dict[str, Any]

    @cached_property
    def spec(self) -> ExtractSpec:
        return ExtractSpec.from_dict(self.fields)


def load_recipe(name: str) -> Recipe:
    """Read a recipe; SpecError names the nearest ones if there is none of that name."""
    names = recipe_names()
    if name not in names:
        raise SpecError(
            f"recipe {name!r} is unknown{nearest(name, names)}; `diffeat recipes` lists all"
        )
    values = tomllib.loads((FOLDER / f"{name}.toml").read_text(encoding="utf-8"))
    return Recipe(
        name=name,
        title=values["title"],
        source=values["source"],
        model=values["model"],
        made_for=MadeFor(**{name: tuple(found) for name, found in values["made_for"].items()}),
        notes=tuple(values.get("notes", ())),
        fields=values["spec"],
    )


def recipe_names() -> list[str]:
    """Names of all recipes, in order."""
    return sorted(path.stem for path in FOLDER.glob("*.toml"))
