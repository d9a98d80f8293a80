"""The protocol of panoptic truth: a segment for every pixel, or none; and truth from masks."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from types import MappingProxyType
from typing import Any, NamedTuple

import numpy as np

from diffeat.coords import Size
from diffeat.errors import SpecError
from diffeat.hashing import fingerprint
from diffeat.images import Source
from diffeat.targets.by_id import rows_of_all
from diffeat.targets.dense import DenseTargets

IGNORE = 255
"""Label of pixels without a segment, in masks of classes; -1 where there are 256 classes."""


class Segmented(NamedTuple):
    """A picture in segments.

    Attributes:
        ids: (H, W) int32 ids of segments; 0 where nothing is known (void).
        segments: {"id", "class", "crowd", "area"} of each; a crowd is many things at once.
    """

    ids: np.ndarray
    segments: list[dict[str, Any]]


class PanopticTargets(ABC):
    """Segments of N pictures, by picture id.

    Attributes:
        name: where they come from, for messages.
        ids: N picture ids; those of `pictures()`.
        classes: K names.
        things: numbers of the classes that can be counted; the others are stuff.
        groups: N names of what a picture belongs to; its id where it belongs to nothing.
        left_out: what was found and not taken, and why → how many.
    """

    name: str
    ids: tuple[str, ...]
    classes: tuple[str, ...]
    things: frozenset[int]
    groups: tuple[str, ...]
    left_out: Mapping[str, int] = MappingProxyType({})

    def __len__(self) -> int:
        return len(self.ids)

    def __getitem__(self, row: int) -> Segmented:
        return self.segmented(row)

    @abstractmethod
    def pictures(self) -> Source:
        """The pictures, in this order."""

    @abstractmethod
    def segmented(self, row: int) -> Segmented:
        """The segments of one picture, upright; read when they are asked for.

        Raises:
            PictureError: a file that cannot be read, or does not say what it should.
        """

    @abstractmethod
    def size(self, row: int) -> Size:
        """(H, W) of one upright picture."""

    @property
    @abstractmethod
    def fingerprint(self) -> str:
        """Hash of ids, files and classes, for work that is kept."""

    @abstractmethod
    def take(self, rows: Sequence[int] | np.ndarray) -> PanopticTargets:
        """Some of the pictures, by row."""

    def of(self, ids: Sequence[str]) -> PanopticTargets:
        """Those of pictures, in their order.

        Raises:
            SourceError: pictures of which nothing is known.
        """
        return self.take(rows_of_all(ids, self.ids, self.name))

    @property
    def ignore(self) -> int:
        """Label of `labels` where nothing is known."""
        return IGNORE if len(self.classes) <= IGNORE else -1

    def pixels(self) -> np.ndarray:
        """(K,) int64 pixels of each class, over all pictures."""
        found = np.zeros(len(self.classes), np.int64)
        for row in range(len(self)):
            for one in self.segmented(row).segments:
                found[one["class"]] += one["area"]
        return found

    def labels(self, row: int) -> np.ndarray:
        """(H, W) int16 class of every pixel, and `ignore`: what mean IoU is counted by."""
        return labels_of(self.segmented(row), self.ignore)

    def instances(self, row: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Things of one picture: (n, H, W) bool masks, (n,) classes, (n,) whether it is a crowd."""
        ids, segments = self.segmented(row)
        things = [one for one in segments if one["class"] in self.things]
        masks = np.array([ids == one["id"] for one in things], bool).reshape(-1, *ids.shape)
        labels = np.array([one["class"] for one in things], np.int64)
        return masks, labels, np.array([one["crowd"] for one in things], bool)


def labels_of(one: tuple[np.ndarray, Sequence[Mapping[str, Any]]], ignore: int) -> np.ndarray:
    """(H, W) int16 class of every pixel of a picture in segments, and `ignore`."""
    ids, segments = one
    if not segments:
        return np.full(ids.shape, ignore, np.int16)
    names = np.array(sorted(segment["id"] for segment in segments))
    of = {segment["id"]: segment["class"] for segment in segments}
    classes = np.array([of[name] for name in names.tolist()], np.int16)
    place = np.minimum(np.searchsorted(names, ids), len(names) - 1)
    return np.where(names[place] == ids, classes[place], ignore).astype(np.int16)


