"""The same picture under two names, in two parts or two files."""

from __future__ import annotations

import hashlib
import json

import numpy as np
import pytest
from PIL import Image

import diffeat
from diffeat.errors import SpecError
from diffeat.search import LiveFeatures, live_task, task_from_store
from diffeat.search.analysis import choose_rows
from diffeat.search.duplicates import copies, groups_of_copies, without_copies
from diffeat.search.splits import LEFT_OUT, TEST, TRAIN, VALIDATION
from diffeat.store import FeatureStore
from tests.command import command


@pytest.fixture
def run(monkeypatch, capsys):
    with command(monkeypatch, capsys) as run:
        yield run


def digests(text: str) -> np.ndarray:
    """One row a letter: equal letters, equal pictures."""
    rows = [hashlib.blake2b(letter.encode(), digest_size=16).digest() for letter in text]
    return np.frombuffer(b"".join(rows), np.uint8).reshape(-1, 16)


def test_copies_point_to_the_first():
    assert copies(digests("abacb")).tolist() == [0, 1, 0, 3, 1]
    assert groups_of_copies(list("vwxyz"), digests("abacb")) == ["v", "w", "v", "y", "w"]


def test_of_copies_that_in_test_stays():
    part = np.array([TRAIN, TEST, VALIDATION, TRAIN, TRAIN, TRAIN])
    labels = np.array([0, 0, 0, 1, 1, 0])
    with pytest.warns(UserWarning, match="3 pictures are copies .*1 test pictures are in training"):
        found = without_copies("toy", digests("aaabbc"), labels, part, "drop")
    assert found.tolist() == [LEFT_OUT, TEST, LEFT_OUT, TRAIN, LEFT_OUT, TRAIN]
    with pytest.warns(UserWarning, match="1 bear another label .*--drop-duplicates"):
        same = without_copies("toy", digests("ab" + "a"), np.array([0, 1, 1]), part[:3])
    assert same.tolist() == part[:3].tolist()


def test_without_copies_nothing_is_said():
    part = np.array([TRAIN, TEST])
    assert without_copies("toy", digests("ab"), part, part, "drop") is part
    with pytest.raises(SpecError, match="'warn' or 'drop'"):
        without_copies("toy", digests("ab"), part, part, "keep")


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    """Two files of 60 pictures each; ten of the second are of the first, by other names."""
    root, rng = tmp_path_factory.mktemp("copies"), np.random.default_rng(0)
    pixels = rng.integers(0, 256, (110, 8, 8, 3), np.uint8)
    found = []
    for name, rows in (("train", range(60)), ("test", range(50, 110))):
        for row in rows:
            place = root / name / ("ab"[row % 2])
            place.mkdir(parents=True, exist_ok=True)
            Image.fromarray(pixels[row]).save(place / f"{name}-{row}.png")
        spec = diffeat.ExtractSpec(20, "mid", pool="1x1")
        path, source = root / f"{name}.h5", diffeat.open_source(root / name)
        diffeat.extract_to_file(
            diffeat.load("unet-cifar10"), source, spec, path, progress=False, batch_size=60
        )
        found.append(path)
    return found


def test_a_test_set_that_holds_training_pictures(files):
    with FeatureStore(files[0]) as train, FeatureStore(files[1]) as test:
        with pytest.warns(UserWarning, match="10 test pictures are in training"):
            task = task_from_store(train, test=test)
        assert sum(task.counts) == 120
        with pytest.warns(UserWarning, match="were left out"):
            task = task_from_store(train, test=test, duplicates="drop")
        assert sum(task.counts) == 110
        assert task.counts[2] == 60
        gone = [task.ids[row] for row in np.flatnonzero(task.part == LEFT_OUT)]
        assert {int(name[:-4].split("-")[1]) for name in gone} == set(range(50, 60))
        assert not set(np.flatnonzero(task.part == LEFT_OUT)) & set(task.seen)


@pytest.fixture(scope="module")
def same_names(tmp_path_factory):
    """Two folders with twelve pictures under the same names, and their files."""
    root, rng = tmp_path_factory.mktemp("names"), np.random.default_rng(3)
    pixels = rng.integers(0, 256, (76, 8, 8, 3), np.uint8)
    found = []
    for name, rows in (("train", range(44)), ("test", range(32, 76))):
        for row in rows:
            place = root / name / "ab"[row % 2]
            place.mkdir(parents=True, exist_ok=True)
            Image.fromarray(pixels[row]).save(place / f"{row}.png")
        spec = diffeat.ExtractSpec(20, "mid", pool="1x1")
        source = diffeat.open_source(root / name)
        diffeat.extract_to_file(
            diffeat.load("unet-cifar10"), source, spec, root / f"{name}.h5", progress=False,
            batch_size=44,
        )  # fmt: skip
        found.append(root / f"{name}.h5")
    return found


