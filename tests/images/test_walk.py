"""Which files below a folder are pictures, and what is said of the others."""

from __future__ import annotations

import os
import socket
from collections import Counter

import pytest
from click.testing import CliRunner
from PIL import Image

import diffeat
from diffeat.cli.options import open_pictures
from diffeat.errors import PictureError, SourceError
from diffeat.images import left_out_text, open_source
from diffeat.images.walk import SUFFIXES


def picture(path):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (2, 2)).save(path, "PNG")
    return path


def pictures(folder, *names):
    for name in names:
        picture(folder / name)
    return folder


STILL = ("JPEG", "MPO", "PNG", "WEBP", "BMP", "DIB", "GIF", "TIFF", "JPEG2000", "AVIF", "TGA",
         "PCX", "QOI", "SGI", "SUN", "PPM")  # fmt: skip


def test_suffixes_are_all_that_pillow_registers_for_still_pictures():
    Image.init()
    registered = {suffix for suffix, kind in Image.EXTENSION.items() if kind in STILL}
    registered -= {".pfm"}  # floats have no agreed range
    assert registered <= SUFFIXES
    kinds = {Image.EXTENSION.get(suffix) for suffix in SUFFIXES} - {None}  # of newer versions
    assert kinds <= set(STILL)


@pytest.mark.parametrize("name", ["a.jfif", "a.JPE", "a.pnm", "a.tga", "a.dib", "a.apng"])
def test_rarer_suffixes_are_taken(tmp_path, name):
    assert open_source(pictures(tmp_path, "b.png", name)).ids == tuple(sorted((name, "b.png")))


def test_what_is_left_out_is_counted_and_said(tmp_path):
    pictures(tmp_path, "a/1.png", "b/2.jpg", "b/.x.png", ".cache/3.png", "b/@eaDir/1.png/S.jpg")
    for name in ("a/x.heic", "a/y.heic", "b/z.HEIC", "b/notes.txt", "README", "b/Thumbs.db"):
        (tmp_path / name).write_text("")
    source = open_source(tmp_path)
    assert source.ids == ("a/1.png", "b/2.jpg")
    assert source.class_names == ("a", "b")
    assert left_out_text(source.left_out) == (
        "5 of other kinds (.heic, .txt, without suffix), 1 file of a file server or system "
        "(Thumbs.db), 1 folder of a file server or system (@eaDir), 1 hidden file, 1 hidden folder"
    )


def test_the_command_says_it_in_one_line(tmp_path, capsys):
    pictures(tmp_path, "1.png", "2.png", ".trash/3.png")
    (tmp_path / "x.heic").write_text("")
    open_pictures(str(tmp_path))
    said = f"note: {tmp_path}: 2 pictures; left out: 1 of other kinds (.heic), 1 hidden folder\n"
    assert capsys.readouterr() == ("", said)


def test_nothing_is_said_where_nothing_is_left_out(tmp_path, capsys):
    open_pictures(str(pictures(tmp_path, "a/1.png")))
    assert capsys.readouterr() == ("", "")


def test_an_empty_folder_says_what_it_holds_instead(tmp_path):
    (tmp_path / "x.heic").write_text("")
    with pytest.raises(
        SourceError, match=r"no pictures found \(left out: 1 of other kinds \(.heic"
    ):
        open_source(tmp_path)


@pytest.mark.parametrize("server", ["@eaDir", "__MACOSX", "#recycle", "lost+found", ".thumbnails"])
def test_folders_of_servers_and_systems_are_no_classes(tmp_path, server):
    source = open_source(pictures(tmp_path, "cat/1.png", "dog/1.png", f"{server}/1.png"))
    assert source.class_names == ("cat", "dog")
    assert sum(source.left_out.values()) == 1


def unreadable(monkeypatch, path):
    """A folder that this user may not read (root may read all, so the system call says it)."""
    real = os.scandir

    def scandir(where):
        if os.fspath(where) == os.fspath(path):
            raise PermissionError(13, "Permission denied", str(path))
        return real(where)

    monkeypatch.setattr("diffeat.images.walk.os.scandir", scandir)


@pytest.mark.parametrize("typed", ["", "/*/*.png", "/**/*.png"])
def test_an_unreadable_folder_is_an_error(tmp_path, monkeypatch, typed):
    """Left out, it would give the classes behind it other numbers."""
    pictures(tmp_path, "a/1.png", "b/1.png", "c/1.png")
    unreadable(monkeypatch, tmp_path / "b")
    with pytest.raises(SourceError, match=r"/b: this folder cannot be read \(Permission denied\)"):
        open_source(f"{tmp_path}{typed}")


def test_a_folder_that_a_glob_does_not_ask_for_is_not_read(tmp_path, monkeypatch):
    pictures(tmp_path, "a1/1.png", "b/1.png", "a2/deep/1.png")
    unreadable(monkeypatch, tmp_path / "b")
    assert open_source(f"{tmp_path}/a*/*.png").ids == ("a1/1.png",)
    unreadable(monkeypatch, tmp_path / "a2" / "deep")
    assert open_source(f"{tmp_path}/a*/*.png").ids == ("a1/1.png",)


