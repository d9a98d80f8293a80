"""Digests and stats of pictures in feature files: written, kept, checked, used again."""

from __future__ import annotations

import hashlib
import json
import os
import shutil

import h5py
import numpy as np
import pytest
from PIL import Image

import diffeat
from diffeat.errors import SpecMismatch, StoreError
from diffeat.images import digests, open_source
from diffeat.jobs import extract_to_file
from diffeat.store import FeatureStore, merge_files, verify
from tests.store.earlier import bmp, pixels_of, write_pictures
from tests.test_jobs import save_tiny_pipeline

SPEC = diffeat.ExtractSpec(timesteps=(20,), blocks=("mid",), pool="1x1", dtype="float32")


@pytest.fixture(scope="module")
def backbone(tmp_path_factory):
    return diffeat.load(save_tiny_pipeline(tmp_path_factory.mktemp("tiny"), seed=0), device="cpu")


@pytest.fixture
def folder(tmp_path):
    return write_pictures(tmp_path / "in")


@pytest.fixture
def reads(monkeypatch):
    """Files that are read for their digest, by name; stats are noted however young files are."""
    found = []
    original = digests.digest_of_file

    def read(path, *place):
        found.append(os.path.basename(path))
        return original(path, *place)

    monkeypatch.setattr("diffeat.images.sources.digest_of_file", read)
    monkeypatch.setattr(digests, "SETTLED_NS", -(10**15))
    return found


def extract(backbone, source, path, **options):
    return extract_to_file(backbone, source, SPEC, path, batch_size=2, progress=False, **options)


def blake(path) -> bytes:
    return hashlib.blake2b(path.read_bytes(), digest_size=16).digest()


def test_a_file_holds_the_digests_and_stats_of_its_pictures(backbone, folder, tmp_path, reads):
    source = open_source(folder)
    extract(backbone, source, tmp_path / "f.h5")
    with h5py.File(tmp_path / "f.h5") as file:
        assert (file["digests"].shape, file["digests"].dtype) == ((6, 16), np.uint8)
        assert [bytes(row) for row in file["digests"][:]] == [blake(path) for path in source.paths]
        stats = [path.stat() for path in source.paths]
        expected = [[s.st_size, s.st_mtime_ns, s.st_ctime_ns, s.st_ino] for s in stats]
        assert file["file_stats"][:].tolist() == expected
        assert json.loads(file.attrs["pictures"])["reading"] == 2
    assert verify(tmp_path / "f.h5") == []


def test_pictures_in_memory_have_digests_and_no_stats(backbone, tmp_path):
    source = diffeat.open_source("digits").take([3, 5])
    extract(backbone, source, tmp_path / "f.h5")
    with h5py.File(tmp_path / "f.h5") as file:
        assert "file_stats" not in file
        expected = [b"|u1(8, 8)" + pixels.tobytes() for pixels in source.pixels]
        expected = [hashlib.blake2b(data, digest_size=16).digest() for data in expected]
        assert [bytes(row) for row in file["digests"][:]] == expected


def test_a_picture_painted_over_in_its_middle_is_noticed(backbone, tmp_path):
    """0.6 said "already complete, nothing to do"."""
    pixels = pixels_of("cat/a.bmp").repeat(8, 0).repeat(8, 1)
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "a.bmp").write_bytes(bmp(pixels))
    extract(backbone, open_source(tmp_path / "in"), tmp_path / "f.h5")
    pixels[100:150, 100:150] = 0
    (tmp_path / "in" / "a.bmp").write_bytes(bmp(pixels))
    with pytest.raises(SpecMismatch, match=r"of other pictures: 1 picture changed \(a\.bmp\);"):
        extract(backbone, open_source(tmp_path / "in"), tmp_path / "f.h5")


def test_the_same_command_again_reads_nothing(backbone, folder, tmp_path, reads):
    extract(backbone, open_source(folder), tmp_path / "f.h5")
    assert len(reads) == 6
    reads.clear()
    result = extract(backbone, open_source(folder), tmp_path / "f.h5")
    assert (result.status, reads) == ("already complete", [])
    (folder / "cat" / "a.bmp").touch()
    result = extract(backbone, open_source(folder), tmp_path / "f.h5")
    assert (result.status, reads) == ("already complete", ["a.bmp"])


