"""Heads and solvers on a device that is claimed: they run there, and give what the CPU gives."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any
from unittest import mock

import h5py
import numpy as np
import pytest
import torch

import probes
import probes.training
from probes import Cells, NetworkHead
from probes.lazy import Rows
from probes.neighbours import METRICS, nearest
from probes.objectives import SQUARED_ERROR, huber, pixel_cross_entropy
from tests.device.claims import claimed

N, M, D, G, K = 60, 20, 6, 3, 3
RNG = np.random.default_rng(0)
Y, YV = np.arange(N) % K, np.arange(M) % K
CENTRES = RNG.normal(size=(G, K, D))
X = (CENTRES[:, Y] + RNG.normal(size=(G, N, D))).astype(np.float32)
XV = (CENTRES[:, YV] + RNG.normal(size=(G, M, D))).astype(np.float32)
MAPS = RNG.normal(size=(N, 4, 3, 3)).astype(np.float32) + Y[:, None, None, None]
NUMBERS = (X[0] @ RNG.normal(size=(D, 2))).astype(np.float32)
SEVERAL = (RNG.random((N, K)) < 0.4).astype(np.int64)
T = np.tile([20, 200], N // 2)

STEPS: dict[str, Any] = {"epochs": 2, "batch_size": 16, "random_state": 0}
SHORT: dict[str, Any] = {**STEPS, "validation_fraction": 0.2}


def fitted(head, *args, **named):
    return head.fit(*args, **named)


# Name → (device) → what the head says. `device` is "cpu" or "cuda"; arrays are numpy's.
HEADS: dict[str, Callable[[str], Any]] = {
    "linear": lambda d: fitted(probes.LinearProbe(device=d), X[0], Y).decision_function(XV[0]),
    "linear again": lambda d: fitted(
        fitted(probes.LinearProbe(device=d, warm_start=True), X[0], Y), X[0], Y
    ).predict_proba(XV[0]),
    "ridge": lambda d: fitted(probes.RidgeProbe(device=d), X[0], Y).decision_function(XV[0]),
    "ridge of few": lambda d: fitted(
        probes.RidgeProbe(device=d), X[0, :5], Y[:5]
    ).decision_function(XV[0]),
    "ridge regression": lambda d: fitted(
        probes.RidgeRegressionProbe(device=d), X[0], NUMBERS
    ).predict(XV[0]),
    "ridge of several": lambda d: fitted(
        probes.RidgeMultilabelProbe(device=d), X[0], SEVERAL
    ).decision_function(XV[0]),
    "linear of several": lambda d: fitted(
        probes.LinearMultilabelProbe(device=d), X[0], SEVERAL
    ).predict_proba(XV[0]),
    "knn": lambda d: fitted(probes.KNNProbe(5, device=d), X[0], Y).kneighbors(XV[0]),
    "many": lambda d: many(probes.ManyLogistic([1e-3, 1e-2, 1.0], tol=1e-6, device=d)),
    "many ridges": lambda d: many(probes.ManyRidge(device=d)),
    "MLP": lambda d: fitted(probes.MLPProbe(hidden=(8,), device=d, **SHORT), X[0], Y).predict_proba(
        XV[0]
    ),
    "MLP regression": lambda d: fitted(
        probes.MLPRegressionProbe(hidden=(8,), device=d, **STEPS), X[0], NUMBERS
    ).predict(XV[0]),
    "MLP of several": lambda d: fitted(
        probes.MLPMultilabelProbe(hidden=(8,), device=d, **STEPS), X[0], SEVERAL
    ).predict_proba(XV[0]),
    "batch norm": lambda d: fitted(probes.BatchNormProbe(device=d, **STEPS), X[0], Y).predict_proba(
        XV[0]
    ),
    "convolution": lambda d: fitted(probes.ConvProbe(device=d, **STEPS), MAPS, Y).predict_proba(
        MAPS
    ),
    "attention": lambda d: fitted(probes.AttentionProbe(device=d, **STEPS), MAPS, Y).predict_proba(
        MAPS
    ),
    "DifFormer": lambda d: fitted(
        probes.DifFormerProbe(device=d, **STEPS), cells(), Y
    ).predict_proba(cells()),
    "noise": lambda d: fitted(
        probes.NoiseConditionalProbe(device=d, **STEPS), X[0], Y, t=T
    ).predict_proba(XV[0], t=T[:M]),
}


def many(head, x=X, held=XV) -> tuple:
    head.fit(x, Y, held, YV)
    return head.coef_, head.intercept_, head.path_, head.score(held, YV)


def cells() -> Cells:
    return Cells({("a", 20): MAPS, ("b", 20): MAPS[:, :3]})


@pytest.mark.parametrize("head", HEADS)
def test_a_head_on_the_device_is_that_of_the_cpu(head, mode):
    """Up to rounding: some solvers sum in another order where there is no CPU to be spared."""
    expected = HEADS[head]("cpu")
    mode.waits.clear()
    found = HEADS[head]("cuda")
    assert mode.waits, "nothing ran on the device"
    for one, other in zip(parts(found), parts(expected), strict=True):
        np.testing.assert_allclose(one, other, rtol=2e-3, atol=2e-3)


def parts(values) -> list[np.ndarray]:
    values = values if isinstance(values, tuple) else (values,)
    assert all(isinstance(value, np.ndarray) for value in values), "answers are numpy's"
    return list(values)


@pytest.mark.parametrize("metric", METRICS)
@pytest.mark.parametrize("skip_self", [False, True])
def test_neighbours(metric, skip_self, mode):
    base = Rows(X[0])
    queries = base if skip_self else Rows(XV[0])
    expected = nearest(queries, base, 4, metric, "cpu", skip_self)
    found = nearest(queries, base, 4, metric, "cuda", skip_self)
    for one, other in zip(found, expected, strict=True):
        assert not claimed(one)
        assert torch.equal(one, other)


# --- features that lie on the device already --------------------------------------------------

GIVEN: dict[str, Callable[[Any], Any]] = {
    "linear": lambda x: fitted(probes.LinearProbe(), x, Y).decision_function(x),
    "ridge": lambda x: fitted(probes.RidgeProbe(), x, Y).decision_function(x),
    "ridge regression": lambda x: fitted(probes.RidgeRegressionProbe(), x, NUMBERS).predict(x),
    "several": lambda x: fitted(probes.LinearMultilabelProbe(), x, SEVERAL).predict_proba(x),
    "knn": lambda x: fitted(probes.KNNProbe(5), x, Y).predict_proba(x),
    "MLP": lambda x: fitted(probes.MLPProbe(hidden=(8,), **SHORT), x, Y).predict_proba(x),
    "batch norm": lambda x: fitted(probes.BatchNormProbe(**STEPS), x, Y).predict_proba(x),
    "small memory": lambda x: fitted(
        probes.BatchNormProbe(memory_mb=1e-6, **STEPS), x, Y
    ).predict_proba(x),
    "noise": lambda x: fitted(probes.NoiseConditionalProbe(**STEPS), x, Y, t=T).predict_proba(
        x, t=T
    ),
    "many": lambda x: many(
        probes.ManyLogistic([1e-2], tol=1e-6), x.expand(G, -1, -1) if isinstance(x, torch.Tensor)
        else np.broadcast_to(x, (G, *x.shape)), X[:, :M] * 0 + X[0, :M]
    ),
}  # fmt: skip


@pytest.mark.parametrize("head", GIVEN)
def test_a_head_of_features_on_the_device(head, mode):
    """Where X is a tensor, "auto" is where it lies; labels are the CPU's."""
    expected = GIVEN[head](X[0])
    found = GIVEN[head](torch.from_numpy(X[0]).to("cuda"))
    for one, other in zip(parts(found), parts(expected), strict=True):
        np.testing.assert_allclose(one, other, rtol=2e-3, atol=2e-3)


