"""Folders of parts from strangers: no file outside is read, changed or removed."""

from __future__ import annotations

import hashlib
import json
import shutil
import tracemalloc

import h5py
import numpy as np
import pytest

from diffeat.errors import StoreError
from diffeat.store import look_at_parts, merge_parts, verify
from tests.store.write.test_shards import shard_files


@pytest.fixture
def ready(job, each_batch_a_shard):
    """A job whose parts are all there."""
    made = job(labels=np.arange(10) % 2, class_names=("cat", "dog"))
    made.begin((0, 4), (4, 8), (8, 10))
    return made


def parts(made):
    return made.path.with_name(made.path.name + ".parts")


def note(made, **changes) -> None:
    path = parts(made) / "request.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))


def column(**changes):
    """A change of the first column in the note."""

    def change(made):
        columns = json.loads((parts(made) / "request.json").read_text())["columns"]
        note(made, columns=[{**columns[0], **changes}, *columns[1:]])

    return change


def spoilt_shard(change):
    """A change within the first shard, whose name then fits its bytes again."""

    def spoil(made):
        path = shard_files(made)[0]
        with h5py.File(path, "r+") as file:
            change(file, made)
        name = hashlib.blake2b(path.read_bytes(), digest_size=16).hexdigest()
        path.rename(path.with_name(f"{path.name[:27]}-{name}.h5"))

    return spoil


def put(name, value):
    def change(file, _made):
        if name in file:
            del file[name]
        if value is not None:
            file[name] = value

    return change


def attr(name, value):
    return lambda file, _made: file.attrs.create(name, value)


def huge(name, shape, dtype):
    def change(file, _made):
        del file[name]
        file.create_dataset(name, shape=shape, dtype=dtype, chunks=(1 << 10, *shape[1:]))

    return change


def packed(name):
    def change(file, _made):
        values = file[name][:]
        del file[name]
        file.create_dataset(name, data=values, chunks=values.shape, compression="gzip")

    return change


PICTURES = {"name": "x", "count": 10, "fingerprint": "f"}
NOTES = {
    "an absolute name": column(name="/etc/passwd"),
    "a name that climbs": column(name="features/../t20"),
    "a name that climbs far": column(name="../../x"),
    "a name of another group": column(name="ids"),
    "an empty name": column(name=""),
    "a huge row": column(shape=[1 << 40]),
    "a row of no size": column(shape=[0]),
    "no shape": column(shape=[]),
    "a negative shape": column(shape=[-3, 2, 2]),
    "a shape of words": column(shape=["a"]),
    "an unknown dtype": column(dtype="O"),
    "a dtype of records": column(dtype="f4,f4"),
    "attributes in a list": column(attrs=[1]),
    "attributes of tables": column(attrs={"t": {"a": 1}}),
    "an attribute of words and numbers": column(attrs={"t": 20, "x": ["a", 1]}),
    "an attribute of texts": column(attrs={"t": 20, "x": ["a", "b"]}),
    "an attribute of nothing": column(attrs={"t": 20, "x": []}),
    "an attribute of NUL": column(attrs={"t": 20, "x": "a\0b"}),
    "an attribute of no text": column(attrs={"t": 20, "x": "\ud800"}),
    "an attribute of a huge text": column(attrs={"t": 20, "x": "a" * (1 << 20)}),
    "an attribute of a huge number": column(attrs={"t": 20, "x": 10**40}),
    "an attribute without a name": column(attrs={"t": 20, "": 1}),
    "no t": column(attrs={}),
    "a word as t": column(attrs={"t": "abc"}),
    "a list as t": column(attrs={"t": [1, 2]}),
    "a truth value as t": column(name="features/mid/t1", attrs={"t": True}),
    "a t without end": column(attrs={"t": float("inf")}),
    "a t of no number": column(attrs={"t": float("nan")}),
    "a t larger than any float": column(attrs={"t": 10**400}),
    "another t than in the name": column(attrs={"t": 21}),
    "a t in another spelling": column(name="features/mid/t20.0", attrs={"t": 20}),
    "boxes and no features": lambda made: note(
        made, columns=[{"name": "boxes", "shape": [4], "dtype": "int32", "attrs": {}}]
    ),
    "a column of another field": column(path="/etc/passwd"),
    "two columns of a name": lambda made: note(
        made, columns=2 * json.loads((parts(made) / "request.json").read_text())["columns"]
    ),
    "columns that are text": lambda made: note(made, columns="features"),
    "huge number of pictures": lambda made: note(made, pictures={**PICTURES, "count": 1 << 60}),
    "no pictures": lambda made: note(made, pictures={**PICTURES, "count": 0}),
    "pictures by name": lambda made: note(made, pictures={**PICTURES, "count": "10"}),
    "no model": lambda made: note(made, model={}),
    "a model that is text": lambda made: note(made, model="m"),
    "class names of NUL": lambda made: note(made, class_names=["a\0b"]),
    "class names that are numbers": lambda made: note(made, class_names=[1, 2]),
    "how it was made is a list": lambda made: note(made, how=[1]),
    "deep JSON": lambda made: (parts(made) / "request.json").write_text("[" * 100_000),
    "no JSON": lambda made: (parts(made) / "request.json").write_bytes(b"\xff\xfe\x00"),
    "a folder": lambda made: (
        (parts(made) / "request.json").unlink(), (parts(made) / "request.json").mkdir(),
    ),
}  # fmt: skip


