"""Shards by any process: overlaps, gaps, checksums, and what they say of themselves."""

from __future__ import annotations

import json
import multiprocessing
import re
import shutil
import threading
import tracemalloc

import h5py
import numpy as np
import pytest

from diffeat.errors import NumericsError, StoreError
from diffeat.store import FeatureStore, read_how, verify
from diffeat.store.format.layout import shard_folder
from diffeat.store.write import shards as shards_module
from diffeat.store.write.merge import _places

LABELS = np.arange(40) % 3
NAMES = ("cat", "dög", "鳥")


@pytest.fixture
def forty(job):
    return job(count=40, labels=LABELS, class_names=NAMES)


def content(path) -> dict:
    """Everything in a file but what says how it was made, by plain h5py."""
    found = {}

    def look(name, item):
        attrs = {key: np.asarray(value).tolist() for key, value in item.attrs.items()}
        attrs.pop("how", None)
        found[name] = (attrs, item[:].tolist() if isinstance(item, h5py.Dataset) else None)

    with h5py.File(path) as file:
        look("/", file)
        file.visititems(look)
    return found


@pytest.fixture
def whole(job):
    """The content of an undisturbed run."""
    return content(job("whole.h5", count=40, labels=LABELS, class_names=NAMES).write())


def work(made, spans) -> None:
    with made.shard_writer() as shards:
        for start, stop in spans:
            made.add(shards, start, stop)


def shard_files(made) -> list:
    return sorted(made.path.with_name(made.path.name + ".parts").glob("shard-*.h5"))


def test_other_processes_write_and_the_owner_merges(forty, whole):
    context = multiprocessing.get_context("spawn")
    spans = [(k, k + 4) for k in range(0, 40, 4)]
    with forty.writer() as writer:
        workers = [context.Process(target=work, args=(forty, spans[k::3])) for k in range(3)]
        for worker in workers:
            worker.start()
        for worker in workers:
            worker.join()
        assert [worker.exitcode for worker in workers] == [0, 0, 0]
        assert len(shard_files(forty)) == 3, "every third batch of a process is one shard"
        assert writer.covered() == [(0, 40)]
        writer.finish()
    assert content(forty.path) == whole


def test_the_owner_sees_shards_as_they_come(forty):
    with forty.writer() as writer, forty.shard_writer() as shards:
        assert writer.remaining(10) == [(0, 10), (10, 20), (20, 30), (30, 40)]
        forty.add(shards, 10, 20)
        assert writer.remaining(10) == [(0, 10), (10, 20), (20, 30), (30, 40)]
        shards.flush()
        assert writer.remaining(10) == [(0, 10), (20, 30), (30, 40)]
        path = shards.write_now(*forty.batch(30, 34))
        assert re.fullmatch(r"shard-0000000030-0000000034-[0-9a-f]{32}\.h5", path.name)
        assert writer.remaining(10) == [(0, 10), (20, 30), (34, 40)]
        assert writer.covered() == [(10, 20), (30, 34)]


@pytest.mark.parametrize(
    "spans",
    [
        [(0, 20), (10, 30), (25, 40)],
        [(0, 40), (5, 15), (5, 15)],
        [(0, 10), (10, 40), (0, 40)],
        [(k, min(k + 7, 40)) for k in range(0, 40, 3)],
    ],
)
def test_shards_that_overlap_do_no_harm(forty, whole, spans):
    with forty.writer() as writer:
        for span in spans:
            forty.shard_writer().write_now(*forty.batch(*span))
        assert writer.remaining(64) == []
        writer.finish()
    assert content(forty.path) == whole
    assert verify(forty.path) == []


def test_a_picture_is_taken_from_whoever_could_read_it(forty):
    with forty.writer() as writer:
        forty.shard_writer().write_now(*forty.batch(0, 20, skip=(3, 15)))
        forty.shard_writer().write_now(*forty.batch(10, 40, skip=(17, 30)))
        writer.finish()
    with FeatureStore(forty.path) as store:
        assert store.skipped == {f"class/{k:03d}.png": f"reason {k}" for k in (3, 30)}
        kept = [k for k in range(40) if k not in (3, 30)]
        np.testing.assert_array_equal(store["mid", 20][:], forty.values["features/mid/t20"][kept])
        np.testing.assert_array_equal(store.labels, LABELS[kept])


