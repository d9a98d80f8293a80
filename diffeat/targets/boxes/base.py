"""Boxes of things by picture id, with groups."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING

import numpy as np

from diffeat.hashing import fingerprint
from diffeat.images import Source
from diffeat.images.digests import digest_of_bytes
from diffeat.targets.by_id import rows_of_all

if TYPE_CHECKING:
    from diffeat.targets.dense import DenseTargets


@dataclass(frozen=True, eq=False)
class BoxTargets:
    """Boxes of N pictures.

    Attributes:
        name: where they come from, for messages.
        ids: N picture ids; those of `pictures()`.
        boxes: per picture (n, 4) float64 x1, y1, x2, y2, edges in pixels of the upright picture,
            whose first pixel spans 0 to 1.
        labels: per picture (n,) int64 indices of `classes`.
        crowd: per picture (n,) bool: a box round many things.
        classes: K names.
        groups: N names of what a picture belongs to; its id where it belongs to nothing.
        opened: gives the pictures.
        left_out: what was found and not taken, and why → how many.
    """

    name: str
    ids: tuple[str, ...]
    boxes: tuple[np.ndarray, ...]
    labels: tuple[np.ndarray, ...]
    crowd: tuple[np.ndarray, ...]
    classes: tuple[str, ...]
    groups: tuple[str, ...]
    opened: Callable[[], Source]
    left_out: dict[str, int] = field(default_factory=dict)

    def __len__(self) -> int:
        return len(self.ids)

    def pictures(self) -> Source:
        """The pictures, by id."""
        return self.opened()

    def take(self, rows: Sequence[int] | np.ndarray) -> BoxTargets:
        """Some of the pictures, by row."""
        rows = np.arange(len(self))[np.asarray(rows)].tolist()
        names = ("ids", "boxes", "labels", "crowd")
        some = (tuple(getattr(self, name)[row] for row in rows) for name in names)
        groups = tuple(self.groups[row] for row in rows)
        return BoxTargets(self.name, *some, self.classes, groups, self.opened, self.left_out)

    def of(self, ids: Sequence[str]) -> BoxTargets:
        """Those of pictures, in their order.

        Raises:
            SourceError: pictures of which nothing is known.
        """
        return self.take(rows_of_all(ids, self.ids, self.name))

    @cached_property
    def fingerprint(self) -> str:
        """Hash of ids, boxes, labels and classes, for finished work that is kept."""
        counts = [len(one) for one in self.boxes]
        flat = np.concatenate([np.empty(0), *(one.ravel() for one in self.boxes)]).astype("<f8")
        marks = [[*map(int, a), *map(int, b)] for a, b in zip(self.labels, self.crowd, strict=True)]
        return fingerprint(self.ids, counts, digest_of_bytes(flat.data).hex(), marks, self.classes)


def boxes_of_masks(targets: DenseTargets, background: Sequence[int] = (0,)) -> BoxTargets:
    """One box round all pixels of each class of a picture's mask; for masks of single things.

    Args:
        targets: masks of classes.
        background: classes that are no things.

    Returns:
        Boxes of the other classes; a picture may have none.
    """
    things = [k for k in range(len(targets.classes)) if k not in background]
    found = [_round(targets.target(row), things) for row in range(len(targets))]
    boxes = tuple(np.array([box for box, _ in one], np.float64).reshape(-1, 4) for one in found)
    labels = tuple(np.array([label for _, label in one], np.int64) for one in found)
    return BoxTargets(
        f"boxes of {targets.name}", tuple(targets.ids), boxes, labels,
        tuple(np.zeros(len(one), bool) for one in labels),
        tuple(targets.classes[k] for k in things), tuple(targets.groups), targets.pictures,
    )  # fmt: skip


def _round(mask: np.ndarray, things: Sequence[int]) -> list[tuple[list[int], int]]:
    """(x1, y1, x2, y2) and the index among `things`, of those that a mask shows."""
    found = []
    for index, label in enumerate(things):
        rows, columns = np.nonzero(mask == label)
        if len(rows):
            box = [columns.min(), rows.min(), columns.max() + 1, rows.max() + 1]
            found.append(([int(edge) for edge in box], index))
    return found
