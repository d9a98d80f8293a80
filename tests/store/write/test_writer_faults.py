"""Disks that are full, and memory."""

from __future__ import annotations

import errno
import os
import subprocess
import sys
import tracemalloc

import h5py
import numpy as np
import pytest

from diffeat.errors import StoreError
from diffeat.store import verify


def full_disk(_descriptor):
    raise OSError(errno.ENOSPC, "No space left on device")


def fails_at(monkeypatch, function: str, number: int, error: int) -> list:
    """The `number`-th call of a function of `os` raises; returns a list of the calls."""
    original, calls = getattr(os, function), []

    def call(*args, **kwargs):
        calls.append(args)
        if len(calls) == number:
            raise OSError(error, os.strerror(error))
        return original(*args, **kwargs)

    monkeypatch.setattr(os, function, call)
    return calls


def test_the_system_reports_a_full_disk(job, monkeypatch):
    made = job()
    parts = made.begin((0, 4))
    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", full_disk)
        with pytest.raises(StoreError, match="disk is full") as caught:
            made.write()
    assert str(made.path) in str(caught.value)
    assert not made.path.exists()
    assert not list(parts.glob("*.tmp"))
    with made.writer() as writer:
        assert writer.done == 4
    assert verify(made.write()) == []


@pytest.mark.parametrize("error", [errno.ENOSPC, errno.EDQUOT])
@pytest.mark.parametrize("number", [1, 3, 5, 6])
def test_a_full_disk_in_the_middle_of_shards(job, monkeypatch, each_batch_a_shard, error, number):
    made = job()
    with monkeypatch.context() as patch:
        # of the note and of three shards: the file, then its folder; then the merged file
        fails_at(patch, "fsync", number, error)
        with pytest.raises(StoreError, match=r"disk is full.*Finished pictures are kept"):
            made.write()
    assert not made.path.exists()
    with made.writer() as writer:
        assert writer.done == {1: 0, 3: 0, 5: 4, 6: 8}[number]  # the 6th is of a folder
        assert not list(writer.folder.path.glob("*.tmp"))
    assert verify(made.write()) == []


def check_that_only_the_merge_is_left(made) -> None:
    with made.writer() as writer:
        assert writer.remaining(4) == []
        writer.finish()
    with h5py.File(made.path) as file:
        for name, values in made.values.items():
            np.testing.assert_array_equal(file[name][:], values)


def test_room_is_set_aside_before_hdf5_writes(job, monkeypatch):
    made = job()
    asked = []

    def no_room(path, wanted):
        asked.append(wanted)
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr("diffeat.store.format.atomic.reserve", no_room)
        patch.setattr(h5py.Group, "create_dataset", None)  # nothing is written before
        patch.setattr("diffeat.store.write.shards.memory_image", lambda fill: b"")
        with pytest.raises(StoreError):
            made.write()
    assert asked == []  # the shards were no shards
    made.begin((0, 4), (4, 8), (8, 10))
    with monkeypatch.context() as patch:
        patch.setattr("diffeat.store.format.atomic.reserve", no_room)
        with pytest.raises(StoreError, match="disk is full"):
            made.write()
    assert asked[0] >= sum(values.nbytes for values in made.values.values())
    assert not list(made.path.parent.glob("*.parts/*.tmp"))
    check_that_only_the_merge_is_left(made)


def test_what_was_set_aside_and_not_needed_is_given_back(job):
    made = job(count=64, shape=(32, 8, 8))
    for values in made.values.values():
        values[:] = 0  # compresses to nearly nothing
    stat = made.write(compression="gzip").stat()
    assert stat.st_size < 100_000
    assert stat.st_blocks * 512 < stat.st_size + 100_000


