"""Trainings that are killed and go on end in the same bits as undisturbed ones."""

from __future__ import annotations

import json
import os
import signal

import h5py
import numpy as np
import pytest
import torch
from safetensors import safe_open

from probes import MLPProbe, MLPRegressionProbe
from probes.checkpoints import checkpoint_path, read_checkpoint, write_checkpoint
from probes.randomness import Randomness

RNG = np.random.default_rng(0)
Y = RNG.integers(0, 3, 80)
X = (RNG.normal(size=(3, 6))[Y] + RNG.normal(size=(80, 6))).astype(np.float32)


class Killed(Exception):
    pass


class Once:
    """Augmentation by noise from both generators, that fails once in the middle of an epoch."""

    def __init__(self, calls: int | None):
        self.left = calls

    def __call__(self, parts, rng):
        if self.left is not None:
            self.left -= 1
            if self.left < 0:
                raise Killed
        noise = torch.from_numpy(rng.normal(size=parts[0].shape).astype(np.float32))
        return [part + 0.1 * noise + 0.1 * torch.randn(part.shape) for part in parts]


def probe(augment, checkpoint=None, **options):
    given = {"hidden": (8,), "dropout": 0.2, "epochs": 6, "batch_size": 16, "random_state": 3,
             "validation_fraction": 0.2, "learning_rate": 0.02}  # fmt: skip
    return MLPProbe(augment=augment, checkpoint=checkpoint, **{**given, **options})


def same(one, other):
    for name, value in one.module_.state_dict().items():
        assert torch.equal(value, other.module_.state_dict()[name])
    plain = [[{k: v for k, v in seen.items() if k != "seconds"} for seen in p.history_]
             for p in (one, other)]  # fmt: skip
    assert plain[0] == plain[1]
    assert one.best_epoch_ == other.best_epoch_


@pytest.mark.parametrize("optimizer", ["adamw", "adam", "sgd", "lars"])
@pytest.mark.parametrize("patience", [None, 2])
def test_going_on_gives_the_same_bits(optimizer, patience, tmp_path):
    options = {"optimizer": optimizer, "patience": patience}
    whole = probe(Once(None), **options).fit(X, Y)
    with pytest.raises(Killed):
        probe(Once(4 * 2 + 1), tmp_path, **options).fit(X, Y)  # in the third epoch
    with safe_open(tmp_path / "checkpoint.safetensors", "pt") as file:
        assert json.loads(file.metadata()["state"])["epoch"] == 2
    same(probe(Once(None), tmp_path, **options).fit(X, Y), whole)
    # and a third time, when all is done, nothing is left to do
    again = probe(Once(0), tmp_path, **options).fit(X, Y)
    same(again, whole)


class Deadly(Once):
    """Ends its process in the middle of an epoch, as `kill -9` does."""

    def __call__(self, parts, rng):
        try:
            return super().__call__(parts, rng)
        except Killed:
            os.kill(os.getpid(), signal.SIGKILL)


Deadly.__qualname__ = "Once"  # what a checkpoint remembers of it


def die(path):
    torch.set_num_threads(1)
    probe(Deadly(9), path).fit(X, Y)  # in the third epoch, of four steps each


@pytest.mark.slow  # an error in the same place leaves the same, and starts no process
def test_a_real_kill(tmp_path, server):
    path = tmp_path / "c.safetensors"
    process = server.Process(target=die, args=(path,))
    process.start()
    process.join()
    assert process.exitcode == -signal.SIGKILL
    assert read_state(path)["epoch"] == 2
    same(probe(Once(None), path).fit(X, Y), probe(Once(None)).fit(X, Y))


def read_state(path):
    with safe_open(path, "pt") as file:
        return json.loads(file.metadata()["state"])


def test_numbers_too(tmp_path):
    y = X @ np.ones((6, 2)) + Y[:, None]
    options = {"epochs": 4, "random_state": 0, "batch_size": 32}
    whole = MLPRegressionProbe(augment=Once(None), **options).fit(X, y)
    with pytest.raises(Killed):
        MLPRegressionProbe(augment=Once(7), checkpoint=tmp_path, **options).fit(X, y)
    with pytest.raises(ValueError, match="augment was 'Once', is 'NoneType'"):
        MLPRegressionProbe(checkpoint=tmp_path, **options).fit(X, y)
    found = MLPRegressionProbe(augment=Once(None), checkpoint=tmp_path, **options).fit(X, y)
    same(found, whole)


