"""How much is read, and how: chunks, compression, the fast path, and the torch dataset."""

from __future__ import annotations

import itertools
import math
import os
import pickle
import sys

import h5py
import numpy as np
import pytest
import torch
from torch.utils.data import DataLoader

from diffeat.errors import StoreError
from diffeat.store import FeatureStore, verify
from diffeat.store.format.layout import chunk_shape

# --- chunks ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("shape", "itemsize", "count", "expected"),
    [
        ((1280,), 2, 1000, (102, 1280)),
        ((1280,), 2, 10, (10, 1280)),
        ((320, 32, 32), 2, 50, (1, 80, 32, 32)),
        ((320, 64, 64), 2, 50, (1, 32, 64, 64)),
        ((1280, 16, 16), 1, 50, (1, 640, 16, 16)),
        ((127, 64, 64), 2, 50, (1, 32, 64, 64)),  # a prime: the last chunk is padded
        ((3, 1024, 1024), 2, 5, (1, 1, 128, 1024)),
        ((77, 2048), 4, 5, (1, 26, 2048)),
        ((2, 300_000), 4, 5, (1, 1, 60_000)),
        ((8, 4), 2, 1, (1, 8, 4)),
    ],
)
def test_chunks(shape, itemsize, count, expected):
    found = chunk_shape(shape, itemsize, count)
    assert found == expected
    assert math.prod(found) * itemsize <= 1 << 18


def bytes_read(path, expression: str) -> int:
    """Bytes asked of the system to get some values (rchar of this process)."""

    def so_far() -> int:
        with open("/proc/self/io") as file:
            return int(file.read().split()[1])

    with FeatureStore(path) as store:
        data = store["mid", 20]
        before = so_far()
        eval(expression, {"data": data})
        return so_far() - before


@pytest.mark.parametrize("dtype", ["float16", "int8"])
@pytest.mark.parametrize(
    ("shape", "count", "expression", "share"),
    [
        ((1280,), 3000, "data[1000:1010]", 0.04),
        ((512, 32, 32), 8, "data[5]", 1 / 8 + 0.02),
        ((512, 32, 32), 8, "data[5:6, 200]", 0.04),
        ((512, 32, 32), 8, "data[[2, 7], 17]", 0.04),
    ],
)
def test_only_what_is_needed_is_read(job, dtype, shape, count, expression, share):
    made = job(blocks=("mid",), count=count, shape=shape, dtype=dtype)
    path = made.write(batch=64)
    stored = made.values["features/mid/t20"].size * (1 if dtype == "int8" else 2)
    assert bytes_read(path, "data[:]") > 0.9 * stored  # the measure sees what is read
    assert bytes_read(path, expression) < share * stored


# --- compression ----------------------------------------------------------------------------

NUMBERS = {"none": set(), "lzf": {32000}, "gzip": {1}, "zstd": {32015}}


@pytest.mark.parametrize("dtype", ["float16", "int8"])
@pytest.mark.parametrize("compression", NUMBERS)
def test_compression_changes_no_value(job, compression, dtype):
    plain, made = job("plain.h5", dtype=dtype), job(dtype=dtype, shape=(3, 2, 2))
    plain.write()
    made.write(compression=compression)
    with h5py.File(made.path) as file:
        for name in plain.values:
            properties = file[name].id.get_create_plist()
            used = [properties.get_filter(k)[0] for k in range(properties.get_nfilters())]
            shuffle = {2} if compression != "none" and dtype != "int8" else set()
            checksum = {3} if compression != "none" else set()
            assert set(used) == checksum | NUMBERS[compression] | shuffle
    with FeatureStore(plain.path) as one, FeatureStore(made.path) as two:
        assert two.compression == compression
        assert two.fingerprint == one.fingerprint
        for key in itertools.product(one.blocks, one.timesteps):
            np.testing.assert_array_equal(one[key][:], two[key][:])
            assert torch.equal(two.torch_dataset(*key)[4][0], one.torch_dataset(*key)[4][0])
    assert verify(made.path) == []


@pytest.mark.parametrize("compression", ["lzf", "gzip", "zstd"])
def test_smooth_features_become_smaller(job, compression):
    made = job(count=20, shape=(16, 32, 32))
    for values in made.values.values():
        values[:] = np.sin(np.linspace(0, 20, values.size)).reshape(values.shape)
    full = sum(values.nbytes for values in made.values.values())
    assert made.write(compression=compression).stat().st_size < 0.7 * full


