"""The mixer: its sum against numpy, what its weights learn, and what it refuses."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from sklearn.base import clone
from torch.nn import functional as F

from probes import Cells
from probes.aggregate import MixerHead, MixerProbe

COUNT, CLASSES = 240, 3
Y = np.random.default_rng(0).integers(0, CLASSES, COUNT)


def cells_of(*sides: int) -> dict:
    """Three cells of other widths; ("b", 5) alone knows the class."""
    rng, found = np.random.default_rng(1), {}
    for (key, strength), channels in zip(
        ((("a", 1), 0.0), (("b", 5), 3.0), (("c", 5), 0.0)), (5, 8, 6), strict=True
    ):
        means = strength * np.random.default_rng(2).normal(size=(CLASSES, channels))
        noise = rng.normal(size=(COUNT, channels, *sides))
        means = means[Y].reshape(COUNT, channels, *[1] * len(sides))
        found[key] = (1000 * (means + noise)).astype(np.float32)  # scales play no part
    return found


def probe(**options) -> MixerProbe:
    how = {"width": 16, "epochs": 15, "batch_size": 16, "learning_rate": 3e-3, "random_state": 0}
    return MixerProbe(**{**how, "progress": False, **options})


@pytest.mark.parametrize("sides", [(), (3, 3)])
def test_the_weights_find_the_cell_that_knows(sides):
    X = cells_of(*sides)
    mixer = probe().fit(Cells(X)[:180], Y[:180])
    assert mixer.score(Cells(X)[180:], Y[180:]) > 0.85
    weights = mixer.weights_
    assert list(weights) == [("a", 1), ("b", 5), ("c", 5)]
    assert sum(weights.values()) == pytest.approx(1)
    assert weights["b", 5] > 0.6


@pytest.mark.parametrize("shapes", [[(4,), (7,)], [(4, 2, 2), (3, 4, 4)]])
def test_it_is_one_weighted_sum(shapes):
    torch.manual_seed(0)
    head = MixerHead(shapes, 3, 6).eval()
    with torch.no_grad():
        head.scalars[:] = torch.tensor([0.3, -0.1])
    arrays = [torch.randn(5, *shape) for shape in shapes]
    found = head(*arrays).detach().numpy()
    powers = np.exp(10 * np.array([0.3, -0.1]))
    mixed = 0.0
    for w, r, project in zip(powers / powers.sum(), arrays, head.projections, strict=True):
        matrix, bias = project.weight.detach().numpy(), project.bias.detach().numpy()
        matrix = matrix.reshape(len(matrix), -1)
        r = r.numpy() / np.sqrt(1 + 1e-5)
        z = np.einsum("oc,nc...->no...", matrix, r) + bias.reshape(-1, *[1] * (r.ndim - 2))
        axes = tuple(range(1, z.ndim))
        z = (z - z.mean(axes, keepdims=True)) / np.sqrt(z.var(axes, keepdims=True) + 1e-5)
        if z.ndim == 4 and z.shape[2:] != (4, 4):
            z = F.interpolate(torch.from_numpy(z), (4, 4), mode="bilinear").numpy()
        mixed = mixed + w * z
    pooled = mixed.mean((2, 3)) if mixed.ndim == 4 else mixed
    expected = pooled @ head.head.weight.detach().numpy().T + head.head.bias.detach().numpy()
    np.testing.assert_allclose(found, expected, atol=1e-5)


def test_the_same_every_time_and_cloned():
    X = cells_of()
    first, second = probe(epochs=2).fit(X, Y), clone(probe(epochs=2)).fit(X, Y)
    np.testing.assert_array_equal(first.predict_proba(X), second.predict_proba(X))
    assert first.weights_ == second.weights_


def test_a_last_batch_of_one_row():
    X = {key: values[:17] for key, values in cells_of().items()}
    assert probe(epochs=1, batch_size=8).fit(X, Y[:17]).n_epochs_ == 1


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda X: X["a", 1], "expected probes.Cells"),
        (lambda X: {**X, ("d", 1): np.zeros((COUNT, 3, 2, 2))}, "vectors and maps"),
    ],
)
def test_what_it_refuses(change, message):
    with pytest.raises(ValueError, match=message):
        probe().fit(change(cells_of()), Y)


def test_other_cells_than_those_of_fit():
    X = cells_of()
    mixer = probe(epochs=1).fit(X, Y)
    with pytest.raises(ValueError, match="lacks the cells"):
        mixer.predict({key: X[key] for key in list(X)[:2]})
    with pytest.raises(ValueError, match=r"expected \(8,\), as in fit"):
        mixer.predict({**X, ("b", 5): X["a", 1]})
