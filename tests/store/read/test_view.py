"""Rows in any order, and levels by what was asked for, of floats and of int8 alike."""

from __future__ import annotations

import h5py
import numpy as np
import pytest
import torch

from diffeat.errors import SpecError
from diffeat.store import FeatureStore
from probes.lazy import Rows, is_lazy

KEYS = {
    "unsorted": [5, 2, 2],
    "negative": [-1, 0, -10],
    "array": np.array([9, 0, 3], np.uint8),
    "tensor": torch.tensor([3, 1, 1]),
    "range": range(8, 2, -3),
    "mask": np.arange(10) % 3 == 0,
    "list of bools": [True, False] * 5,
    "tensor mask": torch.arange(10) > 7,
    "none": [],
    "no mask": np.zeros(10, bool),
    "one": -1,
    "slice": slice(2, 9, 3),
    "part": (slice(1, 4), [2, 0], 1),
    "ellipsis": (..., 0),
    "rows and channels": ([4, 1], slice(0, 2)),
    "nothing of rows": ([4, 1], slice(3, 1)),
    "all": (),
}


@pytest.fixture(params=["float16", "int8"])
def store(job, request):
    path = job(dtype=request.param, labels=np.arange(10) % 2, class_names=("cat", "dog")).write()
    with FeatureStore(path) as store:
        yield store


def as_numpy(key):
    return key.numpy() if isinstance(key, torch.Tensor) else list(key) if isinstance(
        key, range) else key  # fmt: skip


@pytest.mark.parametrize("key", KEYS.values(), ids=KEYS)
def test_rows_are_those_of_the_whole_array(key, store):
    data = store["up.1", 60]
    whole = data[:]
    expected = whole[as_numpy(key) if not (isinstance(key, list) and not key) else slice(0)]
    found = data[key]
    assert found.dtype == whole.dtype
    np.testing.assert_array_equal(found, expected)


@pytest.mark.parametrize(
    ("key", "error"),
    [([10], IndexError), ([-11], IndexError), (np.ones(9, bool), IndexError), ([0.5], TypeError),
     ((0,) * 9 + ([1],), IndexError), (10, IndexError), (([1], [0]), IndexError)],
)  # fmt: skip
def test_rows_that_are_not_there(key, error, store):
    with pytest.raises(error) as found:
        store["up.1", 60][key]
    assert "array(" not in str(found.value)


def test_it_reads_like_a_data_set(store):
    data = store["up.1", 60]
    assert is_lazy(data)
    assert len(data) == data.shape[0] == 10
    assert data.ndim == len(data.shape)
    assert data.size * data.dtype.itemsize == data.nbytes
    assert data.attrs["block"] == "up.1"
    np.testing.assert_array_equal(np.asarray(data), data[...])
    np.testing.assert_array_equal(np.stack(list(data)), data[:])
    np.testing.assert_array_equal(Rows(data)[np.array([7, 1, 1])], data[[7, 1, 1]])
    if data.scales is None:  # whatever else h5py gives
        out = np.empty((3, *data.shape[1:]), data.dtype)
        data.read_direct(out, np.s_[2:5])
        np.testing.assert_array_equal(out, data[2:5])
        assert data.file.filename == str(store.path)
    else:
        with pytest.raises(AttributeError, match="read_direct"):
            data.read_direct()
    text = repr(data)
    store.close()
    assert "up.1" in text
    assert "closed" in repr(data)


def test_what_is_in_order_is_read_once_and_as_h5py_reads_it(store, monkeypatch):
    asked, read = [], h5py.Dataset.__getitem__

    def watched(self, key, **options):
        asked.append(key)
        return read(self, key, **options)

    data = store["up.1", 60]
    monkeypatch.setattr(h5py.Dataset, "__getitem__", watched)
    data[3:7]
    assert asked[0] == slice(3, 7) or asked[0][0] == slice(3, 7)
    asked.clear()
    data[[1, 4, 4, 2]]
    assert [np.asarray(key[0] if isinstance(key, tuple) else key).tolist() for key in asked] == [
        [1, 2, 4]
    ] * (1 if data.scales is None else 2)


def test_all_t_of_a_block(store):
    levels = store["up.1"]
    assert list(levels) == store.timesteps
    assert levels[60] is store["up.1", 60]
    assert repr(levels).startswith("Levels('up.1', {")
    with pytest.raises(SpecError, match=r"has no block 'up\.9'"):
        store["up.9"]
    for key in (torch.zeros(3), (torch.zeros(3), 20), ("up.1", torch.zeros(3)), (np.zeros(2),)):
        with pytest.raises(SpecError) as found:
            store[key]
        assert "tensor(" not in str(found.value)
        assert "array(" not in str(found.value)


def test_a_note_that_is_none(job):
    """Whatever a stranger's file says was asked for, native t are found."""
    path = job().write()
    with h5py.File(path, "r+") as file:
        file["features/mid/t20"].attrs["asked"] = "\x1b[31m"
        file["features/up.1/t60"].attrs["asked"] = "snr=8"
    with FeatureStore(path) as store:
        assert store.level(20).t == 20
        assert store.level("snr=8").t == 60
        assert [one.asked for one in store.levels] == [
            {60: "snr=8"}.get(t) for t in store.timesteps
        ]


def test_a_store_shows_itself(store):
    text = repr(store)
    for part in (str(store.path), "10 pictures, 2 classes (cat, dog)", store.model["name"], "pool=",
                 str(store["up.1", 60].shape), "60"):  # fmt: skip
        assert part in text, part
    assert len(text) < 2000
    store.close()
    assert repr(store) == f"FeatureStore({str(store.path)!r}, closed)"
