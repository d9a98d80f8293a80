"""Which class of the model each class of the pictures is: by a table, by name, or by number."""

from __future__ import annotations

import json
import re
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from diffeat.backbones.base import Backbone
from diffeat.backbones.classes import imagenet
from diffeat.errors import SourceError, SpecError, nearest
from diffeat.images import nfc
from diffeat.images.classes import WHOLE
from diffeat.images.tables import read_columns, text_of
from diffeat.specs import ExtractSpec

COLUMNS = ("class", "label")
WNID = re.compile("n[0-9]{8}")
WAYS_OUT = "give a table with --label-map, or an index that is the same for all (--label 3)"
SHOWN = 5

Table = Mapping[str, str | int]
"""Class of the pictures → name or number of the model's class."""


@dataclass(frozen=True)
class ClassMap:
    """The model's class of each class of the pictures.

    Attributes:
        names: classes of the pictures.
        indices: the model's class of each; None for one that no picture has and nothing maps.
        titles: names of these, "" where the model's classes have none.
        by: how they were found: "name", "number", "table", "table and name" or "table and number".
        unused: what the user's table names and no class of the pictures is.
    """

    names: tuple[str, ...]
    indices: tuple[int | None, ...]
    titles: tuple[str, ...]
    by: str
    unused: tuple[str, ...] = ()

    @property
    def text(self) -> str:
        """ "by name: dog → 5 (dog), frog → 6 (frog)", of long lists the beginning."""
        found = [row for row in zip(self.names, self.indices, self.titles, strict=True)
                 if row[1] is not None]  # fmt: skip
        told = [f"{n} → {k}{f' ({title})' if title else ''}" for n, k, title in found[: 2 * SHOWN]]
        more = f", … ({len(found)} classes)" if len(found) > len(told) else ""
        idle = ", ".join(map(repr, self.unused[:SHOWN])) + ", …" * (len(self.unused) > SHOWN)
        left = f"; the label map's {idle} are no classes of these pictures" if idle else ""
        return f"by {self.by}: {', '.join(told)}{more}{left}"


class Names:
    """A model's classes, found by whole entry, by one of its synonyms, or by WordNet id.

    Args:
        entries: one per class; commas part synonyms ("tench, Tinca tinca").
    """

    def __init__(self, entries: Sequence[str]):
        self.entries = tuple(entries)

    @cached_property
    def _levels(self) -> tuple[dict[str, set[int]], ...]:
        """Tables in the order in which they are asked: the exact first."""
        exact, loose, synonyms = {}, {}, {}
        for k, entry in enumerate(self.entries):
            exact.setdefault(nfc(entry), set()).add(k)
            loose.setdefault(_loose(entry), set()).add(k)
            for part in entry.split(","):
                synonyms.setdefault(_loose(part), set()).add(k)
        return exact, loose, synonyms

    @cached_property
    def _wnids(self) -> dict[str, int]:
        """WordNet ids, if these are the classes of ImageNet."""
        if len(self.entries) != 1000:
            return {}
        known = imagenet()
        same = all(
            _loose(entry.split(",")[0]) == _loose(names.split(",")[0])
            for entry, (_, names) in zip(self.entries, known, strict=True)
        )
        return {wnid: k for k, (wnid, _) in enumerate(known)} if same else {}

    def find(self, name: str) -> set[int]:
        """The classes that a name may mean; more than one is ambiguous."""
        wnid = re.fullmatch(rf"(?:.* \()?({WNID.pattern})\)?", name)
        if wnid and wnid[1] in self._wnids:
            return {self._wnids[wnid[1]]}
        keys = (nfc(name), _loose(name), _loose(name))
        tables = zip(self._levels, keys, strict=True)
        return next((table[key] for table, key in tables if key in table), set())

    def near(self, name: str) -> str:
        """The names that look like one."""
        return nearest(_loose(name), self._levels[2])


def _loose(name: str) -> str:
    """Case, and "_", "-" and spaces, do not matter."""
    return " ".join(re.sub("[_-]", " ", nfc(name)).casefold().split())


def class_map_of(
    backbone: Backbone, spec: ExtractSpec, class_names: Sequence[str], labels: Iterable[int]
) -> ClassMap | None:
    """The map for a spec with label "class".

    Args:
        backbone: whose classes; without any there is no map.
        class_names: of the pictures; () for labels that are the model's indices already.
        labels: class indices of the pictures.

    Raises:
        SpecError: see `map_classes`; or a table for labels without names.
    """
    if backbone.classes is None:
        return None
    table = None if spec.label_map is None else read_label_map(spec.label_map)
    if not class_names:
        if table is not None:
            raise SpecError("label_map, but the pictures' classes have no names; leave it out")
        return None
    used = {class_names[int(k)] for k in labels if 0 <= int(k) < len(class_names)}
    return map_classes(
        class_names, backbone.name, backbone.classes, backbone.class_names, table, used
    )