def test_another_compression_of_a_finished_file_is_said(job):
    made = job()
    made.write(compression="gzip")
    before = made.path.read_bytes()
    with (
        pytest.warns(UserWarning, match=r"compression gzip; .* diffeat merge .* --compression lzf"),
        made.writer(compression="lzf") as writer,
    ):
        assert writer.complete
    assert made.path.read_bytes() == before
    with made.writer(compression="gzip") as writer:
        assert writer.complete


def test_an_unknown_compression(job):
    with pytest.raises(ValueError, match="expected none, lzf, gzip, zstd"):
        job().writer(compression="brotli")


@pytest.fixture
def without_plugin(monkeypatch):
    monkeypatch.setitem(sys.modules, "hdf5plugin", None)


def test_writing_zstd_without_its_package(job, without_plugin):
    with pytest.raises(StoreError, match=r"pip install 'diffeat\[zstd\]'"):
        job().writer(compression="zstd")


def test_reading_zstd_without_its_package(job, monkeypatch):
    path = job().write(compression="zstd")
    monkeypatch.setitem(sys.modules, "hdf5plugin", None)
    with (
        FeatureStore(path) as store,
        pytest.raises(StoreError, match=rf"{path.name}.*pip install 'diffeat\[zstd\]'"),
    ):
        store["mid", 20]


def test_other_files_need_no_package(job, without_plugin):
    assert verify(job().write(compression="gzip")) == []


# --- torch ----------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", ["float16", "int8"])
@pytest.mark.parametrize("workers", [0, 2])
def test_a_shuffled_loader(job, dtype, workers):
    made = job(count=300, shape=(5,), dtype=dtype, labels=np.arange(300) % 7,
               class_names=tuple("abcdefg"))  # fmt: skip
    with FeatureStore(made.write(batch=64)) as store:
        everything = torch.from_numpy(store["mid", 60][:].astype(np.float32))
        dataset = store.torch_dataset("mid", 60)
        len(dataset[0])  # open in this process already
        torch.manual_seed(0)
        loader = DataLoader(
            dataset, batch_size=32, shuffle=True, num_workers=workers,
            multiprocessing_context="fork" if workers else None,
        )  # fmt: skip
        rows = dict.fromkeys(range(300), 0)
        for features, labels in loader:
            assert features.dtype == torch.float32
            for feature, label in zip(features, labels, strict=True):
                (row,) = (everything == feature).all(1).nonzero()[:, 0].tolist()
                assert label == row % 7
                rows[row] += 1
    assert set(rows.values()) == {1}


def test_a_batch_is_read_chunk_by_chunk(job, monkeypatch):
    made = job(count=1000, shape=(512,))  # 256 rows in a chunk
    with FeatureStore(made.write(batch=100, compression="gzip")) as store:
        dataset = store.torch_dataset("mid", 20)
    dataset[0]
    reads = []
    original = h5py.Dataset.__getitem__

    def read(data, key):
        reads.append(key)
        return original(data, key)

    monkeypatch.setattr(h5py.Dataset, "__getitem__", read)
    wanted = [999, 3, 300, 3, 260, -1, 0]
    items = dataset.__getitems__(wanted)
    assert reads == [slice(0, 4), slice(260, 301), slice(999, 1000)]
    expected = made.values["features/mid/t20"].astype(np.float32)
    for (feature, label), row in zip(items, wanted, strict=True):
        np.testing.assert_array_equal(feature.numpy(), expected[row])
        assert label == -1


@pytest.mark.parametrize("indices", [[0, 10], [-11]])
def test_batches_beyond_the_end(sound, indices):
    with FeatureStore(sound) as store, pytest.raises(IndexError):
        store.torch_dataset("mid", 20).__getitems__(indices)


def test_a_pickled_dataset_holds_no_features(job):
    with FeatureStore(job(count=500, shape=(1000,)).write(batch=50)) as store:
        dataset = store.torch_dataset("mid", 20)
    dataset[3]
    assert len(pickle.dumps(dataset)) < 10_000
    assert torch.equal(pickle.loads(pickle.dumps(dataset))[3][0], dataset[3][0])


def test_a_forked_process_opens_the_file_anew(job):
    with FeatureStore(job().write()) as store:
        dataset = store.torch_dataset("mid", 20)
    opened = dataset._opened()
    child = os.fork()
    if child == 0:
        os._exit(0 if dataset._opened() is not opened else 1)
    assert os.waitpid(child, 0)[1] == 0
