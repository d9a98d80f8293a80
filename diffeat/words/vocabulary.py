"""Vocabularies: classes by their names, with the other words that mean the same.

cat, dog, fire hydrant          on a command line: one class each
words.txt                       a class a line; "sofa, couch, settee" are words of one class, the
                                first its name; what stands behind # is passed over
words.json                      {"sofa": ["couch", "settee"], "cat": []}, or a list of names
"""

from __future__ import annotations

import json
import unicodedata
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from diffeat.errors import SpecError
from diffeat.images.tables import text_of

ENDINGS = (".txt", ".json")
HOW = 'expected words such as cat,dog, or a file: a class a line, as in "sofa, couch", or JSON'


@dataclass(frozen=True)
class ClassWords:
    """A class and its words.

    Attributes:
        name: of the class, its first word.
        synonyms: further words that mean it.
    """

    name: str
    synonyms: tuple[str, ...] = ()

    @property
    def words(self) -> tuple[str, ...]:
        """The name, then the synonyms."""
        return self.name, *self.synonyms


@dataclass(frozen=True)
class Vocabulary:
    """K classes, told by words.

    Attributes:
        classes: K of them.
        source: where it comes from, for messages.
    """

    classes: tuple[ClassWords, ...]
    source: str = "the vocabulary"

    def __post_init__(self) -> None:
        if not self.classes:
            raise SpecError(f"{self.source} has no class; {HOW}")
        owner: dict[str, int] = {}
        for k, one in enumerate(self.classes):
            for word in one.words:
                if not word.strip():
                    raise SpecError(f"{self.source} has an empty word; {HOW}")
                if (first := owner.setdefault(_plain(word), k)) != k:
                    raise SpecError(
                        f"{self.source}: the word {word!r} is there twice, of "
                        f"{self.classes[first].name!r} and of {one.name!r}; expected each once"
                    )
            if len({_plain(word) for word in one.words}) < len(one.words):
                raise SpecError(f"{self.source}: {one.name!r} names a word twice: "
                                f"{', '.join(one.words)}; expected each once")  # fmt: skip

    def __len__(self) -> int:
        return len(self.classes)

    @property
    def names(self) -> tuple[str, ...]:
        """(K,) names of the classes."""
        return tuple(one.name for one in self.classes)

    @property
    def words(self) -> tuple[str, ...]:
        """All words, class by class."""
        return tuple(word for one in self.classes for word in one.words)

    @property
    def owners(self) -> tuple[int, ...]:
        """The class of each of `words`."""
        return tuple(k for k, one in enumerate(self.classes) for _ in one.words)

    @classmethod
    def of(cls, said: str | Path | Iterable[str] | Mapping[str, Iterable[str]]) -> Vocabulary:
        """A vocabulary from whatever somebody has.

        Args:
            said: words between commas, a .txt or .json file of them, names, or name → synonyms.

        Raises:
            SpecError: no word, an empty one, one that is there twice.
            SourceError: a file that cannot be read.
        """
        if isinstance(said, Vocabulary):
            return said
        if isinstance(said, Path) or (isinstance(said, str) and said.lower().endswith(ENDINGS)):
            return _of_file(Path(said))
        if isinstance(said, str):
            said = said.split(",")
        return cls(_classes(said, "the words"), "the words")


def _plain(word: str) -> str:
    """What a word has in common with those that differ in capitals, spaces or composed letters."""
    return " ".join(unicodedata.normalize("NFKC", word).casefold().split())


def _classes(said: Any, source: str) -> tuple[ClassWords, ...]:
    if isinstance(said, Mapping):
        pairs = [(name, words) for name, words in said.items()]
    else:
        pairs = [(name, ()) for name in said]
    for name, words in pairs:
        listed = isinstance(words, Iterable) and not isinstance(words, str)
        if not isinstance(name, str) or not listed or not all(isinstance(w, str) for w in words):
            raise SpecError(f"{source}: {name!r}: {words!r}; {HOW}")
    return tuple(ClassWords(name.strip(), tuple(map(str.strip, words))) for name, words in pairs)


def _each_once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """An object of a JSON file, which keeps the last of equal names unless it is asked."""
    found: dict[str, Any] = {}
    for name, value in pairs:
        if name in found:
            raise ValueError(f"the word {name!r} is there twice; expected each once")
        found[name] = value
    return found


def _of_file(path: Path) -> Vocabulary:
    text = text_of(path, "a vocabulary")
    if path.suffix.lower() == ".json":
        try:
            said = json.loads(text, object_pairs_hook=_each_once)
        except (ValueError, RecursionError) as error:
            raise SpecError(f"{path}: {error}; {HOW}") from error
        if not isinstance(said, (list, dict)):
            raise SpecError(f"{path}: {said!r:.60}; {HOW}")
        return Vocabulary(_classes(said, str(path)), str(path))
    lines = [line.partition("#")[0].strip() for line in text.splitlines()]
    rows = [[word.strip() for word in line.split(",")] for line in lines if line]
    return Vocabulary(tuple(ClassWords(row[0], tuple(row[1:])) for row in rows), str(path))