def test_shards_say_what_they_are(forty):
    parts = forty.begin((8, 12))
    (path,) = shard_files(forty)
    with h5py.File(path) as file:
        assert file["index"][:].tolist() == [8, 9, 10, 11]
        assert list(file["ids"].asstr()) == [f"class/{k:03d}.png" for k in range(8, 12)]
        assert file["labels"][:].tolist() == LABELS[8:12].tolist()
    note = json.loads((parts / "request.json").read_text())
    assert note["class_names"] == list(NAMES)
    assert note["pictures"]["count"] == 40
    assert [(c["name"], c["shape"], c["dtype"]) for c in note["columns"]] == [
        (c.name, list(c.shape), c.dtype) for c in forty.columns
    ]


@pytest.mark.parametrize("at", [0.01, 0.3, 0.6, 0.99])
def test_a_damaged_shard_is_named_removed_and_made_again(forty, whole, at, each_batch_a_shard):
    forty.begin((0, 20), (20, 40))
    bad = shard_files(forty)[1]
    data = bytearray(bad.read_bytes())
    data[int(at * len(data))] ^= 4
    bad.write_bytes(data)
    with forty.writer() as writer:
        if not writer.remaining(64):  # else its header is gone, which is seen at once
            with pytest.raises(StoreError, match=rf"{bad.name} has another checksum.*again"):
                writer.finish()
        assert writer.remaining(64) == [(20, 40)]
    with forty.writer() as writer:
        assert writer.done == 20
        forty.add(writer, 20, 40)
        writer.finish()
    assert content(forty.path) == whole


def test_all_damaged_shards_are_found_at_once(forty, each_batch_a_shard):
    forty.begin((0, 10), (10, 20), (20, 30), (30, 40))
    names = [path.name for path in shard_files(forty)]
    for path in shard_files(forty)[1::2]:
        data = bytearray(path.read_bytes())
        data[-1] ^= 1
        path.write_bytes(data)
    with forty.writer() as writer:
        with pytest.raises(StoreError) as caught:
            writer.finish()
        assert names[1] in str(caught.value)
        assert names[3] in str(caught.value)
        assert writer.remaining(64) == [(10, 20), (30, 40)]


def test_a_late_shard_of_another_request_is_passed_over(job):
    earlier = job(seed=1)
    with earlier.writer() as writer:
        late = earlier.shard_writer()
        late.write_now(*earlier.batch(0, 4))
        assert writer.covered() == [(0, 4)]
    made = job(seed=2)
    with made.writer(overwrite=True) as writer:
        late.write_now(*earlier.batch(4, 8))
        assert writer.covered() == []
        made.add(writer, 0, 10)
        writer.finish()
    with h5py.File(made.path) as file:
        np.testing.assert_array_equal(file["features/mid/t20"], made.values["features/mid/t20"])


def test_a_shard_after_the_end_is_refused(forty):
    late = forty.shard_writer()
    forty.write()
    with pytest.raises(StoreError, match=r"nobody is making .*features\.h5, or it is finished"):
        late.write_now(*forty.batch(0, 4))
    assert verify(forty.path) == []


def test_parts_removed_while_a_shard_is_written(forty, monkeypatch):
    """After the folder was looked at, and before the file is renamed into it."""
    writer = forty.shard_writer()
    with forty.writer():
        monkeypatch.setattr(shards_module, "memory_image", lambda fill: removed(forty))
        with pytest.raises(StoreError, match=r"nobody is making .*features\.h5"):
            writer.write_now(*forty.batch(0, 4))
        monkeypatch.undo()
        shard_folder(forty.path).mkdir()


def removed(job) -> bytes:
    shutil.rmtree(shard_folder(job.path))
    return b"a shard"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"indices": [0, 1, 2]}, "one for each"),
        ({"indices": [0, 1, 2, 2]}, "one for each"),
        ({"indices": [0, 1, 2, 4]}, "one for each"),
        ({"errors": [(3, "why")]}, "one for each"),
        ({"values": {}}, "features/mid/t20: a batch of shape None"),
    ],
)
def test_batches_that_do_not_add_up(forty, change, message):
    names = ("span", "indices", "values", "errors")
    batch = dict(zip(names, forty.batch(0, 4), strict=True)) | change
    with forty.writer(), pytest.raises(StoreError, match=message), forty.shard_writer() as shards:
        shards.add(**batch)


