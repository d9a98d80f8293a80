"""The write side, read back with plain h5py and numpy."""

from __future__ import annotations

import json
import os
import sys
import threading

import h5py
import numpy as np
import pytest

import diffeat
from diffeat.errors import StoreError
from diffeat.store import FeatureStore, verify
from tests.store.conftest import LEVELS


def test_root_attributes(job):
    made = job()
    with h5py.File(made.write()) as file:
        assert file.attrs["format"] == 1
        assert file.attrs["diffeat_version"] == diffeat.__version__
        assert json.loads(file.attrs["spec"]) == made.manifest.spec
        assert json.loads(file.attrs["model"])["name"] == "toy"
        assert json.loads(file.attrs["pictures"])["count"] == 10
        assert file.attrs["fingerprint"] == made.manifest.fingerprint
        assert bool(file.attrs["complete"]) is True


@pytest.mark.parametrize("dtype", ["float16", "float32"])
@pytest.mark.parametrize("shape", [(3, 2, 2), (12,)])
def test_values_shapes_and_dtypes(job, dtype, shape):
    made = job(dtype=dtype, shape=shape)
    with h5py.File(made.write(batch=3)) as file:
        for name, values in made.values.items():
            assert file[name].shape == (10, *shape)
            assert file[name].dtype == np.dtype(dtype)
            np.testing.assert_array_equal(file[name][:], values)


def test_block_names_become_groups_with_exactly_their_timesteps(job):
    with h5py.File(job(blocks=("mid", "up.1.attn.0")).write()) as file:
        assert set(file["features"]) == {"mid", "up.1.attn.0"}
        assert set(file["features/up.1.attn.0"]) == {"t20", "t60"}


@pytest.mark.parametrize("t", LEVELS)
def test_feature_attributes(job, t):
    alpha, sigma = LEVELS[t]
    with h5py.File(job().write()) as file:
        attrs = dict(file[f"features/up.1/t{t}"].attrs)
    assert len(attrs.pop("blake2b")) == 32
    assert attrs.pop("log_snr") == pytest.approx(np.log(alpha**2 / sigma**2))
    assert attrs == {
        "block": "up.1",
        "t": t,
        "alpha": alpha,
        "sigma": sigma,
        "layout": "NCHW",
        "stride": 8,
        "channels": 3,
    }


def test_ids_are_utf8(job):
    ids = ("ä/猫.png", "🐈.png", "a b'\"\n.png", "é.png")
    with h5py.File(job(count=4, ids=ids).write()) as file:
        info = h5py.check_string_dtype(file["ids"].dtype)
        assert info.encoding == "utf-8"
        assert tuple(file["ids"].asstr()[:]) == ids


def test_labels_and_their_names(job):
    labels = np.array([2, 0, 1, 1, 2, 0, 0, 1, 2, 2], np.int32)
    made = job(labels=labels, class_names=("cat", "dög", "鳥"))
    with h5py.File(made.write()) as file:
        assert file["labels"].dtype == np.int64
        np.testing.assert_array_equal(file["labels"][:], labels)
        assert list(file["labels"].attrs["names"]) == ["cat", "dög", "鳥"]


def test_no_labels_no_dataset(job):
    with h5py.File(job().write()) as file:
        assert set(file) == {"ids", "features"}


def test_five_thousand_class_names(job):
    names = tuple(f"class-{k:05d}-{'x' * 20}" for k in range(5000))
    labels = np.array([0, 4999, 17, 4321, 1, 2, 3, 4, 5, 6])
    path = job(labels=labels, class_names=names).write()
    with h5py.File(path) as file:
        assert tuple(file["labels"].attrs["names"]) == names
    with FeatureStore(path) as store:
        assert store.class_names[store.labels[3]] == names[4321]


@pytest.mark.parametrize("batch", [1, 3, 10, 64])
def test_batches_leave_no_trace(job, batch):
    made = job()
    with h5py.File(made.write(batch=batch)) as file:
        for name, values in made.values.items():
            np.testing.assert_array_equal(file[name][:], values)
    assert os.listdir(made.path.parent) == [made.path.name]


def test_many_shards_give_the_same_file(job, each_batch_a_shard):
    made = job(count=25)
    seen = []
    with made.writer() as writer:
        for start, stop in writer.remaining(2):
            made.add(writer, start, stop)
        writer.finish(lambda shards: seen.extend(shards) or shards)
    assert len(seen) == 13
    with h5py.File(made.path) as file:
        for name, values in made.values.items():
            np.testing.assert_array_equal(file[name][:], values)


def test_nothing_under_the_final_name_before_the_end(job, each_batch_a_shard):
    made = job()
    with made.writer() as writer:
        for start, stop in writer.remaining(4):
            made.add(writer, start, stop)
            assert not made.path.exists()
        writer.finish()
    assert verify(made.path) == []


def test_finish_refuses_when_pictures_are_missing(job):
    made = job()
    with made.writer() as writer:
        made.add(writer, 0, 4)
        with pytest.raises(StoreError, match="missing"):
            writer.finish()
    assert not made.path.exists()


# --- going on with what an earlier run left -------------------------------------------------


