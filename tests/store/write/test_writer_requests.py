"""Outputs that are there already, of the same request or of another, and two writers at once."""

from __future__ import annotations

import contextlib
import errno
import json
import os
import shutil
from pathlib import Path

import h5py
import numpy as np
import pytest

from diffeat.errors import SpecMismatch, StoreError
from diffeat.store import FeatureStore, StoreWriter, verify


@pytest.mark.parametrize(
    ("change", "field"),
    [
        ({"seed": 1}, "seed"),
        ({"blocks": ("mid",)}, "blocks"),
        ({"dtype": "float32"}, "dtype"),
        ({"model": "m1"}, "model"),
        ({"count": 11}, "other pictures"),
        ({"ids": tuple("abcdefghij")}, "pictures"),
        ({"labels": np.zeros(10, int), "class_names": ("a",)}, "pictures"),
    ],
)
def test_another_request_is_refused_and_the_field_named(job, change, field):
    path = job().write()
    content = path.read_bytes()
    with pytest.raises(SpecMismatch, match=rf"\b{field}: ") as caught, job(**change).writer():
        pass
    assert isinstance(caught.value, StoreError)
    assert path.read_bytes() == content


def test_only_the_field_that_differs_is_named(job):
    job().write()
    with pytest.raises(SpecMismatch) as caught, job(seed=7).writer():
        pass
    assert "seed: 0 → 7" in str(caught.value)
    assert "blocks" not in str(caught.value)
    assert "pictures" not in str(caught.value)


def test_unfinished_parts_of_another_request_are_refused(job):
    made = job()
    made.begin((0, 4))
    with pytest.raises(SpecMismatch, match="seed: 0 → 3"), job(seed=3).writer():
        pass
    with made.writer() as writer:
        assert writer.done == 4


def test_a_refused_writer_holds_no_lock(job):
    made = job()
    made.begin((0, 4))
    with pytest.raises(SpecMismatch) as caught, job(seed=3).writer():
        pass
    # the caught error still refers to the refused writer
    other = job(seed=3)
    other.write(overwrite=True)
    assert caught.value is not None
    with FeatureStore(other.path) as store:
        assert store.spec.seed == 3


def test_overwrite_replaces_a_finished_file(job):
    job().write()
    other = job(seed=5)
    other.write(overwrite=True)
    with h5py.File(other.path) as file:
        assert json.loads(file.attrs["spec"])["seed"] == 5
        name = "features/mid/t60"
        np.testing.assert_array_equal(file[name][:], other.values[name])


def test_overwrite_drops_unfinished_parts(job):
    made = job()
    made.begin((0, 4))
    with job(seed=5).writer(overwrite=True) as writer:
        assert writer.done == 0
        assert writer.remaining(64) == [(0, 10)]


def test_overwrite_replaces_what_is_no_hdf5(job):
    made = job()
    made.path.write_text("notes")
    with pytest.raises(StoreError, match=r"cannot be opened as HDF5.*\(--overwrite\)"):
        made.write()
    assert made.path.read_text() == "notes"
    made.write(overwrite=True)
    assert verify(made.path) == []


@pytest.mark.parametrize("content", [b"", b"just a text\n", b"\x89HDF\r\n\x1a\n"])
def test_an_output_that_is_no_feature_file_is_refused_and_kept(job, content):
    made = job()
    made.path.write_bytes(content)
    with pytest.raises(StoreError), made.writer():
        pass
    assert made.path.read_bytes() == content


@pytest.mark.parametrize(
    "attrs",
    [
        {},
        {"spec": "{}"},
        {"spec": "{", "model": "", "pictures": ""},
        {"spec": "{}", "model": "{}", "pictures": "{}"},
    ],
)
def test_an_output_without_its_request_is_refused(job, attrs):
    made = job()
    with h5py.File(made.path, "w") as file:
        file.attrs["format"] = 1
        file.attrs.update(attrs)
        file.create_group("features")
        file["ids"] = ["a"]
    with pytest.raises(StoreError), made.writer():
        pass


NO_REQUEST = '{"spec": {}, "model": {}, "pictures": {}}'


@pytest.mark.parametrize(
    "note",
    [
        "",
        "{",
        "[]",
        "{}",
        NO_REQUEST,
    ],
)
def test_a_damaged_note_among_the_parts_is_refused(job, note):
    made = job()
    parts = made.begin((0, 4))
    (parts / "request.json").write_text(note)
    with pytest.raises(StoreError), made.writer():
        pass


