"""RGB-D frames in the layout of 7-Scenes: a colour picture, a depth map and a pose each.

    frame-NNNNNN.color.png|jpg   frame-NNNNNN.depth.png (mm; 0 and 65535: none)
    frame-NNNNNN.pose.txt (4×4, camera to world, metres)   camera-intrinsics.txt (3×3, optional)

The pose is that of the depth camera. Depth and colour are those of two cameras side by side and
do not lie on each other pixel by pixel; how they stand is a `Calibration`.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path

import numpy as np
from PIL import Image

from diffeat.errors import SourceError
from diffeat.images import FileSource, Source, stored_size
from diffeat.images.below import read_matrix
from diffeat.images.digests import stats_of
from diffeat.images.paired_layouts import rgbd_colours
from diffeat.targets.pairs.reprojection import Camera, View, registered

INTRINSICS = "camera-intrinsics.txt"
NO_DEPTH = (0, 65535)
HELD = 8
"""Views that are kept at a time."""


@dataclass(frozen=True)
class Calibration:
    """How the colour camera stands beside the depth camera.

    Attributes:
        depth: the depth camera where the folder says nothing of it.
        colour: the colour camera; None: depth lies on the colour pixel by pixel.
        shift: (3,) metres added to places before the depth camera to have them before the
            colour camera.
    """

    depth: Camera
    colour: Camera | None = None
    shift: tuple[float, float, float] = (0.0, 0.0, 0.0)


_DEPTH = Camera((585.0, 585.0), (320.0, 240.0), (480, 640))
KINECT = Calibration(_DEPTH, Camera((525.0, 525.0), (320.0, 240.0), (480, 640)), (-0.025, 0.0, 0.0))
"""The first Kinect, as 7-Scenes was taken: 585 and 525 px, 25 mm apart. Edges of depth fall on
edges of colour so, and do not where both are taken for one camera."""
REGISTERED = Calibration(_DEPTH)
"""For depth that was brought onto the colour picture before."""
CALIBRATIONS = {"kinect": KINECT, "registered": REGISTERED}


@dataclass(frozen=True)
class Frames:
    """The complete frames of one folder.

    Attributes:
        folder: where they lie.
        numbers: F numbers, ascending.
        colours: F names of the colour pictures, which are their ids.
        calibration: of the two cameras.
        left_out: what else was found: links, frames without depth or pose.
    """

    folder: Path
    numbers: tuple[int, ...]
    colours: tuple[str, ...]
    calibration: Calibration = KINECT
    left_out: dict[str, int] = field(default_factory=dict, compare=False, hash=False)

    @classmethod
    def open(
        cls, folder: str | Path, split: str = "all", calibration: Calibration = KINECT
    ) -> Frames:
        """The frames of a folder; links are not followed.

        Args:
            folder: with the frames.
            split: "trn", "val" or "all" (`diffeat.images.paired.RGBD_SPLITS`).
            calibration: of the two cameras.

        Raises:
            SourceError: no complete frame in it.
        """
        folder, found, lacking = Path(folder), {}, 0
        for number, name in rgbd_colours(folder, split).items():
            if all(map(_plain, (folder / name, *_beside(folder, name)))):
                found[number] = name
            else:
                lacking += 1
        if not found:
            raise SourceError(
                f"{folder}: no RGB-D frames; expected frame-NNNNNN.color.png (or .jpg), "
                ".depth.png and .pose.txt, as a sequence of 7-Scenes has them"
            )
        left_out = {"frames without depth or pose, or behind links": lacking} if lacking else {}
        return cls(folder, tuple(found), tuple(found.values()), calibration, left_out)

    def __len__(self) -> int:
        return len(self.numbers)

    def take(self, rows: list[int]) -> Frames:
        """Some of the frames, by index."""
        names = (tuple(values[row] for row in rows) for values in (self.numbers, self.colours))
        return Frames(self.folder, *names, self.calibration, self.left_out)

    def pictures(self, name: str, colours: tuple[str, ...]) -> Source:
        """Some colour pictures, as a source of a name."""
        paths = tuple(self.folder / one for one in colours)
        return FileSource(name=name, ids=colours, paths=paths)

    def files(self, colour: str) -> list[Path]:
        """What tells where the surface of a frame lies; intrinsics where there are any."""
        intrinsics = self.folder / INTRINSICS
        return [*_beside(self.folder, colour), *([intrinsics] if _plain(intrinsics) else [])]

    def view(self, colour: str, size: tuple[int, int] | None = None) -> View:
        """The surface of one frame on its colour picture, and the colour camera's place.

        Args:
            colour: name of the frame's colour picture.
            size: (H, W) that the picture is thought of as having; None is its own.

        Raises:
            SourceError: files that are damaged or of another kind, a pose that is not finite.
        """
        stats = stats_of(self.files(colour))
        return _view(self.folder, colour, self.calibration, size, stats.tobytes())


def _beside(folder: Path, colour: str) -> list[Path]:
    """The depth map and the pose of a frame."""
    stem = colour.partition(".")[0]
    return [folder / f"{stem}.{part}" for part in ("depth.png", "pose.txt")]


def _plain(path: Path) -> bool:
    """Whether it is a file, and no link."""
    return path.is_file() and not path.is_symlink()


@lru_cache(maxsize=HELD)
def _view(
    folder: Path, colour: str, calibration: Calibration, size: tuple[int, int] | None, stats: bytes
) -> View:
    """`stats` of the files tell a view that is kept from one of files that changed."""
    depth, camera = on_colour(folder, colour, calibration, size)
    pose, shift = read_pose(_beside(folder, colour)[1]), np.array(calibration.shift)
    pose[:3, 3] -= pose[:3, :3] @ shift
    return View(camera, pose, depth)


def on_colour(
    folder: Path,
    colour: str,
    calibration: Calibration = KINECT,
    size: tuple[int, int] | None = None,
) -> tuple[np.ndarray, Camera]:
    """Depth where the colour camera saw it.

    Args:
        folder: of the frames.
        colour: name of the frame's colour picture.
        calibration: of the two cameras.
        size: (H, W) that the picture is thought of as having; None is its own.

    Returns:
        (H, W) float64 metres, nan where not known; and the colour camera.

    Raises:
        SourceError: as for `Frames.view`.
    """
    depth = read_depth(_beside(folder, colour)[0])
    seen_by = _depth_camera(folder, calibration, depth.shape)
    stored, turned = stored_size(folder / colour)
    if turned != 1:
        raise SourceError(f"{folder / colour}: is stored turned (EXIF), so depth does not lie on "
                          "it; store it upright")  # fmt: skip
    camera = (calibration.colour or seen_by).scaled(size or stored)
    if calibration.colour is not None or camera != seen_by:
        depth = registered(depth, seen_by, camera, np.array(calibration.shift))
    return depth, camera


def _depth_camera(folder: Path, calibration: Calibration, size: tuple[int, int]) -> Camera:
    """From the folder's intrinsics, which are of the depth map as it is; else as calibrated."""
    path = folder / INTRINSICS
    if not _plain(path):
        return calibration.depth.scaled(size)
    k = read_matrix(path, folder, (3, 3))
    camera = Camera((float(k[0, 0]), float(k[1, 1])), (float(k[0, 2]), float(k[1, 2])), size)
    if min(camera.focal) <= 0 or not camera.shows(np.array([camera.centre]))[0]:
        raise SourceError(
            f"{path}: focal lengths {camera.focal} and centre {camera.centre} are none of a depth "
            f"map of {size[0]}×{size[1]}; expected those of the map as it is stored"
        )
    return camera


def read_depth(path: Path) -> np.ndarray:
    """(H, W) float64 metres of a PNG of 16-bit millimetres; nan where it says none.

    Raises:
        SourceError: it cannot be read, or is no grey picture of 16 bits.
    """
    try:
        with Image.open(path) as image:
            values = np.asarray(image)
    except (OSError, ValueError, SyntaxError) as error:
        raise SourceError(f"{path}: cannot be read ({error}); fetch it again") from error
    if values.ndim != 2 or values.dtype.itemsize < 2:
        raise SourceError(f"{path}: {image.mode} picture; expected 16-bit grey, depth in mm")
    return np.where(np.isin(values, NO_DEPTH), np.nan, values / 1000.0)


def read_pose(path: Path) -> np.ndarray:
    """(4, 4) float64, camera to world in metres.

    Raises:
        SourceError: not 4×4 finite numbers, or no rotation.
    """
    pose = read_matrix(path, path.parent, (4, 4))
    turn = pose[:3, :3]
    if np.abs(turn @ turn.T - np.eye(3)).max() > 1e-2 or np.linalg.det(turn) < 0:
        raise SourceError(f"{path}: its first three rows and columns are no rotation; expected a "
                          "pose, camera to world")  # fmt: skip
    return pose