@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt])
def test_an_exception_keeps_finished_batches(job, error):
    made = job()
    made.begin((0, 4), (4, 8), error=error)
    assert not made.path.exists()
    with made.writer() as writer:
        assert writer.done == 8
        assert writer.remaining(4) == [(8, 10)]
        made.add(writer, 8, 10)
        writer.finish()
    with h5py.File(made.path) as file:
        np.testing.assert_array_equal(file["features/mid/t20"][:], made.values["features/mid/t20"])


@pytest.mark.parametrize("batch", [1, 3, 4, 7])
def test_gaps_are_filled_on_the_same_grid(job, batch, each_batch_a_shard):
    made = job(count=20)
    made.begin((8, 12))
    with made.writer() as writer:
        spans = writer.remaining(batch)
        covered = sorted([k for start, stop in spans for k in range(start, stop)])
        assert covered == [*range(8), *range(12, 20)]
        for start, stop in spans:
            assert start // batch == (stop - 1) // batch
            made.add(writer, start, stop)
        writer.finish()
    with h5py.File(made.path) as file:
        for name, values in made.values.items():
            np.testing.assert_array_equal(file[name][:], values)
        assert list(file["ids"].asstr()[:]) == list(made.source.ids)


def test_leftover_temporary_files_are_removed(job):
    made = job()
    parts = made.begin((0, 4))
    (parts / "shard-0000000004-0000000008.h5.tmp").write_bytes(b"half a shard")
    (parts / "merged.h5.tmp").write_bytes(b"half a file")
    with made.writer() as writer:
        assert not list(parts.glob("*.tmp"))
        assert writer.remaining(4) == [(4, 8), (8, 10)]


def test_a_complete_file_is_left_alone(job):
    made = job()
    before = made.write().stat()
    with made.writer() as writer:
        assert writer.complete
        assert writer.remaining(4) == []
    after = made.path.stat()
    assert (after.st_mtime_ns, after.st_ino) == (before.st_mtime_ns, before.st_ino)


# --- pictures that were left out ------------------------------------------------------------


def test_skipped_pictures(job):
    made = job(labels=np.arange(10) % 3, class_names=("a", "b", "c"))
    keep = [0, 2, 3, 4, 5, 6, 8]
    with h5py.File(made.write(skip=(1, 7, 9))) as file:
        assert list(file["ids"].asstr()[:]) == [made.source.ids[k] for k in keep]
        np.testing.assert_array_equal(file["labels"][:], made.labels[keep])
        for name, values in made.values.items():
            np.testing.assert_array_equal(file[name][:], values[keep])
        assert list(file["skipped/ids"].asstr()[:]) == [made.source.ids[k] for k in (1, 7, 9)]
        assert list(file["skipped/reasons"].asstr()[:]) == ["reason 1", "reason 7", "reason 9"]


def test_a_batch_and_a_shard_without_any_picture(job, each_batch_a_shard):
    made = job()
    with h5py.File(made.write(batch=4, skip=(4, 5, 6, 7))) as file:
        keep = [0, 1, 2, 3, 8, 9]
        for name, values in made.values.items():
            np.testing.assert_array_equal(file[name][:], values[keep])


def test_everything_skipped(job):
    made = job()
    with pytest.raises(StoreError, match=r"every picture was skipped.*reason 0"):
        made.write(skip=tuple(range(10)))
    assert not made.path.exists()


class TestWhatTheWriterKnowsOfItsFile:
    @pytest.mark.parametrize("skip", [(), (3, 5)])
    def test_rows_and_skipped_pictures(self, job, skip):
        made = job(how={"device": "cpu"})
        with made.writer() as writer:
            for start, stop in writer.remaining(4):
                made.add(writer, start, stop, skip)
            writer.finish()
        with made.writer() as again:  # finds the file
            assert again.complete
        for one in (writer, again):
            assert one.rows == 10 - len(skip)
            assert one.skipped == {f"class/{k:03d}.png": f"reason {k}" for k in skip}
            assert one.manifest.how == {"device": "cpu"}

    @pytest.mark.parametrize("wrong", ["labels", "skipped/reasons", "features"])
    def test_a_complete_file_with_a_damaged_header(self, job, wrong):
        made = job(labels=np.arange(10) % 2, class_names=("cat", "dog"))
        made.write(skip=(3,))
        with h5py.File(made.path, "r+") as file:
            del file[wrong]
            file[wrong] = np.zeros(3)
        with pytest.raises(StoreError, match="its description is damaged"), made.writer():
            pass


def test_eight_classes_make_a_file(job):
    seen = set()

    def note(frame, event, _):
        if event == "call" and frame.f_code.co_name == "__init__":
            made = type(frame.f_locals.get("self"))
            if made.__module__.startswith("diffeat.store"):
                seen.add(made.__name__)

    made = job()
    threading.setprofile(note)
    sys.setprofile(note)
    try:
        made.write()
    finally:
        sys.setprofile(None)
        threading.setprofile(None)
    assert {"Manifest", "ShardWriter", "StoreWriter"} <= seen
    assert len(seen) <= 8
