"""The read side: FeatureStore, its torch dataset, and verify."""

from __future__ import annotations

import hashlib
import threading
import tracemalloc

import h5py
import numpy as np
import pytest
import torch
from torch.utils.data import DataLoader

from diffeat.errors import SpecError, StoreError
from diffeat.specs import ExtractSpec
from diffeat.store import FeatureStore, merge_files, verify
from diffeat.store.format.checksums import checksum

ROW = (128, 16, 16)  # 64 KiB in float16, so that 10 pictures take several chunks


def damage_last_chunk(path, name: str) -> int:
    """Flip one bit of a data set, in its last chunk or row; returns the first row of that."""
    with h5py.File(path) as file:
        data = file[name]
        if data.chunks:
            info = data.id.get_chunk_info(data.id.get_num_chunks() - 1)
            offset, row = info.byte_offset + info.size // 2, info.chunk_offset[0]
        else:
            row = len(data) - 1
            offset = data.id.get_offset() + data.nbytes - data.dtype.itemsize
    with open(path, "r+b") as file:
        file.seek(offset)
        byte = file.read(1)[0]
        file.seek(offset)
        file.write(bytes([byte ^ 0x10]))
    return row


def edit(path, change) -> None:
    with h5py.File(path, "r+") as file:
        change(file)


def test_what_a_store_knows(job):
    made = job(labels=np.arange(10) % 3, class_names=("a", "b", "ç"))
    with FeatureStore(made.write()) as store:
        assert len(store) == 10
        assert store.ids == list(made.source.ids)
        np.testing.assert_array_equal(store.labels, made.labels)
        assert store.class_names == ["a", "b", "ç"]
        assert store.blocks == ["mid", "up.1"]
        assert store.timesteps == [20, 60]
        assert store.spec == ExtractSpec(timesteps=(20, 60), blocks=("mid", "up.1"))
        assert store.model["fingerprint"] == "m0"
        assert store.pictures["name"] == "made-up"
        assert store.fingerprint == made.manifest.fingerprint
        assert store.skipped == {}


def test_without_labels(job):
    with FeatureStore(job().write()) as store:
        assert store.labels is None
        assert store.class_names == []


def test_skipped_pictures_and_reasons(job):
    made = job()
    with FeatureStore(made.write(skip=(1, 7))) as store:
        assert len(store) == 8
        assert store.skipped == {
            "class/001.png": "reason 1",
            "class/007.png": "reason 7",
        }


@pytest.mark.parametrize("rows", [slice(2, 5), slice(None), slice(None, None, 3), 7, [1, 4, 8]])
def test_slices(job, rows):
    made = job()
    with FeatureStore(made.write()) as store:
        expected = made.values["features/up.1/t60"][rows]
        np.testing.assert_array_equal(store["up.1", 60][rows], expected)


@pytest.mark.parametrize("t", [20, 20.0, np.int64(20)])
def test_t_may_be_any_number_type(job, t):
    with FeatureStore(job().write()) as store:
        assert store["mid", t].name == "/features/mid/t20"


def test_slicing_reads_only_what_is_asked_for(job):
    made = job(shape=ROW)
    path = made.write(compression="gzip")
    row = damage_last_chunk(path, "features/mid/t20")
    assert row > 0
    with FeatureStore(path) as store:
        data = store["mid", 20]
        np.testing.assert_array_equal(data[:row], made.values["features/mid/t20"][:row])
        with pytest.raises(OSError, match=r"filter returned failure|inflate|Fletcher32"):
            data[row:]


def test_an_unknown_block_names_the_nearest(sound):
    with (
        FeatureStore(sound) as store,
        pytest.raises(SpecError, match=r"no block 'up\.2'.*did you mean 'up\.1'"),
    ):
        store["up.2", 20]


def test_an_unknown_t_names_those_there_are(sound):
    with FeatureStore(sound) as store, pytest.raises(SpecError, match="no t=30; it has 20, 60"):
        store["mid", 30]


@pytest.mark.parametrize("key", [("mid", "often"), ("mid", None), "often", ("mid", 20, 1), (7, 20)])
def test_keys_that_make_no_sense(sound, key):
    with FeatureStore(sound) as store, pytest.raises(SpecError):
        store[key]


