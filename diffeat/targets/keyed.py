"""Targets that lie in memory, one per key: classes, numbers, several labels."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from diffeat.errors import SourceError
from diffeat.images.columns import TargetColumn
from diffeat.targets.base import Targets
from diffeat.targets.matching import Matching, match_ids

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

    def match(self, ids: Sequence[str]) -> Matching:
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


def own_targets(what: Source | FeatureStore) -> KeyedTargets:
    """The labels that a source or a feature file has itself, such as those of class folders.

    Raises:
        SourceError: it has none.
    """
    name = str(getattr(what, "path", "") or what.name)
    if what.labels is None:
        raise SourceError(
            f"{name} has no labels; expected one subfolder per class, or give a table of labels"
        )
    values = np.asarray(what.labels, np.int64)
    return KeyedTargets(name, "class", tuple(what.class_names), tuple(what.ids), values)
