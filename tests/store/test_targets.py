"""Further targets of pictures in feature files: kept, merged, exported, and never believed."""

from __future__ import annotations

import hashlib
import json

import h5py
import numpy as np
import pytest

from diffeat.errors import SourceError, SpecMismatch, StoreError
from diffeat.images.columns import TargetColumn
from diffeat.store import FeatureStore, merge_files, merge_parts, verify
from diffeat.targets import labels_for

ROWS = np.arange(10)
TARGETS = {
    "age": TargetColumn("number", (), np.where(ROWS == 3, np.nan, ROWS + 0.5)),
    "sex": TargetColumn("class", ("f", "m"), np.where(ROWS == 4, -1, ROWS % 2)),
    "tags": TargetColumn("labels", ("x", "y", "z"), np.stack([ROWS % 2, ROWS % 3 > 0, ROWS > 7], 1)
                         .astype(np.int64)),
}  # fmt: skip


@pytest.fixture
def made(job):
    return job(labels=np.where(ROWS == 5, -1, ROWS % 2), class_names=("cat", "dog"),
               targets=TARGETS)  # fmt: skip


def same(store, targets=TARGETS, rows=ROWS):
    assert set(store.targets) == set(targets)
    for name, column in targets.items():
        found = store.targets[name]
        assert (found.kind, found.names) == (column.kind, column.names)
        assert found.values.dtype == column.values.dtype
        np.testing.assert_array_equal(found.values, column.values[rows])


def test_what_is_written_is_read(made):
    made.write(batch=3, skip=(2, 9))
    kept = np.delete(ROWS, [2, 9])
    assert verify(made.path) == []
    with FeatureStore(made.path) as store, h5py.File(made.path) as file:
        same(store, rows=kept)
        assert store.labels.tolist() == made.labels[kept].tolist()
        assert list(file["targets"]) == ["age", "sex", "tags"]  # as the table had them
        assert file["targets/sex"].attrs["names"].tolist() == ["f", "m"]
        assert file.attrs["format"] == 1


def test_an_interrupted_run_goes_on_to_the_same_file(made, job):
    made.begin((0, 4), (8, 10))
    made.write()
    other = job("other.h5", labels=made.labels, class_names=made.class_names, targets=TARGETS)
    other.begin((0, 4), (4, 8), (8, 10))
    merge_parts(other.path)
    for path in (made.path, other.path):
        with FeatureStore(path) as store:
            same(store)


def test_without_them_nothing_is_there(sound):
    with FeatureStore(sound) as store:
        assert dict(store.targets) == {}
        assert "targets" not in store.file


def test_they_are_exported(made):
    made.write()
    with (
        FeatureStore(made.path) as store,
        np.load(store.export(made.path.with_suffix(".npz"))) as f,
    ):
        np.testing.assert_array_equal(f["targets/age"], TARGETS["age"].values)
        assert f["target_names/tags"].tolist() == ["x", "y", "z"]
        assert "target_names/age" not in f