def test_reserving_more_than_the_disk_has(tmp_path):
    from diffeat.store.format.atomic import reserve

    path = tmp_path / "x"
    path.write_bytes(b"content")
    free = os.statvfs(tmp_path)
    with pytest.raises(OSError, match="No space") as caught:
        reserve(path, free.f_blocks * free.f_frsize * 2)
    assert caught.value.errno == errno.ENOSPC
    reserve(path, 1 << 20)
    assert path.read_bytes() == b"content"
    assert path.stat().st_size == len(b"content")


LIMITED = """
import resource, sys
from pathlib import Path
from tests.store.conftest import Job
import diffeat.store.write.writer as writer
writer.SHARD_SECONDS = 0
made = Job(Path(sys.argv[1]), count=40, shape=(64, 8, 8))
resource.setrlimit(resource.RLIMIT_FSIZE, (int(sys.argv[2]), resource.RLIM_INFINITY))
try:
    made.write()
except Exception as error:
    print(type(error).__name__, error)
"""


@pytest.mark.parametrize(("limit", "done"), [(50_000, 0), (300_000, 40)])
def test_a_limit_of_file_sizes(job, limit, done):
    made = job(count=40, shape=(64, 8, 8))  # shards of 131 KiB, a file of 1.3 MiB
    seen = subprocess.run(
        [sys.executable, "-c", LIMITED, str(made.path), str(limit)],
        capture_output=True, text=True, check=True, timeout=60,
    )  # fmt: skip
    assert seen.stdout.startswith(f"StoreError {made.path}: cannot be written"), seen.stderr
    assert "Finished pictures are kept" in seen.stdout
    assert not made.path.exists()
    with made.writer() as writer:
        assert writer.done == done
        for start, stop in writer.remaining(4):
            made.add(writer, start, stop)
        writer.finish()
    assert verify(made.path) == []


def test_a_failed_write_soon_stops_the_run(job, monkeypatch, each_batch_a_shard):
    made = job(count=400)
    added = []

    def run():
        with made.writer() as writer:
            monkeypatch.setattr(os, "fsync", full_disk)
            for start in range(0, 400, 4):
                made.add(writer, start, start + 4)
                added.append(start)

    with pytest.raises(StoreError, match="disk is full"):
        run()
    # two batches may wait in the queue and one be in the writer's hands
    assert 0 < len(added) <= 5


# --- memory ---------------------------------------------------------------------------------


def peak_bytes(made) -> int:
    row = {name: values[:1] for name, values in made.values.items()}
    with made.writer() as writer:
        tracemalloc.start()
        try:
            for k in range(made.count):
                batch = {name: np.repeat(value, 1, axis=0) for name, value in row.items()}
                writer.add((k, k + 1), [k], batch)
            writer.finish()
            return tracemalloc.get_traced_memory()[1]
        finally:
            tracemalloc.stop()


def test_memory_does_not_grow_with_the_number_of_pictures(job, monkeypatch):
    monkeypatch.setattr("diffeat.store.write.writer.SHARD_BYTES", 1 << 20)
    shape = (128, 16, 16)  # 64 KiB in each of four columns
    few = job("few.h5", count=16, shape=shape)
    many = job("many.h5", count=160, shape=shape)
    total = sum(values.nbytes for values in many.values.values())
    small, large = peak_bytes(few), peak_bytes(many)
    assert large < 1.3 * small + (1 << 20)
    assert large < total / 4


@pytest.mark.parametrize("number", [1, 2, 5, 9])
def test_a_write_that_fails_under_hdf5(job, monkeypatch, each_batch_a_shard, number):
    """The process goes on and nothing half-made is left; HDF5 alone might crash it."""
    made = job(count=40, shape=(64, 8, 8))
    made.begin(*((k, k + 4) for k in range(0, 40, 4)))
    with monkeypatch.context() as patch:
        calls = fails_at(patch, "pwrite", number, errno.ENOSPC)
        with pytest.raises(StoreError, match="disk is full"):
            made.write()
        assert len(calls) == number, "it went on writing"
    assert not made.path.exists()
    check_that_only_the_merge_is_left(made)
