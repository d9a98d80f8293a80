"""JHMDB: 15 joints of one person in every frame.

joint_positions/<class>/<clip>/joint_positions.mat has pos_img (2, 15, frames), x and y counted from
1, as those who evaluate label propagation on it take them (Wang, Jabri & Efros 2019).

Source: Jhuang et al., "Towards Understanding Action Recognition", ICCV 2013.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np

from diffeat.errors import SourceError
from diffeat.images.below import read_below
from diffeat.targets.pairs.mat import read_arrays
from diffeat.targets.video.base import Clip, VideoTargets

JOINTS = ("neck", "belly", "face", "right shoulder", "left shoulder", "right hip", "left hip",
          "right elbow", "left elbow", "right knee", "left knee", "right wrist", "left wrist",
          "right ankle", "left ankle")  # fmt: skip


class Jhmdb(VideoTargets):
    """Joints by clip. Clips have as many frames as joints are known of."""

    kind = "joints"

    def __init__(self, name: str, layout: str, folder: Path, split: str):
        super().__init__(name, layout, folder, split)
        self._joints = {clip.name: self._read(clip) for clip in self.clips}
        self.clips = tuple(
            Clip(clip.name, clip.frames[: len(self._joints[clip.name])]) for clip in self.clips
        )

    def joints(self, clip: Clip) -> np.ndarray:
        return self._joints[clip.name]

    def files(self, clip: Clip) -> list[Path]:
        return [self.folder / "joint_positions" / clip.name / "joint_positions.mat"]

    def _read(self, clip: Clip) -> np.ndarray:
        (path,) = self.files(clip)
        try:
            found = read_arrays(read_below(path, self.folder, "joints of a clip")).get("pos_img")
        except ValueError as error:
            if isinstance(error, SourceError):
                raise
            raise SourceError(f"{path}: {error}; fetch it again") from error
        shape = None if found is None else found.shape
        if shape is None or len(shape) != 3 or shape[:2] != (2, len(JOINTS)):
            raise SourceError(f"{path}: pos_img is {shape}; expected (2, {len(JOINTS)}, frames)")
        if not 0 < shape[2] <= len(clip):
            raise SourceError(f"{path}: joints of {shape[2]} frames, and {clip.name!r} has "
                              f"{len(clip)}; fetch both again")  # fmt: skip
        return found.transpose(2, 1, 0) - 1