@pytest.mark.timeout(20)
def test_folders_that_link_to_each_other_neither_multiply_nor_loop(tmp_path):
    pictures(tmp_path, "a/1.png", "b/2.png")
    (tmp_path / "a" / "to b").symlink_to(tmp_path / "b")
    (tmp_path / "b" / "to a").symlink_to(tmp_path / "a")
    (tmp_path / "b" / "up").symlink_to(tmp_path)
    for typed in ("", "/**/*.png"):
        source = open_source(f"{tmp_path}{typed}")
        assert source.ids == ("a/1.png", "b/2.png")
        assert source.left_out == Counter({"linked folder": 3})


def test_a_link_to_a_class_is_no_further_class(tmp_path):
    pictures(tmp_path, "cat/1.png", "dog/1.png")
    (tmp_path / "alias").symlink_to(tmp_path / "cat")  # before "cat" in the alphabet
    source = open_source(tmp_path)
    assert source.class_names == ("cat", "dog")
    assert source.ids == ("cat/1.png", "dog/1.png")
    assert left_out_text(source.left_out) == "1 linked folder"


def test_links_to_pictures_elsewhere_are_taken_once(tmp_path):
    pictures(tmp_path / "pool", "x/1.png", "2.png")
    root = pictures(tmp_path / "in", "a/1.png")
    (root / "b").symlink_to(tmp_path / "pool" / "x")
    (root / "c").symlink_to(tmp_path / "pool" / "x")
    (root / "d").mkdir()
    (root / "d" / "2.png").symlink_to(tmp_path / "pool" / "2.png")
    (root / "d" / "again.png").symlink_to(tmp_path / "pool" / "2.png")
    (root / "d" / "here.png").symlink_to(root / "a" / "1.png")
    source = open_source(root)
    assert source.ids == ("a/1.png", "b/1.png", "d/2.png")
    assert source.left_out == Counter({"linked folder": 1, "linked picture": 2})


def test_a_link_into_a_hidden_store_is_followed(tmp_path):
    """As data version control lays pictures out."""
    picture(tmp_path / ".store" / "ab" / "1.png")
    (tmp_path / "cat").symlink_to(tmp_path / ".store" / "ab")
    assert open_source(tmp_path).ids == ("cat/1.png",)


def test_a_link_that_leads_nowhere_is_an_unreadable_picture(tmp_path):
    pictures(tmp_path, "a.png")
    (tmp_path / "b.png").symlink_to(tmp_path / "gone.png")
    source = open_source(tmp_path)
    assert source.ids == ("a.png", "b.png")
    with pytest.raises(PictureError, match=r"'b\.png': no such file"):
        source.load(1)


@pytest.mark.timeout(20)
def test_pipes_and_sockets_are_left_out_unopened(tmp_path, monkeypatch):
    pictures(tmp_path, "a.png")
    os.mkfifo(tmp_path / "b.png")
    monkeypatch.chdir(tmp_path)  # names of sockets are short
    with socket.socket(socket.AF_UNIX) as bound:
        bound.bind("c.png")
        (tmp_path / "d.png").symlink_to("/dev/null")
        for typed in ("", "/*.png"):
            source = open_source(f"{tmp_path}{typed}")
            assert source.ids == ("a.png",)
            assert source.left_out == Counter({"special file": 3})


@pytest.mark.timeout(20)
def test_a_pipe_that_is_named_outright_is_not_opened(tmp_path):
    os.mkfifo(tmp_path / "a.png")
    source = open_source([tmp_path / "a.png"])
    assert source.fingerprint()
    with pytest.raises(PictureError, match="no regular file"):
        source.load(0)
    backbone = diffeat.load("unet-cifar10", "cpu")
    with pytest.raises(PictureError, match="no regular file"):
        diffeat.extract(backbone, [tmp_path / "a.png"], diffeat.ExtractSpec((20,), ("mid",)))


def test_globs_take_a_hidden_folder_that_they_name(tmp_path):
    pictures(tmp_path, "a/.keep/1.png", "a/b/2.png", "a/b/.3.png")
    assert open_source(f"{tmp_path}/*/.keep/*.png").ids == ("a/.keep/1.png",)
    assert open_source(f"{tmp_path}/**/*.png").ids == ("a/b/2.png",)


@pytest.mark.parametrize("pattern", ["*.png", "*/*.png", "**/*.png", "**", "**/a/*", "a/**/?.png",
                                     "[ab]/*", "*/deep/**", "a*/**/deep/*.png"])  # fmt: skip
def test_globs_mean_what_pythons_do(tmp_path, pattern):
    pictures(tmp_path, "1.png", "a/1.png", "a/2.png", "b/1.png", "a/deep/3.png", "a/deep/er/4.png")
    expected = sorted(path for path in tmp_path.glob(pattern) if path.is_file())
    if pattern.endswith("**"):  # pathlib's gives folders only
        expected = sorted(p for d in tmp_path.glob(pattern) for p in d.iterdir() if p.is_file())
    if not expected:
        with pytest.raises(SourceError, match="no pictures found"):
            open_source(f"{tmp_path}/{pattern}")
        return
    assert sorted(open_source(f"{tmp_path}/{pattern}").paths) == expected


def test_extract_says_what_it_leaves_out(tmp_path):
    from diffeat.cli import cli

    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "x.heic").write_text("")
    found = CliRunner().invoke(cli, ["extract", "unet-cifar10", str(tmp_path / "in"), "-o",
                                     str(tmp_path / "f.h5"), "-t", "20", "-b", "mid"])  # fmt: skip
    assert "left out: 1 of other kinds (.heic)" in str(found.exception)
