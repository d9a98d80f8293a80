"""The protocol that all readers of pairs follow, and key points, which most of them are."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from types import MappingProxyType

import numpy as np

from diffeat.hashing import fingerprint
from diffeat.images import Source
from diffeat.images.digests import digest_of_bytes
from diffeat.targets.by_id import match_ids


@dataclass(frozen=True, eq=False)
class Truth:
    """What corresponds in one pair, in pixels of the upright pictures (centres at whole numbers).

    Attributes:
        source_points: (n, 2) float64 x, y.
        target_points: (n, 2) float64 x, y; row k is the same place in both. None is not known.
        names: n names of the points; () where they have none.
        source_box, target_box: (4,) float64 x1, y1, x2, y2 of what is shown; None if not known.
    """

    source_points: np.ndarray
    target_points: np.ndarray | None
    names: tuple[str, ...] = ()
    source_box: np.ndarray | None = None
    target_box: np.ndarray | None = None


class PairTargets(ABC):
    """P ordered pairs of pictures, by picture id, and what of them corresponds.

    Attributes:
        name: where they come from, for messages: "spair:trn", "pairs.csv".
        kind: "points", "homography", "flow" or "depth".
        source, target: P picture ids; those of `pictures()`.
        groups: P (source's, target's) names of what the pictures belong to (person, scene); a
            picture that belongs to nothing has its id.
        categories: P names of what is shown; "" where nothing is said.
        left_out: what was found and not taken, and why ("no common points" → how many).
        noted: what was taken though it is odd ("pairs listed twice" → how many).
    """

    name: str
    kind: str
    source: tuple[str, ...]
    target: tuple[str, ...]
    groups: tuple[tuple[str, str], ...]
    categories: tuple[str, ...]
    left_out: dict[str, int]
    noted: Mapping[str, int] = MappingProxyType({})

    def __len__(self) -> int:
        return len(self.source)

    @abstractmethod
    def pictures(self) -> Source:
        """Every picture of the pairs once; its label is its category where each has one."""

    @abstractmethod
    def truth(self, pair: int) -> Truth:
        """What corresponds in one pair; read or worked out when it is asked for."""

    @property
    @abstractmethod
    def fingerprint(self) -> str:
        """Hash of the pairs and of what corresponds, for finished work that is kept."""

    @abstractmethod
    def take(self, pairs: Sequence[int] | np.ndarray) -> PairTargets:
        """Some of the pairs, by index."""

    def rows(self, ids: Sequence[str]) -> tuple[np.ndarray, np.ndarray]:
        """(P,) and (P,) int64 rows of the sources and the targets among picture ids; -1 if none."""
        keys = tuple(dict.fromkeys((*self.source, *self.target)))
        row_of = dict(zip(keys, match_ids(keys, ids).rows.tolist(), strict=True))
        both = ([row_of[name] for name in names] for names in (self.source, self.target))
        source, target = (np.array(rows, np.int64) for rows in both)
        return source, target


@dataclass(frozen=True, eq=False)
class PointPairs(PairTargets):
    """Pairs with key points, in memory.

    Attributes:
        truths: P truths.
        opened: gives the source of the pictures.
    """

    name: str
    source: tuple[str, ...]
    target: tuple[str, ...]
    truths: tuple[Truth, ...]
    opened: Callable[[], Source]
    groups: tuple[tuple[str, str], ...] = ()
    categories: tuple[str, ...] = ()
    left_out: dict[str, int] = field(default_factory=dict)
    kind: str = "points"
    noted: dict[str, int] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if not self.groups:
            own = tuple(zip(self.source, self.target, strict=True))
            object.__setattr__(self, "groups", own)
        if not self.categories:
            object.__setattr__(self, "categories", ("",) * len(self.source))

    def pictures(self) -> Source:
        return self.opened()

    def truth(self, pair: int) -> Truth:
        return self.truths[pair]

    @cached_property
    def fingerprint(self) -> str:
        # of the bytes of all arrays in a row, since twelve thousand pairs as text take seconds
        parts = []
        for name in ("source_points", "target_points", "source_box", "target_box"):
            arrays = [getattr(one, name) for one in self.truths]
            counts = [-1 if array is None else len(array) for array in arrays]
            flat = [np.asarray(array, "<f8").ravel() for array in arrays if array is not None]
            parts += [counts, digest_of_bytes(np.concatenate([np.empty(0), *flat]).data).hex()]
        names = [one.names for one in self.truths]
        return fingerprint(self.source, self.target, *parts, names, self.groups, self.categories)

    def take(self, pairs: Sequence[int] | np.ndarray) -> PointPairs:
        rows = np.arange(len(self))[np.asarray(pairs)].tolist()
        names = ("source", "target", "truths", "groups", "categories")
        some = (tuple(getattr(self, name)[row] for row in rows) for name in names)
        source, target, truths, groups, categories = some
        return PointPairs(self.name, source, target, truths, self.opened, groups, categories,
                          self.left_out, self.kind, self.noted)  # fmt: skip