def test_the_same_picture_under_the_same_name(same_names):
    with FeatureStore(same_names[0]) as train, FeatureStore(same_names[1]) as test:
        with pytest.raises(SpecError, match=r"test set of its own, or leave .*--drop-duplicates"):
            task_from_store(train, test=test)
        with pytest.warns(UserWarning, match="12 test pictures .*were left out"):
            task = task_from_store(train, test=test, duplicates="drop")
        assert task.counts[2] == 44
        assert sum(task.counts) == 44 + 32
        gone = {task.ids[row] for row in np.flatnonzero(task.part == LEFT_OUT)}
        assert gone == {f"{'ab'[row % 2]}/{row}.png" for row in range(32, 44)}


def test_the_same_picture_under_the_same_name_straight_from_the_model(same_names):
    sources = [diffeat.open_source(path.with_suffix("")) for path in same_names]
    spec = diffeat.ExtractSpec(20, "mid", pool="1x1")
    features = LiveFeatures(diffeat.load("unet-cifar10"), sources, spec, progress=False)
    with pytest.raises(SpecError, match=r"test set of its own, or leave .*--drop-duplicates"):
        live_task(features)
    with pytest.warns(UserWarning, match="were left out"):
        assert sum(live_task(features, duplicates="drop").counts) == 44 + 32


@pytest.mark.filterwarnings("always")
def test_the_command_says_so_and_leaves_them_out(run, files):
    answer = run("probe", *files, "-C", 1)
    assert answer.code == 0, answer.err
    assert "10 test pictures are in training" in answer.err
    assert "48 training, 12 validation" in answer.out
    answer = run("search", *files, "-C", 1, "--drop-duplicates", "--json")
    assert answer.code == 0, answer.err
    assert "were left out" in answer.err
    counts = json.loads(answer.out)["surface"]["counts"]
    assert sum(counts[:2]) == 50
    assert counts[2] == 60


def test_copies_in_one_small_file_are_never_on_two_sides(tmp_path):
    rng = np.random.default_rng(1)
    for k in range(40):
        place = tmp_path / "set" / "ab"[k % 2]
        place.mkdir(parents=True, exist_ok=True)
        picture = Image.fromarray(rng.integers(0, 256, (8, 8, 3), np.uint8))
        for copy in range(2):
            picture.save(place / f"{copy}-{k}.png")
    spec, path = diffeat.ExtractSpec(20, "mid", pool="1x1"), tmp_path / "f.h5"
    source = diffeat.open_source(tmp_path / "set")
    diffeat.extract_to_file(diffeat.load("unet-cifar10"), source, spec, path, progress=False)
    with FeatureStore(path) as store, pytest.warns(UserWarning, match="40 pictures are copies"):
        task = task_from_store(store)
    part = dict(zip(task.ids, task.part, strict=True))
    for k in range(40):
        folder = "ab"[k % 2]
        assert part[f"{folder}/0-{k}.png"] == part[f"{folder}/1-{k}.png"]


def test_neighbours_are_not_sought_among_copies(tmp_path):
    rng = np.random.default_rng(2)
    pixels = rng.integers(0, 256, (20, 8, 8, 3), np.uint8)
    (tmp_path / "set").mkdir()
    for k in range(24):
        Image.fromarray(pixels[k % 20]).save(tmp_path / "set" / f"{k:02d}.png")
    spec, path = diffeat.ExtractSpec(20, "mid", pool="1x1"), tmp_path / "f.h5"
    source = diffeat.open_source(tmp_path / "set")
    diffeat.extract_to_file(diffeat.load("unet-cifar10"), source, spec, path, progress=False)
    with FeatureStore(path) as store:
        with pytest.warns(UserWarning, match="4 pictures are copies"):
            assert choose_rows(store).tolist() == list(range(24))
        with pytest.warns(UserWarning, match="were left out"):
            assert choose_rows(store, duplicates="drop").tolist() == list(range(20))
