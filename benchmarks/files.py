"""Benchmark files: which model is measured on which pictures, and how, as data."""

from __future__ import annotations

import types
from collections.abc import Sequence
from dataclasses import MISSING, dataclass, field, fields
from pathlib import Path
from typing import Any, Union, get_args, get_origin, get_type_hints

from diffeat.errors import SpecError

VIEW = {"pictures", "blocks", "timesteps", "size"}
DUPLICATES = ("warn", "drop")


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


@dataclass(frozen=True, kw_only=True)
class Benchmark:
    """What every benchmark file has; tasks add fields of their own.

    Attributes:
        name: the file's stem.
        title: one line for lists and headlines.
        task: what is measured, a name of `benchmarks.tasks.TASKS`.
        published: literature values with source and set-up, shown apart and marked.
    """

    name: str
    title: str
    task: str = "classification"
    published: tuple[Published, ...] = ()


@dataclass(frozen=True, kw_only=True)
class FeatureBenchmark(Benchmark):
    """Features of a model on labelled pictures, beside those of its twin and of other models.

    Attributes:
        model: what `diffeat.load` takes; its random-weight twin is measured beside it.
        model_dtype: precision of the forward; "auto", "float32", "bfloat16", …
        train: pictures, with labels.
        test: pictures of a test set of its own; None splits `train` by a hash of the ids.
        labels: table of the pictures' classes (see `diffeat.targets`); "" takes their own.
        groups: its column with what pictures belong to (person, scene, …), which no split parts;
            "" takes one of a known name, if there is one.
        train_limit, test_limit: class-balanced subsets, or None for all.
        split: training, validation and test shares (with `test`, 80 to 20 of `train`).
        duplicates: "warn" of pictures that stand there twice, or "drop" the copies.
        extract: fields of the ExtractSpec.
        twin: fields of the ExtractSpec that the random twin has instead, such as fewer t.
        vision: other vision models that are measured where their weights are.
        view: optional pictures to show: fields pictures, blocks, timesteps, size.
        allow_conditioned: measure features that are told their targets; all tables are marked.
    """

    model: str
    train: str
    extract: dict[str, Any]
    model_dtype: str = "auto"
    test: str | None = None
    labels: str = ""
    groups: str = ""
    train_limit: int | None = None
    test_limit: int | None = None
    split: tuple[float, float, float] = (0.6, 0.2, 0.2)
    duplicates: str = "warn"
    twin: dict[str, Any] = field(default_factory=dict)
    vision: tuple[str, ...] = ()
    view: dict[str, Any] = field(default_factory=dict)
    allow_conditioned: bool = False

    def __post_init__(self) -> None:
        if self.view and set(self.view) != VIEW:
            raise SpecError(f"benchmark {self.name}: view has {', '.join(self.view)}; expected "
                            f"{', '.join(sorted(VIEW))}")  # fmt: skip
        if self.groups and not self.labels:
            raise SpecError(
                f"benchmark {self.name}: groups = {self.groups!r} is a column of a table; expected "
                'labels = "TABLE.csv" beside it'
            )
        if self.duplicates not in DUPLICATES:
            raise SpecError(
                f"benchmark {self.name}: duplicates = {self.duplicates!r}; expected "
                f"{' or '.join(map(repr, DUPLICATES))}"
            )


def check_names(where: str, names: Sequence[str]) -> None:
    """SpecError where a file has no systems, or two of one name.

    Args:
        where: the benchmark, for the error.
    """
    if not names:
        raise SpecError(f"{where} has no systems; expected at least one [[systems]]")
    if len(set(names)) != len(names):
        raise SpecError(f"{where}: two systems of the same name among {names}")


def made(kind: type, values: dict[str, Any], path: Path) -> Any:
    """A dataclass from a table of a TOML file; lists become tuples, tables dataclasses.

    Raises:
        SpecError: fields that the dataclass lacks or needs, or values of another type.
    """
    unknown = set(values) - {item.name for item in fields(kind)}
    if unknown:
        raise SpecError(f"{path}: unknown fields {', '.join(sorted(unknown))}")
    needed = [item.name for item in fields(kind) if item.default is item.default_factory is MISSING]
    if lacking := [name for name in needed if name not in values]:
        what = "the file" if issubclass(kind, Benchmark) else kind.__name__.lower()
        raise SpecError(f"{path}: {what} lacks {', '.join(lacking)}")
    values = {k: tuple(v) if isinstance(v, list) else v for k, v in values.items()}
    hints = get_type_hints(kind)
    for name, value in values.items():
        if inner := _tables_of(hints[name]):
            values[name] = value = _made_all(inner, name, value, path)
        if not _fits(value, hints[name]):
            expected = str(hints[name]).removeprefix("<class '").removesuffix("'>")
            raise SpecError(f"{path}: {name} = {value!r}; expected {expected}")
    return kind(**values)


def _tables_of(hint: Any) -> type | None:
    """The dataclass of a field that is a list of tables."""
    inner = get_args(hint)[0] if get_origin(hint) is tuple else None
    return inner if isinstance(inner, type) and hasattr(inner, "__dataclass_fields__") else None


def _made_all(kind: type, name: str, tables: Any, path: Path) -> tuple:
    if not isinstance(tables, tuple) or not all(isinstance(one, dict) for one in tables):
        raise SpecError(f"{path}: {name} is no list of tables; write [[{name}]]")
    return tuple(made(kind, one, path) for one in tables)


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
