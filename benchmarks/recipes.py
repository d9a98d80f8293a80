"""Recipes: data files that say which model is measured on which pictures, and how."""

from __future__ import annotations

import tomllib
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

from diffeat.errors import SpecError, nearest

FOLDER = Path(__file__).parent / "recipes"


@dataclass(frozen=True)
class Recipe:
    """One measured task.

    Attributes:
        name: the file's stem.
        title: one line for lists and headlines.
        model: what `diffeat.load` takes; its random-weight twin is measured beside it.
        train: pictures, with labels.
        test: pictures of a test set of its own; None splits `train` by a hash of the ids.
        train_limit, test_limit: class-balanced subsets, or None for all.
        split: training, validation and test shares (with `test`, 80 to 20 of `train`).
        extract: fields of the ExtractSpec.
        penalties: values of C that every probe, baselines too, chooses from on validation.
        view: optional pictures to show: fields pictures, blocks, timesteps, size.
        published: literature values with source and set-up, shown apart and marked.
    """

    name: str
    title: str
    model: str
    train: str
    extract: dict[str, Any]
    test: str | None = None
    train_limit: int | None = None
    test_limit: int | None = None
    split: tuple[float, float, float] = (0.6, 0.2, 0.2)
    penalties: tuple[float, ...] = (1e-4, 1e-3, 1e-2, 1e-1, 1.0)
    view: dict[str, Any] = field(default_factory=dict)
    published: tuple[str, ...] = ()

    @classmethod
    def open(cls, name: str) -> Recipe:
        """Read a recipe by its name; SpecError names the nearest ones."""
        path = FOLDER / f"{name}.toml"
        if not path.is_file():
            raise SpecError(
                f"recipe {name!r} is unknown{nearest(name, recipe_names())}; "
                f"expected one of {', '.join(recipe_names())}, speed"
            )
        values = tomllib.loads(path.read_text(encoding="utf-8"))
        unknown = set(values) - {item.name for item in fields(cls)}
        if unknown:
            raise SpecError(f"{path}: unknown fields {', '.join(sorted(unknown))}")
        for name_ in ("split", "published", "penalties"):
            if name_ in values:
                values[name_] = tuple(values[name_])
        return cls(name=name, **values)


def recipe_names() -> list[str]:
    return sorted(path.stem for path in FOLDER.glob("*.toml"))
