"""Which folders are classes, and which are parts of a data set, such as train and test."""

from __future__ import annotations

import os
import warnings
from collections import Counter
from collections.abc import Sequence

SPLITS = frozenset(
    ("train", "training", "trn", "test", "testing", "tst", "val", "valid", "validation", "dev",
     "eval", "holdout")
)  # fmt: skip
"""What parts of a data set are called, in lower case; never classes where only such occur."""
SAME = {"training": "train", "trn": "train", "testing": "test", "tst": "test", "valid": "val",
        "validation": "val", "dev": "val"}  # fmt: skip
"""Other names of the same part."""
PHOTOS = frozenset(("images", "image", "imgs", "img", "jpegimages", "photos"))
ANSWERS = frozenset(
    ("masks", "mask", "labels", "label", "annotations", "segmentations", "segmentationclass",
     "segmentationobject", "gt", "ground_truth", "groundtruth", "depth", "depths")
)  # fmt: skip
"""What folders of pictures, and of pictures that answer a question of these, are called."""
Parents = Sequence[tuple[str, ...]]
"""The folders that each picture lies in, outermost first."""


def are_splits(names: Sequence[str]) -> bool:
    """Whether all of some names are those of parts of a data set."""
    return bool(names) and all(name.casefold() in SPLITS for name in names)


def parts_in(folders: Sequence[str]) -> set[str]:
    """The parts of a data set among names of folders: "train" of Training/cat."""
    folded = {name.casefold() for name in folders}
    return {SAME.get(name, name) for name in folded & SPLITS}


def classes_below(where: str, ids: Sequence[str]) -> list[str] | None:
    """The class of each picture below a folder that the user named: its first folder.

    Where the first folders are parts of a data set, these are no classes, and that is said.

    Args:
        where: the folder, for messages.
        ids: paths below it.

    Returns:
        One name per picture; None where some picture lies in no folder.
    """
    parents = parents_of(ids)
    return _level(where, parents, where) if all(parents) else None


def classes_alike(where: str, ids: Sequence[str], strict: bool = False) -> list[str] | None:
    """The class of each picture of a glob, a list or an archive, if folders look like classes.

    What all folders begin with is left out; then the first folder is the class. There must be at
    least two, and fewer than pictures, since a folder for each picture is none.

    Args:
        where: what the user named, for messages.
        ids: paths.
        strict: only where that cannot be mistaken: pictures lie in folders side by side, no one
            alone, and none is called as parts of a data set are.

    Returns:
        One name per picture, or None.
    """
    parents = parents_of(ids)
    start = len(os.path.commonprefix(parents))  # noqa: RUF071 - folder by folder, of tuples
    parents = [names[start:] for names in parents]
    first = {names[0] for names in parents if names}
    if not all(parents) or ".." in first or len(first) < 2:
        return None
    if strict and (max(map(len, parents)) > 1 or any(n.casefold() in SPLITS for n in first)):
        return None
    found = _level(where, parents)
    if found is None:
        return None
    counts = Counter(found)
    alone = strict and min(counts.values()) < 2
    return found if 1 < len(counts) < len(found) and not alone else None


def parents_of(ids: Sequence[str]) -> list[tuple[str, ...]]:
    """The folders of each path; a leading slash is none."""
    return [tuple(part for part in name.split("/")[:-1] if part) for name in ids]


def _level(where: str, parents: Parents, folder: str = "") -> list[str] | None:
    """The first folder of each picture, or the second where the first is a part of a data set.

    Args:
        folder: that the first ones lie in, where the user named one.
    """
    first = {names[0] for names in parents}
    folded = {name.casefold() for name in first}
    if folded & PHOTOS and folded & ANSWERS and folded <= PHOTOS | ANSWERS:
        photos = {name for name in first if name.casefold() in PHOTOS}
        _say(f"{where} holds {_listed(first)}: pictures beside what answers a question of them, "
             f"and no classes, so no labels are taken; {_meant(folder, photos)}")  # fmt: skip
        return None
    parts = {name for name in first if name.casefold() in SPLITS}
    deep = all(len(names) > 1 for names in parents if names[0] in parts)
    if not parts or (parts < first and not deep):
        return [names[0] for names in parents]
    if parts == first and deep:
        _say(f"{where} holds {_listed(parts)}, parts of a data set and no classes: classes are "
             "the folders below them, and all parts are taken together; to keep them apart, "
             f"{_meant(folder, parts)}")  # fmt: skip
        return [names[1] for names in parents]
    others = f" beside {_listed(first - parts)}" if parts < first else ""
    _say(f"{where} holds {_listed(parts)}{others}, which look like parts of a data set and no "
         f"classes, so no labels are taken; {_meant(folder, parts)}")  # fmt: skip
    return None


def _meant(folder: str, names: set[str]) -> str:
    """What to name instead."""
    if not folder:
        return f"name the pictures of {_listed(names)} alone"
    return "name " + " or ".join(f"{folder}/{name}" for name in sorted(names)[:3])


def _listed(names: set[str]) -> str:
    shown = [f"{name}/" for name in sorted(names)]
    if len(shown) > 4:
        return ", ".join(shown[:4]) + ", …"
    return " and ".join([", ".join(shown[:-1]), shown[-1]] if shown[1:] else shown)


def _say(text: str) -> None:
    warnings.warn(text, stacklevel=5)