class TestAnotherTraining:
    @pytest.fixture(scope="class")
    @staticmethod
    def kept(tmp_path_factory):
        place = tmp_path_factory.mktemp("kept")
        probe(None, place).fit(X, Y)
        return place

    @pytest.mark.parametrize(
        ("options", "message"),
        [
            ({"learning_rate": 0.1}, "learning_rate was 0.02, is 0.1"),
            ({"epochs": 9}, "epochs was 6, is 9"),
            ({"random_state": 4}, "random_state was 3, is 4"),
            ({"hidden": (9,)}, "weights was"),
        ],
    )
    def test_settings(self, kept, options, message):
        with pytest.raises(ValueError, match=message):
            probe(None, kept, **options).fit(X, Y)

    def test_data(self, kept):
        with pytest.raises(ValueError, match="targets was"):
            probe(None, kept).fit(X, Y[::-1].copy())
        with pytest.raises(ValueError, match="rows was 64, is 48"):
            probe(None, kept).fit(X[:60], Y[:60])

    def test_no_checkpoint(self, tmp_path):
        path = tmp_path / "c.safetensors"
        path.write_bytes(b"nothing of the kind")
        with pytest.raises(ValueError, match="is no checkpoint of a training"):
            probe(None, path).fit(X, Y)

    def test_a_seed_is_needed(self, tmp_path):
        with pytest.raises(ValueError, match="random_state=None; expected a whole number"):
            probe(None, tmp_path, random_state=None).fit(X, Y)


class TestFile:
    def test_there_and_back(self, tmp_path):
        path = checkpoint_path(tmp_path / "deep" / "folder")
        tensors = {"weights": {"a/b": torch.arange(3.0)}, "random": {"cpu": torch.get_rng_state()}}
        write_checkpoint(path, {"x": (1, 2)}, {"epoch": 1, "big": 2**120}, tensors)
        state, found = read_checkpoint(path, {"x": [1, 2]})
        assert state == {"epoch": 1, "big": 2**120}
        assert torch.equal(found["weights"]["a/b"], torch.arange(3.0))
        assert torch.equal(found["random"]["cpu"], torch.get_rng_state())
        assert [p.name for p in path.parent.iterdir()] == ["checkpoint.safetensors"]
        assert read_checkpoint(tmp_path / "nothing.safetensors", {}) is None

    def test_a_failed_write_leaves_the_old_one(self, tmp_path, monkeypatch):
        path = tmp_path / "c.safetensors"
        write_checkpoint(path, {}, {"epoch": 1}, {})

        def full(*_):
            raise OSError("no space left")

        monkeypatch.setattr("probes.tensor_files.os.fsync", full)
        with pytest.raises(OSError, match="no space"):
            write_checkpoint(path, {}, {"epoch": 2}, {})
        assert read_checkpoint(path, {})[0] == {"epoch": 1}
        assert list(tmp_path.iterdir()) == [path]


def test_random_states_go_on():
    outside = torch.get_rng_state()
    with Randomness(1, 2) as first:
        torch.rand(3), first.numpy.random(5)
        state = first.state()
        expected = torch.rand(4), first.numpy.random(4)
    assert torch.equal(torch.get_rng_state(), outside)
    with Randomness(8, 9) as second:
        second.restore(*json.loads(json.dumps(state[:1])), state[1])
        assert torch.equal(torch.rand(4), expected[0])
        np.testing.assert_array_equal(second.numpy.random(4), expected[1])


@pytest.mark.parametrize("kind", ["array", "tensor", "file"])
@pytest.mark.parametrize("changed", ["features", "validation features"])
def test_other_features_are_another_training(kind, changed, tmp_path):
    """A head of the first cell must not come back for the second."""
    rng = np.random.default_rng(0)
    X, y = rng.normal(size=(120, 6)).astype(np.float32), np.arange(120) % 3
    other = X.copy()
    other[0, 0] += 1
    file = h5py.File(tmp_path / "f.h5", "w")
    make = {
        "array": lambda name, values: values,
        "tensor": lambda name, values: torch.from_numpy(values),
        "file": lambda name, values: file.create_dataset(name, data=values),
    }[kind]
    first, second = make("first", X), make("second", other)
    options = {"hidden": (), "epochs": 2, "random_state": 0, "checkpoint": tmp_path / "c"}
    MLPProbe(**options, progress=False).fit(first, y, first, y)
    again = MLPProbe(**options, progress=False).fit(first, y, first, y)
    assert len(again.history_) == 2
    pair = (second, y, first, y) if changed == "features" else (first, y, second, y)
    with pytest.raises(ValueError, match=f"of another training: {changed} was"):
        MLPProbe(**options, progress=False).fit(*pair)
    file.close()