def interrupt(backbone, folder, path, monkeypatch):
    """A run that ends after its first of three batches."""
    monkeypatch.setattr("diffeat.store.write.writer.SHARD_SECONDS", 0)
    source = open_source(folder)
    load = type(source).load

    def stopping(self, index):
        if index >= 4:
            raise KeyboardInterrupt
        return load(self, index)

    with monkeypatch.context() as patch:
        patch.setattr(type(source), "load", stopping)
        with pytest.raises(KeyboardInterrupt):
            extract(backbone, source, path)


def test_a_run_that_goes_on_reads_nothing_again(backbone, folder, tmp_path, reads, monkeypatch):
    path = tmp_path / "f.h5"
    interrupt(backbone, folder, path, monkeypatch)
    reads.clear()
    result = extract(backbone, open_source(folder), path)
    assert (result.status, reads) == ("resumed", [])
    with FeatureStore(path) as store:
        paths = open_source(folder).paths
        assert [bytes(row) for row in store.digests] == [blake(one) for one in paths]


def test_a_run_does_not_go_on_with_other_pictures(backbone, folder, tmp_path, reads, monkeypatch):
    path = tmp_path / "f.h5"
    interrupt(backbone, folder, path, monkeypatch)
    changed = open_source(folder).paths[0]
    data = bytearray(changed.read_bytes())
    data[len(data) // 2] ^= 1
    changed.write_bytes(data)
    with pytest.raises(SpecMismatch, match=r"of these 1 picture changed \(cat/a\.bmp\)"):
        extract(backbone, open_source(folder), path)


def test_what_waited_may_have_changed(backbone, folder, tmp_path, reads, monkeypatch):
    """Nothing was made of it yet."""
    path = tmp_path / "f.h5"
    interrupt(backbone, folder, path, monkeypatch)
    waiting = open_source(folder).paths[5]
    Image.fromarray(255 - pixels_of("cat/a.bmp")).save(waiting)
    result = extract(backbone, open_source(folder), path)
    assert (result.status, result.pictures, result.computed) == ("resumed", 6, 2)
    with FeatureStore(path) as store:
        assert bytes(store.digests[5]) == blake(waiting)
    extract(backbone, open_source(folder), tmp_path / "g.h5")
    with FeatureStore(path) as one, FeatureStore(tmp_path / "g.h5") as other:
        assert one.fingerprint == other.fingerprint
        np.testing.assert_allclose(one["mid", 20][:], other["mid", 20][:], atol=1e-5)


def test_notes_of_other_pictures_are_not_believed(backbone, folder, tmp_path, reads, monkeypatch):
    path = tmp_path / "f.h5"
    interrupt(backbone, folder, path, monkeypatch)
    note = (tmp_path / "f.h5.parts" / "pictures.bin").read_bytes()
    for k, content in enumerate((b"", b"x" * 312, note[:-1], note + b"x")):
        parts = shutil.copytree(tmp_path / "f.h5.parts", tmp_path / f"{k}.h5.parts")
        (parts / "pictures.bin").write_bytes(content)
        reads.clear()
        result = extract(backbone, open_source(folder).take(range(5)), tmp_path / f"{k}.h5")
        assert (result.status, result.computed, len(reads)) == ("resumed", 1, 5)


def test_skipped_pictures_have_no_digest(backbone, folder, tmp_path, reads):
    (folder / "cat" / "broken.png").write_bytes(b"none")
    source = open_source(folder)
    extract(backbone, source, tmp_path / "f.h5", on_error="skip")
    with FeatureStore(tmp_path / "f.h5") as store:
        assert list(store.skipped) == ["cat/broken.png"]
        kept = [path for path in source.paths if path.name != "broken.png"]
        assert [bytes(row) for row in store.digests] == [blake(path) for path in kept]
    reads.clear()
    result = extract(backbone, open_source(folder), tmp_path / "f.h5", on_error="skip")
    assert (result.status, reads) == ("already complete", ["broken.png"])


# joined files


@pytest.fixture
def joined(backbone, folder, tmp_path):
    """Two files of other pictures, and all digests."""
    source = open_source(folder)
    for name, rows in (("a.h5", [0, 3, 4]), ("b.h5", [1, 2, 5])):
        extract(backbone, source.take(rows), tmp_path / name)
    return [tmp_path / "a.h5", tmp_path / "b.h5"], source.digests()[[0, 3, 4, 1, 2, 5]]


def test_a_merge_keeps_digests(joined, tmp_path):
    paths, expected = joined
    merge_files(paths, tmp_path / "all.h5", compression="gzip")
    assert verify(tmp_path / "all.h5") == []
    with FeatureStore(tmp_path / "all.h5") as store:
        assert np.array_equal(store.digests, expected)
        assert store.file_stats.shape == (6, 4)
        assert store.pictures["reading"] == 2


def test_a_merge_says_what_it_drops(joined, tmp_path):
    paths, _ = joined
    with h5py.File(paths[1], "r+") as file:
        del file["digests"]
    with pytest.warns(UserWarning, match=r"/digests is dropped, because .*b\.h5 has none"):
        merge_files(paths, tmp_path / "all.h5")
    with FeatureStore(tmp_path / "all.h5") as store:
        assert store.digests is None
        assert store.file_stats is not None


def test_files_of_other_blocks_keep_digests(backbone, folder, tmp_path):
    source = open_source(folder)
    extract(backbone, source, tmp_path / "a.h5")
    other = diffeat.ExtractSpec(timesteps=(20,), blocks=("up.0",), pool="1x1", dtype="float32")
    extract_to_file(backbone, source, other, tmp_path / "b.h5", progress=False)
    merge_files([tmp_path / "a.h5", tmp_path / "b.h5"], tmp_path / "all.h5")
    with FeatureStore(tmp_path / "all.h5") as store:
        assert np.array_equal(store.digests, source.digests())


# files from elsewhere


@pytest.fixture
def sound(backbone, tmp_path):
    extract(backbone, diffeat.open_source("digits").limit(10), tmp_path / "sound.h5")
    return tmp_path / "sound.h5"


def test_verify_finds_changed_digests(sound):
    with h5py.File(sound, "r+") as file:
        file["digests"][2, 3] ^= 1
    assert verify(sound) == ["digests: another checksum than when they were written"]


@pytest.mark.parametrize("shape", [(10, 15), (9, 16), (10,), (10, 16, 1)])
def test_digests_of_another_shape_are_refused(sound, shape):
    with h5py.File(sound, "r+") as file:
        del file["digests"]
        file["digests"] = np.zeros(shape, np.uint8)
    with FeatureStore(sound) as store, pytest.raises(StoreError, match="digests has shape"):
        _ = store.digests
    assert "digests has shape" in verify(sound)[0]


@pytest.mark.parametrize("dtype", ["int8", "uint16", "float32", "S16"])
def test_digests_of_another_type_are_refused(sound, dtype):
    with h5py.File(sound, "r+") as file:
        del file["digests"]
        file["digests"] = np.zeros((10, 16), dtype)
    with FeatureStore(sound) as store, pytest.raises(StoreError, match="digests"):
        _ = store.digests


def test_digests_that_claim_more_than_the_file_holds_are_refused(sound):
    with h5py.File(sound, "r+") as file:
        del file["digests"]
        file.create_dataset("digests", (10, 16), np.uint8, chunks=(10, 16))
    with FeatureStore(sound) as store, pytest.raises(StoreError, match="claims 160 bytes"):
        _ = store.digests


def test_profiled_pictures_are_counted(backbone, folder, tmp_path):
    result = extract(backbone, open_source(folder), tmp_path / "f.h5")
    assert result.converted == 1
    Image.new("RGB", (4, 4)).save(tmp_path / "plain.png")
    result = extract(backbone, open_source(tmp_path / "plain.png"), tmp_path / "g.h5")
    assert result.converted == 0
