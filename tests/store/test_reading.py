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

from diffeat.errors import SpecError, StoreError
from diffeat.store import FeatureStore, verify
from diffeat.store.layout import chunk_shape
from diffeat.store.sequential import SequentialReader, fletcher32
from tests.store.test_reader import damage_last_chunk

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
        ((1280,), 3000, "data[1000:1010]", 0.15),  # of two to four chunks
        ((512, 32, 32), 8, "data[5]", 1 / 8 + 0.01),
        ((512, 32, 32), 8, "data[5:6, 200]", 1 / 16 + 0.01),  # half a row of int8
        ((512, 32, 32), 8, "data[[2, 7], 17]", 2 / 16 + 0.01),
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
            assert set(used) == {3} | NUMBERS[compression] | shuffle
    with FeatureStore(plain.path) as one, FeatureStore(made.path) as two:
        assert two.compression == compression
        assert two.fingerprint == one.fingerprint
        for key in itertools.product(one.blocks, one.timesteps):
            np.testing.assert_array_equal(one[key][:], two[key][:])
            np.testing.assert_array_equal(one.read(*key), two.read(*key))
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


# --- many rows ------------------------------------------------------------------------------


def hdf5_checksum(data: bytes) -> int:
    """Fletcher-32 word by word, as HDF5 defines it."""
    one = two = 0
    data += b"\0" * (len(data) % 2)
    for k in range(0, len(data), 2):
        one = one + int.from_bytes(data[k : k + 2], "big")
        one = (one & 0xFFFF) + (one >> 16)
        two = two + one
        two = (two & 0xFFFF) + (two >> 16)
    return (two & 0xFFFF) << 16 | (one & 0xFFFF)


@pytest.mark.parametrize("size", [1, 2, 7, 2047, 2048, 2049, 70_001])
@pytest.mark.parametrize("fill", ["random", "zeros", "ones", "a word of 65535"])
def test_fletcher32(size, fill):
    data = np.zeros(size, np.uint8)
    if fill == "random":
        data[:] = np.random.default_rng(size).integers(0, 256, size)
    elif fill == "ones":
        data[:] = 255
    elif fill != "zeros":
        data[:2] = 255
    assert fletcher32(data) == hdf5_checksum(data.tobytes())


@pytest.fixture
def small_groups(monkeypatch):
    """The fast path, for arrays of any size."""
    monkeypatch.setattr("diffeat.store.sequential.WORTHWHILE", 1)
    monkeypatch.setattr("diffeat.store.sequential.GROUP_BYTES", 500)


LAYOUTS = [
    ((50, 7, 9, 5), (1, 3, 9, 5), "f2"), ((50, 7, 9, 5), (4, 7, 9, 5), "f4"),
    ((50, 301), (8, 301), "i1"), ((50, 301), (1, 100), "i1"), ((20, 3, 11, 6), (1, 1, 4, 6), "f2"),
    ((20, 3), (6, 3), "f2"), ((9, 4, 5), (2, 3, 5), "f4"),
]  # fmt: skip


@pytest.mark.parametrize(("shape", "chunks", "dtype"), LAYOUTS)
@pytest.mark.parametrize("threads", [None, 1, 3])
def test_runs_of_rows(tmp_path, small_groups, shape, chunks, dtype, threads):
    values = (np.random.default_rng(0).normal(size=shape) * 50).astype(dtype)
    with h5py.File(tmp_path / "x.h5", "w", libver="latest") as file:
        data = file.create_dataset("x", data=values, chunks=chunks, fletcher32=True)
        file.flush()
        reader = SequentialReader(data)
        for start, stop in itertools.combinations_with_replacement(range(0, shape[0] + 1, 7), 2):
            np.testing.assert_array_equal(reader.read(start, stop, threads), values[start:stop])


def test_the_fast_path_is_taken(job, monkeypatch, small_groups):
    with FeatureStore(job(shape=(128, 16, 16)).write()) as store:
        wanted = store["mid", 20][2:9]
        monkeypatch.setattr(h5py.Dataset, "__getitem__", None)
        np.testing.assert_array_equal(store.read("mid", 20, 2, 9), wanted)


@pytest.mark.parametrize("path_taken", ["fast", "HDF5"])
def test_wrong_checksums_are_found_on_the_way(job, path_taken, request):
    if path_taken == "fast":
        request.getfixturevalue("small_groups")
    path = job(shape=(128, 16, 16)).write()
    row = damage_last_chunk(path, "features/mid/t20")
    with FeatureStore(path) as store:
        store.read("mid", 20, 0, row)
        with pytest.raises(StoreError, match=path.name):
            store.read("mid", 20)


@pytest.mark.parametrize(
    ("start", "stop"), [(0, None), (3, 3), (-4, None), (2, -1), (5, 2), (8, 99)]
)
def test_rows_as_in_a_slice(job, start, stop):
    with FeatureStore(job().write()) as store:
        found = store.read("mid", 20, start, stop)
        np.testing.assert_array_equal(found, store["mid", 20][:][start:stop])


def test_chunks_without_a_checksum_are_left_to_hdf5(tmp_path, small_groups):
    with h5py.File(tmp_path / "x.h5", "w") as file:
        data = file.create_dataset("x", (9, 5), "f4", chunks=(2, 5), fletcher32=True, fillvalue=7)
        data[:4] = 1
        file.flush()
        wanted = np.array([1] * 4 + [7] * 5)[:, None] * np.ones(5)
        np.testing.assert_array_equal(SequentialReader(data).read(0, 9), wanted)


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


def test_a_row_is_read_alone_once_its_chunk_was_checked(job, monkeypatch):
    made = job(count=1000, shape=(512,))  # 256 rows in a chunk
    with FeatureStore(made.write(batch=100)) as store:
        dataset = store.torch_dataset("mid", 20)
    expected = made.values["features/mid/t20"].astype(np.float32)
    original, sizes = os.preadv, []

    def read(descriptor, buffers, offset):
        sizes.append(sum(map(len, buffers)))
        return original(descriptor, buffers, offset)

    monkeypatch.setattr(os, "preadv", read)
    for wanted, size in (
        ([999, 3, 300, 3], [262148, 262148, 262148]),
        ([3, 4, 998, -1], [1024] * 4),
        ([600, 5], [1024, 262148]),
        (list(range(520, 500, -1)), [1024] * 20),
    ):
        sizes.clear()
        items = dataset.__getitems__(wanted)
        assert sizes == size
        for (feature, _), row in zip(items, wanted, strict=True):
            np.testing.assert_array_equal(feature.numpy(), expected[row])


@pytest.mark.parametrize("dtype", ["float16", "int8"])
@pytest.mark.parametrize("large", [False, True])
def test_reading_into_an_array(job, request, dtype, large):
    if large:
        request.getfixturevalue("small_groups")
    with FeatureStore(job(dtype=dtype, shape=(128, 16, 16)).write()) as store:
        out = np.empty((6, 128, 16, 16), store["mid", 20].dtype)
        assert store.read("mid", 20, 2, 8, out=out) is out
        np.testing.assert_array_equal(out, store["mid", 20][2:8])
        for wrong in (out[:5], out.astype(np.float64), np.swapaxes(out, 2, 3)):
            with pytest.raises(SpecError, match="expected an unbroken"):
                store.read("mid", 20, 2, 8, out=wrong)


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
