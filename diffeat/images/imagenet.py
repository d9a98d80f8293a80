"""ImageNet and Tiny-ImageNet as they lie on disk: a folder per class, named by its WordNet id.

Classes are numbered in the order of their WordNet ids, as class-conditional models of ImageNet
number theirs, in every split alike.
"""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import numpy as np

from diffeat.errors import SourceError
from diffeat.images.sources import FileSource
from diffeat.images.walk import PathParts, walk

WORDS = ("words.txt", "LOC_synset_mapping.txt")
"""Lines "wnid, white space, names between commas"; the second is Kaggle's."""
ANNOTATIONS = "val_annotations.txt"

Found = tuple[list[tuple[str, str]], Counter[str]]
"""(wnid, path below the split) of each picture, and how much of what sort is left out."""


def open_imagenet(name: str, folder: Path, split: str) -> FileSource:
    """A labelled split; the pictures called test at the source have no labels and are not read.

    Args:
        name: of the data set.
        folder: holds train/<wnid>/* (or train/<wnid>/images/*) and val/<wnid>/*, or val/images/*
            with val/val_annotations.txt. `wnids.txt`, if there, lists the classes, and
            `words.txt` names them; otherwise the folders below train (or val) are the classes,
            and the ids are their names.
        split: "train"; "test" and "val" are both the folder val.

    Raises:
        SourceError: files or folders that are missing, or that do not belong together.
    """
    part = "train" if split == "train" else "val"
    root = folder / part
    if not root.is_dir():
        raise SourceError(f"{root}: missing; expected a folder per class in it, named n01440764 "
                          "and so on (the labelled test pictures are those of val)")  # fmt: skip
    wnids = _classes(folder, root)
    listed = part == "val" and (root / "images").is_dir()
    found, left_out = _annotated(root) if listed else _in_folders(root)
    if not found:
        raise SourceError(f"{root}: no pictures in folders per class; expected <wnid>/*.JPEG in "
                          "it (loose pictures have to be sorted by class)")  # fmt: skip
    index = {wnid: k for k, wnid in enumerate(wnids)}
    strange = sorted({wnid for wnid, _ in found} - set(wnids))
    if strange:
        raise SourceError(f"{root}: class {strange[0]!r} is not among the {len(wnids)} of "
                          f"{folder}; expected the classes of train or wnids.txt")  # fmt: skip
    return FileSource(
        name=f"{name}:{split}",
        ids=tuple(f"{part}/{path}" for _, path in found),
        labels=np.array([index[wnid] for wnid, _ in found], np.int64),
        class_names=_names(folder, wnids),
        paths=tuple(root / path for _, path in found),
        left_out=left_out,
    )


def _classes(folder: Path, root: Path) -> list[str]:
    """WordNet ids in order: those listed, or those of the training pictures."""
    if (folder / "wnids.txt").is_file():
        return sorted(set(_lines(folder / "wnids.txt")))
    train = folder / "train"
    _, folders, _ = walk(train if train.is_dir() else root, depth=1)
    return folders


def _in_folders(root: Path) -> Found:
    """Those of <wnid>/* or <wnid>/images/*, in order."""

    def enter(parts: PathParts) -> bool:
        return len(parts) == 1 or parts[1:] == ("images",)

    pictures, folders, left_out = walk(root, enter)
    inner = {name.partition("/")[0] for name in folders if "/" in name}
    parts = [path.partition("/") for path in pictures]
    found = [
        (wnid, f"{wnid}/{rest}")
        for wnid, slash, rest in parts
        if slash and ("/" in rest) == (wnid in inner)
    ]
    if loose := len(pictures) - len(found):
        left_out["loose picture"] += loose
    return found, left_out


def _annotated(root: Path) -> Found:
    """Those of images/*; a line of the list is file, wnid and a box."""
    path = root / ANNOTATIONS
    fields = [line.split() for line in _lines(path)]
    short = next((k for k, line in enumerate(fields, 1) if len(line) < 2), None)
    if short is not None:
        raise SourceError(f"{path}: line {short} of the list has no class; expected a file's "
                          "name and its WordNet id")  # fmt: skip
    labels = {line[0]: line[1] for line in fields}
    names, _, left_out = walk(root / "images", depth=1, enter=lambda _parts: False)
    odd = sorted(set(names).symmetric_difference(labels))
    if odd:
        raise SourceError(f"{path} and {root / 'images'} differ in {len(odd)} files, first "
                          f"{odd[0]}; expected a line per picture: unpack them again")  # fmt: skip
    return [(labels[name], f"images/{name}") for name in names], left_out


def _names(folder: Path, wnids: list[str]) -> tuple[str, ...]:
    """The first word of each class; the id with it where classes share it, alone where none is."""
    lists = [folder / name for name in WORDS if (folder / name).is_file()]
    words = {}
    for line in _lines(lists[0]) if lists else ():
        wnid, *rest = line.split(maxsplit=1)
        words[wnid] = "".join(rest).split(",")[0].strip()
    first = [words.get(wnid) or wnid for wnid in wnids]
    shared = Counter(first)
    return tuple(
        f"{word} ({wnid})" if shared[word] > 1 else word
        for word, wnid in zip(first, wnids, strict=True)
    )


def _lines(path: Path) -> list[str]:
    """Lines that are not empty."""
    try:
        return [line for line in path.read_text("utf-8").splitlines() if line.strip()]
    except (OSError, UnicodeDecodeError) as error:
        raise SourceError(f"{path}: cannot be read ({error}); expected UTF-8 text") from error
