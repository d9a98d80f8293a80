"""Recipes: data files that say which model is measured on which pictures, and how."""

from __future__ import annotations

import tomllib
from dataclasses import MISSING, dataclass, field, fields
from pathlib import Path
from typing import Any

from diffeat.errors import SpecError, nearest

FOLDER = Path(__file__).parent / "recipes"
CELLS = ("best", "all", "best block")


@dataclass(frozen=True)
class System:
    """One row of the table of heads: what is trained on the features of which cells.

    Attributes:
        name: for the table.
        head: "linear" (C chosen on validation), "greedy" (sets of cells), a preset or an
            estimator of `probes`; or, trained on pictures, "FineTuning", "DifFeed" or "Frozen"
            (the head alone, under the same protocol).
        cells: "best" (chosen on validation by the surface), "all", "best block" (that block at
            every t), or a table of blocks and timesteps.
        arguments: of the head.
        seeds: one training for each; the table shows their mean.
    """

    name: str
    head: str
    cells: str | dict[str, Any] = "best"
    arguments: dict[str, Any] = field(default_factory=dict)
    seeds: tuple[int, ...] = (0,)

    def __post_init__(self) -> None:
        if isinstance(self.cells, str) and self.cells not in CELLS:
            raise SpecError(
                f"system {self.name!r}: cells {self.cells!r}; expected {', '.join(CELLS)}, or a "
                "table of blocks and timesteps"
            )
        if not self.seeds:
            raise SpecError(f"system {self.name!r} has no seeds; expected at least one")


@dataclass(frozen=True)
class Published:
    """A figure of a paper, with what differs from our set-up.

    Attributes:
        source: whose, with the year.
        setup: model, data, place and head.
        value: accuracy in per cent; None for a finding in words, which `setup` then tells.
        differs: what is not as here: "weights", "data", "head", …
        beside: the row of our tables that it stands beside ("surface" is the best cell's); ""
            gives it a row of its own.
    """

    source: str
    setup: str
    value: float | None = None
    differs: tuple[str, ...] = ("weights",)
    beside: str = ""


@dataclass(frozen=True)
class Recipe:
    """One measured task.

    Attributes:
        name: the file's stem.
        title: one line for lists and headlines.
        model: what `diffeat.load` takes; its random-weight twin is measured beside it.
        model_dtype: precision of the forward; "auto", "float32", "bfloat16", …
        train: pictures, with labels.
        test: pictures of a test set of its own; None splits `train` by a hash of the ids.
        train_limit, test_limit: class-balanced subsets, or None for all.
        split: training, validation and test shares (with `test`, 80 to 20 of `train`).
        extract: fields of the ExtractSpec.
        probe_pool: maps are averaged to so many cells for the surface; "" takes them whole.
        twin: fields of the ExtractSpec that the random twin has instead, such as fewer t.
        vision: other vision models, linear probes of which are measured where their weights are.
        penalties: values of C that every probe, baselines too, chooses from on validation.
        systems: heads and adapted models that are trained beside the surface.
        view: optional pictures to show: fields pictures, blocks, timesteps, size.
        published: literature values with source and set-up, shown apart and marked.
    """

    name: str
    title: str
    model: str
    train: str
    extract: dict[str, Any]
    model_dtype: str = "auto"
    test: str | None = None
    train_limit: int | None = None
    test_limit: int | None = None
    split: tuple[float, float, float] = (0.6, 0.2, 0.2)
    probe_pool: str = ""
    twin: dict[str, Any] = field(default_factory=dict)
    vision: tuple[str, ...] = ()
    penalties: tuple[float, ...] = (1e-4, 1e-3, 1e-2, 1e-1, 1.0)
    systems: tuple[System, ...] = ()
    view: dict[str, Any] = field(default_factory=dict)
    published: tuple[Published, ...] = ()

    @classmethod
    def open(cls, name: str) -> Recipe:
        """Read a recipe by its name; SpecError names the nearest ones."""
        path = FOLDER / f"{name}.toml"
        if not path.is_file():
            raise SpecError(
                f"recipe {name!r} is unknown{nearest(name, recipe_names())}; "
                f"expected one of {', '.join(recipe_names())}, speed, faults"
            )
        values = tomllib.loads(path.read_text(encoding="utf-8"))
        values["systems"] = [_made(System, one, path) for one in values.get("systems", ())]
        values["published"] = [_made(Published, one, path) for one in values.get("published", ())]
        return _made(cls, {"name": name, **values}, path)


def _made(kind: type, values: dict[str, Any], path: Path) -> Any:
    """A dataclass from a table; its lists become tuples."""
    unknown = set(values) - {item.name for item in fields(kind)}
    if unknown:
        raise SpecError(f"{path}: unknown fields {', '.join(sorted(unknown))}")
    needed = [item.name for item in fields(kind) if item.default is item.default_factory is MISSING]
    if lacking := [name for name in needed if name not in values]:
        raise SpecError(f"{path}: {kind.__name__.lower()} lacks {', '.join(lacking)}")
    return kind(**{k: tuple(v) if isinstance(v, list) else v for k, v in values.items()})


def recipe_names() -> list[str]:
    return sorted(path.stem for path in FOLDER.glob("*.toml"))
