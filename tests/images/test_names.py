"""Names of files: two spellings of one name, and bytes that are no text."""

from __future__ import annotations

import os
import unicodedata

import numpy as np
import pytest

from diffeat.errors import PictureError, SourceError
from diffeat.images import ArraySource, captions_for, load_batches, open_source
from tests.images.builders import noise, pack, saved

NAMES = ("hünd/schön.png", "hünd/zwölf.png", "kätze/é.png", "plain/한.png")


def spelled(form: str) -> list[str]:
    return [unicodedata.normalize(form, name) for name in NAMES]


def folder_of(root, names):
    for k, name in enumerate(names):
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(saved(noise(k)))
    return root


def test_copies_of_a_folder_on_macos_and_linux_have_equal_ids(tmp_path):
    assert spelled("NFC") != spelled("NFD")
    linux, macos = (open_source(folder_of(tmp_path / f, spelled(f))) for f in ("NFC", "NFD"))
    for source in (linux, macos):
        assert source.ids == tuple(sorted(spelled("NFC")))
        assert source.class_names == tuple(map(nfc, ("hünd", "kätze", "plain")))
    assert linux.digests().tolist() == macos.digests().tolist()
    assert linux.fingerprint() == macos.fingerprint()
    assert np.array_equal(np.asarray(macos.load(2)), np.asarray(linux.load(2)))


def nfc(text: str) -> str:
    return unicodedata.normalize("NFC", text)


def test_rule_1_keeps_names_as_they_are(tmp_path):
    source = open_source(folder_of(tmp_path, spelled("NFD")))
    older = source.take([3, 1]).by_rule(1)
    assert [nfc(name) for name in older.ids] == [source.ids[3], source.ids[1]]
    assert older.ids[1] == unicodedata.normalize("NFD", source.ids[1])
    assert np.array_equal(np.asarray(older.load(0)), np.asarray(source.load(3)))
    limited = source.limit(3).by_rule(1)
    assert len(limited) == 3
    assert set(limited.class_names) == {unicodedata.normalize("NFD", n) for n in source.class_names}


def test_other_kinds_of_sources_are_spelled_alike(tmp_path):
    names = [name.replace("/", "-") for name in spelled("NFD")]
    wanted = tuple(nfc(name) for name in names)
    folder_of(tmp_path, names)
    (tmp_path / "list.txt").write_text("\n".join(names), "utf-8")
    tar = pack(tmp_path / "a.tar", {name: saved(noise(k)) for k, name in enumerate(names)})
    pixels = np.zeros((4, 2, 2), np.uint8)
    array = ArraySource("array", tuple(names), np.arange(4), tuple(names), pixels)
    assert open_source(tmp_path / "list.txt").ids == wanted
    assert open_source(f"{tmp_path}/*.png").ids == tuple(sorted(wanted))
    assert open_source(tar).ids == tuple(f"a/{name[:-4]}" for name in wanted)
    assert (array.ids, array.class_names) == (wanted, wanted)
    assert (array.by_rule(1).ids, array.by_rule(1).class_names) == (tuple(names), tuple(names))


def test_two_spellings_of_one_name_are_an_error_that_shows_both(tmp_path):
    folder_of(tmp_path, [unicodedata.normalize(form, "é.png") for form in ("NFC", "NFD")])
    with pytest.raises(SourceError, match=r"'\\xe9\.png'.* and 'e\\u0301\.png'|e\\u0301.*xe9"):
        open_source(tmp_path)


def test_two_spellings_of_one_class_are_an_error(tmp_path):
    folder_of(tmp_path, [unicodedata.normalize("NFC", "é/1.png"), "e\u0301/2.png"])
    with pytest.raises(SourceError, match="one name in two spellings"):
        open_source(tmp_path)


def test_captions_are_found_in_either_spelling(tmp_path):
    ids = open_source(folder_of(tmp_path, spelled("NFD"))).ids
    for form in ("NFC", "NFD"):
        captions = {name: f"of {nfc(name)}" for name in spelled(form)}
        assert captions_for(ids, captions, "c.csv") == [f"of {name}" for name in ids]


# bytes that are no UTF-8


@pytest.fixture
def bad(tmp_path):
    """Two pictures, of which the second has the Latin-1 name "café.png"."""
    (tmp_path / "cat").mkdir()
    (tmp_path / "cat" / "a.png").write_bytes(saved(noise(0)))
    path = os.fsencode(tmp_path / "cat") + b"/caf\xe9.png"
    try:
        with open(path, "wb") as file:
            file.write(saved(noise(1)))
    except OSError:
        pytest.skip("this file system has only names in UTF-8")
    return tmp_path


def test_a_name_that_is_no_text_is_an_unreadable_picture(bad):
    for source in (open_source(bad), open_source(f"{bad}/*/*.png").take([0, 1])):
        assert source.ids == ("cat/a.png", "cat/caf\\xe9.png")
        assert source.load(0).size == (7, 5)
        with pytest.raises(PictureError, match=r"'cat/caf\\\\xe9\.png': its name is no UTF-8"):
            source.load(1)
        with pytest.raises(PictureError, match="rename the file"):
            source.check_readable()
        (batch,) = load_batches(source, [(0, 2)], (8, 8), on_error="skip")
        assert batch.indices == [0]


def test_such_names_in_archives_and_lists_of_paths(tmp_path, bad):
    name = os.fsdecode(b"caf\xe9.png")
    source = open_source([tmp_path / "cat" / name])
    with pytest.raises(PictureError, match="its name is no UTF-8"):
        source.load(0)
    tar = open_source(pack(tmp_path / "a.tar", {"b.png": saved(noise(0)), name: saved(noise(1))}))
    assert tar.ids == ("a/b", "a/caf\\xe9")
    with pytest.raises(PictureError, match="its name is no UTF-8"):
        tar.load(1)


def test_a_class_whose_name_is_no_text_keeps_its_number(tmp_path, bad):
    for name in (b"b\xe9", b"dog"):
        os.mkdir(os.fsencode(tmp_path) + b"/" + name)
        with open(os.fsencode(tmp_path) + b"/" + name + b"/1.png", "wb") as file:
            file.write(saved(noise(2)))
    source = open_source(tmp_path)
    assert source.class_names == ("b\\xe9", "cat", "dog")
    assert source.labels.tolist() == [0, 1, 1, 2]
