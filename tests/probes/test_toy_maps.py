"""A head of ten lines with maps as targets, read when needed, through the one loop."""

from __future__ import annotations

from dataclasses import dataclass, replace

import h5py
import numpy as np
import pytest
import torch
from sklearn.metrics import jaccard_score
from torch import nn

from probes import NetworkHead
from probes.objectives import SQUARED_ERROR, pixel_cross_entropy
from probes.training import mirror


@dataclass(eq=False, repr=False, kw_only=True)
class Toy(NetworkHead):
    _sides = (4,)

    def _objective(self):
        return pixel_cross_entropy(classes=3, ignore=255)

    def _build(self, shapes, outputs, batches):
        return nn.Conv2d(shapes[0][0], 3, 1)

    def predict(self, X):
        return np.concatenate(list(self._predictions(X)))


class Depth(Toy):
    """Real numbers as maps, some of them missing."""

    def _objective(self):
        return replace(SQUARED_ERROR, maps=True)

    def _build(self, shapes, outputs, batches):
        return nn.Sequential(nn.Conv2d(shapes[0][0], 1, 1), nn.Flatten(1, 2))


class Watched:
    """An object with shape and slices, that notes what is read of it."""

    def __init__(self, values):
        self.values, self.shape, self.dtype, self.read = values, values.shape, values.dtype, []

    def __len__(self):
        return len(self.values)

    def __getitem__(self, rows):
        found = self.values[rows]
        self.read.append(len(found))
        return found


OPTIONS = {"epochs": 12, "batch_size": 8, "learning_rate": 0.1, "random_state": 0}


@pytest.fixture(scope="module")
def scenes():
    """90 maps (4, 6, 5) whose first three channels tell each place's class, and the classes."""
    rng = np.random.default_rng(0)
    y = rng.integers(0, 3, (90, 6, 5)).astype(np.uint8)
    X = rng.normal(size=(90, 4, 6, 5)).astype(np.float32)
    X[:, :3] += 3 * np.moveaxis(np.eye(3, dtype=np.float32)[y], -1, 1)
    y[:, 0, 0] = 255
    return X, y


def test_it_learns_maps_from_a_file_read_in_pieces(scenes, tmp_path):
    X, y = scenes
    with h5py.File(tmp_path / "x.h5", "w") as file:
        stored = file.create_dataset("X", data=X), Watched(file.create_dataset("y", data=y))
        # four maps of features and targets are held at a time
        head = Toy(memory_mb=90 * 2e-4, **OPTIONS).fit(*stored, X[:30], y[:30])
        found = head.predict(stored[0])
    assert max(stored[1].read) < 20
    keep = y != 255
    assert (found == y)[keep].mean() > 0.95
    expected = jaccard_score(y[:30][keep[:30]], found[:30][keep[:30]], average="macro")
    assert head.history_[-1]["validation_mean_iou"] == pytest.approx(expected)
    assert head.history_[-1]["loss"] < head.history_[0]["loss"]


def test_lazy_targets_give_what_arrays_give(scenes):
    X, y = scenes
    weights = [
        Toy(validation_fraction=0.2, patience=3, **OPTIONS).fit(X, targets).module_.weight
        for targets in (y, Watched(y), torch.from_numpy(y.astype(np.int64)))
    ]
    assert torch.equal(weights[0], weights[1])
    assert torch.equal(weights[0], weights[2])


def test_maps_are_mirrored_with_the_features(scenes):
    """A 1×1 convolution loses nothing if both are mirrored alike, and much if not."""
    X, y = scenes
    plain, mirrored = (Toy(augment=a, **OPTIONS).fit(X, y) for a in (None, mirror))
    assert abs(mirrored.history_[-1]["loss"] - plain.history_[-1]["loss"]) < 0.05

    def features_alone(parts, rng):
        return [*mirror(parts[:1], rng), *parts[1:]]

    broken = Toy(augment=features_alone, **OPTIONS).fit(X, y)
    assert broken.history_[-1]["loss"] > mirrored.history_[-1]["loss"] + 0.2


def test_depth_with_gaps(scenes):
    X, _ = scenes
    y = (2 * X[:, 0] - X[:, 3] + 1).astype(np.float64)
    holes = np.random.default_rng(0).random(y.shape) < 0.4
    head = Depth(augment=mirror, **{**OPTIONS, "epochs": 40}).fit(X, np.where(holes, np.nan, y))
    np.testing.assert_allclose(head.predict(X)[holes], y[holes], atol=0.1)


def test_errors(scenes):
    X, y = scenes
    with pytest.raises(ValueError, match="inconsistent"):
        Toy(**OPTIONS).fit(X, y[:-1])
    with pytest.raises(ValueError, match="y_validation has 3 rows, X_validation 4"):
        Toy(**OPTIONS).fit(X, y, X[:4], y[:3])
    with pytest.raises(ValueError, match="contains inf"):
        Depth(**OPTIONS).fit(X, np.full(y.shape, np.inf))
