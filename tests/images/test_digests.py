"""What pictures hold, byte by byte, and when it is read again; hashlib says what must come out."""

from __future__ import annotations

import hashlib
import os
import tarfile

import numpy as np
import pytest
from PIL import Image

from diffeat.errors import SourceError
from diffeat.images import ArraySource, FileSource, digests, look, open_source
from diffeat.images.reading import content_1
from tests.images.builders import noise, pack, saved
from tests.store.earlier import bmp, pixels_of, write_pictures


def blake(data: bytes) -> bytes:
    return hashlib.blake2b(data, digest_size=16).digest()


@pytest.fixture
def reads(monkeypatch):
    """Files that are read for their digest, by name; stats are noted however young files are."""
    found = []
    original = digests.digest_of_file

    def read(path, *place):
        found.append(os.path.basename(path))
        return original(path, *place)

    for module in ("sources", "webdataset", "huggingface"):
        monkeypatch.setattr(f"diffeat.images.{module}.digest_of_file", read)
    monkeypatch.setattr(digests, "SETTLED_NS", -(10**15))
    return found


def test_digests_of_files_are_those_of_their_bytes(tmp_path):
    source = open_source(write_pictures(tmp_path / "in"))
    found = source.digests()
    assert found.shape == (6, 16)
    assert found.dtype == np.uint8
    assert [bytes(row) for row in found] == [blake(path.read_bytes()) for path in source.paths]


def test_a_large_file_is_hashed_whole(tmp_path):
    data = np.random.default_rng(0).bytes((3 << 20) + 17)
    (tmp_path / "a.png").write_bytes(data)
    assert bytes(open_source(tmp_path).digests()[0]) == blake(data)


def test_digests_of_members_are_those_of_the_packed_files(tmp_path):
    members = {f"{k}.png": saved(noise(k)) for k in range(3)}
    source = open_source(pack(tmp_path / "a.tar", members))
    assert [bytes(row) for row in source.digests()] == [blake(data) for data in members.values()]


def test_digests_of_records_are_those_of_their_bytes(tmp_path):
    hub = pytest.importorskip("datasets")
    raw = [saved(noise(k)) for k in range(3)]
    rows = {"image": [{"bytes": data, "path": None} for data in raw]}
    data = hub.Dataset.from_dict(rows, features=hub.Features({"image": hub.Image()}))
    data.save_to_disk(tmp_path / "hub")
    source = open_source(tmp_path / "hub")
    assert [bytes(row) for row in source.take([2, 0]).digests()] == [blake(raw[2]), blake(raw[0])]
    assert source.stats().shape == (3, 4)
    assert source.stats()[0, 0] == sum(f.stat().st_size for f in (tmp_path / "hub").glob("*.arrow"))


def test_digests_of_arrays_follow_type_shape_and_values():
    pixels = np.arange(24, dtype=np.uint8).reshape(2, 3, 4)
    found = ArraySource("a", ("x", "y"), pixels=pixels).digests()
    assert bytes(found[1]) == blake(b"|u1(3, 4)" + pixels[1].tobytes())
    other = ArraySource("a", ("x", "y"), pixels=pixels.reshape(2, 4, 3)).digests()
    assert not (found == other).all(1).any()


def test_unreadable_pictures_have_digests_of_their_own(tmp_path):
    names = ("gone.png", "gone too.png")
    source = FileSource("few", names, paths=tuple(tmp_path / name for name in names))
    assert len({bytes(row) for row in source.digests()}) == 2
    assert not source.stats().any()


def test_every_byte_counts(tmp_path):
    """The middle of a 256×256 BMP is painted over: 0.6 looked at its ends only."""
    pixels = pixels_of("cat/a.bmp").repeat(8, 0).repeat(8, 1)
    (tmp_path / "a.bmp").write_bytes(bmp(pixels))
    before, ends = open_source(tmp_path).fingerprint(), content_1(open_source(tmp_path))
    pixels[100:120, 100:120] = 255
    (tmp_path / "a.bmp").write_bytes(bmp(pixels))
    assert open_source(tmp_path).fingerprint() != before
    assert content_1(open_source(tmp_path)) == ends


def test_what_is_noted_and_unchanged_is_not_read(tmp_path, reads):
    folder = write_pictures(tmp_path / "in")
    source = open_source(folder)
    first = look(source)
    assert sorted(reads) == sorted(path.name for path in source.paths)
    reads.clear()
    again = look(source, first)
    assert reads == []
    assert np.array_equal(again.digests, first.digests)
    assert np.array_equal(again.stats, first.stats)


def test_a_file_whose_stat_differs_is_read(tmp_path, reads):
    """Same size and, by os.utime, same mtime: ctime and inode tell."""
    source = open_source(write_pictures(tmp_path / "in"))
    first = look(source)
    path = source.paths[3]
    before = path.stat()
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(data)
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))
    reads.clear()
    again = look(source, first)
    assert reads == [path.name]
    assert (again.digests != first.digests).any(1).tolist() == [k == 3 for k in range(6)]
    assert bytes(again.digests[3]) == blake(bytes(data))


def test_noted_pictures_are_found_by_id(tmp_path, reads):
    source = open_source(write_pictures(tmp_path / "in"))
    first = look(source.take([4, 1, 0]))
    reads.clear()
    again = look(source, first)
    assert sorted(reads) == sorted(source.paths[k].name for k in (2, 3, 5))
    assert np.array_equal(again.digests, source.digests())


def test_members_are_known_by_the_stat_of_their_archive(tmp_path, reads):
    members = {f"{k}.png": saved(noise(k)) for k in range(3)}
    path = pack(tmp_path / "a.tar", members)
    first = look(open_source(path))
    reads.clear()
    assert np.array_equal(look(open_source(path), first).digests, first.digests)
    assert reads == []
    with tarfile.open(path) as archive:
        offset = archive.getmember("1.png").offset_data
    with open(path, "r+b") as file:  # one byte inside the second member
        file.seek(offset + 50)
        old = file.read(1)
        file.seek(offset + 50)
        file.write(bytes([old[0] ^ 1]))
    changed = look(open_source(path), first)
    assert len(reads) == 3
    assert (changed.digests != first.digests).any(1).tolist() == [False, True, False]


def test_files_that_changed_a_moment_ago_are_read_again(tmp_path, reads, monkeypatch):
    """They may have changed again within one tick of the clock, and nobody would see it."""
    monkeypatch.setattr(digests, "SETTLED_NS", 2 * 10**9)
    source = open_source(write_pictures(tmp_path / "in"))
    seen = look(source)
    assert not seen.settled().any()
    reads.clear()
    look(source, seen)
    assert len(reads) == 6
    later = seen._replace(when=seen.when + 3 * 10**9)  # had they been looked at 3 s later
    assert later.settled().all()
    reads.clear()
    look(source, later)
    assert reads == []


def test_stats_are_those_of_the_system(tmp_path):
    Image.new("RGB", (3, 3)).save(tmp_path / "a.png")
    one = (tmp_path / "a.png").stat()
    expected = [one.st_size, one.st_mtime_ns, one.st_ctime_ns, one.st_ino]
    assert open_source(tmp_path).stats().tolist() == [expected]


def test_a_rule_of_a_later_version_is_refused(tmp_path):
    source = open_source(write_pictures(tmp_path / "in"))
    with pytest.raises(SourceError, match="rule of reading 3; this version knows rules up to 2"):
        source.by_rule(3)