def test_rows_of_a_tensor_on_the_device_are_read_as_numpy(mode):
    """By slice, by number and by mask; pieces of it too."""
    rows = Rows(torch.from_numpy(X[0]).to("cuda"))
    for which in (slice(3, 9), [5, 0, 5], Y == 1):
        np.testing.assert_array_equal(rows[which], X[0][which])
        assert claimed(rows.tensor(which, "cuda"))
    np.testing.assert_array_equal(np.concatenate([x for _, x in rows.chunks(7)]), X[0])


def test_maps_on_the_device(mode):
    expected = fitted(probes.ConvProbe(**STEPS), MAPS, Y).predict_proba(MAPS)
    there = torch.from_numpy(MAPS).to("cuda")
    found = fitted(probes.ConvProbe(**STEPS), there, Y).predict_proba(there)
    np.testing.assert_allclose(found, expected, rtol=2e-3, atol=2e-3)


@pytest.mark.parametrize("head", ["linear", "ridge", "ridge regression", "several", "MLP"])
def test_features_that_lie_in_a_file(head, tmp_path, mode):
    """Read in pieces, each of which goes to the device."""
    with h5py.File(tmp_path / "features.h5", "w") as file:
        data = file.create_dataset("x", data=X[0])
        answers = []
        for device in ("cpu", "cuda"):
            heads = {
                "linear": (probes.LinearProbe(memory=0, device=device), Y),
                "ridge": (probes.RidgeProbe(device=device), Y),
                "ridge regression": (probes.RidgeRegressionProbe(device=device), NUMBERS),
                "several": (probes.LinearMultilabelProbe(device=device), SEVERAL),
                "MLP": (probes.MLPProbe(hidden=(8,), memory_mb=1e-6, device=device, **SHORT), Y),
            }
            answers.append(fitted(heads[head][0], data, heads[head][1]).predict(data))
    np.testing.assert_allclose(*answers, rtol=2e-3, atol=2e-3)