def test_closed_by_the_context_manager(sound):
    with FeatureStore(sound) as store:
        pass
    assert not store.file


def test_two_readers_at_once(sound):
    with FeatureStore(sound) as one, FeatureStore(sound) as two:
        np.testing.assert_array_equal(one["mid", 20][:], two["mid", 20][:])


# --- torch ----------------------------------------------------------------------------------


def test_torch_dataset_in_a_loader(job):
    made = job(labels=np.arange(10) % 2, class_names=("cat", "dog"))
    with FeatureStore(made.write()) as store:
        dataset = store.torch_dataset("up.1", 20)
        assert len(dataset) == 10
        features, labels = zip(*DataLoader(dataset, batch_size=4, num_workers=0), strict=True)
    assert features[0].dtype == torch.float32
    expected = made.values["features/up.1/t20"].astype(np.float32)
    np.testing.assert_array_equal(torch.cat(features).numpy(), expected)
    np.testing.assert_array_equal(torch.cat(labels).numpy(), made.labels)


def test_torch_dataset_without_labels(job):
    with FeatureStore(job().write()) as store:
        assert store.torch_dataset("mid", 60)[3][1] == -1


@pytest.mark.parametrize("index", [10, -11])
def test_torch_dataset_ends(sound, index):
    with FeatureStore(sound) as store:
        dataset = store.torch_dataset("mid", 20)
    assert torch.equal(dataset[-1][0], dataset[9][0])
    with pytest.raises(IndexError):
        dataset[index]


def test_torch_dataset_outlives_the_store_and_a_pickle(sound):
    import pickle

    with FeatureStore(sound) as store:
        dataset = store.torch_dataset("mid", 20)
    first = dataset[0][0]
    assert torch.equal(pickle.loads(pickle.dumps(dataset))[0][0], first)


def test_an_error_frees_hdf5_for_other_threads(job):
    path = job().write()
    edit(path, lambda file: file["features/mid/t20"].attrs.__delitem__("t"))
    with FeatureStore(path) as store:
        try:
            caught = store.timesteps and None
        except Exception as error:
            caught = error  # as a debugger or a test does, with all its frames
        done = threading.Event()
        threading.Thread(target=lambda: len(store.file) and done.set(), daemon=True).start()
        free = done.wait(2)
        del caught
    assert free


@pytest.mark.parametrize(("block", "t"), [("up.2", 20), ("mid", 30)])
def test_torch_dataset_of_what_is_not_there(sound, block, t):
    with FeatureStore(sound) as store, pytest.raises(SpecError):
        store.torch_dataset(block, t)


def test_torch_dataset_says_which_file_is_damaged(job):
    path = job(shape=ROW).write(compression="gzip")
    row = damage_last_chunk(path, "features/mid/t20")
    with FeatureStore(path) as store:
        dataset = store.torch_dataset("mid", 20)
    assert dataset[0][0].shape == ROW
    with pytest.raises(StoreError, match=path.name):
        dataset[row]


# --- files that are not ready ---------------------------------------------------------------


@pytest.mark.parametrize("name", ["nothing.h5", "no/such/folder.h5", "x" * 300 + ".h5"])
def test_a_missing_file(tmp_path, name):
    with pytest.raises(StoreError, match=name[:5]):
        FeatureStore(tmp_path / name)


def test_an_unfinished_extraction_is_named(job):
    made = job()
    made.begin((0, 4))
    with pytest.raises(StoreError, match="unfinished extraction"):
        FeatureStore(made.path)


@pytest.mark.parametrize("reader", [FeatureStore, verify])
def test_an_incomplete_file(sound, reader):
    edit(sound, lambda file: file.attrs.__setitem__("complete", False))
    with pytest.raises(StoreError, match="not complete"):
        reader(sound)


def test_a_folder_is_no_file(tmp_path):
    with pytest.raises(StoreError):
        FeatureStore(tmp_path)


# --- verify ---------------------------------------------------------------------------------


@pytest.mark.parametrize("skip", [(), (0, 9)])
def test_a_sound_file(job, skip):
    made = job(labels=np.arange(10) % 2, class_names=("cat", "dog"))
    assert verify(made.write(skip=skip)) == []


