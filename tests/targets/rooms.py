"""A wall and a box before it, rendered by rays, as RGB-D frames in the layout of 7-Scenes."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from PIL import Image

WALL = 4.0
LOW, HIGH = np.array([-0.5, -0.4, 2.0]), np.array([0.5, 0.4, 2.5])
SIZE = (120, 160)
DEPTH_FOCAL, COLOUR_FOCAL = 585 / 4, 525 / 4
CENTRE = np.array([(320 + 0.5) / 4 - 0.5, (240 + 0.5) / 4 - 0.5])
COLOUR_AT = np.array([0.025, 0.0, 0.0])
"""Of the colour camera, in the frame of the depth camera, in metres."""


def pose_of(angle: float, at: tuple[float, float, float]) -> np.ndarray:
    """(4, 4) of a camera that is turned about y by so many degrees."""
    c, s = np.cos(np.radians(angle)), np.sin(np.radians(angle))
    pose = np.eye(4)
    pose[:3, :3] = [[c, 0, s], [0, 1, 0], [-s, 0, c]]
    pose[:3, 3] = at
    return pose


def colour_pose(pose: np.ndarray) -> np.ndarray:
    """Of the colour camera of a frame whose depth camera has a pose."""
    other = pose.copy()
    other[:3, 3] = pose[:3, :3] @ COLOUR_AT + pose[:3, 3]
    return other


def first_hit(start: np.ndarray, rays: np.ndarray) -> np.ndarray:
    """(n,) how many times a ray's own length it goes until it meets the wall or the box."""
    with np.errstate(divide="ignore", invalid="ignore"):
        wall = (WALL - start[2]) / rays[:, 2]
        near, far = (LOW - start) / rays, (HIGH - start) / rays
        enters = np.minimum(near, far).max(1)
        leaves = np.maximum(near, far).min(1)
    wall = np.where(wall > 0, wall, np.inf)
    return np.where((enters <= leaves) & (enters > 0), np.minimum(enters, wall), wall)


def rays_of(pixels: np.ndarray, pose: np.ndarray, focal: float) -> np.ndarray:
    """(n, 3) in the world, of length 1 along the axis."""
    flat = np.column_stack([(pixels - CENTRE) / focal, np.ones(len(pixels))])
    return flat @ pose[:3, :3].T


def all_pixels() -> np.ndarray:
    y, x = np.mgrid[: SIZE[0], : SIZE[1]]
    return np.stack([x, y], -1).reshape(-1, 2).astype(float)


def depth_map(pose: np.ndarray, focal: float = DEPTH_FOCAL) -> np.ndarray:
    """(H, W) metres along the axis."""
    return first_hit(pose[:3, 3], rays_of(all_pixels(), pose, focal)).reshape(SIZE)


def colour_picture(pose: np.ndarray, focal: float = COLOUR_FOCAL) -> np.ndarray:
    """(H, W, 3) uint8: what a place in the world looks like says where it is."""
    start, rays = pose[:3, 3], rays_of(all_pixels(), pose, focal)
    places = start + first_hit(start, rays)[:, None] * rays
    shade = 127.5 + 120 * np.sin(places * (9.0, 7.0, 11.0))
    return shade.clip(0, 255).astype(np.uint8).reshape(*SIZE, 3)


def true_match(
    pixels: np.ndarray, source: np.ndarray, target: np.ndarray, focal: float = COLOUR_FOCAL
) -> tuple[np.ndarray, np.ndarray]:
    """(n, 2) x, y in the target and (n,) whether nothing stands between, by rays alone.

    Args:
        source, target: poses of the cameras that took the pictures.
    """
    start, rays = source[:3, 3], rays_of(pixels, source, focal)
    places = start + first_hit(start, rays)[:, None] * rays
    inside = (places - target[:3, 3]) @ target[:3, :3]
    at = inside[:, :2] / inside[:, 2:] * focal + CENTRE
    free = np.abs(first_hit(target[:3, 3], places - target[:3, 3]) - 1) < 1e-9
    within = ((at >= -0.5) & (at < np.array(SIZE[::-1]) - 0.5)).all(1)
    return at, free & within & (inside[:, 2] > 0)


def write_frame(folder: Path, number: int, pose: np.ndarray, hole: bool = True) -> None:
    """One frame; a corner has no depth, where `hole`."""
    folder.mkdir(exist_ok=True, parents=True)
    stem = folder / f"frame-{number:06d}"
    depth = np.rint(1000 * depth_map(pose)).clip(0, 65535).astype(np.uint16)
    if hole:
        depth[:10, :10], depth[:10, 10:20] = 0, 65535
    Image.fromarray(depth).save(f"{stem}.depth.png")
    Image.fromarray(colour_picture(colour_pose(pose))).save(f"{stem}.color.png")
    np.savetxt(f"{stem}.pose.txt", pose)


POSES = {
    0: pose_of(0, (0, 0, 0)),
    10: pose_of(-8, (0.5, 0.05, 0.1)),
    20: pose_of(14, (-0.8, 0, 0)),
    690: pose_of(-4, (0.2, 0.2, 0.5)),
    700: pose_of(3, (0.1, 0, 0)),
    710: pose_of(-9, (0.6, 0.1, 0.2)),
    720: pose_of(20, (-1.0, 0, 0.2)),
}
"""Number of a frame → where its depth camera stood; 20 and 720 look from the left."""


def write_room(folder: Path) -> Path:
    for number, pose in POSES.items():
        write_frame(folder, number, pose)
    return folder
