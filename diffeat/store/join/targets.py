"""Targets of feature files that become one: kept where all files have them."""

from __future__ import annotations

import warnings
from collections.abc import Sequence

import numpy as np

from diffeat.errors import SpecMismatch
from diffeat.images.columns import TargetColumn
from diffeat.store.read.reader import FeatureStore

Targets = dict[str, TargetColumn]


def common_targets(stores: Sequence[FeatureStore]) -> list[str]:
    """The columns that all files have, of one kind; those that are dropped are said."""
    known = dict.fromkeys(name for store in stores for name in store.targets)
    kept = []
    for name in known:
        lacking = [store for store in stores if name not in store.targets]
        kinds = {store.targets[name].kind for store in stores if name in store.targets}
        if not lacking and len(kinds) == 1:
            kept.append(name)
            continue
        why = f"{lacking[0].path} has none" if lacking else f"it is {' and '.join(sorted(kinds))}"
        warnings.warn(f"/targets/{name} is dropped, because {why}", stacklevel=5)
    return kept


def targets_below(stores: Sequence[FeatureStore]) -> Targets:
    """Of other pictures: rows below each other, classes and labels united by name."""
    return {
        name: _joined([store.targets[name] for store in stores]) for name in common_targets(stores)
    }


def _joined(columns: Sequence[TargetColumn]) -> TargetColumn:
    if columns[0].kind == "number":
        return TargetColumn("number", (), np.concatenate([one.values for one in columns]))
    names = tuple(dict.fromkeys(name for one in columns for name in one.names))
    if columns[0].kind == "class":
        return TargetColumn("class", names, renumbered(columns, names))
    values = []
    for one in columns:
        wide = np.zeros((len(one.values), len(names)), np.int64)
        wide[:, [names.index(name) for name in one.names]] = one.values
        wide[one.missing] = -1
        values.append(wide)
    return TargetColumn("labels", names, np.concatenate(values))


def renumbered(columns: Sequence[TargetColumn], names: Sequence[str]) -> np.ndarray:
    """(N,) int64 classes of all columns in the numbering of `names`; -1 stays."""
    index = {name: k for k, name in enumerate(names)}
    tables = [np.array([*(index[n] for n in one.names), -1], np.int64) for one in columns]
    return np.concatenate([new[one.values] for one, new in zip(columns, tables, strict=True)])


def targets_beside(stores: Sequence[FeatureStore]) -> Targets:
    """Of the same pictures; SpecMismatch where two files say different things of them."""
    first = stores[0]
    found = {name: first.targets[name] for name in common_targets(stores)}
    for store in stores[1:]:
        for name, one in found.items():
            other = store.targets[name]
            if other.names != one.names or not np.array_equal(
                other.values, one.values, equal_nan=one.kind == "number"
            ):
                raise SpecMismatch(
                    f"{store.path} and {first.path} hold the same ids, but targets {name!r} differ"
                )
    return found
