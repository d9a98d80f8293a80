"""Pictures whose labels stand in their features, beside where they belong."""

from __future__ import annotations

import numpy as np
import torch

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


class Stop:
    """In place of a progress bar: ends the training when so many pictures were seen."""

    def __init__(self, rows, end=None):
        self.rows, self.end = rows, end or self.interrupt

    def __call__(self, total, **more):
        return self

    def __enter__(self):
        return self

    def __exit__(self, *error):
        pass

    def set_postfix(self, *values, **more):
        pass

    def update(self, rows):
        self.rows -= rows
        if self.rows < 0:
            self.end()

    @staticmethod
    def interrupt():
        raise KeyboardInterrupt


def same(one, other):
    """Two fits have the same weights, to the bit, and the same learning curve."""
    for name, value in one.module_.state_dict().items():
        assert torch.equal(value, other.module_.state_dict()[name])
    plain = [[{k: v for k, v in seen.items() if k != "seconds"} for seen in m.history_]
             for m in (one, other)]  # fmt: skip
    assert plain[0] == plain[1]