class TestLabelsOfAFile:
    def test_by_name(self, made):
        with FeatureStore(made.write()) as store:
            age = labels_for(store, None, columns=("age",))
            np.testing.assert_array_equal(age.labels, TARGETS["age"].values)
            assert age.class_names == ()
            tags = labels_for(store, columns=("tags",))
            assert (tags.labels.tolist(), tags.class_names) == (
                TARGETS["tags"].values.tolist(), ("x", "y", "z"),
            )  # fmt: skip
            assert labels_for(store).labels.tolist() == made.labels.tolist()
            assert labels_for(store, columns=("label",)).class_names == ("cat", "dog")
            groups = labels_for(store, groups="sex").groups
            assert groups[:2] == ("f", "m")
            assert groups[4] == store.ids[4]  # one of its own
            with pytest.raises(SourceError, match=r"no column 'ages' \(did you mean 'age'"):
                labels_for(store, columns=("ages",))
            with pytest.raises(SourceError, match="sex has kind 'class'; expected 'number'"):
                labels_for(store, columns=("sex",), kind="number")

    def test_whole_numbers_are_numbers_if_told(self, job):
        classes = TargetColumn("class", ("7", "30"), np.array([0, 1, -1]))
        with FeatureStore(job(count=3, targets={"age": classes}).write()) as store:
            found = labels_for(store, columns=("age",), kind="number").labels
            np.testing.assert_array_equal(found, [7, 30, np.nan])
            assert labels_for(store).class_names == ("7", "30")  # the only one

    def test_columns_of_0_and_1_are_a_label_each(self, job):
        flags = {
            "big": TargetColumn("class", ("0", "1"), np.array([0, 1, 1])),
            "wet": TargetColumn("class", ("false", "true"), np.array([1, -1, 0])),
        }
        with FeatureStore(job(count=3, targets=flags).write()) as store:
            for found in (labels_for(store), labels_for(store, columns=("big", "wet"))):
                assert found.class_names == ("big", "wet")
                assert found.labels.tolist() == [[0, 1], [-1, -1], [1, 0]]

    def test_which_is_meant_must_be_told(self, job):
        two = {name: TARGETS[name] for name in ("age", "sex")}
        with FeatureStore(job(targets=two).write()) as store, pytest.raises(
            SourceError, match="no labels, and targets age, sex; say which"
        ):  # fmt: skip
            labels_for(store)


class TestJoined:
    def test_of_other_pictures(self, made, job):
        made.write()
        others = {
            "age": TARGETS["age"],
            "sex": TargetColumn("class", ("m", "x"), np.where(ROWS == 0, -1, ROWS % 2)),
            "tags": TargetColumn("labels", ("w", "y"), np.array([[1, 0]] * 9 + [[-1, -1]])),
        }
        ids = tuple(f"more/{k}.png" for k in ROWS)
        more = job("more.h5", ids=ids, labels=ROWS % 2, class_names=("dog", "owl"), targets=others)
        more.write()
        merge_files([made.path, more.path], made.path.with_name("all.h5"))
        assert verify(made.path.with_name("all.h5")) == []
        with FeatureStore(made.path.with_name("all.h5")) as store:
            names = [*store.class_names, None]
            assert [names[k] for k in store.labels[4:7]] == ["cat", None, "cat"]
            assert [names[k] for k in store.labels[10:12]] == ["dog", "owl"]
            assert store.targets["sex"].names == ("f", "m", "x")
            assert store.targets["sex"].values[10:13].tolist() == [-1, 2, 1]
            assert store.targets["tags"].names == ("x", "y", "z", "w")
            assert store.targets["tags"].values[[1, 10, 19]].tolist() == [
                [1, 1, 0, 0], [0, 0, 0, 1], [-1] * 4,
            ]  # fmt: skip
            np.testing.assert_array_equal(store.targets["age"].values[10:], TARGETS["age"].values)

    def test_what_not_all_have_is_dropped(self, made, job):
        made.write()
        ids = tuple(f"more/{k}.png" for k in ROWS)
        other = {"age": TARGETS["sex"], "sex": TARGETS["sex"]}
        more = job("more.h5", ids=ids, labels=ROWS % 2, class_names=("cat", "dog"), targets=other)
        more.write()
        with (
            pytest.warns(UserWarning, match=r"/targets/tags is dropped, because .*more\.h5 has no"),
            pytest.warns(UserWarning, match=r"/targets/age is dropped, because it is class and n"),
        ):
            merge_files([made.path, more.path], made.path.with_name("all.h5"))
        with FeatureStore(made.path.with_name("all.h5")) as store:
            assert list(store.targets) == ["sex"]

    @pytest.mark.parametrize("changed", [False, True])
    def test_of_the_same_pictures(self, job, changed):
        paths = []
        for k, block in enumerate(("mid", "up.1")):
            age = TargetColumn("number", (), TARGETS["age"].values + k * changed)
            made = job(f"{k}.h5", blocks=(block,), targets={**TARGETS, "age": age})
            made.write()
            paths.append(made.path)
            with h5py.File(made.path, "r+") as file:  # of the same pictures, whatever is changed
                file.attrs["pictures"] = json.dumps({"name": "x", "count": 10, "fingerprint": "f"})
        out = paths[0].with_name("all.h5")
        if changed:
            with pytest.raises(SpecMismatch, match="hold the same ids, but targets 'age' differ"):
                merge_files(paths, out)
            return
        merge_files(paths, out)
        with FeatureStore(out) as store:
            same(store)


