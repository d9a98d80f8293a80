import gzip
import hashlib
import os
import tarfile

import numpy as np
import pytest

from diffeat.errors import PictureError, SourceError
from diffeat.images import open_source
from tests.images.builders import PICTURE, noise, pack, saved, special

THREE = {f"{k}.png": saved(noise(k, 30, 30)) for k in range(3)}

# archives that are refused


@pytest.mark.parametrize("name", ["a.tar.gz", "a.tgz", "a.tar"])
@pytest.mark.parametrize("method", ["gz", "bz2", "xz"])
def test_compressed_archive_is_refused(tmp_path, name, method):
    with tarfile.open(tmp_path / name, f"w:{method}") as tar:
        tar.addfile(tarfile.TarInfo("x.png"))
    with pytest.raises(SourceError, match=r"compressed with .*; unpack it to a plain \.tar, or"):
        open_source(tmp_path / name)


def test_archive_truncated_anywhere_is_refused(tmp_path):
    path = pack(tmp_path / "a.tar", THREE, tarfile.USTAR_FORMAT)
    raw = path.read_bytes()
    with tarfile.open(path) as tar:
        last = tar.getmembers()[-1]
        end = last.offset_data + -(-last.size // 512) * 512
    lengths = {*range(0, end, 300), *range(512, end + 1, 512), end, end + 511}
    for length in sorted(lengths):
        path.write_bytes(raw[:length])
        with pytest.raises(SourceError, match=r"a\.tar: truncated"):
            open_source(path)
    path.write_bytes(raw[: end + 512])  # one block of zeros is an end
    assert len(open_source(path)) == 3


def test_damaged_header_in_the_middle_is_refused(tmp_path):
    path = pack(tmp_path / "a.tar", THREE, tarfile.USTAR_FORMAT)
    with tarfile.open(path) as tar:
        second = tar.getmembers()[1].offset
    raw = bytearray(path.read_bytes())
    raw[second + 150] ^= 1  # its checksum; tarfile stops there without a word
    path.write_bytes(raw)
    with pytest.raises(SourceError, match=rf"truncated or damaged at byte {second:,}"):
        open_source(path)


def test_archives_joined_with_cat_are_refused(tmp_path):
    one = pack(tmp_path / "a.tar", {"x.png": PICTURE}).read_bytes()
    two = pack(tmp_path / "b.tar", {"y.png": PICTURE}).read_bytes()
    (tmp_path / "a.tar").write_bytes(one + two)
    with pytest.raises(SourceError, match=r"several tars in one file.*tar -A"):
        open_source(tmp_path / "a.tar")


@pytest.mark.parametrize("raw", [b"", b"hello" * 400, gzip.compress(b"")[:2], b"\0" * 100])
def test_file_that_is_no_tar_is_refused(tmp_path, raw):
    (tmp_path / "a.tar").write_bytes(raw)
    with pytest.raises(SourceError, match=r"a\.tar: "):
        open_source(tmp_path / "a.tar")


@pytest.mark.parametrize("name", ["/etc/x.png", "../x.png", "a/../../x.png"])
def test_names_that_lead_out_of_the_archive_are_refused(tmp_path, name):
    path = pack(tmp_path / "a.tar", [(name, PICTURE)])
    with pytest.raises(SourceError, match=f"member '{name}' leads out of the archive"):
        open_source(path)


@pytest.mark.parametrize(
    "kind", [tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.CHRTYPE, tarfile.BLKTYPE, tarfile.FIFOTYPE]
)
def test_links_and_devices_are_refused(tmp_path, kind):
    members = [("x.png", PICTURE), special("y.png", kind, "x.png")]
    path = pack(tmp_path / "a.tar", members)
    with pytest.raises(SourceError, match=r"member 'y\.png' is a link, a device or a sparse file"):
        open_source(path)


def test_sparse_files_are_refused(tmp_path):
    info = tarfile.TarInfo("x.png")
    info.pax_headers = {"GNU.sparse.map": "0,5", "GNU.sparse.size": "900"}
    path = pack(tmp_path / "a.tar", [info])
    with pytest.raises(SourceError, match="sparse file"):
        open_source(path)


def test_folders_are_no_pictures(tmp_path):
    members = [special("x.png", tarfile.DIRTYPE), ("x.png/y.png", PICTURE)]
    assert open_source(pack(tmp_path / "a.tar", members)).ids == ("a/x.png/y",)


# after opening


def test_archive_that_vanished_or_shrank_is_named_when_it_is_read(tmp_path):
    path = pack(tmp_path / "a.tar", {"x.png": PICTURE, "y.png": PICTURE})
    source = open_source(path)
    os.truncate(path, source.places[1].offset + 10)
    assert source.load(0).size == (7, 5)
    with pytest.raises(PictureError, match=r"'a/y': cannot be decoded .*has been shortened"):
        source.load(1)
    path.unlink()
    with pytest.raises(PictureError, match="'a/x': no such file"):
        source.load(0)


def test_fingerprint_follows_the_pictures_and_not_their_place(tmp_path):
    def fingerprint(folder, members):
        return open_source(pack(tmp_path / folder / "a.tar", members)).fingerprint()

    members = {"x.png": saved(noise(0)), "x.txt": "one", "y.png": saved(noise(1)), "y.txt": "two"}
    first = fingerprint("1", members)
    assert fingerprint("2", {"notes.md": "x" * 2000} | members) == first
    assert fingerprint("3", members | {"y.txt": "three"}) == first
    others = [
        fingerprint("4", members | {"y.png": saved(noise(2))}),
        fingerprint("6", members | {"x.cls": "0", "y.cls": "1"}),
        fingerprint("5", {"z" + name: data for name, data in members.items()}),
    ]
    assert len({first, *others}) == 4


@pytest.mark.parametrize("size", [0, 1, 32_767, 32_768, 32_769, 50_000, 65_536, 65_537, 200_000])
def test_content_by_rule_1_is_a_hash_of_size_and_ends(tmp_path, size):
    data = np.random.default_rng(size).bytes(size)
    source = open_source(pack(tmp_path / "a.tar", [("w.png", b"w"), ("x.png", data)]))
    last = data[max(32_768, size - 32_768) :]
    expected = hashlib.blake2b(str(size).encode() + data[:32_768] + last, digest_size=16)
    assert source.take([1]).by_rule(1).content() == expected.hexdigest()


def test_content_is_that_of_the_same_files_in_a_folder(tmp_path):
    members = {f"{k}.png": saved(noise(k, 150, 150 + 50 * k)) for k in range(3)}  # up to 110 KiB
    for name, data in members.items():
        (tmp_path / "folder").mkdir(exist_ok=True)
        (tmp_path / "folder" / name).write_bytes(data)
    packed = open_source(pack(tmp_path / "a.tar", members))
    for reading in (1, 2):
        loose = open_source(tmp_path / "folder").by_rule(reading)
        assert packed.by_rule(reading).content() == loose.content()
    assert packed.take([0]).content() != packed.content()
