"""The protocol that all readers of targets follow."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Any


class Targets(ABC):
    """Targets of pictures, found by picture id.

    Attributes:
        name: where they come from, for messages.
        kind: what one is: "class", "number" or "labels".
        names: of classes or labels, by index; () where there are none.
    """

    name: str
    kind: str
    names: tuple[str, ...]

    @abstractmethod
    def of(self, ids: Sequence[str]) -> Any:
        """One target per picture, in the order of the ids; what a missing one is, the kind says."""

    @abstractmethod
    def groups(self, ids: Sequence[str]) -> tuple[str, ...] | None:
        """What each picture belongs to (person, scene, drive, clip), which no split parts.

        A picture without a group is one of its own, named by its id. None where nothing is known.
        """

    @abstractmethod
    def missing(self, ids: Sequence[str]) -> tuple[str, ...]:
        """The pictures that have no target, in the order of the ids."""
