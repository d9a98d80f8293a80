"""The protocol that all readers of videos follow."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np

from diffeat.hashing import fingerprint
from diffeat.images import Source
from diffeat.images.clip_sets import CLIP_SETS
from diffeat.images.clips import frame_id
from diffeat.images.digests import digest_of_file


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