@pytest.mark.parametrize("change", NOTES.values(), ids=NOTES)
def test_odd_notes_are_refused(ready, change):
    change(ready)
    for action in (merge_parts, look_at_parts):
        with pytest.raises(StoreError, match=r"request\.json"):
            action(ready.path)
    assert not ready.path.exists()


SHARDS = {
    "another request": attr("request", "0" * 32),
    "other columns": attr("columns", "0" * 32),
    "no spans": lambda file, _made: file.attrs.__delitem__("spans"),
    "spans of all": attr("spans", np.array([[0, 10]])),
    "spans beyond the end": attr("spans", np.array([[0, 11]])),
    "spans before the start": attr("spans", np.array([[-1, 4]])),
    "spans backwards": attr("spans", np.array([[4, 0]])),
    "spans that overlap": attr("spans", np.array([[0, 4], [2, 4]])),
    "spans of words": attr("spans", "all"),
    "too many spans": attr("spans", np.zeros((3000, 2), np.int32)),
    "wrong index": put("index", np.array([0, 1, 2, 2])),
    "a long index": huge("index", (1 << 50,), np.int64),
    "an index in floats": put("index", np.arange(4.0)),
    "long labels": huge("labels", (1 << 50,), np.int64),
    "labels beyond their names": put("labels", np.array([0, 1, 2, 0])),
    "no labels": put("labels", None),
    "many ids": huge("ids", (1 << 50,), h5py.string_dtype()),
    "numbers as ids": put("ids", np.arange(4)),
    "huge rows": huge("features/mid/t20", (1 << 30, 1 << 10), "f2"),
    "rows of another shape": put("features/mid/t20", np.zeros((4, 3, 2, 3), np.float16)),
    "rows of another dtype": put("features/mid/t20", np.zeros((4, 3, 2, 2), np.float32)),
    "rows in a group": put("features/mid/t20/x", np.zeros(3)),
    "packed rows": packed("features/mid/t20"),
    "no rows": put("features/mid/t20", None),
    "a link to another file": put("ids", h5py.ExternalLink("outside.h5", "/ids")),
    "a link in a loop": put("index", h5py.SoftLink("/index")),
}


@pytest.mark.parametrize("change", SHARDS.values(), ids=SHARDS)
def test_odd_shards_are_refused(ready, change, tripwire):
    if change is not SHARDS["rows in a group"]:
        spoilt_shard(change)(ready)
    else:
        spoilt_shard(lambda file, made: (put("features/mid/t20", None)(file, made),
                                         change(file, made)))(ready)  # fmt: skip
    tripwire.arm()
    tracemalloc.start()
    found = look_at_parts(ready.path, thorough=True)
    assert found.finished == 6
    assert len(found.problems) == 1
    with pytest.raises(StoreError):
        merge_parts(ready.path)
    assert tracemalloc.get_traced_memory()[1] < 20 << 20
    tracemalloc.stop()
    assert not ready.path.exists()
    assert not tripwire.touched
    with ready.writer() as writer:  # whoever can compute them again just does
        assert writer.remaining(64) == [(0, 4)]
        ready.add(writer, 0, 4)
        writer.finish()
    assert verify(ready.path) == []


def test_names_that_are_no_shards_are_passed_over(ready):
    odd = ["shard-x-y.h5", "shard-0000000000-0000000004-zz.h5", "shard-1-2-3.h5", "shard-.h5"]
    for name in odd:
        (parts(ready) / name).write_bytes(b"?")
    merge_parts(ready.path)
    assert verify(ready.path) == []


@pytest.mark.parametrize("name", ["request.json", "lock", "shard"])
def test_links_in_the_folder(ready, tmp_path, name):
    """A link to a file outside: it is neither read nor written, whatever it holds."""
    if name == "shard":
        target, path = shutil.copy(shard_files(ready)[0], tmp_path / "x.h5"), shard_files(ready)[0]
    else:
        path = parts(ready) / name
        target = shutil.copy(path, tmp_path / "outside")
    with open(target, "rb") as file:
        before = file.read()
    path.unlink()
    path.symlink_to(target)
    with pytest.raises(StoreError):
        merge_parts(ready.path)
    if name == "shard":
        assert look_at_parts(ready.path).finished == 6
    else:
        with pytest.raises(StoreError), ready.writer():
            pass
    with open(target, "rb") as file:
        assert file.read() == before


def test_a_folder_that_is_a_link(ready, tmp_path):
    shutil.move(parts(ready), tmp_path / "elsewhere")
    parts(ready).symlink_to(tmp_path / "elsewhere")
    for action in (merge_parts, look_at_parts, lambda _: ready.writer().__enter__()):
        with pytest.raises(StoreError, match="is a link"):
            action(ready.path)
    assert len(list((tmp_path / "elsewhere").glob("shard-*.h5"))) == 3


def test_half_written_links_are_removed_and_not_written_through(ready, tmp_path):
    (tmp_path / "kept").write_text("kept")
    (parts(ready) / "merged.h5.tmp").symlink_to(tmp_path / "kept")
    merge_parts(ready.path)
    assert (tmp_path / "kept").read_text() == "kept"
    assert verify(ready.path) == []
