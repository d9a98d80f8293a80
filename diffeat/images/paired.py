"""Data sets of pairs as they lie on disk: where they are, and which pictures a split has.

What corresponds in the pairs is read by `diffeat.targets.pairs`, from the same folders.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from diffeat.errors import SourceError
from diffeat.images.below import Below, read_json_object, read_text
from diffeat.images.classes import numbered
from diffeat.images.sources import FileSource
from diffeat.images.walk import is_picture

Shown = Iterator[tuple[str, str, str]]
"""(where it is named, path below the root of the pictures, category or "") of each picture."""
SIZES = ("large", "small")
"""Of SPair-71k's lists of pairs."""
HPATCHES_CATEGORIES = {"i_": "illumination", "v_": "viewpoint"}
"""What the sequences' names begin with → what changes in them."""


@dataclass(frozen=True)
class PairedSet:
    """A data set of pairs that has a name.

    Attributes:
        folders: what its folder may be called, too, as it is unpacked.
        wanted: what is expected in it, in words.
        how: where it comes from.
        splits: that have names, too.
        root: the folder that pictures' ids start at, below the data set's.
        shown: (the data set's folder, split) → its pictures.
    """

    folders: tuple[str, ...]
    wanted: str
    how: str
    splits: tuple[str, ...]
    root: str
    shown: Callable[[Path, str], Shown]

    def pictures(self, name: str, folder: Path, split: str) -> FileSource:
        """Every picture of a split once, by id; its label is its category where each has one."""
        root = folder / self.root
        below, of = Below(root, folder), {}
        for where, path, category in self.shown(folder, split):
            of.setdefault(below.picture(path, where), set()).add(category)
        return by_category(name, root, of)


def by_category(name: str, root: Path, of: Mapping[str, set[str]]) -> FileSource:
    """Pictures below a folder, in the order of their ids; labels if each has one category.

    Args:
        of: id → categories, "" for none.
    """
    ids = tuple(sorted(of))
    found = FileSource(name=name, ids=ids, paths=tuple(root / one for one in ids))
    if any(len(of[one]) != 1 or "" in of[one] for one in ids):
        return found
    labels, names = numbered([next(iter(of[one])) for one in ids])
    return replace(found, labels=labels, class_names=names)


def subfolders(folder: Path) -> list[str]:
    """Names of the folders in a folder, ascending; none where there is no such folder."""
    try:
        return sorted(one.name for one in folder.iterdir() if one.is_dir())
    except OSError:
        return []


def spair_files(folder: Path, split: str, size: str = "large") -> list[Path]:
    """The annotations of SPair-71k's pairs, in the order of Layout/<size>/<split>.txt.

    Without that list they are all of PairAnnotation/<split>, by name.

    Raises:
        SourceError: no such split, or a list with names of files elsewhere.
    """
    if size not in SIZES:
        raise SourceError(f"{folder}: size {size!r}; expected {' or '.join(SIZES)}")
    inner, listed = folder / "PairAnnotation" / split, folder / "Layout" / size / f"{split}.txt"
    if split not in subfolders(folder / "PairAnnotation"):
        there = ", ".join(subfolders(folder / "PairAnnotation")) or "none"
        raise SourceError(f"{folder}: no split {split!r}; expected PairAnnotation/{split}/*.json "
                          f"(there are: {there})")  # fmt: skip
    if not listed.is_file():
        if size != "large":
            raise SourceError(f"{listed}: missing; expected names of annotations in it")
        return sorted(inner.glob("*.json"))
    names = [
        line.strip() for line in read_text(listed, folder, "names of annotations").splitlines()
    ]
    for line, name in enumerate(names, 1):
        if "/" in name or "\0" in name:
            raise SourceError(f"{listed}, line {line}: {name!r:.120} leads out of {inner}; "
                              "expected the name of an annotation there")  # fmt: skip
    return [inner / f"{name}.json" for name in names if name]


def spair_shown(folder: Path, split: str) -> Shown:
    """The pictures of SPair-71k's pairs."""
    for path in spair_files(folder, split):
        said = read_json_object(path, folder, ("src_imname", "trg_imname", "category"))
        for name in ("src_imname", "trg_imname"):
            yield str(path), f"{said['category']}/{said[name]}", said["category"]


def hpatches_scenes(folder: Path, split: str = "all") -> Iterator[tuple[str, str]]:
    """(sequence, its category) of HPatches; i_* show other light, v_* another viewpoint."""
    for name in subfolders(folder):
        if any((folder / name).glob("H_1_*")):
            category = HPATCHES_CATEGORIES.get(name[:2], "")
            if split in ("all", category):
                yield name, category


def hpatches_picture(folder: Path, scene: str, number: str) -> str:
    """The path of a sequence's picture; its ending may be any picture's."""
    found = sorted(
        one.name for one in (folder / scene).iterdir()
        if one.stem == number and is_picture(one.name)
    )  # fmt: skip
    if len(found) != 1:
        raise SourceError(f"{folder / scene}: {len(found)} pictures {number}.*; expected one, such "
                          f"as {number}.ppm")  # fmt: skip
    return f"{scene}/{found[0]}"


def hpatches_numbers(folder: Path, scene: str) -> list[str]:
    """k of all H_1_k of a sequence, ascending."""
    found = [one.name[4:] for one in (folder / scene).glob("H_1_*")]
    return sorted((k for k in found if k.isdecimal()), key=int)


def hpatches_shown(folder: Path, split: str) -> Shown:
    for scene, category in hpatches_scenes(folder, split):
        for number in ("1", *hpatches_numbers(folder, scene)):
            yield str(folder / scene), hpatches_picture(folder, scene, number), category


PAIRED = {
    "spair": PairedSet(
        ("SPair-71k",),
        "SPair-71k's own layout (JPEGImages/, ImageAnnotation/, PairAnnotation/, Layout/)",
        "It is at https://cvlab.postech.ac.kr/research/SPair-71k/.",
        ("trn", "val", "test"), "JPEGImages", spair_shown,
    ),
    "hpatches": PairedSet(
        ("hpatches-sequences-release",),
        "the full sequences (i_*/ and v_*/ with 1.ppm … 6.ppm and H_1_2 … H_1_6)",
        "They are at https://github.com/hpatches/hpatches-dataset.",
        ("all", "illumination", "viewpoint"), "", hpatches_shown,
    ),
}  # fmt: skip
"""Named sets of pairs."""