def test_numbers_too_large_for_half_precision(forty):
    forty.values["features/up.1/t20"] = np.full((40, 3, 2, 2), 1e6, np.float32)
    with forty.writer(), pytest.raises(NumericsError, match=r"up\.1/t20.*float16.*float32"):
        forty.shard_writer().write_now(*forty.batch(0, 4))


def test_many_batches_apart_make_few_shards(job):
    made = job(count=2200)
    with made.writer() as writer:
        with made.shard_writer() as shards:
            for k in range(0, 2200, 2):
                made.add(shards, k, k + 1)
        assert len(shard_files(made)) == 2  # 1000 ranges in each at most
        assert writer.remaining(1) == [(k, k + 1) for k in range(1, 2200, 2)]


def test_the_thread_ends_with_the_writer(forty):
    with forty.writer():
        before = threading.active_count()
        work(forty, [(0, 4)])
        assert threading.active_count() == before


# --- how it was made ------------------------------------------------------------------------


def test_how_is_noted_and_is_no_part_of_the_identity(job):
    one = job(how={"device": "cpu", "batch_size": 8})
    assert read_how(one.path) == {}
    one.begin((0, 4))
    assert read_how(one.path) == {"device": "cpu", "batch_size": 8}
    one.write()
    assert read_how(one.path) == {"device": "cpu", "batch_size": 8}
    with FeatureStore(one.path) as store:
        assert store.how == {"device": "cpu", "batch_size": 8}
    other = job(how={"device": "cuda"})
    assert other.manifest.fingerprint == one.manifest.fingerprint
    with other.writer() as writer:
        assert writer.complete


def test_going_on_in_another_way_is_said_once(job):
    job(how={"device": "cpu", "batch_size": 8}).begin((0, 4))
    made = job(how={"device": "cpu", "batch_size": 16})
    with pytest.warns(UserWarning, match=r"batch_size: 8 → 16\).*last bits") as caught:
        made.write()
    assert len(caught) == 1
    assert "device" not in str(caught[0].message)
    with FeatureStore(made.path) as store:
        assert store.how["batch_size"] == 16
        assert store.how["earlier"] == [{"device": "cpu", "batch_size": 8}]


def test_going_on_in_the_same_way_says_nothing(job):
    made = job(how={"sizes": (1, 2), "device": "cpu"})
    made.begin((0, 4))
    made.write()
    with FeatureStore(made.path) as store:
        assert store.how == {"sizes": [1, 2], "device": "cpu"}


def test_how_of_what_cannot_be_read(job):
    made = job()
    made.path.write_text("no feature file")
    assert read_how(made.path) == {}


# --- shards of older versions ---------------------------------------------------------------


def make_older(made) -> None:
    """Turn shards into those of version 0.2: no checksum, no ids, nothing about the request."""
    for path in shard_files(made):
        with h5py.File(path, "r+") as file:
            for name in ("ids", "labels", "skipped_ids"):
                if name in file:
                    del file[name]
            for name in list(file.attrs):
                del file.attrs[name]
        path.rename(path.with_name(path.name[:27] + ".h5"))
    assert [path.name for path in shard_files(made)] == [
        "shard-0000000000-0000000020.h5", "shard-0000000020-0000000030.h5"
    ]  # fmt: skip


def test_older_shards_are_gone_on_with(forty, whole, each_batch_a_shard):
    forty.begin((0, 20), (20, 30))
    make_older(forty)
    with forty.writer() as writer:
        assert writer.done == 30
        forty.add(writer, 30, 40)
        writer.finish()
    assert content(forty.path) == whole


# --- what may pass --------------------------------------------------------------------------


def test_a_shard_that_could_not_be_read_once_is_looked_at_again(forty):
    with forty.writer() as writer:
        path = forty.shard_writer().write_now(*forty.batch(0, 4))
        whole = path.read_bytes()
        path.write_bytes(b"not yet there")
        assert writer.covered() == []
        path.write_bytes(whole)
        assert writer.covered() == [(0, 4)]


def test_a_skipped_picture_makes_the_merge_no_larger():
    def peak(skipped) -> int:
        shard = {"index": np.arange(1_000_000), "skipped_index": np.array(skipped, np.int64)}
        tracemalloc.start()
        places, left_out = _places([shard])
        assert [len(one) for one in places] == [1_000_000] * 2
        assert [k for k, _, _ in left_out] == [k for k in skipped if k >= 1_000_000]
        found = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        return found

    assert peak([7, 1_000_000, 1_000_003]) < 1.2 * peak([])
