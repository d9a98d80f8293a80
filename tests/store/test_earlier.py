"""A file and unfinished parts that version 0.6.0 left (see `tests.store.earlier`)."""

from __future__ import annotations

import os
import shutil
import unicodedata
import warnings

import h5py
import numpy as np
import pytest
from click.testing import CliRunner
from PIL import Image

import diffeat
from diffeat.backbones import ModelRequest
from diffeat.cli import cli
from diffeat.errors import SpecMismatch, StoreError
from diffeat.jobs import extract_to_file
from diffeat.loading import load_model
from diffeat.store import FeatureStore, look_at_parts, merge_files, verify
from tests.store.earlier import DATA, LARGE, NAMES, PROFILED, bmp, pixels_of, write_pictures

SPEC = diffeat.ExtractSpec(timesteps=(20,), blocks=("mid",), pool="1x1", dtype="float32")
BY_ITS_RULE = "begun by a version before 0.7 and is compared and gone on with by its rule"
FEATURES = "features/mid/t20"


@pytest.fixture(scope="module")
def backbone():
    return load_model(ModelRequest("unet-cifar10", device="cpu"))


@pytest.fixture
def at(tmp_path):
    """Copies of the old files beside the pictures, where they lay."""
    write_pictures(tmp_path / "pictures")
    shutil.copy(DATA / "whole.h5", tmp_path)
    shutil.copytree(DATA / "half.h5.parts", tmp_path / "half.h5.parts")
    return tmp_path


def extract(backbone, at, name, told=BY_ITS_RULE, **options):
    """The command that made the old files, by this version; it must say `told` first."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        source = options.pop("source", None) or diffeat.open_source(at / "pictures")
        result = extract_to_file(
            backbone, source, SPEC, at / name, batch_size=4, progress=False, **options
        )
    said = [str(warning.message) for warning in caught]
    # another torch or number of threads is told too
    assert [text for text in said if told in text] == said[:1] if told else said == []
    return result


def test_the_old_file_opens_verifies_and_exports(at):
    assert verify(at / "whole.h5") == []
    with FeatureStore(at / "whole.h5") as store:
        assert store.ids == list(NAMES)
        assert (store.digests, store.file_stats) == (None, None)
        assert (store.sizes, store.placements) == (None, None)
        with pytest.raises(StoreError, match=r"not known, as in files from before 0\.8"):
            store.placement(0)
        store.export(at / "f.npz")
        expected = store["mid", 20][:]
    with np.load(at / "f.npz") as arrays:
        np.testing.assert_array_equal(arrays[FEATURES], expected)
        assert not {"digests", "sizes", "placements"} & set(arrays)


def test_the_old_file_is_still_complete(at, backbone):
    before = (at / "whole.h5").read_bytes()
    assert extract(backbone, at, "whole.h5").status == "already complete"
    assert (at / "whole.h5").read_bytes() == before


def test_the_old_file_is_still_of_these_pictures_only(at, backbone):
    (at / "pictures" / NAMES[0]).write_bytes(bmp(pixels_of(NAMES[3])))
    with pytest.raises(SpecMismatch, match=r"cannot be told, because .* before version 0\.7"):
        extract(backbone, at, "whole.h5")


def test_the_old_file_does_not_grow_and_says_why(at, backbone):
    (at / "pictures" / "cat" / "z.bmp").write_bytes(bmp(pixels_of(NAMES[3])))
    with pytest.raises(SpecMismatch, match=r"1 picture is new \(cat/z\.bmp\); which .* before v"):
        extract(backbone, at, "whole.h5")


def test_the_old_rule_is_kept_in_whole(at, backbone):
    """What 0.6 did not see, did not take, or took does not make its file another's."""
    folder, pixels = at / "pictures", pixels_of(LARGE)
    pixels[100:150, 100:150] = 0
    (folder / LARGE).write_bytes(bmp(pixels))
    Image.new("RGB", (4, 4)).save(folder / "cat" / "new.jfif", "JPEG")
    os.mkdir(folder / "cat" / "@eaDir")
    source = diffeat.open_source(folder)
    assert len(source) == 7
    assert extract(backbone, at, "whole.h5", source=source).status == "already complete"


