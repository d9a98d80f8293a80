"""Labelled pictures that a tiny network can learn to tell apart."""

from __future__ import annotations

import numpy as np
import pytest

from diffeat.images import ArraySource


def draw(count: int, seed: int) -> ArraySource:
    """Bright pictures and dark ones, with noise."""
    rng = np.random.default_rng(seed)
    labels = np.arange(count) % 2
    pixels = rng.integers(0, 100, (count, 32, 32, 3)) + 120 * labels[:, None, None, None]
    ids = tuple(f"{seed}-{k}" for k in range(count))
    return ArraySource("drawn", ids, labels, ("dark", "bright"), pixels=pixels.astype(np.uint8))


@pytest.fixture(scope="session")
def training():
    return draw(25, 0)  # a last batch of one picture, with batches of 8


@pytest.fixture(scope="session")
def held():
    return draw(12, 1)
