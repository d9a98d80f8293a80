"""Targets that lie in memory, one per key: classes, numbers, several labels."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from diffeat.errors import SourceError
from diffeat.images.columns import (
    TargetColumn,
    are_flags,
    as_number,
    check_columns,
    flags_of,
)
from diffeat.images.tables import GROUPS, TARGETS
from diffeat.targets.base import Targets
from diffeat.targets.by_id import RowsById, match_ids

if TYPE_CHECKING:
    from diffeat.images import Source
    from diffeat.store import FeatureStore


@dataclass(frozen=True, eq=False)
class KeyedTargets(Targets):
    """One row per picture of a table, a tar, a folder or a feature file.

    Attributes:
        name: where they come from.
        kind: "class": (R,) int64 indices; "number": (R,) float64; "labels": (R, K) int64, 0 or 1.
        names: of the classes or labels.
        keys: R picture ids or file names, each once.
        values: of the rows.
        owners: R groups; None where there are none.
    """

    name: str
    kind: str
    names: tuple[str, ...]
    keys: tuple[str, ...]
    values: np.ndarray
    owners: tuple[str, ...] | None = None

    def match(self, ids: Sequence[str]) -> RowsById:
        """Which row is whose."""
        return match_ids(ids, self.keys)

    def of(self, ids: Sequence[str]) -> np.ndarray:
        """(N,) or, of several labels, (N, K); -1 or nan for a picture without a target."""
        return self._of(ids).values

    def _of(self, ids: Sequence[str]) -> TargetColumn:
        return TargetColumn(self.kind, self.names, self.values).take(self.match(ids).rows)

    def groups(self, ids: Sequence[str]) -> tuple[str, ...] | None:
        if self.owners is None:
            return None
        rows = self.match(ids).rows.tolist()
        return tuple(
            (self.owners[row] if row >= 0 else "") or name
            for row, name in zip(rows, ids, strict=True)
        )

    def missing(self, ids: Sequence[str]) -> tuple[str, ...]:
        lacking = self._of(ids).missing
        return tuple(name for name, none in zip(ids, lacking, strict=True) if none)


def own_targets(
    what: Source | FeatureStore,
    columns: Sequence[str] = (),
    groups: str | None = None,
    kind: str | None = None,
) -> KeyedTargets:
    """The labels or targets that a source or a feature file has itself.

    Args:
        columns: names of targets; several are one label each, 0 or 1. "label" and its like
            (`TARGETS`) are the labels, unless a target is called so. () takes the labels, and
            where there are none the only target, the one with such a name, or all if all are 0
            and 1.
        groups: the target with the groups; None takes one with a name of `GROUPS`.
        kind: what is wanted; classes that are whole numbers may be numbers. None takes what is
            there.

    Raises:
        SourceError: it has none, or none of that name or kind.
    """
    name = str(getattr(what, "path", "") or what.name)
    known = getattr(what, "targets", {})
    others = [one for one in known if one not in columns and one.casefold() in GROUPS]
    owner = groups or next(iter(others), None)
    if groups is not None:
        check_columns(name, [groups], list(known))
    chosen = _own_columns(what, name, columns, owner)
    found = next(iter(chosen.values()))
    if len(chosen) > 1:
        if not are_flags(chosen):
            raise SourceError(
                f"{name}: {', '.join(chosen)} are not all of 0 and 1; expected one column, or "
                "several with one label each"
            )
        found = flags_of(chosen)
    if kind == "number" and found.kind != kind:
        found = as_number(found) or found
    if kind == "labels" and are_flags(chosen):
        found = flags_of(chosen)
    if kind is not None and found.kind != kind:
        raise SourceError(f"{name}: {', '.join(chosen)} has kind {found.kind!r}; expected {kind!r}")
    owners = None if owner is None else _texts(known[owner])
    return KeyedTargets(name, found.kind, found.names, tuple(what.ids), found.values, owners)


def _own_columns(
    what: Source | FeatureStore, name: str, columns: Sequence[str], owner: str | None
) -> dict[str, TargetColumn]:
    """The columns that are asked for, or those that are meant if none is."""
    known = getattr(what, "targets", {})
    own = {}
    if what.labels is not None:
        values = np.asarray(what.labels, np.int64)
        own = {"label": TargetColumn("class", tuple(what.class_names), values)}
    if columns:
        labels = [one for one in columns if own and one not in known and one.casefold() in TARGETS]
        check_columns(name, [one for one in columns if one not in labels], [*known, *own])
        return {one: own["label"] if one in labels else known[one] for one in columns}
    if own:
        return own
    if not known:
        raise SourceError(
            f"{name} has no labels; expected one subfolder per class, or give a table of labels"
        )
    rest = {one: known[one] for one in known if one != owner}
    named = {one: column for one, column in rest.items() if one.casefold() in TARGETS}
    if len(rest) == 1 or len(named) == 1:
        return named if len(named) == 1 else rest
    if are_flags(rest):
        return rest
    raise SourceError(f"{name} has no labels, and targets {', '.join(known)}; say which (--column)")


def _texts(column: TargetColumn) -> tuple[str, ...]:
    """The values of a column as names of groups; "" where there is none."""
    if column.kind == "class":
        names = (*column.names, "")
        return tuple(names[k] for k in column.values.tolist())
    if column.kind == "number":
        return tuple("" if value != value else f"{value:g}" for value in column.values.tolist())
    raise SourceError("groups in a column of several labels; expected one name per picture")
