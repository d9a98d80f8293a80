"""The protocol that all readers of videos follow."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np

from diffeat.errors import PictureError
from diffeat.hashing import fingerprint
from diffeat.images import Source
from diffeat.images.clip_sets import CLIP_SETS
from diffeat.images.clips import frame_id
from diffeat.images.digests import digest_of_file

LABELS = ("1", "L", "P", "I;16", "I")
"""Pillow's modes of pictures that hold one whole number a pixel."""


@dataclass(frozen=True)
class Clip:
    """A video.

    Attributes:
        name: such as "bear"; what its frames belong to.
        frames: their picture ids in order, "bear#000", ….
    """

    name: str
    frames: tuple[str, ...]

    def __len__(self) -> int:
        return len(self.frames)


class VideoTargets(ABC):
    """The clips of a split in a layout, and what is known of their frames.

    Args:
        name: where they come from, for messages: "davis2016:val".
        layout: of `diffeat.images.clip_sets.CLIP_SETS`.
        folder: of the data set.
        split: of it.

    Attributes:
        kind: what is known: "masks" or "joints".
        clips: the clips, in the order of the list. A clip is a group that no split parts.

    Raises:
        SourceError: files that are missing or damaged.
    """

    kind: str

    def __init__(self, name: str, layout: str, folder: Path, split: str):
        self.name, self.layout, self.folder, self.split = name, layout, folder, split
        self.paths = CLIP_SETS[layout].frames(folder, split)
        self.clips = tuple(
            Clip(clip, tuple(frame_id(clip, k) for k in range(len(paths))))
            for clip, paths in self.paths.items()
        )

    def __len__(self) -> int:
        return len(self.clips)

    def pictures(self) -> Source:
        """Every frame, by id."""
        return CLIP_SETS[self.layout].pictures(self.name, self.folder, self.split)

    def mask(self, clip: Clip, frame: int) -> np.ndarray | None:
        """(H, W) uint8: 0 is background, from 1 on objects; None where nothing is known.

        Raises:
            PictureError: the file cannot be read as a mask.
        """
        return None

    def joints(self, clip: Clip) -> np.ndarray | None:
        """(F, J, 2) float64 x, y in pixels of each frame; nan where a joint is not known."""
        return None

    def objects(self, clip: Clip) -> tuple[int, ...]:
        """The labels of the objects in the first mask."""
        mask = self.mask(clip, 0)
        return () if mask is None else tuple(int(k) for k in np.unique(mask) if k)

    @abstractmethod
    def files(self, clip: Clip) -> list[Path]:
        """The files that say what is known of a clip."""

    @cached_property
    def fingerprint(self) -> str:
        """Hash of the clips and of the files of what is known, for finished work that is kept."""
        held = [[digest_of_file(path).hex() for path in self.files(clip)] for clip in self.clips]
        return fingerprint([(clip.name, clip.frames) for clip in self.clips], held)


def read_labels(path: Path, name: str | None = None) -> tuple[np.ndarray, list[int] | None]:
    """The labels of a mask file: a picture of one whole number a pixel, such as an indexed PNG.

    Args:
        name: of the mask, for messages.

    Returns:
        (H, W) uint8 or, of 16 bits, uint16; and the palette, 768 numbers, or None.

    Raises:
        PictureError: it is no picture, or one of colours.
    """
    from PIL import Image

    try:
        with Image.open(path) as image:
            image.load()
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        raise PictureError(name or str(path), f"no mask that can be read ({error})") from error
    if image.mode not in LABELS:
        raise PictureError(
            name or str(path),
            f"holds colours ({image.mode}); expected a PNG with one label a pixel: save it as an "
            "indexed or grey one",
        )
    labels = np.asarray(image)
    if labels.dtype == bool:
        labels = labels.astype(np.uint8)
    if labels.dtype != np.uint8:
        if labels.min(initial=0) < 0 or labels.max(initial=0) > np.iinfo(np.uint16).max:
            raise PictureError(name or str(path), f"labels up to {labels.max()}; expected 16 bits")
        labels = labels.astype(np.uint16)
    palette = image.getpalette() if image.mode == "P" else None
    return labels, None if palette is None else [*palette, *[0] * 768][:768]