# --- the loop ---------------------------------------------------------------------------------

LOOPS: dict[str, dict[str, Any]] = {
    "sgd": {"optimizer": "sgd"},
    "lars": {"optimizer": "lars", "learning_rate": 0.1},
    "early end": {"validation_fraction": 0.3, "patience": 1, "epochs": 3},
}


@pytest.mark.parametrize("loop", LOOPS)
def test_the_loop_on_the_device(loop, mode):
    answers = []
    for device in ("cpu", "cuda"):
        head = probes.MLPProbe(hidden=(8,), device=device, **{**STEPS, **LOOPS[loop]})
        head.fit(X[0], Y)
        answers.append((head.predict_proba(XV[0]), [e["loss"] for e in head.history_]))
    np.testing.assert_allclose(answers[1][0], answers[0][0], rtol=2e-3, atol=2e-3)
    np.testing.assert_allclose(answers[1][1], answers[0][1], rtol=1e-3)


def test_maps_are_mirrored_on_the_device(mode):
    options = {**STEPS, "augment": probes.training.mirror}
    heads = [fitted(probes.ConvProbe(device=d, **options), MAPS, Y) for d in ("cpu", "cuda")]
    expected, found = (head.predict_proba(MAPS) for head in heads)
    np.testing.assert_allclose(found, expected, rtol=2e-3, atol=2e-3)


def test_a_fit_on_the_device_goes_on_from_its_checkpoint(tmp_path, mode):
    """Weights, the optimizer's state and the generators' go back to where they were."""
    options = {**STEPS, "hidden": (8,), "dropout": 0.2, "device": "cuda"}
    expected = fitted(probes.MLPProbe(**{**options, "epochs": 3}), X[0], Y).predict_proba(XV[0])
    path = tmp_path / "kept.safetensors"
    fitted(probes.MLPProbe(**{**options, "epochs": 3}, checkpoint=path), X[0], Y)
    assert path.is_file()
    stopped = tmp_path / "stopped.safetensors"

    class Stop(Exception):
        pass

    real, seen = probes.training._keep, []

    def keep(*args):
        real(*args)
        seen.append(args)
        if len(seen) == 2:
            raise Stop

    with mock.patch.object(probes.training, "_keep", keep), pytest.raises(Stop):
        fitted(probes.MLPProbe(**{**options, "epochs": 3}, checkpoint=stopped), X[0], Y)
    head = fitted(probes.MLPProbe(**{**options, "epochs": 3}, checkpoint=stopped), X[0], Y)
    np.testing.assert_array_equal(head.predict_proba(XV[0]), expected)


OBJECTIVES = {
    "maps of classes": (pixel_cross_entropy(classes=3, ignore=255), 3, "classes"),
    "maps of numbers with gaps": (replace(SQUARED_ERROR, maps=True), 1, "numbers"),
    "Huber": (replace(huber(0.5), maps=True), 1, "numbers"),
}


@pytest.mark.parametrize("name", OBJECTIVES)
def test_objectives_of_maps_on_the_device(name, mode):
    objective, channels, kind = OBJECTIVES[name]

    @dataclass(eq=False, repr=False, kw_only=True)
    class Toy(NetworkHead):
        _sides = (4,)

        def _objective(self):
            return objective

        def _build(self, shapes, outputs, batches):
            last = [torch.nn.Flatten(1, 2)] if channels == 1 else []
            return torch.nn.Sequential(torch.nn.Conv2d(shapes[0][0], channels, 1), *last)

        def predict(self, X):
            return np.concatenate(list(self._predictions(X)))

    if kind == "classes":
        targets = np.random.default_rng(1).integers(0, 3, (N, 3, 3)).astype(np.uint8)
        targets[0, 0] = 255
    else:
        targets = MAPS[:, 0].copy()
        targets[0, 0] = np.nan
    options = {**STEPS, "validation_fraction": 0.2}
    heads = [fitted(Toy(device=device, **options), MAPS, targets) for device in ("cpu", "cuda")]
    for one, other in zip(*(head.history_ for head in heads), strict=True):
        assert one.keys() == other.keys()
        for key in one.keys() - {"seconds"}:
            assert other[key] == pytest.approx(one[key], rel=2e-3, abs=2e-3), key
    found, expected = heads[1].predict(MAPS), heads[0].predict(MAPS)
    assert (np.abs(found - expected) < 2e-3).mean() > 0.99
