"""Joining feature files: below each other, side by side, or not at all."""

from __future__ import annotations

import json
import tracemalloc

import h5py
import numpy as np
import pytest

from diffeat.errors import SpecMismatch, StoreError
from diffeat.store import FeatureStore, Manifest, merge_files, verify
from diffeat.store.join.order import united
from tests.store.write.test_shards import content


@pytest.fixture
def two(job):
    """Two files of other pictures, with class names that overlap."""
    first = job("a.h5", count=7, labels=np.arange(7) % 2, class_names=("cat", "dog"))
    ids = tuple(f"more/{k}.png" for k in range(5))
    second = job("b.h5", count=5, ids=ids, labels=np.array([0, 1, 1, 2, 0]), seed=0,
                 class_names=("dog", "owl", "cat"))  # fmt: skip
    first.write(skip=(2,))
    second.write(skip=(4,))
    return first, second


def test_other_pictures_come_below(two, tmp_path):
    first, second = two
    out = merge_files([first.path, second.path], tmp_path / "out.h5")
    keep = [0, 1, 3, 4, 5, 6]
    with h5py.File(out) as file:
        for name in first.values:
            wanted = np.concatenate([first.values[name][keep], second.values[name][:4]])
            np.testing.assert_array_equal(file[name][:], wanted)
            with h5py.File(first.path) as one:
                wanted, found = dict(one[name].attrs), dict(file[name].attrs)
                assert wanted.pop("blake2b") != found.pop("blake2b")  # other rows
                assert found == wanted
        assert list(file["ids"].asstr()) == [
            *(first.source.ids[k] for k in keep), *second.source.ids[:4]
        ]  # fmt: skip
    with FeatureStore(out) as store:
        words = [store.class_names[k] for k in store.labels]
        assert words == ["cat", "dog", "dog", "cat", "dog", "cat", "dog", "owl", "owl", "cat"]
        assert store.class_names == ["cat", "dog", "owl"]
        assert store.skipped == {"class/002.png": "reason 2", "more/4.png": "reason 4"}
        assert store.pictures["count"] == 12
        assert store.spec.to_dict() == first.manifest.spec
    assert verify(out) == []


def test_the_order_is_that_of_the_arguments(two, tmp_path):
    first, second = two
    out = merge_files([second.path, first.path], tmp_path / "out.h5")
    with FeatureStore(out) as store:
        assert store.ids[:4] == list(second.source.ids[:4])
        assert store.class_names == ["dog", "owl", "cat"]


def test_a_picture_that_another_file_has_is_not_skipped(job, tmp_path):
    one = job("a.h5", count=4).write(skip=(3,))
    other = job("b.h5", count=2, ids=("class/003.png", "x")).write()
    with FeatureStore(merge_files([one, other], tmp_path / "out.h5")) as store:
        assert store.skipped == {}
        assert store.ids[3] == "class/003.png"


@pytest.mark.parametrize("dtype", ["float16", "int8"])
@pytest.mark.parametrize("compression", ["none", "gzip", "zstd"])
def test_one_file_is_written_again(job, tmp_path, dtype, compression):
    path = job("a.h5", dtype=dtype, labels=np.arange(10) % 2, class_names=("a", "b")).write(
        skip=(3,)
    )
    out = merge_files([path], tmp_path / "out.h5", compression)
    assert content(out) == content(path)
    with FeatureStore(out) as store:
        assert store.compression == compression
    assert verify(out) == []


@pytest.mark.parametrize("name", ["ids", "labels", "skipped/ids", "skipped/reasons"])
def test_damaged_lists_get_no_new_checksum(two, tmp_path, name):
    first, second = two
    with h5py.File(second.path, "r+") as file:
        file[name][0] = 1 if name == "labels" else "another"
    with pytest.raises(StoreError, match=f"b.h5: {name} has another checksum"):
        merge_files([first.path, second.path], tmp_path / "out.h5")
    assert not (tmp_path / "out.h5").exists()


# --- side by side ---------------------------------------------------------------------------


