"""Key points of a picture, by SIFT, and descriptors that need no network."""

from __future__ import annotations

from typing import Any

import numpy as np

from probes.checks import check_number


def sift(picture: Any, most: int = 1000) -> tuple[np.ndarray, np.ndarray]:
    """SIFT's key points and descriptors, the strongest ones, by OpenCV.

    Args:
        picture: (H, W, 3) or (H, W) uint8.
        most: key points at most. Where one place has several directions, each counts.

    Returns:
        (n, 2) float64 x, y in pixels, centres at whole numbers, the strongest first; (n, 128)
        float32 descriptors.

    Raises:
        ValueError: another shape or dtype, `most` < 1, OpenCV is not installed.

    Source: Lowe 2004, "Distinctive image features from scale-invariant keypoints".
    """
    picture = np.asarray(picture)
    check_number("most", most, most == int(most) and most >= 1, "that is whole and >= 1")
    if picture.dtype != np.uint8 or picture.ndim not in (2, 3):
        raise ValueError(f"a picture of shape {picture.shape}, {picture.dtype}; expected uint8, "
                         "(H, W, 3) or (H, W)")  # fmt: skip
    try:
        import cv2
    except ImportError as error:
        raise ValueError("SIFT needs OpenCV; pip install 'diffeat[match]'") from error
    grey = picture if picture.ndim == 2 else cv2.cvtColor(picture, cv2.COLOR_RGB2GRAY)
    # without the precise upscaling OpenCV's places are a quarter of a pixel off
    found = cv2.SIFT_create(nfeatures=int(most), enable_precise_upscale=True)
    points, descriptors = found.detectAndCompute(np.ascontiguousarray(grey), None)
    order = sorted(range(len(points)), key=lambda k: (-points[k].response, points[k].pt))
    order = order[: int(most)]
    at = np.array([points[k].pt for k in order], np.float64).reshape(-1, 2)
    high = np.array(grey.shape[::-1]) - 1.0
    return at.clip(0, high), np.zeros((0, 128), np.float32) if not order else descriptors[order]


def distinct(points: np.ndarray) -> np.ndarray:
    """(m, 2) points without those that stand there again, in their order."""
    _, first = np.unique(points, axis=0, return_index=True)
    return points[np.sort(first)]
