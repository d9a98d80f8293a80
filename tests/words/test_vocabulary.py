"""Vocabularies: from lists, command lines and files; equal words are refused."""

from __future__ import annotations

import pytest

from diffeat.errors import SourceError, SpecError
from diffeat.words.vocabulary import ClassWords, Vocabulary


def test_words_of_a_command_line():
    found = Vocabulary.of("cat, dog,fire hydrant")
    assert found.names == ("cat", "dog", "fire hydrant")
    assert found.owners == (0, 1, 2)


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("w.txt", "# sitting\nsofa, couch, settee\n\ncat  # an animal\n"),
        ("w.json", '{"sofa": ["couch", "settee"], "cat": []}'),
    ],
)
def test_files(tmp_path, name, text):
    (tmp_path / name).write_text(text)
    for said in (tmp_path / name, str(tmp_path / name)):
        found = Vocabulary.of(said)
        assert found.classes == (ClassWords("sofa", ("couch", "settee")), ClassWords("cat"))
        assert found.words == ("sofa", "couch", "settee", "cat")
        assert found.owners == (0, 0, 0, 1)
        assert Vocabulary.of(found) is found


@pytest.mark.parametrize(
    ("said", "told"),
    [
        ("cat,Cat", "'Cat' is there twice"),
        ("cat,cat", "'cat' is there twice"),
        ("hot dog,Hot  dog", "'Hot  dog' is there twice"),
        ("caf\u00e9,cafe\u0301", "is there twice"),
        ({"sofa": ["couch"], "couch": []}, "'couch' is there twice, of 'sofa' and of 'couch'"),
        ({"sofa": ["couch", "Couch"]}, "names a word twice"),
        ("cat,,dog", "empty word"),
        ([], "no class"),
        ([3], "expected words such as"),
        ({"a": "b"}, "expected words such as"),
        ({"a": None}, "expected words such as"),
    ],
)
def test_what_cannot_be_meant(said, told):
    with pytest.raises(SpecError, match=told):
        Vocabulary.of(said)


def test_files_that_are_none(tmp_path):
    with pytest.raises(SourceError, match="vocabulary"):
        Vocabulary.of(tmp_path / "none.txt")
    (tmp_path / "w.json").write_text("{")
    with pytest.raises(SpecError, match=r"w\.json"):
        Vocabulary.of(tmp_path / "w.json")
    (tmp_path / "n.json").write_text("3")
    with pytest.raises(SpecError, match="expected words"):
        Vocabulary.of(tmp_path / "n.json")
    (tmp_path / "t.json").write_text('{"cat": [], "dog": [], "cat": ["kitten"]}')
    with pytest.raises(SpecError, match=r"t\.json: the word 'cat' is there twice"):
        Vocabulary.of(tmp_path / "t.json")
