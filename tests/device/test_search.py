"""Scores of cells, fitted on a device that is claimed."""

from __future__ import annotations

import numpy as np
import pytest

from diffeat.search.scores import Logistic, Neighbours, Ridge

RNG = np.random.default_rng(0)
Y, YV = np.arange(60) % 3, np.arange(24) % 3
CENTRES = RNG.normal(size=(2, 3, 8))
X = (CENTRES[:, Y] + 2 * RNG.normal(size=(2, 60, 8))).astype(np.float32)
XV = (CENTRES[:, YV] + 2 * RNG.normal(size=(2, 24, 8))).astype(np.float32)


@pytest.mark.parametrize("kind", [Logistic, Ridge, Neighbours])
@pytest.mark.parametrize("width", [8, 100])
def test_a_score_on_the_device_is_that_of_the_cpu(kind, width, mode):
    """Validation, the setting that is chosen there, and test."""
    wide = np.random.default_rng(1).normal(size=(8, width)).astype(np.float32)
    train, held = X @ wide, XV @ wide
    cpu, cuda = kind(device="cpu"), kind(device="cuda")
    expected = cpu.fit(train, Y, held, YV)
    mode.waits.clear()
    assert cuda.fit(train, Y, held, YV) == expected
    assert mode.waits, "nothing ran on the device"
    setting = expected[0].setting
    assert cuda.test(train[0], Y, held[0], YV, setting) == cpu.test(
        train[0], Y, held[0], YV, setting
    )
