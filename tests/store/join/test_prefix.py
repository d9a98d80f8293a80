"""Two sources told apart in one file."""

from __future__ import annotations

import numpy as np
import pytest

from diffeat.errors import SpecError, SpecMismatch
from diffeat.store import FeatureStore, merge_files, verify
from tests.command import command


@pytest.fixture
def two(job):
    """Files of other pictures, one of them skipped, under the same ids."""
    made = []
    for k, name in enumerate(("a.h5", "b.h5")):
        one = job(name, count=6, labels=(np.arange(6) + k) % 2, class_names=("cat", "dog"))
        one.values = {name: values + k for name, values in one.values.items()}
        one.write(skip=(2,))
        made.append(one)
    return made


@pytest.fixture
def run(monkeypatch, capsys):
    with command(monkeypatch, capsys) as run:
        yield run


def test_ids_get_their_prefix_and_rows_stay(two, tmp_path, run):
    out, paths = tmp_path / "out.h5", [one.path for one in two]
    answer = run("merge", out, *paths, "--prefix", "train", "--prefix", "test/")
    assert answer.code == 0, answer.err
    kept = [0, 1, 3, 4, 5]
    with FeatureStore(out) as store:
        assert store.ids == [f"{p}/class/{k:03d}.png" for p in ("train", "test") for k in kept]
        assert store.labels.tolist() == [0, 1, 1, 0, 1, 1, 0, 0, 1, 0]
        expected = [one.values["features/mid/t20"][kept] for one in two]
        np.testing.assert_array_equal(store["mid", 20][:], np.concatenate(expected))
        assert store.skipped == {f"{p}/class/002.png": "reason 2" for p in ("train", "test")}
        assert store.pictures["prefixes"] == ["train", "test"]
        whole = store.fingerprint
    assert verify(out) == []
    assert "begin with train/, test/, put there by merge" in run("info", out).out
    merge_files(paths, out, overwrite=True, prefixes=["a", "b"])
    with FeatureStore(out) as store:
        assert store.fingerprint != whole  # other ids are other pictures
    again = merge_files([out, paths[0]], tmp_path / "c.h5", prefixes=["x", "y"])
    with FeatureStore(again) as store:
        assert store.pictures["prefixes"] == ["x/a", "x/b", "y"]
        assert store.ids[0] == "x/a/class/000.png"
    merge_files([again], tmp_path / "d.h5")
    with FeatureStore(tmp_path / "d.h5") as store:
        assert store.pictures["prefixes"] == ["x/a", "x/b", "y"]


def test_what_collides_names_the_option(two, job, tmp_path):
    paths = [one.path for one in two]
    with pytest.raises(SpecMismatch, match=r"same ids, but labels differ; .*--prefix train"):
        merge_files(paths, tmp_path / "out.h5")
    with pytest.raises(SpecMismatch, match=r"both hold .*'train/class/000\.png'"):
        merge_files(paths, tmp_path / "out.h5", prefixes=["train", "train"])
    some = job("c.h5", count=6, labels=np.arange(6) % 2, class_names=("cat", "dog"),
               ids=("class/001.png", *map(str, range(5))))  # fmt: skip
    some.write()
    with pytest.raises(SpecMismatch, match=r"both hold the picture 'class/001\.png'.*--prefix"):
        merge_files([paths[0], some.path], tmp_path / "out.h5")
    assert not (tmp_path / "out.h5").exists()


@pytest.mark.parametrize("prefixes", [["a"], ["a", ""], ["a", "/"], ["a", "b", "c"], ["a", "\0"]])
def test_one_plain_prefix_a_file(prefixes, two, tmp_path):
    with pytest.raises(SpecError, match="for 2 files; expected one for each"):
        merge_files([one.path for one in two], tmp_path / "out.h5", prefixes=prefixes)


def test_prefixes_need_files(two, tmp_path, run):
    for paths in ([], [two[0].path]):
        answer = run("merge", tmp_path / "o.h5", *paths, "--prefix", "a", "--prefix", "b")
        assert answer.code == 2
        assert f"2 --prefix for {len(paths)} files" in answer.err