def part(job, name: str, blocks, steps, fit="pad", **fields):
    """A file of some (block, t) of the same ten padded pictures."""
    made = job(name, blocks=blocks, fit=fit, boxes=fit == "pad", **fields)
    wanted = {f"features/{block}/t{t}" for block in blocks for t in steps} | {"boxes"}
    manifest = made.manifest
    manifest = Manifest(
        {**manifest.spec, "timesteps": list(steps)}, manifest.model, manifest.pictures
    )
    columns = [column for column in made.columns if column.name in wanted]
    from diffeat.store import StoreWriter

    with StoreWriter(made.path, manifest, made.source, columns) as writer:
        span, rows, values, errors = made.batch(0, made.count, fields.get("skip", ()))
        writer.add(span, rows, {c.name: values[c.name] for c in columns}, errors)
        writer.finish()
    return made


@pytest.mark.parametrize("dtype", ["float16", "int8"])
def test_other_blocks_come_beside(job, tmp_path, dtype):
    whole = part(job, "whole.h5", ("down.0", "mid", "up.1"), (20, 60), dtype=dtype)
    one = part(job, "a.h5", ("down.0", "up.1"), (20, 60), dtype=dtype)
    two_ = part(job, "b.h5", ("mid",), (20, 60), dtype=dtype)
    rng = np.random.default_rng(1)
    boxes = rng.integers(0, 9, (10, 4), np.int32)
    for made in (whole, one, two_):
        with h5py.File(made.path, "r+") as file:
            file["boxes"][:] = boxes
            del file["boxes"].attrs["blake2b"]
    out = merge_files([two_.path, one.path], tmp_path / "out.h5")
    with FeatureStore(out) as store:
        assert store.blocks == ["down.0", "mid", "up.1"]
        assert store.timesteps == [20, 60]
        with FeatureStore(whole.path) as undisturbed:
            assert store.fingerprint == undisturbed.fingerprint
        for made in (one, two_):
            with FeatureStore(made.path) as source:
                for block in source.blocks:
                    np.testing.assert_array_equal(store[block, 60][:], source[block, 60][:])
        np.testing.assert_array_equal(store.boxes, boxes)
    assert verify(out) == []


def test_other_t_come_beside(job, tmp_path):
    one = part(job, "a.h5", ("mid", "up.1"), (60,), fit="squash")
    two_ = part(job, "b.h5", ("mid", "up.1"), (20,), fit="squash")
    with FeatureStore(merge_files([one.path, two_.path], tmp_path / "out.h5")) as store:
        assert store.timesteps == [20, 60]
        np.testing.assert_array_equal(store["mid", 60][:], one.values["features/mid/t60"])
        np.testing.assert_array_equal(store["up.1", 20][:], two_.values["features/up.1/t20"])


def test_a_table_with_holes_is_refused(job, tmp_path):
    one = part(job, "a.h5", ("mid",), (20,), fit="squash")
    two_ = part(job, "b.h5", ("up.1",), (60,), fit="squash")
    with pytest.raises(SpecMismatch, match="no file holds block 'mid' at t=60"):
        merge_files([one.path, two_.path], tmp_path / "out.h5")


@pytest.mark.parametrize(
    ("lists", "expected"),
    [
        ([["down.0", "up.1"], ["mid"]], ["down.0", "mid", "up.1"]),
        ([["up.10"], ["up.2"]], ["up.2", "up.10"]),
        ([["single.3"], ["block.20", "single.1"]], ["block.20", "single.1", "single.3"]),
        ([["b", "a"], ["a", "c"]], ["b", "a", "c"]),  # what one file says comes first
        ([["up.1.res.0", "up.1"], ["up.1.attn.0", "up.1"]], ["up.1.attn.0", "up.1.res.0", "up.1"]),
        ([["a"], ["a"]], ["a"]),
    ],
)
def test_the_order_of_execution(lists, expected):
    assert united(lists) == expected


def test_contradicting_orders():
    with pytest.raises(SpecMismatch, match="another order"):
        united([["a", "b"], ["b", "a"]])


# --- what does not fit ----------------------------------------------------------------------

