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
    return _level(where, parents) if all(parents) else None


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


def _level(where: str, parents: Parents) -> list[str] | None:
    """The first folder of each picture, or the second where the first is a part of a data set."""
    first = {names[0] for names in parents}
    folded = {name.casefold() for name in first}
    if folded & PHOTOS and folded & ANSWERS and folded <= PHOTOS | ANSWERS:
        told = _listed(first)
        photos = next(name for name in sorted(first) if name.casefold() in PHOTOS)
        _say(f"{where} holds {told}: pictures beside what answers a question of them, and no "
             f"classes, so no labels are taken; probably {where}/{photos} is meant")  # fmt: skip
        return None
    parts = {name for name in first if name.casefold() in SPLITS}
    deep = all(len(names) > 1 for names in parents if names[0] in parts)
    if not parts or (parts < first and not deep):
        return [names[0] for names in parents]
    each = " and ".join(f"{where}/{name}" for name in sorted(parts)[:3])
    apart = f"to keep them apart, name {each}" + (" one at a time" if len(parts) > 1 else "")
    if parts == first and deep:
        _say(f"{where} holds {_listed(parts)}, parts of a data set and no classes: classes are "
             f"the folders below them, and all parts are taken together; {apart}")  # fmt: skip
        return [names[1] for names in parents]
    _say(f"{where} holds {_listed(first)}, of which {_listed(parts)} look like parts of a data set "
         f"and no classes, so no labels are taken; {apart}")  # fmt: skip
    return None


def _listed(names: set[str]) -> str:
    shown = [f"{name}/" for name in sorted(names)]
    return ", ".join(shown[:4]) + ", …" * (len(shown) > 4)


def _say(text: str) -> None:
    warnings.warn(text, stacklevel=5)