@pytest.mark.parametrize("name", ["features/mid/t20", "features/up.1/t60"])
@pytest.mark.parametrize("dtype", ["float16", "int8"])
@pytest.mark.parametrize("compression", ["none", "gzip"])
def test_a_flipped_bit_is_found(job, name, dtype, compression):
    path = job(shape=ROW, dtype=dtype).write(compression=compression)
    damage_last_chunk(path, name)
    (problem,) = verify(path)
    assert name in problem
    assert "checksum" in problem or "cannot be read" in problem


@pytest.mark.parametrize("name", ["ids", "labels"])
def test_another_name_or_label_is_found(job, name):
    path = job(labels=np.arange(10) % 2, class_names=("cat", "dog")).write()
    edit(path, lambda file: file[name].__setitem__(3, {"ids": "other", "labels": 0}[name]))
    assert any(problem.startswith(f"{name}: another checksum") for problem in verify(path))


@pytest.mark.parametrize("name", ["skipped/ids", "skipped/reasons"])
@pytest.mark.parametrize("joined", [False, True])
def test_other_words_about_skipped_pictures_are_found(job, tmp_path, name, joined):
    path = job().write(skip=(3, 5))
    path = merge_files([path], tmp_path / "out.h5") if joined else path
    edit(path, lambda file: file[name].__setitem__(1, "other"))
    assert verify(path) == [f"{name}: another checksum than when they were written"]


def test_the_checksum_of_texts_takes_no_room():
    texts = ["é", "x" * 5000, *map(str, range(2000))]  # 40 MB as an array of equal widths
    tracemalloc.start()
    found = checksum(texts)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 1 << 20
    wanted = "".join(text + "\0" for text in texts).encode()
    assert found == hashlib.blake2b(wanted, digest_size=16).hexdigest()


def test_the_checksum_is_that_of_the_rows(job):
    made = job(shape=ROW)
    with h5py.File(made.write()) as file:
        data = file["features/mid/t20"]
        wanted = hashlib.blake2b(made.values["features/mid/t20"].tobytes(), digest_size=16)
        assert data.attrs["blake2b"] == wanted.hexdigest()
        assert data.chunks is None  # one array in the file


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_numbers_that_are_not_finite(sound, value):
    edit(sound, lambda file: file["features/mid/t60"].__setitem__((3, 0, 1, 1), value))
    (problem,) = verify(sound)
    assert "features/mid/t60" in problem
    assert "inf or nan" in problem


@pytest.mark.parametrize("name", ["features/mid/t60", "features/up.1/t20"])
def test_a_missing_dataset(sound, name):
    edit(sound, lambda file: file.__delitem__(name))
    (problem,) = verify(sound)
    assert problem.startswith(f"{name} is missing")


def test_a_missing_block(sound):
    edit(sound, lambda file: file.__delitem__("features/mid"))
    problems = verify(sound)
    assert [problem.split(";")[0] for problem in problems] == [
        "features/mid/t20 is missing",
        "features/mid/t60 is missing",
    ]


@pytest.mark.parametrize(
    "name", ["block", "t", "alpha", "sigma", "log_snr", "layout", "stride", "channels"]
)
def test_a_missing_attribute(sound, name):
    edit(sound, lambda file: file["features/mid/t20"].attrs.__delitem__(name))
    (problem,) = verify(sound)
    assert "features/mid/t20" in problem
    assert repr(name) in problem


def replace(name: str, value):
    """A change that puts `value` in the place of a data set, with its attributes."""

    def change(file):
        attrs = dict(file[name].attrs)
        del file[name]
        file[name] = value
        file[name].attrs.update(attrs)

    return change


@pytest.mark.parametrize(
    ("change", "word"),
    [
        (replace("features/mid/t20", np.zeros((9, 3, 2, 2), np.float16)), "shape"),
        (replace("features/mid/t20", 1.0), "shape"),
        (replace("labels", np.zeros(9, np.int64)), "labels"),
        (replace("labels", np.full(10, 2)), "labels"),
        (replace("labels", np.full(10, -1)), "labels"),
        (replace("ids", ["same"] * 10), "unique"),
    ],
)
def test_contradictions(sound, change, word):
    edit(sound, change)
    try:
        problems = verify(sound)
    except StoreError as error:  # refused at the door is as good
        problems = [str(error)]
    assert any(word in problem for problem in problems)