def test_overwrite_drops_parts_with_a_damaged_note(job):
    made = job()
    parts = made.begin((0, 4))
    (parts / "request.json").write_text(NO_REQUEST)
    assert verify(made.write(overwrite=True)) == []


def test_output_is_a_folder(job):
    made = job()
    made.path.mkdir()
    with pytest.raises(StoreError, match="is a folder"), made.writer():
        pass


@pytest.mark.parametrize("name", ["file/x.h5", "file/deeper/x.h5", "x" * 300])
def test_output_that_cannot_be_made(job, tmp_path, name):
    (tmp_path / "file").write_text("a regular file")
    with pytest.raises(StoreError, match="cannot be written"), job(name).writer():
        pass


def test_folders_of_the_output_are_made(job):
    assert verify(job("new/deeper/x.h5").write()) == []


def test_a_second_writer_is_refused_while_the_first_works(job):
    made = job()
    with made.writer() as first:
        made.add(first, 0, 4)
        with pytest.raises(StoreError, match="another process is writing"), made.writer():
            pass
        with (
            pytest.raises(StoreError, match="another process is writing"),
            made.writer(overwrite=True),
        ):
            pass
        for start, stop in ((4, 8), (8, 10)):
            made.add(first, start, stop)
        first.finish()
    assert verify(made.path) == []


def test_a_refused_second_writer_removes_nothing(job):
    made = job()
    with made.writer() as first:
        made.add(first, 0, 10)
        made.path.write_text("put there meanwhile")
        with pytest.raises(StoreError, match="another process"), made.writer(overwrite=True):
            pass
        assert made.path.read_text() == "put there meanwhile"


# --- parts that are somebody else's ---------------------------------------------------------


def test_a_complete_file_leaves_the_parts_of_a_running_overwrite(job):
    made = job()
    made.write()
    with made.writer(overwrite=True) as first:
        made.shard_writer().write_now(*made.batch(0, 4))
        with made.writer() as second:
            assert second.complete
        assert first.covered() == [(0, 4)]
        made.add(first, 4, 10)
        first.finish()
    assert verify(made.path) == []


def test_a_complete_file_leaves_the_parts_of_another_request(job):
    made, other = job(), job(seed=5)
    made.write()
    with contextlib.suppress(KeyboardInterrupt), other.writer(overwrite=True) as writer:
        other.add(writer, 0, 4)
        raise KeyboardInterrupt
    with made.writer() as writer:
        assert writer.complete
    with other.writer(overwrite=True) as writer:
        assert writer.done == 4


def test_a_complete_file_clears_up_its_own_parts(job, tmp_path):
    made = job()
    parts = made.begin((0, 4))
    shutil.copytree(parts, tmp_path / "kept")
    made.write()
    shutil.move(tmp_path / "kept", parts)
    with made.writer() as writer:
        assert writer.complete
    assert not parts.exists()


@pytest.mark.parametrize("content", ["{", "[]"])
def test_a_complete_file_leaves_parts_that_say_nothing(job, content):
    made = job()
    parts = made.path.with_name(made.path.name + ".parts")
    made.write()
    parts.mkdir()
    (parts / "request.json").write_text(content)
    with made.writer() as writer:
        assert writer.complete
    assert (parts / "request.json").read_text() == content


@pytest.mark.parametrize("alone", [True, False])
def test_an_empty_folder_stays_for_other_processes(job, alone):
    made = job()
    with StoreWriter(made.path, made.manifest, made.source, made.columns, alone=alone) as writer:
        assert writer.folder.path.is_dir()
    assert writer.folder.path.is_dir() is not alone
    if not alone:
        made.shard_writer().write_now(*made.batch(0, 4))
        with made.writer() as again:
            assert again.done == 4


@pytest.mark.parametrize("error", [errno.ENOLCK, errno.EOPNOTSUPP])
def test_a_file_system_without_locks_is_named(job, monkeypatch, error):
    def no_locks(*_):
        raise OSError(error, os.strerror(error))

    monkeypatch.setattr("fcntl.flock", no_locks)
    with pytest.raises(StoreError, match=rf"no locks \({os.strerror(error)}\)"):
        job().write()


def test_a_leftover_that_is_gone_when_it_is_removed(job, monkeypatch):
    original = Path.glob

    def glob(folder, pattern):
        gone = [folder / "shard.h5.1-aa.tmp"] if pattern == "*.tmp" else []
        return [*original(folder, pattern), *gone]

    monkeypatch.setattr(Path, "glob", glob)
    assert verify(job().write()) == []
