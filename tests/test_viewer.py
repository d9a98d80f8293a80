"""A file's maps and originals, as a notebook asks for them."""

from __future__ import annotations

import json
import shutil

import h5py
import numpy as np
import pytest
from PIL import Image

import diffeat
from diffeat.errors import SourceError, SpecError, StoreError
from diffeat.store import beside, merge_files
from diffeat.viewer import choose_rows, originals, read_maps, view_maps
from diffeat.viz.maps import GAP, HEAD, TOP

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


def test_a_file_does_not_choose_what_is_read(folder, file, tmp_path, monkeypatch):
    """Far from it and from where one stands, nothing is looked for."""
    far = tmp_path / "a" / "b" / "c"
    far.mkdir(parents=True)
    moved = far / "f.h5"
    for way in ("../../../../x", "/etc", "../a/../../..", 3, "", "a\0b"):
        shutil.copy(file, moved)
        with h5py.File(moved, "a") as plain:
            told = json.loads(plain.attrs["pictures"]) | {"name": str(folder), "beside": way}
            plain.attrs["pictures"] = json.dumps(told)
        monkeypatch.chdir(tmp_path)
        with diffeat.FeatureStore(moved) as store:
            with pytest.raises(StoreError, match=r"outside the current .*say with --pict"):
                originals(store, ["a.png"])
            monkeypatch.chdir(folder.parent)
            assert len(originals(store, ["a.png"])) == 1
            with pytest.raises(SourceError):
                originals(store, ["a.png"], str(tmp_path / "nowhere"))


@pytest.fixture
def project(folder, file, tmp_path, monkeypatch):
    """A project with pictures and a feature file, made from inside by a relative path."""
    shutil.copytree(folder, tmp_path / "project" / "pictures")
    monkeypatch.chdir(tmp_path / "project")
    diffeat.extract_to_file(
        diffeat.load("unet-cifar10", device="cpu"), diffeat.open_source("pictures"),
        diffeat.ExtractSpec((20,), ("mid",)), "out/f.h5",
    )  # fmt: skip
    return tmp_path / "project"


@pytest.mark.parametrize("place", [".", "out", "pictures", "..", "/"])
def test_originals_are_found_from_anywhere(project, folder, monkeypatch, place):
    monkeypatch.chdir(project / place)
    with diffeat.FeatureStore(project / "out" / "f.h5") as store:
        assert store.pictures["name"] == "pictures"
        assert store.pictures["beside"] == "../pictures"
        found = originals(store, NAMES[:1])
    np.testing.assert_array_equal(found[0], np.asarray(Image.open(folder / NAMES[0])))


def test_a_merged_file_finds_them_from_where_it_lies(project, folder, monkeypatch):
    merge_files(["out/f.h5"], "copy.h5")
    monkeypatch.chdir("/")
    with diffeat.FeatureStore(project / "copy.h5") as store:
        assert store.pictures["beside"] == "pictures"
        assert len(originals(store, NAMES)) == 3


def test_pictures_that_changed_are_not_shown_as_originals(project, monkeypatch):
    shutil.copy("pictures/b.png", "pictures/a.png")
    with diffeat.FeatureStore("out/f.h5") as store:
        with pytest.raises(StoreError, match=r"pictures: a\.png changed since out/f\.h5 was made"):
            originals(store, NAMES)
        assert len(originals(store, NAMES[1:])) == 2
        assert len(originals(store, NAMES, "pictures")) == 3  # whoever says so means it
    (project / "pictures" / "a.png").unlink()
    with (
        diffeat.FeatureStore("out/f.h5") as store,
        pytest.raises(StoreError, match=r"no picture 'a\.png', which out/f\.h5 was made from; say"),
    ):
        originals(store, NAMES)


def test_far_away_pictures_leave_no_way_to_them(folder, tmp_path):
    """Nor do those that are no files."""
    assert beside(str(folder), folder.parent / "f.h5") == {"beside": folder.name}
    deep = tmp_path / "1" / "2" / "3"
    assert beside(str(folder), deep / "f.h5") == {}
    assert beside("digits", tmp_path / "f.h5") == {}
    assert beside(str(folder / "*.png"), folder / "x" / "f.h5") == {"beside": "../*.png"}


def test_one_channel_and_smooth_maps(store, folder, tmp_path):
    sheets = []
    for options in ({}, {"smooth": True}, {"channel": 3}):
        view_maps(store, tmp_path / "v.png", 1, ["mid"], None, str(folder), **options)
        with Image.open(tmp_path / "v.png") as image:
            sheets.append(np.asarray(image))
    assert sheets[0].shape == sheets[1].shape == sheets[2].shape
    assert len({sheet.tobytes() for sheet in sheets}) == 3
    with pytest.raises(SpecError, match="expected 0 to 191"):
        view_maps(store, tmp_path / "v.png", 1, ["mid"], None, str(folder), channel=192)


def test_pictures_of_another_size_are_shown_beside_the_input(folder, tmp_path):
    """At their own aspect, and the input beside them; pictures of the input's size stand alone."""
    wide = tmp_path / "wide"
    wide.mkdir()
    pixels = np.random.default_rng(0).integers(0, 256, (20, 60, 3), np.uint8)
    Image.fromarray(pixels).save(wide / "a.png")
    spec = diffeat.ExtractSpec((20,), ("mid",), fit="crop")
    model = diffeat.load("unet-cifar10", device="cpu")
    diffeat.extract_to_file(model, diffeat.open_source(str(wide)), spec, tmp_path / "w.h5")
    with diffeat.FeatureStore(tmp_path / "w.h5") as opened:
        assert view_maps(opened, tmp_path / "w.png", where=str(wide)) == []
        (wide / "a.png").rename(tmp_path / "a.png")
        alone = view_maps(opened, tmp_path / "alone.png")
    assert "without the originals" in alone[0]
    with Image.open(tmp_path / "w.png") as image:
        sheet = np.asarray(image.convert("RGB"))
    top, step = TOP + HEAD, 180 + GAP  # 60 pixels, three times
    shown = sheet[top : top + 60, GAP : GAP + 180]
    np.testing.assert_array_equal(shown, pixels.repeat(3, 0).repeat(3, 1))
    maps = sheet[top : top + 60, GAP + step + 150 + GAP :][:, :180]
    np.testing.assert_array_equal(
        maps[:, :60], (255 - 0.3 * (255.0 - shown[:, :60])).astype(np.uint8)
    )
    assert (maps[:, 60:120] != shown[:, 60:120]).mean() > 0.9