@dataclass(frozen=True, eq=False)
class MaskSegments(PanopticTargets):
    """Segments that follow from masks of classes.

    Attributes:
        masks: of the classes.
        things: numbers of the classes whose connected pieces are things of their own.
        smallest: pieces of fewer pixels are void.
        corners: whether pixels that touch by a corner belong together, too.
    """

    masks: DenseTargets
    things: frozenset[int]
    smallest: int = 1
    corners: bool = False
    left_out: Mapping[str, int] = field(default_factory=dict)

    @property
    def name(self) -> str:
        return f"segments of {self.masks.name}"

    @property
    def ids(self) -> tuple[str, ...]:
        return tuple(self.masks.ids)

    @property
    def classes(self) -> tuple[str, ...]:
        return tuple(self.masks.classes)

    @property
    def groups(self) -> tuple[str, ...]:
        return tuple(self.masks.groups)

    def pictures(self) -> Source:
        return self.masks.pictures()

    def size(self, row: int) -> Size:
        return self.masks.size(row)

    def segmented(self, row: int) -> Segmented:
        from scipy.ndimage import label as pieces_of

        mask = self.masks.target(row)
        ids, segments = np.zeros(mask.shape, np.int32), []
        for label in np.unique(mask[mask != self.masks.ignore]).tolist():
            own = mask == label
            if label in self.things:
                pieces, count = pieces_of(own, np.ones((3, 3)) if self.corners else None)
            else:
                pieces, count = own.astype(np.int32), 1
            areas = np.bincount(pieces.ravel(), minlength=count + 1)
            named = np.zeros(count + 1, np.int32)
            for piece in (1 + np.flatnonzero(areas[1:] >= self.smallest)).tolist():
                segments.append({"id": len(segments) + 1, "class": label, "crowd": False,
                                 "area": int(areas[piece])})  # fmt: skip
                named[piece] = len(segments)
            ids += named[pieces]  # a class at a time: the others' pixels are 0 here
        return Segmented(ids, segments)

    @property
    def fingerprint(self) -> str:
        about = [sorted(self.things), self.smallest, self.corners]
        return fingerprint(self.masks.fingerprint, about)

    def take(self, rows: Sequence[int] | np.ndarray) -> MaskSegments:
        return replace(self, masks=self.masks.take(rows))


def panoptic_of_masks(
    masks: DenseTargets,
    things: Sequence[int | str] | None = None,
    *,
    smallest: int = 1,
    corners: bool = False,
) -> MaskSegments:
    """Segments from masks of classes: each connected piece of a thing's class is a thing.

    Two things that touch are one piece, and one that something hides in the middle is two: this is
    truth for pictures of things that stand apart, and no more.

    Args:
        masks: of classes.
        things: numbers or names of the classes that can be counted; None: all but the first, which
            is the background.
        smallest: pieces of fewer pixels are void: specks that a mask has at edges.
        corners: pixels that touch by a corner belong together, too.

    Raises:
        SpecError: depth, unknown classes, `smallest` below 1.
    """
    if masks.kind != "masks":
        raise SpecError(f"{masks.name} holds {masks.kind}; expected masks of classes")
    if smallest < 1:
        raise SpecError(f"smallest={smallest}; expected 1 pixel or more")
    names = list(masks.classes)
    wanted = range(1, len(names)) if things is None else things
    found = set()
    for one in wanted:
        number = names.index(one) if isinstance(one, str) and one in names else one
        if isinstance(number, str) or not 0 <= int(number) < len(names):
            raise SpecError(f"{masks.name}: thing {one!r} is no class; expected some of "
                            f"{', '.join(names[:20])}")  # fmt: skip
        found.add(int(number))
    return MaskSegments(masks, frozenset(found), smallest, corners)
