"""A file's maps and originals, as a notebook asks for them."""

from __future__ import annotations

import h5py
import numpy as np
import pytest
from PIL import Image

import diffeat
from diffeat.errors import SourceError, SpecError, StoreError
from diffeat.viewer import choose_rows, originals, read_maps, view_maps

NAMES = ("a.png", "b.png", "c.png")


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Three pictures of the model's own size, so that nothing is resized."""
    path = tmp_path_factory.mktemp("pictures")
    for seed, name in enumerate(NAMES):
        pixels = np.random.default_rng(seed).integers(0, 256, (32, 32, 3), np.uint8)
        Image.fromarray(pixels).save(path / name)
    return path


@pytest.fixture(scope="module")
def file(folder):
    path = folder.parent / f"{folder.name}.h5"
    spec = diffeat.ExtractSpec((20, 60), ("mid", "up.0"))
    diffeat.extract_to_file(
        diffeat.load("unet-cifar10", device="cpu"), diffeat.open_source(str(folder)), spec, path
    )
    return path


@pytest.fixture
def store(file):
    with diffeat.FeatureStore(file) as opened:
        yield opened


def test_maps_are_those_of_the_file(store, file):
    maps, left_out = read_maps(store, [2, 0], blocks=["up.0"], timesteps=["60"])
    assert (list(maps), left_out) == (["up.0, t=60"], [])
    with h5py.File(file) as plain:
        np.testing.assert_array_equal(maps["up.0, t=60"], plain["features/up.0/t60"][:][[2, 0]])
    headings = ["mid, t=20", "mid, t=60", "up.0, t=20", "up.0, t=60"]
    assert list(read_maps(store, [1])[0]) == headings


def test_originals_are_the_pictures(store, folder):
    found = originals(store, ["c.png", "a.png"], str(folder))
    for picture, name in zip(found, ("c.png", "a.png"), strict=True):
        np.testing.assert_array_equal(picture, np.asarray(Image.open(folder / name)))


def test_rows():
    assert choose_rows(NAMES, 2) == [0, 1]
    assert choose_rows(NAMES, 9) == [0, 1, 2]
    assert choose_rows(NAMES, ["c.png", "a.png"]) == [2, 0]
    with pytest.raises(SpecError, match=r"no picture 'd\.png'.*'a\.png'"):
        choose_rows(NAMES, ["d.png"])


def test_a_sheet_has_a_row_per_picture_and_a_column_per_cell(store, folder, tmp_path):
    sizes = []
    for pictures, blocks in ((1, ["mid"]), (3, ["mid"]), (3, ["mid", "up.0"])):
        assert view_maps(store, tmp_path / "v.png", pictures, blocks, None, str(folder)) == []
        with Image.open(tmp_path / "v.png") as image:
            sizes.append(image.size)
    assert sizes[0][0] == sizes[1][0] < sizes[2][0]
    assert sizes[0][1] < sizes[1][1] == sizes[2][1]


def test_a_file_does_not_choose_what_is_read(store, folder, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(StoreError, match="outside the current folder"):
        originals(store, ["a.png"])
    monkeypatch.chdir(folder.parent)
    assert len(originals(store, ["a.png"])) == 1
    with pytest.raises(SourceError):
        originals(store, ["a.png"], str(tmp_path / "nowhere"))
