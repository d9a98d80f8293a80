"""Depth of RGB-D frames, where the colour camera saw it.

7-Scenes has two cameras side by side (`diffeat.targets.pairs.frames`); TUM's sequences have depth
on the colour picture already, 5,000 steps a metre:

    rgb.txt, depth.txt    "TIMESTAMP rgb/TIMESTAMP.png" a line, seconds; # begins a remark
    associations.txt      "TIMESTAMP rgb/… TIMESTAMP depth/…" a line, where it is there

Without associations a picture has the depth map that is nearest in time, up to 0.02 s, as TUM's own
program pairs them.

Source: Shotton et al., CVPR 2013; Sturm et al., "A Benchmark for the Evaluation of RGB-D SLAM
Systems", IROS 2012.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from diffeat.errors import PictureError, SourceError
from diffeat.images.below import read_text
from diffeat.targets.pairs.frames import CALIBRATIONS, on_colour

APART = 0.02
"""Seconds."""
ASSOCIATED = "associations.txt"


@dataclass(frozen=True, eq=False)
class FrameReader:
    """Depth maps of 7-Scenes' frames.

    Attributes:
        colours: depth map → the name of its colour picture beside it.
        calibration: how the two cameras stand, of `diffeat.targets.pairs.frames.CALIBRATIONS`.
    """

    colours: Mapping[Path, str]
    calibration: str = "kinect"
    kind: str = field(default="depth", init=False)
    classes: tuple[str, ...] = field(default=(), init=False)
    ignore: int = field(default=255, init=False)
    palette: None = field(default=None, init=False)

    def about(self) -> list:
        return ["frames", repr(CALIBRATIONS[self.calibration])]

    def read(self, path: Path) -> np.ndarray:
        """(H, W) float32 metres on the colour picture, nan where nothing is known."""
        try:
            depth, _ = on_colour(path.parent, self.colours[path], CALIBRATIONS[self.calibration])
        except SourceError as error:
            raise PictureError(str(path), str(error)) from error
        return depth.astype(np.float32)


def is_tum(folder: Path) -> bool:
    """Whether a folder is a sequence of TUM's kind."""
    return (folder / ASSOCIATED).is_file() or all(
        (folder / name).is_file() for name in ("rgb.txt", "depth.txt")
    )


def tum_pairs(folder: Path) -> tuple[list[tuple[str, str]], dict[str, int]]:
    """(picture, depth map) below a folder, in the order of time; and what is left out.

    Raises:
        SourceError: lists that are damaged.
    """
    if (folder / ASSOCIATED).is_file():
        rows = [words for _, words in _lines(folder, ASSOCIATED, 4)]
        return [(colour, depth) for _, colour, _, depth in rows], {}
    colours, depths = (_timed(folder, name) for name in ("rgb.txt", "depth.txt"))
    close = sorted((abs(a - b), a, b) for a in colours for b in _near(np.array(sorted(depths)), a))
    taken: dict[float, float] = {}
    used: set[float] = set()
    for _, a, b in close:
        if a not in taken and b not in used:
            taken[a] = b
            used.add(b)
    lacking = len(colours) - len(taken)
    left_out = {"pictures without a depth map within 0.02 s": lacking} if lacking else {}
    return [(colours[a], depths[taken[a]]) for a in sorted(taken)], left_out


def _near(times: np.ndarray, one: float) -> list[float]:
    low, high = np.searchsorted(times, [one - APART, one + APART])
    return times[low:high].tolist()


def _timed(folder: Path, name: str) -> dict[float, str]:
    found = {}
    for where, (time, path) in _lines(folder, name, 2):
        try:
            found[float(time)] = path
        except ValueError as error:
            raise SourceError(f"{where}: {error}; expected seconds and a path") from error
    return found


def _lines(folder: Path, name: str, count: int) -> list[tuple[str, list[str]]]:
    text = read_text(folder / name, folder, "a time and a path a line")
    found = []
    for number, line in enumerate(text.splitlines(), 1):
        words = line.partition("#")[0].split()
        if words and len(words) != count:
            raise SourceError(f"{folder / name}, line {number}: {len(words)} words; expected "
                              f"{count}")  # fmt: skip
        if words:
            found.append((f"{folder / name}, line {number}", words))
    return found
