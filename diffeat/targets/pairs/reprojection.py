"""Where a surface point that one camera sees lies in the picture of another, and whether it shows.

Cameras are pinholes that look along z, x to the right and y down; pixels have their centres at
whole numbers. A pose is camera to world:

    X = Z·((u − cx)/fx, (v − cy)/fy, 1),    u = fx·X/Z + cx,    world = R·X + t
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

TOLERANCE = 0.02
"""Share of its distance by which a point may lie behind or before what is seen there."""


@dataclass(frozen=True)
class Camera:
    """A pinhole.

    Attributes:
        focal: fx, fy in pixels.
        centre: cx, cy, pixels of the optical axis.
        size: (H, W) of its pictures.
    """

    focal: tuple[float, float]
    centre: tuple[float, float]
    size: tuple[int, int]

    def lift(self, points: np.ndarray, depth: np.ndarray) -> np.ndarray:
        """(n, 3) in front of the camera of (n, 2) x, y and (n,) distances along its axis."""
        flat = (points - self.centre) / self.focal * depth[:, None]
        return np.concatenate([flat, depth[:, None]], 1)

    def project(self, places: np.ndarray) -> np.ndarray:
        """(n, 2) x, y of (n, 3) places; nan of what is not in front of the camera."""
        ahead = np.where(places[:, 2] > 0, places[:, 2], np.nan)[:, None]
        return places[:, :2] / ahead * self.focal + self.centre

    def shows(self, points: np.ndarray) -> np.ndarray:
        """(n,) bool: which (n, 2) x, y lie in the picture; nan does not."""
        high = np.array(self.size[::-1]) - 0.5
        return ((points >= -0.5) & (points < high)).all(1)

    def scaled(self, size: tuple[int, int]) -> Camera:
        """The same camera with pictures of another size."""
        by = np.array(size[::-1]) / self.size[::-1]
        fx, fy = (np.array(self.focal) * by).tolist()
        cx, cy = ((np.array(self.centre) + 0.5) * by - 0.5).tolist()
        return Camera((fx, fy), (cx, cy), size)


@dataclass(frozen=True, eq=False)
class View:
    """A picture's surface and where its camera stood.

    Attributes:
        camera: of the picture.
        pose: (4, 4) camera to world, in the unit of the depth.
        depth: (H, W) float64 distances along the axis, on the picture's pixels; nan where not
            known.
    """

    camera: Camera
    pose: np.ndarray
    depth: np.ndarray

    def depth_at(self, points: np.ndarray) -> np.ndarray:
        """(n,) depth of the pixel that each of (n, 2) x, y lies in; nan outside."""
        inside = self.camera.shows(points)
        x, y = np.rint(np.where(inside[:, None], points, 0)).astype(np.int64).T
        return np.where(inside, self.depth[y, x], np.nan)

    @property
    def axis(self) -> np.ndarray:
        """(3,) direction in the world that the camera looks in."""
        return self.pose[:3, 2] / np.linalg.norm(self.pose[:3, 2])


def registered(
    depth: np.ndarray, seen_by: Camera, camera: Camera, shift: Sequence[float]
) -> np.ndarray:
    """A depth map as another camera beside the first would have it: the nearest of what falls
    into each pixel.

    Args:
        depth: (H, W) of the first camera; nan where not known.
        seen_by, camera: the first and the other, which look in the same direction.
        shift: (3,) added to places before the first to have them before the other.

    Returns:
        (H', W') float64; nan where nothing falls.
    """
    y, x = np.nonzero(np.isfinite(depth))
    places = seen_by.lift(np.stack([x, y], 1).astype(np.float64), depth[y, x]) + np.asarray(shift)
    at = camera.project(places)
    kept = camera.shows(at)
    x, y = np.rint(at[kept]).astype(np.int64).T
    found = np.full(camera.size, np.inf)
    np.minimum.at(found, (y, x), places[kept, 2])
    return np.where(np.isfinite(found), found, np.nan)


def reproject(
    points: np.ndarray,
    source: View,
    target: View,
    tolerance: float = TOLERANCE,
    check: float | None = None,
) -> tuple[np.ndarray, np.ndarray]:
    """Where points of the source lie in the target, to a part of a pixel, and which show there.

    A point shows if it falls into the target and the surface that the target has there is as far
    away: |z − depth| ≤ tolerance·z. What something hides, or what nothing is known of, does not.

    Args:
        points: (n, 2) x, y in the source.
        tolerance: share of the distance.
        check: pixels by which the target's surface at the found place, brought back, may miss
            the point; None checks nothing.

    Returns:
        (n, 2) float64 x, y, nan where there is no depth or the point is behind the target's
        camera; and (n,) bool.
    """
    found, far = _moved(points, source, target)
    there = target.depth_at(found)
    with np.errstate(invalid="ignore"):
        shown = np.abs(far - there) <= tolerance * far
        if check is not None:
            back, _ = _moved(found, target, source)
            shown &= np.linalg.norm(back - points, axis=1) <= check
    return found, shown


def _moved(points: np.ndarray, source: View, target: View) -> tuple[np.ndarray, np.ndarray]:
    """(n, 2) x, y in the target and (n,) distances before it; nothing is hidden."""
    places = source.camera.lift(points, source.depth_at(points))
    between = np.linalg.inv(target.pose) @ source.pose
    there = places @ between[:3, :3].T + between[:3, 3]
    return target.camera.project(there), there[:, 2]


def angle_between(source: View, target: View) -> float:
    """Degrees between the optical axes of two views; a turn about the axis itself is none."""
    cosine = float(np.clip(source.axis @ target.axis, -1, 1))
    return float(np.degrees(np.arccos(cosine)))
