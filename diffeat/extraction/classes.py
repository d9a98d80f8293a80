"""From the class of a picture to the class of a model: two numberings that need not agree."""

from __future__ import annotations

import csv
import json
import re
import warnings
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from diffeat.backbones.base import Backbone
from diffeat.errors import SpecError, nearest

SHOWN = 5
"""Classes that an error names."""


def class_indices(
    backbone: Backbone, names: Sequence[str], table: Mapping[str, str] | None = None
) -> dict[str, int]:
    """The model's class of each class of pictures.

    By the user's table, where there is one; else by name (case, "_" and "-" do not matter;
    synonyms and WordNet ids of ImageNet count too); else, where all classes of the pictures are
    whole numbers, by number. A model that does not know its classes' names and has as many as
    the pictures gets them in order, with a warning.

    Args:
        backbone: a class-conditional model.
        names: of the pictures' classes that occur, in their order.
        table: class of pictures → name or number of the model's class.

    Returns:
        Class of pictures → index of the model, 0 … K-1.

    Raises:
        SpecError: a class that maps to none of the model's, or to several.
    """
    if backbone.classes is None:
        raise SpecError(f"{backbone.name} is not class-conditional; leave the label out")
    if table is not None:
        return _by_table(backbone, names, table)
    known = _lookup(backbone)
    found = {name: known.get(_plain(name), []) for name in names}
    if not any(found.values()):
        if all(_number(name, backbone.classes) is not None for name in names):
            return {name: int(name) for name in names}
        if not known and len(names) == backbone.classes:
            warnings.warn(
                f"{backbone.name} does not say what its classes are called; those of the pictures "
                f"are taken in their order, {names[0]} as 0 (say another with label_map)",
                stacklevel=4,
            )
            return {name: k for k, name in enumerate(names)}
    _check_found(backbone, found)
    return {name: places[0] for name, places in found.items()}


def _by_table(backbone: Backbone, names: Sequence[str], table: Mapping[str, str]) -> dict[str, int]:
    if missing := [name for name in names if name not in table]:
        raise SpecError(
            f"the label map has no line for {_some(missing)}"
            f"{nearest(missing[0], table)}; expected one for each class of the pictures"
        )
    known, found = _lookup(backbone), {}
    for name in names:
        place = _number(table[name], backbone.classes)
        found[name] = known.get(_plain(table[name]), []) if place is None else [place]
    _check_found(backbone, found, {name: table[name] for name in names})
    return {name: places[0] for name, places in found.items()}


def _check_found(
    backbone: Backbone, found: Mapping[str, list[int]], said: Mapping[str, str] | None = None
) -> None:
    """SpecError unless each class has exactly one class of the model."""
    said = said or {name: name for name in found}
    out = "give a table with --label-map (label_map), one number for all with --label, or no label"
    if lacking := [name for name, places in found.items() if not places]:
        firsts = [names[0] for names in backbone.class_names or ()]
        whose = (
            f"classes are {_some(firsts)}" if firsts
            else f"{backbone.classes} classes have numbers only"
        )  # fmt: skip
        raise SpecError(
            f"{len(lacking)} classes of the pictures are none of {backbone.name}'s: "
            f"{_some([said[name] for name in lacking])}{nearest(said[lacking[0]], firsts)}; its "
            f"{whose}. Expected the model's own names or numbers: {out}"
        )
    for name, places in found.items():
        if len(places) > 1:
            raise SpecError(
                f"class {said[name]!r} may be class {' or '.join(map(str, places))} of "
                f"{backbone.name}; expected one: {out}"
            )


def _lookup(backbone: Backbone) -> dict[str, list[int]]:
    """Normalised name → the classes that bear it; a first name counts more than a synonym."""
    firsts: dict[str, list[int]] = {}
    others: dict[str, list[int]] = {}
    for k, names in enumerate(backbone.class_names or ()):
        firsts.setdefault(_plain(names[0]), []).append(k)
        for name in dict.fromkeys(map(_plain, names[1:])):
            others.setdefault(name, []).append(k)
    return {**others, **firsts}


def _plain(name: str) -> str:
    return " ".join(re.sub(r"[_\-]", " ", name).casefold().split())


def _number(text: str, count: int) -> int | None:
    text = text.strip()
    return int(text) if text.isascii() and text.isdecimal() and int(text) < count else None


def _some(names: Iterable[str]) -> str:
    names = list(names)
    rest = f" and {len(names) - SHOWN} more" if len(names) > SHOWN else ""
    return ", ".join(map(repr, names[:SHOWN])) + rest


def read_label_map(path: str | Path) -> dict[str, str]:
    """Class of pictures → class of the model, from a .csv, .tsv (two columns) or .json file.

    Raises:
        SpecError: no such file, another format, or a class that is mapped twice.
    """
    path = Path(path)
    try:
        text = path.read_text(encoding="utf-8-sig")
        if path.suffix.lower() == ".json":
            pairs = [(str(k), str(v)) for k, v in json.loads(text).items()]
        else:
            mark = "\t" if path.suffix.lower() == ".tsv" else ","
            rows = [row for row in csv.reader(text.splitlines(), delimiter=mark) if any(row)]
            pairs = [(first.strip(), second.strip()) for first, second in rows]
    except (OSError, ValueError, AttributeError) as error:
        raise SpecError(
            f"label map {path}: {error}; expected a .csv or .tsv of two columns, class of the "
            "pictures and name or number of the model's class, or a .json object of them"
        ) from error
    found: dict[str, str] = {}
    for name, value in pairs:
        if found.setdefault(name, value) != value:
            raise SpecError(
                f"label map {path}: {name!r} has two classes, {found[name]} and {value}"
            )
    return found
