"""Pictures with named masks, as the one loop takes them."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import torch
from PIL import Image

from diffeat.adapt.named_classes import classes_in
from diffeat.adapt.odise_network import MaskedPicture
from diffeat.adapt.odise_tiles import Frame, Size
from diffeat.errors import SourceError, SpecError
from diffeat.targets.dense import DenseTargets
from diffeat.words.vocabulary import Vocabulary
from probes.batches import Batch
from probes.open_vocabulary.pooling import hard_masks

Proposing = Callable[[Image.Image], Any]
"""A picture → its `Proposals`, or (Q, H, W) masks."""
OVERLAP = 0.5
"""Intersection over union from which a proposal shows a true mask."""


class NamedPictures:
    """Masks of pictures with classes, picture by picture.

    A mask is all of one class in a picture, or a proposal that has the class of the true mask that
    it overlaps most. Pictures without a mask are left out.

    Args:
        targets: masks of classes, each a word of the vocabulary.
        vocabulary: K classes.
        frame: how pictures are brought to the network.
        stride: of the finest map, where masks are brought to its grid; None: they keep their
            pixels. Masks that have no site there are left out.
        batch_size: pictures of a step.
        device: of the batches' targets.
        propose: gives proposals; None: true masks are named.
        void: the index of "no object", which proposals have that overlap no true mask by half of
            their union; None: they are left out.
        queries: whether the proposals' queries are read.

    Raises:
        SpecError: no masks of classes, or classes that the vocabulary does not have.
        SourceError: no picture has a mask.
    """

    def __init__(
        self, targets: DenseTargets, vocabulary: Vocabulary, frame: Frame, stride: int | None,
        batch_size: int, device: torch.device, propose: Proposing | None = None,
        void: int | None = None, queries: bool = False,
    ):  # fmt: skip
        self.targets, self.frame, self.stride = targets, frame, stride
        self.batch_size, self.device = batch_size, torch.device(device)
        self.propose, self.void, self.queries = propose, void, queries
        self._class_of = classes_in(targets, vocabulary)
        self.source = targets.pictures()
        present = [self._present(targets.target(row)) for row in range(len(targets))]
        self.used = np.flatnonzero([len(one) > 0 for one in present])
        self._count = sum(map(len, present))
        if not len(self.used):
            raise SourceError(f"{targets.name}: no picture has a mask of a class")

    @property
    def steps(self) -> int:
        return -(-len(self.used) // self.batch_size)

    def __len__(self) -> int:
        """True masks of all pictures."""
        return self._count

    def shuffled(self, rng: np.random.Generator) -> Iterator[Batch]:
        """One epoch in a new order."""
        return self._batches(rng.permutation(self.used))

    def ordered(self) -> Iterator[Batch]:
        """All, in their order."""
        return self._batches(self.used)

    def _batches(self, order: np.ndarray) -> Iterator[Batch]:
        shown = False
        for start in range(0, len(order), self.batch_size):
            made = [self.example(int(row)) for row in order[start : start + self.batch_size]]
            made = [(picture, labels) for picture, labels in made if len(labels)]
            if made:
                shown = True
                pictures, labels = zip(*made, strict=True)
                yield [list(pictures)], torch.cat(labels).to(self.device)
        if not shown:
            raise SourceError(
                f"{self.targets.name}: no mask has a site of the finest map, or no proposal a "
                "class; choose a larger size, or pooling='pixels'"
            )

    def example(self, row: int) -> tuple[MaskedPicture, torch.Tensor]:
        """A picture with its masks, and their (Q,) classes."""
        picture, truth = self.source.load(row), np.asarray(self.targets.target(row))
        if truth.shape != (picture.height, picture.width):
            raise SpecError(
                f"{self.targets.name}: the mask of {self.targets.ids[row]!r} is {truth.shape}, its "
                f"picture {(picture.height, picture.width)} (H, W); expected the same size"
            )
        present = self._present(truth)
        masks = torch.from_numpy(np.stack([truth == k for k in present])) if present else None
        labels = torch.tensor([self._class_of[k] for k in present], dtype=torch.int64)
        queries = None
        if self.propose is not None:
            masks, queries, labels = self._proposed(picture, masks, labels)
        if masks is None or not len(labels):
            return MaskedPicture(self.frame.picture(picture), torch.zeros(0, 1, 1) > 0), labels[:0]
        framed = self.frame.masks(masks)
        kept = self.shown(framed)
        queries = queries[kept] if queries is not None and self.queries else None
        return MaskedPicture(self.frame.picture(picture), framed[kept], queries), labels[kept]

    def shown(self, masks: torch.Tensor) -> torch.Tensor:
        """(Q,) which masks of a frame have a pixel, or a site of the finest map."""
        if self.stride is not None:
            masks = hard_masks(masks, sites_of(masks, self.stride))
        return masks.flatten(1).any(1)

    def _present(self, truth: np.ndarray) -> list[int]:
        return [int(k) for k in np.unique(truth) if int(k) in self._class_of]

    def _proposed(self, picture: Image.Image, masks, labels):
        """Proposals with the class of the true mask that they overlap most."""
        found, queries = masks_of(self.propose(picture), (picture.height, picture.width))
        if self.queries and queries is None:
            raise SpecError("these proposals have no features of queries; expected some, or "
                            "query_width=None")  # fmt: skip
        if masks is None:
            best, over = labels.new_zeros(len(found)), torch.zeros(len(found))
        else:
            over, best = overlaps(found, masks).max(1)
        named = labels[best] if len(labels) else best
        rest = -1 if self.void is None else self.void
        named = torch.where(over >= OVERLAP, named, rest)
        kept = named >= 0
        return found[kept], None if queries is None else queries[kept], named[kept]


def overlaps(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
    """(Q, R) intersections over unions of (Q, H, W) and (R, H, W) bool masks; 0 of two empty."""
    a, b = a.flatten(1).float(), b.flatten(1).float()
    both = a @ b.T
    union = a.sum(1)[:, None] + b.sum(1)[None] - both
    return both / union.clamp(min=1)


def masks_of(proposals: Any, size: Size) -> tuple[torch.Tensor, torch.Tensor | None]:
    """(Q, H, W) bool masks of a picture, and (Q, D) queries or None.

    Args:
        proposals: `Proposals`, or masks as bool or logits.
        size: (H, W) of the picture.

    Raises:
        SpecError: masks of another size, or none.
    """
    if hasattr(proposals, "on_picture"):
        proposals = proposals.on_picture(size)
    queries = getattr(proposals, "features", None)
    masks = getattr(proposals, "masks", proposals)
    masks = torch.as_tensor(np.asarray(masks) if not torch.is_tensor(masks) else masks)
    if masks.ndim != 3 or tuple(masks.shape[1:]) != tuple(size):
        raise SpecError(
            f"masks have shape {tuple(masks.shape)}; expected (Q, {size[0]}, {size[1]}), Q masks "
            "of the picture's own size"
        )
    if masks.dtype != torch.bool and not masks.is_floating_point():
        raise SpecError(f"masks are {masks.dtype}; expected bool, or logits above 0 inside")
    return masks if masks.dtype == torch.bool else masks > 0, queries


def sites_of(masks: torch.Tensor, stride: int) -> Size:
    """(h, w) of a map of a stride over the frame of (Q, H, W) masks."""
    return masks.shape[1] // stride, masks.shape[2] // stride
