"""Pictures whose labels stand in their features, beside where they belong."""

from __future__ import annotations

import numpy as np

from probes import Cells

KEYS = [("a", 1), ("b", 1), ("a", 5), ("b", 5)]
SHAPES = {"a": (3, 12, 12), "b": (5, 6, 6)}
SIZE = (24, 24)
MIXER = {"width": 12, "size": 12, "sharpness": 10.0}


def pictures(count, seed=0, size=SIZE, **more):
    """Cells, and (N, 12, 12) classes: whether channel 0 of ("a", 5) is above 0 two sites further
    right. Everything else is noise."""
    rng = np.random.default_rng(seed)
    arrays = {key: rng.normal(size=(count, *SHAPES[key[0]])).astype(np.float32) for key in KEYS}
    planted = rng.normal(rng.choice([-2, 2], (count, 6, 6)), 0.3).repeat(2, 1).repeat(2, 2)
    arrays["a", 5][:, 0] = planted
    classes = (np.roll(planted, -2, 2) > 0).astype(np.uint8)
    classes[..., -2:] = 255  # what is further right is not shown
    return Cells(arrays, sizes=[size] * count, **more), classes


def masks_of(classes, size=SIZE):
    """(N, *size), each site by nearest."""
    factors = size[0] // classes.shape[1], size[1] // classes.shape[2]
    return classes.repeat(factors[0], 1).repeat(factors[1], 2)


def scenes(count, seed=0):
    """Cells and masks."""
    cells, classes = pictures(count, seed)
    return cells, masks_of(classes)


def metres_of(masks):
    """1 m and 4 m, nan where masks say nothing."""
    return np.where(masks == 255, np.nan, np.where(masks == 1, 4.0, 1.0)).astype(np.float32)
