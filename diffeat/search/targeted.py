"""What the pictures of a search are to be told apart by: targets of one set, or of two, alike."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import numpy as np

from diffeat.errors import SourceError, SpecError
from diffeat.search.tasks import kind_of, known_targets
from diffeat.targets.labels import Labelled, labels_for, open_targets
from diffeat.targets.tables import read_any

if TYPE_CHECKING:
    from diffeat.images import Source
    from diffeat.store import FeatureStore

TASK_OF = {"class": "classification", "number": "regression", "labels": "multilabel"}
"""Kind of targets → the task of the command line that scores them."""
WHAT = {"class": "one class per picture", "number": "numbers", "labels": "several labels"}
WAYS = (
    "extract from a folder with one subfolder per class or from a list with labels, or give them "
    "here: --labels FILE (.csv, .tsv, .json, .jsonl or tars: the pictures' ids or file names, and "
    "their labels)"
)
"""How pictures come to labels, for those that have none."""


@dataclass(frozen=True)
class TargetChoice:
    """Where targets come from.

    Attributes:
        labels: a table (see `diffeat.targets`) in place of what the pictures have themselves.
        test_labels: of the test set, where that has a table of its own.
        columns: with the targets, of the table or, without one, of the feature file.
        groups: the column that says what each picture belongs to; no split parts these. A
            table that has the ids and this column alone leaves the labels to the pictures.
    """

    labels: Path | None = None
    test_labels: Path | None = None
    columns: tuple[str, ...] = ()
    groups: str | None = None

    def __post_init__(self) -> None:
        if self.test_labels is not None and self.labels is None:
            raise SpecError("--test-labels without --labels; expected a table for each set")


def targets_of(
    sets: Sequence[Source | FeatureStore],
    kind: str = "class",
    choice: TargetChoice | None = None,
    duplicates: str = "warn",
) -> list[Labelled]:
    """Targets of one set of pictures, or of a training and a test set, in one space of names.

    Args:
        kind: that the task scores: "class", "number" or "labels".
        choice: None takes what the pictures have themselves.
        duplicates: "drop" lets a picture stand in both sets.

    Raises:
        SpecError: no targets, those of another kind, or sets that share no class.
        SourceError: what `diffeat.targets` refuses.
    """
    choice = choice or TargetChoice()
    if choice.test_labels is not None and len(sets) < 2:
        raise SpecError("--test-labels without test pictures of their own; leave it out, or give "
                        "these")  # fmt: skip
    tables = [choice.labels, choice.test_labels or choice.labels][: len(sets)]
    if choice.labels is None:
        found = [_own(one, kind, choice) for one in sets]
    elif _only_groups(choice):
        own = [_own(one, kind, TargetChoice()) for one in sets]
        owners = _of_tables(sets, tables, "class", choice, (choice.groups,), duplicates)
        found = [a._replace(groups=b.groups) for a, b in zip(own, owners, strict=True)]
    else:
        found = _of_tables(sets, tables, kind, choice, choice.columns, duplicates)
    for one, part in zip(sets, found, strict=True):
        if choice.groups and part.groups is None:
            raise SpecError(f"{_name(one)} has no groups {choice.groups!r}; give a table with "
                            "such a column: --labels FILE")  # fmt: skip
    return one_space(found, [_name(one) for one in sets])


def sources_with_targets(
    sources: Sequence[Source], kind: str, choice: TargetChoice, limit: int | None = None
) -> tuple[list[Source], list[Labelled]]:
    """The pictures of sources that have a target, `limit` of each set, and these targets.

    Classes of a table take the place of the sources' own: a limit is balanced by them, and they
    are what `label=class` tells.

    Raises: as `targets_of`; SourceError: fewer pictures than `limit`.
    """
    found = targets_of(sources, kind, choice)
    told = kind == "class" and bool(choice.labels or choice.columns)
    pairs = [_with_targets(*pair, told, limit) for pair in zip(sources, found, strict=True)]
    return [source for source, _ in pairs], [part for _, part in pairs]


def _with_targets(
    source: Source, found: Labelled, told: bool, limit: int | None
) -> tuple[Source, Labelled]:
    """Of one source; `told` whether its targets take the place of its own labels."""
    kept = np.flatnonzero(known_targets(found.labels))
    if told:
        names = tuple(found.class_names)
        source = replace(source, labels=found.labels, class_names=names, earlier=None)
    if len(kept) < len(source):
        source = source.take(kept)
    if limit:
        row = {name: int(place) for place, name in zip(kept, source.ids, strict=True)}
        source = source.limit(limit)
        kept = [row[name] for name in source.ids]
    groups = found.groups and tuple(found.groups[place] for place in kept)
    return source, Labelled(found.labels[kept], found.class_names, groups)


def one_space(found: Sequence[Labelled], names: Sequence[str]) -> list[Labelled]:
    """The same with one list of class or label names; what a set lacks has no picture there.

    Args:
        names: of the sets, for the error.

    Raises:
        SpecError: two sets without a name in common.
    """
    first = found[0]
    if all(tuple(one.class_names) == tuple(first.class_names) for one in found):
        return list(found)
    if not set(first.class_names) & set(found[1].class_names):
        raise SpecError(
            f"{names[0]} and {names[1]} have different classes: {_some(first.class_names)} there, "
            f"{_some(found[1].class_names)} here"
        )
    union = tuple(dict.fromkeys(name for one in found for name in one.class_names))
    return [_renamed(one, union) for one in found]


def _renamed(one: Labelled, union: tuple[str, ...]) -> Labelled:
    """With indices, or columns, of other names."""
    place = np.array([union.index(name) for name in one.class_names], np.int64)
    labels = np.asarray(one.labels)
    if kind_of(labels) == "labels":
        wide = np.zeros((len(labels), len(union)), np.int64)
        wide[:, place] = labels
        wide[(labels < 0).any(1)] = -1
    else:
        wide = np.append(place, -1)[labels]
    return Labelled(wide, union, one.groups)


def _of_tables(
    sets: Sequence[Any],
    tables: Sequence[Path],
    kind: str,
    choice: TargetChoice,
    columns: tuple[str, ...],
    duplicates: str,
) -> list[Labelled]:
    """Of a table for both sets, which is looked at once, or one for each."""
    if len(sets) > 1 and tables[0] == tables[1]:
        both = set(sets[0].ids) & set(sets[1].ids)
        if both and duplicates != "drop":
            raise SpecError(
                f"{_name(sets[0])} and {_name(sets[1])} both have a picture {min(both)!r}, for "
                f"which {tables[0]} has one row; expected a table for each: --test-labels FILE"
            )
        ids = [name for one in sets for name in one.ids]
        whole = SimpleNamespace(name=_name(sets[0]), ids=ids, labels=None, class_names=())
        labels, names, groups = _checked(whole, tables[0], kind, choice, columns)
        cut = len(sets[0].ids)
        return [Labelled(labels[part], names, groups and groups[part])
                for part in (slice(0, cut), slice(cut, None))]  # fmt: skip
    return [_checked(*pair, kind, choice, columns) for pair in zip(sets, tables, strict=True)]


def _checked(
    one: Any, path: Path, kind: str, choice: TargetChoice, columns: tuple[str, ...]
) -> Labelled:
    """Targets of one set by a table; SpecError where they are of another kind."""
    if kind == "labels":
        there = open_targets(path, columns, choice.groups).kind
        if there != kind and path == choice.labels:  # a test table may happen to have one each
            raise other_kind(str(path), there, kind)
    only = _only_groups(choice)
    asked = "class" if only else kind if kind != "class" else None
    try:
        found = labels_for(one, path, columns, choice.groups, asked)
    except SourceError as error:
        if kind == "number" and "expected a number" in str(error):
            raise SpecError(f"{error}; --task regression scores numbers, and for classes there is "
                            "--task classification") from error  # fmt: skip
        if "say which" in str(error) and "--column" not in str(error):
            raise SourceError(f"{error} (--column NAME)") from error
        raise
    if not only and (there := kind_of(found.labels)) != kind:
        raise other_kind(str(path), there, kind)
    names = tuple(found.class_names)
    if kind == "number" and len(columns) == 1:
        names = tuple(columns)
    return Labelled(found.labels, names, found.groups)


def _own(one: Any, kind: str, choice: TargetChoice) -> Labelled:
    """What the pictures have themselves; of classes whose names are numbers, these."""
    if one.labels is None and not choice.columns and not _columns_of(one):
        raise SpecError(f"{_name(one)} has no labels; {WAYS}")
    found = labels_for(one, None, choice.columns, choice.groups)
    names, there = tuple(found.class_names), kind_of(found.labels)
    if kind == "number" and there == "class" and (values := _as_numbers(names)) is not None:
        found, there = found._replace(labels=np.append(values, np.nan)[found.labels]), kind
    if there != kind:
        others = [name for name, column in _columns_of(one).items() if column.kind == kind]
        raise other_kind(_name(one), there, kind, others)
    if kind == "number":
        names = choice.columns
    return Labelled(found.labels, names, found.groups)


def _columns_of(one: Any) -> dict[str, Any]:
    """Further targets that pictures have, by name."""
    return dict(getattr(one, "targets", None) or {})


def _as_numbers(names: Sequence[str]) -> np.ndarray | None:
    """Names of classes as finite numbers, or None."""
    try:
        values = np.array([float(name) for name in names], np.float64)
    except ValueError:
        return None
    return values if len(values) and np.isfinite(values).all() else None


def own_if_any(one: Source | FeatureStore, kind: str) -> Labelled | None:
    """The targets of this kind that pictures have themselves; None where they have none."""
    try:
        return _own(one, kind, TargetChoice())
    except (SpecError, SourceError):  # none, of another kind, or several
        return None


def other_kind(name: str, there: str, wanted: str, others: Sequence[str] = ()) -> SpecError:
    """The error of targets that a task does not score, with the task that does.

    Args:
        others: columns with targets that it would score.
    """
    way = f"--column {', --column '.join(others)}" if others else "other columns (--column)"
    return SpecError(
        f"{name}: the targets are {WHAT[there]}, and --task {TASK_OF[wanted]} scores "
        f"{WHAT[wanted]}: take --task {TASK_OF[there]}, or {way}"
    )


def _only_groups(choice: TargetChoice) -> bool:
    """Whether the table says nothing but what pictures belong to."""
    if choice.labels is None or choice.groups is None or choice.columns:
        return False
    return read_any(choice.labels, (choice.groups,), None).columns[1:] == (choice.groups,)


def _name(one: Any) -> str:
    return str(getattr(one, "path", "") or one.name)


def _some(names: Sequence[str]) -> str:
    return ", ".join(names[:3]) + ", …" * (len(names) > 3)