OTHER = tuple(f"x{k}" for k in range(10))


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"model": "m1", "ids": OTHER}, "model: 'm0' → 'm1'"),
        ({"dtype": "float32", "ids": OTHER}, "dtype: 'float16' → 'float32'"),
        ({"dtype": "int8", "ids": OTHER}, "dtype: 'float16' → 'int8'"),
        ({"seed": 3, "ids": OTHER}, "seed: 0 → 3"),
        ({"ids": ("class/001.png", *OTHER[1:])}, r"both hold the picture 'class/001\.png'"),
        ({"ids": OTHER, "blocks": ("mid",)}, r"other features \(first features/up\.1/t20\)"),
        ({"ids": OTHER, "labels": np.zeros(10, int), "class_names": ("a",)}, "has labels"),
        ({"labels": np.zeros(10, int), "class_names": ("a",), "blocks": ("x",)}, "labels differ"),
        ({}, "both hold features/mid/t20 of the same pictures"),
        ({"ids": OTHER, "shape": (4, 2, 2)}, r"rows of shape \(4, 2, 2\), elsewhere \(3, 2, 2\)"),
    ],
)
def test_files_that_do_not_fit(job, tmp_path, fields, message):
    one, two_ = job("a.h5").write(), job("b.h5", **fields).write()
    with pytest.raises(SpecMismatch, match=message):
        merge_files([one, two_], tmp_path / "out.h5")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.h5", "b.h5"]


def test_some_the_same_and_some_not(job, tmp_path):
    paths = [
        job("a.h5").write(),
        job("b.h5", blocks=("x",)).write(),
        job("c.h5", ids=OTHER).write(),
    ]
    with pytest.raises(SpecMismatch, match="join those with the same pictures first"):
        merge_files(paths, tmp_path / "out.h5")


def test_an_output_that_is_there(job, tmp_path):
    path, out = job("a.h5").write(), tmp_path / "out.h5"
    out.write_text("kept")
    with pytest.raises(StoreError, match="--overwrite"):
        merge_files([path], out)
    assert out.read_text() == "kept"
    merge_files([path], out, overwrite=True)
    assert verify(out) == []
    merge_files([out], out, "gzip", overwrite=True)  # into itself
    with FeatureStore(out) as store:
        assert store.compression == "gzip"


def test_a_damaged_input_leaves_nothing(job, tmp_path):
    from tests.store.read.test_reader import damage_last_chunk

    path = job("a.h5", shape=(128, 16, 16)).write()
    damage_last_chunk(path, "features/up.1/t60")
    with pytest.raises(StoreError):
        merge_files([path], tmp_path / "out.h5")
    assert [p.name for p in tmp_path.iterdir()] == ["a.h5"]


def test_memory_does_not_grow_with_the_features(job, tmp_path, monkeypatch):
    monkeypatch.setattr("diffeat.store.format.checksums.BLOCK_BYTES", 1 << 20)
    path = job("a.h5", count=100, shape=(128, 16, 16)).write()
    tracemalloc.start()
    merge_files([path], tmp_path / "out.h5")
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < path.stat().st_size / 4
    assert json.loads(h5py.File(path).attrs["spec"])["blocks"] == ["mid", "up.1"]


# --- files that lie about their dtype -------------------------------------------------------


def claim(path, dtype: str) -> None:
    """Have a file say another dtype than it has."""
    with h5py.File(path, "r+") as file:
        spec = json.loads(file.attrs["spec"])
        file.attrs["spec"] = json.dumps({**spec, "dtype": dtype})


@pytest.mark.parametrize(
    ("dtypes", "message"),
    [
        (("int8", "float16"), "as float16, elsewhere as quantised int8"),
        (("float16", "int8"), "as quantised int8, elsewhere as float16"),
        (("float16", "float32"), "as float32, elsewhere as float16"),
    ],
)
def test_another_dtype_than_the_spec_says(job, tmp_path, dtypes, message):
    one = job("a.h5", dtype=dtypes[0]).write()
    other = job("b.h5", dtype=dtypes[1], ids=OTHER).write()
    claim(other, dtypes[0])
    with pytest.raises(SpecMismatch, match=rf"b\.h5: features/mid/t20 is stored {message}"):
        merge_files([one, other], tmp_path / "out.h5")
    assert not (tmp_path / "out.h5").exists()


def test_scales_come_along_whatever_the_spec_says(job, tmp_path):
    path = job("a.h5", dtype="int8").write()
    claim(path, "float16")
    out = merge_files([path], tmp_path / "out.h5")
    assert verify(out) == []
    with FeatureStore(path) as one, FeatureStore(out) as found:
        np.testing.assert_array_equal(found["mid", 60][:], one["mid", 60][:])
