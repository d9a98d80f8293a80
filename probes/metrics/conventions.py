"""Ways of counting key points that are found, each with its name and one readable line.

Published figures differ by several points of PCK in how they are counted alone.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

import numpy as np

from probes.pairs import as_points

REFERENCES = {
    "box": "larger side of the target's box",
    "image": "larger side of the target picture",
    "extent": "larger side of the extent of the target's key points",
}
AGGREGATES = {
    "point": "per point",
    "pair": "per pair: the mean over pairs of each one's share",
    "picture": "per target picture: the mean over pictures of each one's share",
    "class": "per class: the mean over classes of each one's share of points",
    "class-weighted": "per class, weighted by its pairs: shares of points",
    "class-pair": "per class: the mean over classes of each one's mean over pairs",
}
FRAMES = ("original", "resized", "padded")


@dataclasses.dataclass(frozen=True)
class Convention:
    """One way of counting: |found − truth| ≤ alpha·reference in some frame, and averages of it.

    Attributes:
        reference: "box", "image" or "extent" (see `REFERENCES`), all of the target, measured in
            the frame; a box of x1, y1, x2, y2 is x2 − x1 wide.
        aggregate: over what shares are averaged; a key of `AGGREGATES`.
        strict: < in place of ≤.
        frame: "original": pixels of the upright picture; "resized": the picture squashed to a
            square of `side` pixels, which changes distances; "padded": its larger side made `side`
            pixels, and padded to a square.
        side: pixels of the frame; None of the original one.
        reading: what is to be known of how the answers themselves are read off; words, which
            counting does not follow.
    """

    reference: str = "box"
    aggregate: str = "point"
    strict: bool = False
    frame: str = "original"
    side: int | None = None
    reading: str = ""

    def __post_init__(self) -> None:
        for name, known in (("reference", REFERENCES), ("aggregate", AGGREGATES),
                            ("frame", FRAMES)):  # fmt: skip
            if getattr(self, name) not in known:
                raise ValueError(f"{name}={getattr(self, name)!r}; expected one of {list(known)}")
        if (self.frame == "original") != (self.side is None):
            raise ValueError(f"frame={self.frame!r} with side={self.side}; expected pixels for "
                             "'resized' and 'padded', and None for 'original'")  # fmt: skip
        if self.side is not None and not self.side > 0:
            raise ValueError(f"side={self.side}; expected at least one pixel")

    def line(self, alphas: Sequence[float] = ()) -> str:
        """ "PCK@0.1, larger side of the target's box, per point, ≤, original pixels"."""
        at = "@" + "/".join(f"{alpha:g}" for alpha in alphas) if len(alphas) else ""
        frames = {
            "original": "original pixels",
            "resized": f"squashed to {self.side}×{self.side} pixels",
            "padded": f"padded to {self.side}×{self.side} pixels",
        }
        parts = [
            f"PCK{at}", REFERENCES[self.reference], AGGREGATES[self.aggregate],
            "<" if self.strict else "≤", frames[self.frame],
        ]  # fmt: skip
        return ", ".join(parts) + (f"; {self.reading}" if self.reading else "")

    def __str__(self) -> str:
        return self.line()

    def to_frame(self, points: Any, size: tuple[int, int] | None = None) -> np.ndarray:
        """Pixels of the upright picture → pixels of the frame, (n, 2) float64.

        Half pixels are kept: x' = (x + .5)·s + t − .5 as in every fit.

        Args:
            points: (n, 2) x, y.
            size: (H, W) of the picture; not needed for the original frame.

        Raises:
            ValueError: no size for a frame that needs it.
        """
        points = as_points(points)
        if self.frame == "original":
            return points
        scale, offset = self.scale_of(size)
        return (points + 0.5) * scale + offset - 0.5

    def scale_of(self, size: tuple[int, int] | None) -> tuple[np.ndarray, np.ndarray]:
        """(2,) factors and (2,) shifts of x and y: x' + .5 = factor·(x + .5) + shift.

        Args:
            size: (H, W) of the picture; not needed for the original frame.

        Returns:
            Two (2,) float64 arrays.
        """
        if self.frame == "original":
            return np.ones(2), np.zeros(2)
        if size is None:
            raise ValueError(f"{self.frame} frame without a picture's size; give (H, W)")
        sides = np.array([size[1], size[0]], np.float64)
        if self.frame == "resized":
            return self.side / sides, np.zeros(2)
        shown = np.round(self.side * sides / sides.max())
        return np.full(2, self.side / sides.max()), np.floor((self.side - shown) / 2)

    def reference_of(
        self, size: tuple[int, int] | None = None, box: Any = None, points: Any = None
    ) -> float:
        """What alpha multiplies, in pixels of the frame.

        Args:
            size: (H, W) of the target picture.
            box: (4,) x1, y1, x2, y2 of the target, in its pixels.
            points: (n, 2) key points of the target, in its pixels.

        Raises:
            ValueError: what is needed is not there, or it is no larger than 0.
        """
        needed = {"image": size, "box": box, "extent": points}[self.reference]
        if needed is None:
            what = {"image": "a picture's size (H, W)", "box": "a box", "extent": "key points"}
            raise ValueError(f"the reference is the {REFERENCES[self.reference]}; expected "
                             f"{what[self.reference]}")  # fmt: skip
        scale = self.scale_of(size)[0]
        if self.reference == "image":
            sides = np.full(2, self.side) if self.side else np.array([size[1], size[0]])
        elif self.reference == "box":
            corners = np.asarray(box, np.float64)
            if corners.shape != (4,):
                raise ValueError(f"box has shape {corners.shape}; expected (4,), x1, y1, x2, y2")
            sides = (corners[2:] - corners[:2]) * scale
        else:
            points = as_points(points)
            sides = np.ptp(points, axis=0) * scale if len(points) else np.zeros(2)
        if not (reference := float(max(sides))) > 0:
            raise ValueError(f"the {REFERENCES[self.reference]} is {reference:g}; expected > 0")
        return reference


_PATCHES = (
    "the source's point is floored to its patch of a 60×60 map, the answer is the centre of a patch"
)
_SQUASHED = (
    "maps are resized to 224×224 (or 512×512), the source's point is rounded and clipped there, "
    "the answer is one of those pixels"
)
PRESETS: dict[str, tuple[Convention, ...]] = {
    "dift": (Convention(aggregate="pair"), Convention()),
    "sd-dino": tuple(
        Convention(aggregate=name, strict=True, frame="padded", side=840, reading=_PATCHES)
        for name in ("class", "class-weighted")
    ),
    "geoaware": tuple(
        Convention(aggregate=name, strict=True, frame="padded", side=840, reading=_PATCHES)
        for name in ("point", "pair")
    ),
    "hyperfeatures": tuple(
        Convention(reference=name, reading=_SQUASHED) for name in ("box", "image")
    ),
}
"""Whose figures → how they are counted.

What DIFT calls "per image" is the mean over the pairs of all classes. SD+DINO's averages are of
classes, plain and weighted by pairs; its map of points into the padded frame leaves out half a
pixel, which `Convention.to_frame` keeps. GeoAware's average of classes is weighted by their points
(for untrained methods) or by their pairs (of shares of pairs), which is the pooled share of
points and the mean over pairs. Hyperfeatures counts in original pixels.

Source: the authors' evaluation scripts (DIFT eval_spair.py; SD+DINO pck_spair_pascal.py;
GeoAware-SC pck_train.py and utils/logger.py; Diffusion Hyperfeatures train_hyperfeatures.py).
"""


def conventions_of(name: str) -> tuple[Convention, ...]:
    """A preset by its name.

    Raises:
        ValueError: another name.
    """
    if name not in PRESETS:
        raise ValueError(f"no convention {name!r}; expected one of {', '.join(PRESETS)}")
    return PRESETS[name]