def put(name, values, **attrs):
    def change(file):
        if name in file:
            del file[name]
        if values is not None:
            data = file.create_dataset(name, data=values)
            data.attrs.update(attrs)

    return change


CLASSES = {"kind": "class", "names": ["f", "m"]}
HEADERS = {
    "no group": put("targets", np.arange(3)),
    "a group in it": lambda file: file.create_group("targets/a/b"),
    "another length": put("targets/sex", np.zeros(9, np.int64), **CLASSES),
    "floats as classes": put("targets/sex", np.zeros(10), **CLASSES),
    "short whole numbers": put("targets/sex", np.zeros(10, np.int8), **CLASSES),
    "texts": put("targets/sex", [b"f"] * 10, **CLASSES),
    "no kind": put("targets/sex", np.zeros(10, np.int64)),
    "no names": put("targets/sex", np.zeros(10, np.int64), kind="class"),
    "names that are numbers": put("targets/sex", np.zeros(10, np.int64), kind="class", names=[1]),
    "a kind of its own": put("targets/sex", np.zeros(10, np.int64), kind="mask", names=["f"]),
    "too few labels": put("targets/tags", np.zeros((10, 2), np.int64), kind="labels", names=["x"]),
    "a name that cannot be printed": put("targets/a\x1bb", np.zeros(10), kind="number"),
}


@pytest.mark.parametrize("change", HEADERS.values(), ids=HEADERS)
def test_strangers_headers_are_refused(made, change):
    made.write()
    with h5py.File(made.path, "r+") as file:
        change(file)
    with pytest.raises(StoreError, match="damaged"):
        FeatureStore(made.path)


@pytest.mark.parametrize("value", [-2, 2])
def test_values_outside_of_their_names(made, value):
    made.write()
    with h5py.File(made.path, "r+") as file:
        file["targets/sex"][0] = value
    assert [text for text in verify(made.path) if "targets/sex" in text]
    with FeatureStore(made.path) as store:
        with pytest.raises(StoreError, match="targets/sex has values outside of its names"):
            store.targets["sex"]
        store.targets["age"]  # is as it was


def test_flipped_bits_are_found(made):
    made.write()
    with h5py.File(made.path, "r+") as file:
        file["targets/age"][0] = 77
    assert verify(made.path) == ["targets/age: another checksum than when they were written"]
    with pytest.raises(StoreError, match="targets/age has another checksum"):
        merge_files([made.path], made.path.with_name("again.h5"))


@pytest.mark.parametrize(
    "targets",
    [
        [1],
        {"a/b": {"kind": "number", "names": []}},
        {"..": {"kind": "number", "names": []}},
        {"a": {"kind": "mask", "names": []}},
        {"a": {"kind": "class", "names": [1]}},
        {"a": {"kind": "class", "names": ["x\0"]}},
        {"a": 3},
    ],
)
def test_odd_notes_are_refused(made, targets, each_batch_a_shard):
    path = made.begin((0, 4), (4, 8), (8, 10)) / "request.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "targets": targets}))
    with pytest.raises(StoreError, match="damaged"):
        merge_parts(made.path)


@pytest.mark.parametrize("change", [
    put("targets/sex", np.full(4, 2)), put("targets/sex", None), put("targets/age", np.zeros(3)),
    put("targets/tags", np.zeros((4, 2), np.int64)),
])  # fmt: skip
def test_odd_shards_are_refused(made, change, each_batch_a_shard):
    first = sorted(made.begin((0, 4), (4, 8), (8, 10)).glob("shard-*.h5"))[0]
    with h5py.File(first, "r+") as file:
        change(file)
    digest = hashlib.blake2b(first.read_bytes(), digest_size=16).hexdigest()
    first.rename(first.with_name(f"{first.name[:27]}-{digest}.h5"))
    with pytest.raises(StoreError, match="is damaged"):
        merge_parts(made.path)
