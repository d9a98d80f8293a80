"""What is minimised, by hand; and which way the validation number goes."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from sklearn.metrics import log_loss

from probes.objectives import (
    BINARY_CROSS_ENTROPY,
    CROSS_ENTROPY,
    SQUARED_ERROR,
    huber,
    pixel_cross_entropy,
)

RNG = np.random.default_rng(0)


def tensor(values, kind=torch.float64) -> torch.Tensor:
    return torch.as_tensor(np.asarray(values), dtype=kind)


def both(objective, output, target) -> float:
    """The mean, which is the sum over the terms."""
    mean, total = (objective.loss(output, target, kind).item() for kind in ("mean", "sum"))
    assert mean * float(objective.terms(target)) == pytest.approx(total)
    return mean


def test_cross_entropy():
    logits, y = RNG.normal(size=(20, 3)), RNG.integers(0, 3, 20)
    p = np.exp(logits) / np.exp(logits).sum(1, keepdims=True)
    found = both(CROSS_ENTROPY, tensor(logits), tensor(y, torch.int64))
    assert found == pytest.approx(log_loss(y, p, labels=[0, 1, 2]))


def test_binary_cross_entropy():
    logits, y = RNG.normal(size=(20, 3)), RNG.integers(0, 2, (20, 3))
    p = 1 / (1 + np.exp(-logits))
    expected = -(y * np.log(p) + (1 - y) * np.log(1 - p)).mean()
    assert both(BINARY_CROSS_ENTROPY, tensor(logits), tensor(y)) == pytest.approx(expected)
    assert BINARY_CROSS_ENTROPY.predict(tensor([[-1, 0.1]])).tolist() == [[0, 1]]


@pytest.mark.parametrize("shape", [(20,), (20, 3), (4, 5, 6)])
def test_errors_of_numbers_leave_gaps_out(shape):
    found, true = RNG.normal(size=shape) * 3, RNG.normal(size=shape)
    true.flat[3] = np.nan
    error = (found - true)[~np.isnan(true)]
    pair = tensor(found).requires_grad_(), tensor(true)
    assert both(SQUARED_ERROR, *pair) == pytest.approx(np.square(error).mean())
    expected = np.where(abs(error) < 2, error**2 / 2, 2 * (abs(error) - 1)).mean()
    assert both(huber(2.0), *pair) == pytest.approx(expected)
    SQUARED_ERROR.loss(*pair, "mean").backward()
    expected = np.where(np.isnan(true), 0, 2 * (found - true) / len(error))
    np.testing.assert_allclose(pair[0].grad, expected)
    nothing = torch.full(shape, torch.nan, dtype=torch.float64)
    assert SQUARED_ERROR.loss(pair[0], nothing, "mean").item() == 0


def test_shapes_do_not_broadcast():
    with pytest.raises(ValueError, match=r"outputs of shape \(4, 1\) for targets \(4,\)"):
        SQUARED_ERROR.loss(torch.zeros(4, 1), torch.zeros(4), "mean")


def test_pixels_leave_ignored_ones_out():
    objective = pixel_cross_entropy(3, ignore=255)
    logits, y = RNG.normal(size=(2, 3, 4, 5)), RNG.integers(0, 3, (2, 4, 5))
    y[0, :2] = 255
    rows, keep = np.moveaxis(logits, 1, -1)[y != 255], y[y != 255]
    p = np.exp(rows) / np.exp(rows).sum(1, keepdims=True)
    found = both(objective, tensor(logits), tensor(y, torch.int64))
    assert found == pytest.approx(log_loss(keep, p, labels=[0, 1, 2]))
    nothing = torch.full((2, 4, 5), 255)
    assert both(objective, tensor(logits), nothing) == 0
    assert objective.predict(tensor(logits)).shape == (2, 4, 5)


def test_directions():
    falling = replace(SQUARED_ERROR, higher_is_better=False)
    assert [falling.better(*pair) for pair in ((0.1, 0.2), (0.2, 0.1))] == [True, False]
    assert [SQUARED_ERROR.better(*pair) for pair in ((0.2, 0.1), (0.1, 0.1))] == [True, False]
    for objective in (falling, SQUARED_ERROR):
        assert objective.better(-5.0, None)
        assert not objective.better(float("nan"), None)
        assert not objective.better(float("nan"), 0.0)
