"""Recipes: data files that say which model is measured on which pictures, and how."""

from __future__ import annotations

import tomllib
import types
from dataclasses import MISSING, dataclass, field, fields
from pathlib import Path
from typing import Any, Union, get_args, get_origin, get_type_hints

from diffeat.errors import SpecError, nearest

FOLDER = Path(__file__).parent / "recipes"
CELLS = ("best", "all", "best block")
VIEW = {"pictures", "blocks", "timesteps", "size"}


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
        if isinstance(self.cells, dict) and not {"blocks", "timesteps"} >= set(self.cells) > set():
            raise SpecError(
                f"system {self.name!r}: cells have {', '.join(self.cells) or 'nothing'}; expected "
                "blocks, timesteps, or both"
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
        allow_conditioned: measure features that are told their targets; all tables are marked.
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
    allow_conditioned: bool = False
    published: tuple[Published, ...] = ()

    def __post_init__(self) -> None:
        if self.view and set(self.view) != VIEW:
            raise SpecError(f"recipe {self.name}: view has {', '.join(self.view)}; expected "
                            f"{', '.join(sorted(VIEW))}")  # fmt: skip
        names = [system.name for system in self.systems]
        if len(set(names)) != len(names):
            raise SpecError(f"recipe {self.name}: two systems of the same name among {names}")
        for one in self.published:
            if one.beside not in ("", "surface", *names):
                raise SpecError(
                    f"recipe {self.name}: a published figure beside {one.beside!r}; expected "
                    f"{', '.join(['surface', *names])}, or none"
                )

    @classmethod
    def open(cls, name: str) -> Recipe:
        """Read a recipe by its name, or one of your own by the path of its .toml file.

        Raises:
            SpecError: no such recipe (names the nearest ones), or a file that is none.
        """
        path = _path_of(name)
        try:
            values = tomllib.loads(path.read_text(encoding="utf-8"))
        except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
            raise SpecError(f"{path} is no TOML: {error}") from error
        if "name" in values:
            raise SpecError(
                f"{path}: a recipe has no field 'name'; it goes by the name of its file"
            )
        for part, kind in (("systems", System), ("published", Published)):
            tables = values.get(part, [])
            if not isinstance(tables, list) or not all(isinstance(one, dict) for one in tables):
                raise SpecError(f"{path}: {part} is no list of tables; write [[{part}]]")
            values[part] = [_made(kind, one, path) for one in tables]
        return _made(cls, {"name": path.stem, **values}, path)


def _path_of(name: str) -> Path:
    """The file of a bundled recipe, or one of your own, which must not take another's name."""
    if not name.endswith(".toml"):
        if name not in recipe_names():
            raise SpecError(
                f"recipe {name!r} is unknown{nearest(name, recipe_names())}; "
                f"expected one of {', '.join(recipe_names())}, speed, faults"
            )
        return FOLDER / f"{name}.toml"
    path = Path(name)
    if not path.is_file():
        raise SpecError(f"{path}: no such recipe file; check the path")
    taken = path.stem in (*recipe_names(), "speed", "faults")
    if taken and path.resolve().parent != FOLDER.resolve():
        raise SpecError(
            f"{path}: results go by the name of the file, and {path.stem!r} is that of another "
            "benchmark; rename it"
        )
    return path


def _made(kind: type, values: dict[str, Any], path: Path) -> Any:
    """A dataclass from a table; its lists become tuples."""
    unknown = set(values) - {item.name for item in fields(kind)}
    if unknown:
        raise SpecError(f"{path}: unknown fields {', '.join(sorted(unknown))}")
    needed = [item.name for item in fields(kind) if item.default is item.default_factory is MISSING]
    if lacking := [name for name in needed if name not in values]:
        raise SpecError(f"{path}: {kind.__name__.lower()} lacks {', '.join(lacking)}")
    values = {k: tuple(v) if isinstance(v, list) else v for k, v in values.items()}
    hints = get_type_hints(kind)
    for name, value in values.items():
        if not _fits(value, hints[name]):
            expected = str(hints[name]).removeprefix("<class '").removesuffix("'>")
            raise SpecError(f"{path}: {name} = {value!r}; expected {expected}")
    return kind(**values)


def _fits(value: Any, hint: Any) -> bool:
    """Whether a value is of a type; whole numbers do for float."""
    origin, arguments = get_origin(hint), get_args(hint)
    if hint is Any:
        return True
    if origin in (Union, types.UnionType):
        return any(_fits(value, one) for one in arguments)
    if origin is tuple:
        if not isinstance(value, tuple):
            return False
        if arguments[-1] is not ...:
            return len(value) == len(arguments) and all(map(_fits, value, arguments))
        return all(_fits(one, arguments[0]) for one in value)
    if isinstance(value, bool):
        return hint is bool
    return isinstance(value, (int, float) if hint is float else origin or hint)


def recipe_names() -> list[str]:
    return sorted(path.stem for path in FOLDER.glob("*.toml"))