def test_old_parts_are_gone_on_with_to_the_same_file(at, backbone):
    assert look_at_parts(at / "half.h5", thorough=True).finished == 4
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        source = diffeat.open_source(at / "pictures")
        shutil.copytree(at / "half.h5.parts", at / "same.h5.parts")
        extract_to_file(backbone, source, SPEC, at / "same.h5", batch_size=4, progress=False)
    lacking = "goes on without /sizes and /placements, which its unfinished parts lack"
    assert sum(lacking in str(warning.message) for warning in caught) == 1
    result = extract(backbone, at, "half.h5")
    assert (result.status, result.computed, result.converted) == ("resumed", 2, 0)
    assert verify(at / "half.h5") == []
    with h5py.File(at / "half.h5") as found, h5py.File(DATA / "whole.h5") as whole:
        assert set(found) == set(whole) == {"ids", "labels", "features"}
        assert found["ids"].asstr()[:].tolist() == list(NAMES)
        assert found["labels"][:].tolist() == whole["labels"][:].tolist()
        assert found["labels"].attrs["names"].tolist() == ["cat", "hu\u0308nd"]
        np.testing.assert_array_equal(found[FEATURES][:4], whole[FEATURES][:4])
        np.testing.assert_allclose(found[FEATURES][:], whole[FEATURES][:], rtol=1e-4, atol=1e-4)
        assert found.attrs["fingerprint"] == whole.attrs["fingerprint"]
    assert extract(backbone, at, "half.h5").status == "already complete"


def test_a_new_file_is_made_by_the_new_rule(at, backbone):
    """Its picture with a profile, and those whose names are spelled otherwise, differ."""
    result = extract(backbone, at, "new.h5", told=None)
    assert (result.status, result.converted) == ("done", 1)
    with FeatureStore(at / "new.h5") as new, FeatureStore(at / "whole.h5") as old:
        assert new.pictures["reading"] == 2
        assert new.ids == [unicodedata.normalize("NFC", name) for name in old.ids]
        assert new.digests.shape == (6, 16)
        near = np.isclose(new["mid", 20][:], old["mid", 20][:], rtol=1e-3, atol=1e-3).all(1)
        same = [name.isascii() and name != PROFILED for name in NAMES]
        assert near.tolist() == same
    assert verify(at / "new.h5") == []


def test_overwriting_makes_it_by_the_new_rule(at, backbone):
    for name in ("whole.h5", "half.h5"):
        result = extract(backbone, at, name, told=None, overwrite=True)
        assert (result.status, result.computed) == ("done", 6)
        with FeatureStore(at / name) as store:
            assert store.digests is not None
            assert store.sizes.tolist() == [list(pixels_of(one).shape[:2]) for one in NAMES]
            assert store.placement(1).to_input([[255.5, 127.5]]).tolist() == [[31.5, 15.5]]


def test_old_files_are_joined_with_others(at, backbone):
    source = diffeat.open_source(at / "pictures")
    Image.new("RGB", (4, 4)).save(at / "other.png")
    (at / "more" / "cat").mkdir(parents=True)
    (at / "other.png").rename(at / "more" / "cat" / "z.png")
    more = diffeat.open_source(at / "more")
    extract(backbone, at, "more.h5", told=None, source=more)
    with (
        pytest.warns(UserWarning, match="made before version 0.7"),
        pytest.warns(UserWarning, match=r"/digests is dropped, because .*whole\.h5 has none"),
        pytest.warns(UserWarning, match=r"/file_stats is dropped"),
        pytest.warns(UserWarning, match=r"/sizes is dropped, because .*whole\.h5 has none"),
        pytest.warns(UserWarning, match=r"/placements is dropped"),
    ):
        merge_files([at / "whole.h5", at / "more.h5"], at / "all.h5")
    assert verify(at / "all.h5") == []
    with FeatureStore(at / "all.h5") as store:
        assert len(store) == len(source) + 1
        assert (store.digests, store.sizes, store.placements) == (None, None, None)
        assert "reading" not in store.pictures
    merge_files([at / "whole.h5"], at / "again.h5")
    assert verify(at / "again.h5") == []


def test_old_files_are_joined_with_each_other(at):
    shutil.copy(at / "whole.h5", at / "others.h5")
    with h5py.File(at / "others.h5", "r+") as file:
        file["ids"][:] = [f"other/{name}" for name in NAMES]
        del file["ids"].attrs["blake2b"]
    merge_files([at / "whole.h5", at / "others.h5"], at / "all.h5")
    assert verify(at / "all.h5") == []
    with FeatureStore(at / "all.h5") as store:
        assert len(store) == 2 * len(NAMES)
        assert (store.sizes, store.placements) == (None, None)


@pytest.mark.parametrize("name", ["whole.h5", "half.h5"])
def test_info_says_that_placements_are_not_known(name, at):
    answer = CliRunner().invoke(cli, ["info", str(at / name)])
    assert "placed    not known: made without /sizes and /placements" in answer.output
