"""DAVIS: masks of one object (2016), or of several (2017), in every frame.

Indexed PNGs hold the numbers of objects. DAVIS-2016 has 0 and 255, and one object, 1 here; with the
package of 2017, whose masks part it into several, all of them together are that object.

Source: Perazzi et al., "A Benchmark Dataset and Evaluation Methodology for Video Object
Segmentation", CVPR 2016; Pont-Tuset et al., "The 2017 DAVIS Challenge", 2017.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np

from diffeat.errors import PictureError, SourceError
from diffeat.images import read_labels
from diffeat.images.below import is_inside
from diffeat.images.clip_sets import RESOLUTION
from diffeat.targets.video.base import Clip, VideoTargets


class Davis(VideoTargets):
    """Masks by clip and frame; those of frames without a file are not known.

    Raises:
        SourceError: a clip without its first mask.
    """

    kind = "masks"

    def __init__(self, name: str, layout: str, folder: Path, split: str):
        super().__init__(name, layout, folder, split)
        self.one_object = layout == "davis2016"
        self._real = str(folder.resolve())
        for clip in self.clips:
            if not self._path(clip, 0).is_file():
                raise SourceError(f"{self._path(clip, 0)}: missing; expected the mask of the first "
                                  f"frame of {clip.name!r}")  # fmt: skip

    def mask(self, clip: Clip, frame: int) -> np.ndarray | None:
        path = self._path(clip, frame)
        if not path.is_file():
            return None
        if not is_inside(path, self._real):
            raise PictureError(str(path), f"a link leads out of {self.folder}; copy the file there")
        labels, _ = read_labels(path)
        if self.one_object:
            return (labels > 0).astype(np.uint8)
        if labels.max(initial=0) > 254:
            raise PictureError(str(path), f"labels up to {labels.max()}; expected an indexed PNG "
                               "with the numbers of objects")  # fmt: skip
        return labels.astype(np.uint8)

    def files(self, clip: Clip) -> list[Path]:
        every = (self._path(clip, frame) for frame in range(len(clip)))
        return [path for path in every if path.is_file()]

    def _path(self, clip: Clip, frame: int) -> Path:
        stem = self.paths[clip.name][frame].stem
        return self.folder / "Annotations" / RESOLUTION / clip.name / f"{stem}.png"
