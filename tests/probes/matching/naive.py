"""Pictures to be matched, and similarities of every pixel by itself, from features read there."""

from __future__ import annotations

import numpy as np
import torch
import torch.nn.functional as F

from diffeat.coords import Placement
from probes import Maps

ONE = {"a": (5, 6, 8)}
TWO = {"a": (5, 6, 8), "b": (3, 3, 4)}


def maps_of(size, seed=0, shapes=None, fit="squash", mirror=False, kind=torch.float64) -> Maps:
    """Maps of random features of a picture (H, W) whose input is 24 × 32 pixels."""
    random = torch.Generator().manual_seed(seed)
    values = {
        cell: torch.randn(shape, generator=random, dtype=torch.float64).to(kind)
        for cell, shape in (shapes or ONE).items()
    }
    place = Placement.of_fit(size, (24, 32), fit, mirror)
    return Maps(values, size, (24, 32), place.numbers)


def points_of(maps: Maps, count=12, seed=0) -> np.ndarray:
    """Points that the input shows, between pixels."""
    size = np.array(maps.size[::-1])
    points = np.random.default_rng(seed).uniform(-0.5, size - 0.5, (50 * count, 2))
    return points[maps.valid(points)][:count]


def pixels(size) -> np.ndarray:
    """(H·W, 2) x, y."""
    rows, columns = np.indices(size)
    return np.stack([columns.ravel(), rows.ravel()], 1).astype(float)


def cosines(a: torch.Tensor, b: torch.Tensor) -> np.ndarray:
    """(n, C), (m, C) → (n, m)."""
    return F.cosine_similarity(a[:, None].double(), b[None].double(), dim=-1, eps=1e-12).numpy()


def similarities(source: Maps, target: Maps, points, cell="a", of=cosines) -> np.ndarray:
    """(n, H, W): each pixel's feature read by `Maps.sample`; -inf where none is shown."""
    there, shown = target.sample(cell, pixels(target.size))
    found = of(source.sample(cell, points)[0], there)
    found[:, ~shown] = -np.inf
    return found.reshape(len(points), *target.size)


def check(found, expected: np.ndarray, atol=1e-5) -> None:
    """Matches are the best of (n, H, W), up to ties and rounding."""
    column, row = found.points.astype(int).T
    assert (found.points == np.stack([column, row], 1)).all()
    each = expected[np.arange(len(found)), row, column]
    np.testing.assert_allclose(found.score, each, atol=atol)
    np.testing.assert_allclose(each, expected.max((1, 2)), atol=atol)
    assert found.valid.all()