def map_classes(
    names: Sequence[str],
    model: str,
    count: int,
    model_names: Sequence[str] | None,
    table: Table | None = None,
    used: Collection[str] | None = None,
) -> ClassMap:
    """Find the model's class of each class of the pictures.

    What the table names is as it says. All others go by name: exactly; else in another case or
    with "_", "-" and spaces for each other; else as one of the synonyms of an entry; a WordNet
    id stands for its class. Where not all are found and all are whole numbers in range, they are
    the model's indices. Nothing goes by position.

    Args:
        names: classes of the pictures.
        model: its name, for errors.
        count: how many classes it has.
        model_names: what they are called, if that is known.
        table: the user's.
        used: classes that pictures have; others need not be found. None means all.

    Raises:
        SpecError: a class that is not found, or that may be several.
    """
    table, known = table or {}, Names(model_names or ())
    given = {n: _of_table(table[nfc(n)], n, model, count, known) for n in names if nfc(n) in table}
    rest = [name for name in names if name not in given]
    found = {name: known.find(name) for name in rest}
    whole = bool(rest) and all(WHOLE.fullmatch(n) and int(n) < count for n in rest)
    if whole and not all(found.values()):
        found, by = {name: {int(name)} for name in rest}, "table and " * bool(given) + "number"
    else:
        by = " and ".join(["table"] * bool(given) + ["name"] * any(found.values())) or "name"
    unused = tuple(name for name in table if name not in {nfc(n) for n in names})
    used = set(names) if used is None else used
    lacking = [name for name in rest if not found[name] and name in used]
    if lacking:
        raise SpecError(_unknown(lacking, model, count, known))
    for name in rest:
        if len(found[name]) > 1 and name in used:
            raise SpecError(_ambiguous(name, sorted(found[name]), model, known))
    chosen = {n: min(k) if len(k) == 1 else None for n, k in found.items()} | given
    indices = tuple(chosen[name] for name in names)
    if not given:
        _check_distinct(names, indices, model)
    titles = tuple("" if k is None or not model_names else model_names[k] for k in indices)
    return ClassMap(tuple(names), indices, titles, by, unused)


def _of_table(value: str | int, name: str, model: str, count: int, known: Names) -> int:
    """A class that the user's table names."""
    if isinstance(value, str) and (found := known.find(value)):
        if len(found) > 1:
            raise SpecError(_ambiguous(value, sorted(found), model, known))
        return min(found)
    if isinstance(value, str) and not WHOLE.fullmatch(value):
        raise SpecError(
            f"label map: {name!r} is to be {value!r}, but {model} has no class of that name"
            f"{known.near(value)}; expected one of its names, or a number 0 … {count - 1}"
        )
    if not 0 <= int(value) < count:
        raise SpecError(
            f"label map: {name!r} is to be {value}, but {model} has classes 0 … {count - 1}"
        )
    return int(value)


def _unknown(lacking: list[str], model: str, count: int, known: Names) -> str:
    if not known.entries:
        return (
            f"label='class': the {count} classes of {model} have numbers only, and the pictures' "
            f"classes have names such as {lacking[0]!r}; {WAYS_OUT}, or call the class folders "
            f"0 … {count - 1}"
        )
    told = ", ".join(f"{name!r}{known.near(name)}" for name in lacking[:SHOWN])
    more = ", …" if len(lacking) > SHOWN else ""
    numbers = f" (numbers go up to {count - 1})" if all(map(WHOLE.fullmatch, lacking)) else ""
    return (
        f"label='class': {model} has no class for {len(lacking)} of the pictures': "
        f"{told}{more}{numbers}; {WAYS_OUT}"
    )


def _ambiguous(name: str, found: list[int], model: str, known: Names) -> str:
    told = " or ".join(f"{k} ({known.entries[k]})" for k in found[:SHOWN])
    return (
        f"label='class': {name!r} may be class {told} of {model}; say which by its number in a "
        "table (--label-map)"
    )


def _check_distinct(names: Sequence[str], indices: Sequence[int | None], model: str) -> None:
    owner: dict[int, str] = {}
    for name, index in zip(names, indices, strict=True):
        if index is not None and owner.setdefault(index, name) != name:
            raise SpecError(
                f"label='class': {owner[index]!r} and {name!r} would both be class {index} of "
                f"{model}; if that is meant, say so in a table (--label-map)"
            )


def read_label_map(path: str | Path) -> dict[str, str | int]:
    """The user's table: class of the pictures → name or number of the model's class.

    A .json file holds one object; a .csv or .tsv file has columns `class` and `label`.

    Raises:
        SpecError: no such file, another format, or a class with two labels.
    """
    path = Path(path)
    if path.suffix.lower() not in (".csv", ".tsv", ".json"):
        raise SpecError(f"label map {path}: expected a file that ends in .csv, .tsv or .json")
    try:
        text = text_of(path)
        pairs = _of_json(text) if path.suffix.lower() == ".json" else _of_table_file(path, text)
    except SourceError as error:
        raise SpecError(f"label map {error}") from error
    except ValueError as error:
        raise SpecError(f"label map {path}: {error}") from error
    found: dict[str, str | int] = {}
    for name, label in pairs:
        if found.setdefault(nfc(name), label) != label:
            raise SpecError(f"label map {path}: two labels for {name!r}; expected one")
    if not found:
        raise SpecError(f"label map {path}: no classes; expected at least one")
    return found


def _of_json(text: str) -> list[tuple[str, str | int]]:
    pairs = json.loads(text, object_pairs_hook=list)
    if not isinstance(pairs, list) or not all(isinstance(pair, tuple) for pair in pairs):
        raise ValueError("expected one object, class → label")
    for name, label in pairs:
        if isinstance(label, bool) or not isinstance(label, (str, int)):
            raise ValueError(f"label {label!r} of {name!r}; expected a name or a whole number")
    return pairs


def _of_table_file(path: Path, text: str) -> list[tuple[str, str]]:
    expected = "a first line with the columns class and label"
    found = []
    for line, row in read_columns(path, text, [(name,) for name in COLUMNS], expected):
        name, label = (field.strip() for field in row)
        if not name and not label:  # as spreadsheets end
            continue
        if not name or not label:
            raise ValueError(f"line {line} lacks its class or its label")
        found.append((name, label))
    return found
