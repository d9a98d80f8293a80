"""Running a vision model over a source, and keeping what it gave."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from PIL import Image

from diffeat.errors import NumericsError, PictureError, SpecError, StoreError
from diffeat.images import digests, open_source
from diffeat.vision import load_vision
from diffeat.vision.kept import write_kept
from tests.store.earlier import LARGE, bmp, pixels_of, write_pictures
from tests.vision.conftest import pictures


@pytest.fixture(scope="module")
def model():
    return load_vision("timm:test_resnet@random")


def test_batches_and_threads_play_no_part(model):
    source = pictures(7)
    whole = model.features(source)
    for size, workers in ((1, 1), (3, 4), (100, 2)):
        found = model.features(source, size, workers)
        np.testing.assert_allclose(found, whole, rtol=1e-4, atol=1e-5)
    order = [4, 0, 6]
    found = model.features(source.take(order))
    np.testing.assert_allclose(found, whole[order], rtol=1e-4, atol=1e-5)


def test_pictures_of_any_kind(model, tmp_path):
    Image.new("L", (20, 30), 90).save(tmp_path / "grey.png")
    Image.new("RGB", (50, 10), (9, 99, 200)).save(tmp_path / "wide.png")
    source = open_source(tmp_path)
    found = model.features(source)
    assert found.shape == (2, 96)
    assert np.abs(found[0] - found[1]).max() > 1e-4
    (tmp_path / "wide.png").write_bytes(b"broken")
    with pytest.raises(PictureError, match=r"wide.png"):
        model.features(source)


def test_what_cannot_be_used(model, monkeypatch):
    with pytest.raises(SpecError, match="at least 1"):
        model.features(pictures(2), batch_size=0)
    bad = torch.zeros(3, 4)
    bad[1, 2] = torch.inf
    monkeypatch.setattr(model.network, "pooled", lambda *_: bad)
    with pytest.raises(NumericsError, match="'p1'"):
        model.features(pictures(3))


class TestKept:
    def test_nothing_is_computed_again(self, model, tmp_path, monkeypatch):
        path, source = tmp_path / "kept.safetensors", pictures(4)
        first = model.features(source, keep=path)
        np.testing.assert_array_equal(first, model.features(source))

        def refuse(_pixels):
            raise AssertionError("computed again")

        monkeypatch.setattr(model, "encode", refuse)
        np.testing.assert_array_equal(model.features(source, keep=path), first)
        assert [entry.name for entry in tmp_path.iterdir()] == ["kept.safetensors"]

    def test_of_other_pictures_or_another_model(self, model, tmp_path):
        path = tmp_path / "kept.safetensors"
        model.features(pictures(4), keep=path)
        with pytest.raises(StoreError, match=r"other pictures.*delete it"):
            model.features(pictures(4, seed=1), keep=path)
        with pytest.raises(StoreError, match="another model"):
            load_vision("timm:test_resnet@random:1").features(pictures(4), keep=path)
        with pytest.raises(StoreError, match="another model"):
            load_vision("timm:test_resnet@random", pool="mean").features(pictures(4), keep=path)

    def test_damaged(self, model, tmp_path):
        path = tmp_path / "kept.safetensors"
        model.features(pictures(4), keep=path)
        path.write_bytes(path.read_bytes()[:-8])
        with pytest.raises(StoreError, match="not a file of kept features"):
            model.features(pictures(4), keep=path)

    def test_a_folder_that_is_not_there(self, model, tmp_path):
        with pytest.raises(StoreError, match="cannot be written"):
            model.features(pictures(2), keep=tmp_path / "no" / "kept.safetensors")

    def test_pictures_in_files_are_read_once(self, model, tmp_path, monkeypatch):
        """Their middles count, too; a file whose stat is as noted is not read again."""
        reads, real = [], digests.digest_of_file
        monkeypatch.setattr(digests, "SETTLED_NS", -(10**15))
        monkeypatch.setattr(
            "diffeat.images.sources.digest_of_file",
            lambda path, *place: reads.append(path.name) or real(path, *place),
        )
        folder, path = write_pictures(tmp_path / "in"), tmp_path / "kept.safetensors"
        first = model.features(open_source(folder), keep=path)
        assert len(reads) == 6
        reads.clear()
        np.testing.assert_array_equal(model.features(open_source(folder), keep=path), first)
        assert reads == []
        large = folder / LARGE
        pixels = pixels_of(LARGE)
        pixels[100:150, 100:150] = 0
        large.write_bytes(bmp(pixels))
        with pytest.raises(StoreError, match="other pictures"):
            model.features(open_source(folder), keep=path)
        assert reads == [large.name]

    def test_those_of_version_0_6_are_compared_by_its_rule(self, model, tmp_path):
        folder, path = write_pictures(tmp_path / "in"), tmp_path / "kept.safetensors"
        source = open_source(folder)
        values = np.random.default_rng(0).normal(size=(6, 96)).astype(np.float32)
        noted = {"model": model.fingerprint, "pictures": source.by_rule(1).fingerprint()}
        write_kept(path, values, {**noted, "name": "old"})
        with pytest.warns(UserWarning, match=r"before 0\.7 and is compared by its rule"):
            np.testing.assert_array_equal(model.features(source, keep=path), values)
