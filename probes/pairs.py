"""Pairs of pictures, what of them corresponds, and what a matcher found."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np


@dataclass(frozen=True, eq=False)
class Pairs:
    """P ordered pairs of pictures of some `Cells`, by row.

    Attributes:
        source, target: (P,) int64 rows.
        source_points, target_points: P arrays (n, 2) float64 x, y in pixels of the upright
            pictures, n of a pair on both sides; what lies where in the source lies there in the
            target. Without a truth, `target_points` is None.
        reference: (P,) float64 pixels that errors are measured in; None where nothing is said.
        groups: P (source's, target's) names of what the two pictures belong to (person, scene,
            or the picture itself).

    Raises:
        ValueError: rows that are no whole numbers, lengths that do not fit together, points that
            are no (n, 2) or not finite.
    """

    source: Any
    target: Any
    source_points: Sequence[Any]
    target_points: Sequence[Any] | None = None
    reference: Any = None
    groups: Sequence[tuple[str, str]] | None = None

    def __post_init__(self) -> None:
        for name in ("source", "target"):
            object.__setattr__(self, name, _rows(name, getattr(self, name)))
        for name in ("source_points", "target_points"):
            if (values := getattr(self, name)) is not None:
                object.__setattr__(self, name, tuple(map(as_points, values)))
        if self.reference is not None:
            object.__setattr__(self, "reference", np.asarray(self.reference, np.float64))
        self._check()

    def _check(self) -> None:
        count = len(self)
        for name in ("target", "source_points", "target_points", "reference", "groups"):
            values = getattr(self, name)
            if values is not None and len(values) != count:
                raise ValueError(f"{len(values)} {name} for {count} pairs; expected one for each")
        for place, (a, b) in enumerate(zip(self.source_points, self.target_points or (),
                                           strict=False)):  # fmt: skip
            if len(a) != len(b):
                raise ValueError(f"pair {place} has {len(a)} points in the source and {len(b)} in "
                                 "the target; expected equally many")  # fmt: skip

    def __len__(self) -> int:
        return len(self.source)

    def take(self, rows: Any) -> Pairs:
        """Some of the pairs, by slice, indices or mask."""
        rows = np.arange(len(self))[rows]

        def some(values: Any) -> Any:
            if values is None or isinstance(values, np.ndarray):
                return values if values is None else values[rows]
            return tuple(values[row] for row in rows)

        names = ("source", "target", "source_points", "target_points", "reference", "groups")
        return Pairs(*(some(getattr(self, name)) for name in names))


@dataclass(frozen=True, eq=False)
class Matches:
    """Where points of one picture were found in another.

    Attributes:
        points: (n, 2) float64 x, y in pixels of the upright target.
        score: (n,) float64, higher is better: a cosine, a negative distance, a sum of either.
        valid: (n,) bool; False where nothing can be said: a point that the input does not show, a
            zero vector, a match that a check did not confirm.
    """

    points: np.ndarray
    score: np.ndarray
    valid: np.ndarray

    def __len__(self) -> int:
        return len(self.points)


def _rows(name: str, values: Any) -> np.ndarray:
    found = np.asarray(values)
    if found.ndim != 1 or (found.dtype.kind not in "iu" and found.size):
        raise ValueError(f"{name} has shape {found.shape} and dtype {found.dtype}; expected (P,) "
                         "whole numbers, rows of pictures")  # fmt: skip
    return found.astype(np.int64)


def as_points(values: Any) -> np.ndarray:
    """(n, 2) float64 x, y; an empty list is (0, 2).

    Raises:
        ValueError: another shape, nan or inf.
    """
    found = np.asarray(values, np.float64)
    found = found.reshape(0, 2) if found.size == 0 else found
    if found.ndim != 2 or found.shape[1] != 2:
        raise ValueError(f"points have shape {found.shape}; expected (n, 2), x and y in pixels")
    if not np.isfinite(found).all():
        row = int(np.flatnonzero(~np.isfinite(found).all(1))[0])
        raise ValueError(f"point {row} is {found[row].tolist()}; expected finite x and y in pixels")
    return found
