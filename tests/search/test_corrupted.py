"""Trained clean, tested on pictures made worse: accepted, told apart, and said everywhere."""

from __future__ import annotations

import csv
import json

import numpy as np
import pytest
import torch
from PIL import Image

import diffeat as package
from diffeat.images import Corruption
from diffeat.viewer import originals
from tests.search.common import arrays_of, labels_of, write_store

MODEL, CORRUPTION = "unet-cifar10", "gaussian_noise:4"
OPTIONS = ("-t", "20", "-b", "up.0.res.0", "--pool", "1x1")
TOLD = "training pictures clean, test pictures corrupted by gaussian_noise:4"


@pytest.fixture
def folder(tmp_path):
    rng = np.random.default_rng(0)
    for index in range(6):
        place = tmp_path / "pictures" / ("bright" if index % 2 else "dark")
        place.mkdir(parents=True, exist_ok=True)
        pixels = rng.integers(0, 130, (40, 24, 3)) + 120 * (index % 2)
        Image.fromarray(pixels.astype(np.uint8)).save(place / f"{index}.png")
    return tmp_path / "pictures"


@pytest.fixture
def files(tmp_path):
    """Clean training features, and test features of other, corrupted pictures."""
    found = []
    for name, seed, corrupt in (("train", 0, None), ("test", 1, CORRUPTION)):
        labels = labels_of(160, seed)
        path = tmp_path / f"{name}.h5"
        arrays = {cell: values + np.float32(0.01) * seed
                  for cell, values in arrays_of(labels).items()}  # fmt: skip
        write_store(path, arrays, labels, corrupt=corrupt).close()
        found.append(path)
    return found


def test_an_extraction_is_that_of_corrupted_files(diffeat, folder, tmp_path):
    worse = tmp_path / "worse"
    for path in sorted(folder.glob("*/*.png")):
        name = path.relative_to(folder).as_posix()
        (worse / name).parent.mkdir(parents=True, exist_ok=True)
        with Image.open(path) as image:
            Corruption("gaussian_noise", 4).apply(image, 3, name).save(worse / name)
    options = (*OPTIONS, "--seed", 3, "--dtype", "float32")
    answer = diffeat("extract", MODEL, folder, *options, "--corrupt", CORRUPTION,
                     "-o", tmp_path / "a.h5", "--batch-size", 4)  # fmt: skip
    assert answer.code == 0, answer.err
    diffeat("extract", MODEL, worse, *options, "-o", tmp_path / "b.h5", "--batch-size", 4)
    diffeat("extract", MODEL, folder, *options, "-o", tmp_path / "c.h5", "--batch-size", 4)
    stores = [package.FeatureStore(tmp_path / f"{name}.h5") for name in "abc"]
    with stores[0] as a, stores[1] as b, stores[2] as c:
        found, expected, clean = (one["up.0.res.0", 20][:] for one in (a, b, c))
        assert a.spec.corrupt == CORRUPTION
        assert "corrupt" not in c.spec.to_dict()
        assert a.pictures["fingerprint"] == c.pictures["fingerprint"]
        shown = [originals(one, one.ids, str(where)) for one, where in ((a, folder), (b, worse))]
    assert np.array_equal(*shown)  # what the network was given
    assert np.array_equal(found, expected)
    assert np.abs(found - clean).max() > 0.05
    backbone = package.load(MODEL)
    spec = package.ExtractSpec(timesteps=(20,), blocks=("up.0.res.0",), pool="1x1", seed=3,
                               dtype="float32", corrupt=CORRUPTION)  # fmt: skip
    paths = sorted(folder.glob("*/*.png"))
    names = [path.relative_to(folder).as_posix() for path in paths]
    again = package.extract(backbone, paths, spec, ids=names)["up.0.res.0", 20]
    np.testing.assert_allclose(again.numpy(), found, atol=1e-5)
    with pytest.raises(package.errors.SpecError, match="these are floats"):
        package.extract(backbone, torch.zeros(1, 3, 32, 32), spec)


def test_it_is_said_before_and_after(diffeat, folder, tmp_path):
    plan = diffeat("plan", MODEL, folder, *OPTIONS, "--corrupt", "Contrast:2")
    assert "corrupted by contrast:2" in plan.out
    diffeat("extract", MODEL, folder, *OPTIONS, "--corrupt", "contrast:2", "-o", tmp_path / "a.h5")
    assert "corrupt=contrast:2" in diffeat("info", tmp_path / "a.h5").out
    bad = diffeat("plan", MODEL, folder, *OPTIONS, "--corrupt", "fog:2")
    assert bad.code == 2
    assert "jpeg_compression" in bad.err
    painted = diffeat("plan", MODEL, folder, *OPTIONS, "--corrupt", "contrast:2", "--noise",
                      "generation")  # fmt: skip
    assert "leave corrupt out" in painted.err


def test_a_corrupted_test_file(diffeat, files, tmp_path):
    answer = diffeat("search", *files, "--csv", tmp_path / "s.csv")
    assert answer.code == 0, answer.err
    assert TOLD in answer.out
    with open(tmp_path / "s.csv", newline="", encoding="utf-8") as file:
        assert {row["told"] for row in csv.DictReader(file)} == {TOLD}
    assert json.loads(diffeat("search", *files, "--json").out)["told"] == TOLD
    answer = diffeat("probe", *files, "--save", tmp_path / "h.safetensors")
    assert TOLD in answer.out
    answer = diffeat("predict", tmp_path / "h.safetensors", files[1], "-o", tmp_path / "p.csv")
    assert answer.code == 0, answer.err
    assert f"pictures corrupted by {CORRUPTION}, the head's were clean" in answer.err
    assert "pictures corrupted by" in diffeat("search", files[1]).out
    assert "corrupted" not in diffeat("search", files[0]).out


def test_other_fields_still_have_to_be_alike(diffeat, files, tmp_path):
    labels = labels_of(160, 2)
    arrays = {cell: values + np.float32(0.02) for cell, values in arrays_of(labels).items()}
    write_store(tmp_path / "other.h5", arrays, labels, corrupt=CORRUPTION, seed=5).close()
    answer = diffeat("search", files[0], tmp_path / "other.h5")
    assert answer.code == 2
    assert "seed: 0 → 5" in answer.err
    assert "corrupt" not in answer.err.replace("extracted", "")
    answer = diffeat("merge", tmp_path / "m.h5", *files)
    assert answer.code == 1
    assert "corrupt" in answer.err


def test_a_comparison_says_which_file_is_corrupted(diffeat, tmp_path):
    labels = labels_of(120, 0)
    for name, corrupt in (("clean", None), ("worse", CORRUPTION)):
        write_store(tmp_path / f"{name}.h5", arrays_of(labels), labels, corrupt=corrupt).close()
    answer = diffeat("compare", tmp_path / "clean.h5", tmp_path / "worse.h5")
    assert answer.code == 0, answer.err
    assert "worse: pictures corrupted by gaussian_noise:4" in answer.out
    assert "clean: " not in answer.out
