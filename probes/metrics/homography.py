"""How well the plane's map between two pictures was found: the mean error of four corners."""

from __future__ import annotations

from array import array
from collections.abc import Sequence
from typing import Any

import numpy as np

from probes.pairs import as_points

METHODS = ("ransac", "lmeds")
KINDS = {"i_": "illumination", "v_": "viewpoint"}
"""How HPatches' names of scenes start → what changes within them."""
FEWEST = 4
"""Points that fix a homography."""


def corner_error(found: Any, truth: Any, size: tuple[int, int]) -> float:
    """Mean distance of the four corners of the source, mapped either way, in target pixels.

        1/4 · sum |found(c) − truth(c)|,   c of (0, 0), (W−1, 0), (0, H−1), (W−1, H−1)

    Args:
        found: (3, 3) homography, x_target ~ found·x_source, or None: none was found.
        truth: (3, 3).
        size: (H, W) of the source in pixels.

    Returns:
        Pixels; inf where none was found, or a corner is mapped to no place.

    Raises:
        ValueError: other shapes, a truth that is not finite or maps a corner to no place.

    Source: HPatches' sequences as D2-Net's and DIFT's evaluation count them (DeTone et al. 2018,
        "SuperPoint").
    """
    height, width = size
    corners = np.array([[x, y, 1] for x in (0, width - 1) for y in (0, height - 1)], np.float64)
    expected = _mapped(truth, corners, "truth")
    if not np.isfinite(expected).all():
        raise ValueError("the truth maps a corner to no place; expected finite corners")
    if found is None:
        return float("inf")
    distance = np.linalg.norm(_mapped(found, corners, "found") - expected, axis=1)
    return float(distance.mean()) if np.isfinite(distance).all() else float("inf")


def _mapped(matrix: Any, corners: np.ndarray, name: str) -> np.ndarray:
    """(4, 2) where corners (4, 3) go; not finite where to no place."""
    matrix = np.asarray(matrix, np.float64)
    if matrix.shape != (3, 3):
        raise ValueError(f"{name} has shape {matrix.shape}; expected (3, 3), a homography")
    there = corners @ matrix.T
    with np.errstate(divide="ignore", invalid="ignore", over="ignore"):
        return there[:, :2] / there[:, 2:]


def find_homography(
    source_points: Any,
    target_points: Any,
    threshold: float = 3.0,
    seed: int = 0,
    method: str = "ransac",
) -> np.ndarray | None:
    """The homography that most matches agree with, by OpenCV.

    Args:
        source_points, target_points: (n, 2) x, y in pixels; row k is one match.
        threshold: pixels of the target by which a match may miss ("ransac").
        seed: of the order in which matches are handed over. OpenCV draws the same places of its
            list in every call, so that the order is what can vary.
        method: "ransac"; or "lmeds", the least median of squares, which has no threshold and
            needs more than half of the matches to be right (DIFT's default).

    Returns:
        (3, 3) float64, x_target ~ H·x_source; None with fewer than four matches, or none found.

    Raises:
        ValueError: different numbers of points, an unknown method, OpenCV is not installed.
    """
    source, target = as_points(source_points), as_points(target_points)
    if source.shape != target.shape or method not in METHODS:
        raise ValueError(f"{len(source)} and {len(target)} points by {method!r}; expected equally "
                         f"many, and one of {METHODS}")  # fmt: skip
    if len(source) < FEWEST:
        return None
    try:
        import cv2
    except ImportError as error:
        raise ValueError(
            "finding homographies needs OpenCV; pip install 'diffeat[match]'"
        ) from error
    order = np.random.default_rng(seed).permutation(len(source))
    how = {"ransac": cv2.RANSAC, "lmeds": cv2.LMEDS}[method]
    points = (side[order].astype(np.float32)[:, None] for side in (source, target))
    found, _ = cv2.findHomography(*points, how, ransacReprojThreshold=threshold)
    return found if found is not None and np.isfinite(found).all() else None


class CornerError:
    """Shares of pairs whose corners are found within some pixels, and some per cent of the side.

    Args:
        thresholds: pixels of the target.
        percents: per cent of the target's larger side.
    """

    def __init__(
        self, thresholds: Sequence[float] = (1, 3, 5), percents: Sequence[float] = (1, 3, 5)
    ):
        self.thresholds, self.percents = tuple(thresholds), tuple(percents)
        self._errors, self._sides, self._names = array("d"), array("d"), []

    def update(
        self,
        found: Any,
        truth: Any,
        size: tuple[int, int],
        *,
        target_size: tuple[int, int] | None = None,
        name: str = "",
    ) -> float:
        """Count one pair; its `corner_error`, inf for a failure, which counts as wrong.

        Args:
            found, truth, size: as `corner_error` takes them.
            target_size: (H, W) of the target; None: that of the source.
            name: of the scene; "i_…" and "v_…" are counted on their own, too.
        """
        error = corner_error(found, truth, size)
        self._errors.append(error)
        self._sides.append(max(target_size or size))
        self._names.append(str(name))
        return error

    @property
    def errors(self) -> np.ndarray:
        """(P,) float64 pixels, inf of failures."""
        return np.array(self._errors)

    @property
    def names(self) -> np.ndarray:
        """(P,) names of scenes, such as intervals are over."""
        return np.array(self._names, str)

    def hits(self) -> tuple[np.ndarray, np.ndarray]:
        """(P, thresholds) and (P, percents) bool: which pairs are right."""
        errors = self.errors[:, None]
        share = 100 * errors / np.array(self._sides)[:, None]
        return errors <= self.thresholds, share <= self.percents

    def compute(self) -> dict[str, dict[str, Any]]:
        """ "overall", "illumination", "viewpoint" (where there are such) → what was found.

        Returns:
            Each with "pairs", "failures" (no homography), "pixels" and "percent": threshold →
            share of pairs in [0, 1].

        Raises:
            ValueError: nothing was counted.
        """
        if not len(self._errors):
            raise ValueError("no pairs were counted; expected at least one")
        kinds = np.array([KINDS.get(name[:2], "") for name in self._names])
        rows = {"overall": np.ones(len(kinds), bool)}
        rows |= {kind: kinds == kind for kind in KINDS.values() if (kinds == kind).any()}
        pixels, percents = self.hits()
        return {
            kind: {
                "pairs": int(here.sum()),
                "failures": int(np.isinf(self.errors[here]).sum()),
                "pixels": dict(zip(self.thresholds, pixels[here].mean(0).tolist(), strict=True)),
                "percent": dict(zip(self.percents, percents[here].mean(0).tolist(), strict=True)),
            }
            for kind, here in rows.items()
        }
