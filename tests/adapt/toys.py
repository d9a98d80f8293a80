"""Toy pairs whose truth is known: windows of one picture that lie a few pixels apart."""

from __future__ import annotations

import numpy as np

from diffeat.images import ArraySource
from diffeat.targets.pairs import PointPairs, Truth

SIDE = 32


def scene(seed: int, side: int = 2 * SIDE) -> np.ndarray:
    """(side, side, 3) uint8: blobs of colour, smooth enough to be found again."""
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[:side, :side]
    found = np.full((side, side, 3), 110.0)
    for _ in range(14):
        centre, width = rng.uniform(0, side, 2), rng.uniform(2, 6)
        blob = np.exp(-((x - centre[0]) ** 2 + (y - centre[1]) ** 2) / (2 * width**2))
        found += blob[..., None] * rng.uniform(-160, 160, 3)
    return found.clip(0, 255).astype(np.uint8)


def shifted_pairs(
    count: int, seed: int = 0, points: int = 6, categories: tuple[str, ...] = ("",)
) -> PointPairs:
    """Pairs of windows: (x, y) of the source is (x - dx, y - dy) of the target."""
    rng = np.random.default_rng(seed)
    pixels, truths, ids = [], [], []
    for k in range(count):
        whole = scene(1000 * seed + k)
        step = rng.integers(-6, 7, 2)
        corner = rng.integers(6, SIDE - 6, 2)
        for where in (corner, corner + step):
            x, y = where
            pixels.append(whole[y : y + SIDE, x : x + SIDE])
        here = rng.uniform(7, SIDE - 8, (points, 2))
        truths.append(Truth(here, here - step))
        ids += [f"{seed}-{k}-a", f"{seed}-{k}-b"]
    source = ArraySource("toy", tuple(ids), None, (), pixels=np.stack(pixels))
    named = tuple(categories[k % len(categories)] for k in range(count))
    return PointPairs(
        f"toy:{seed}", tuple(ids[::2]), tuple(ids[1::2]), tuple(truths), lambda: source,
        categories=named if any(named) else (),
    )  # fmt: skip
