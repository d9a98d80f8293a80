"""SPair-71k (Min et al. 2019), and whatever lies in its layout.

    JPEGImages/<category>/<picture>                  ids start here
    PairAnnotation/<split>/<number>-<a>-<b>:<category>.json
    Layout/{large,small}/<split>.txt                 names of those, without .json
    ImageAnnotation/<category>/<picture>.json        may name a "person", the group

In a pair's annotation `src_kps` and `trg_kps` are key points that both pictures have, x and y in
pixels, `kps_ids` their names, `*_bndbox` x1, y1, x2, y2. `mirror` is 1 where two objects are
seen from opposite sides; the pictures are as they lie there, and nothing is turned.

Source: Min, Lee, Ponce, Cho, "SPair-71k", arXiv:1908.10543, and the files' own README.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from diffeat.errors import SourceError
from diffeat.images.below import Below, read_json_object
from diffeat.images.paired_layouts import spair_files, subfolders
from diffeat.targets.pairs.base import PointPairs
from diffeat.targets.pairs.building import Said, point_pairs

KEYS = ("src_imname", "trg_imname", "category", "src_kps", "trg_kps")


def fits(folder: Path) -> bool:
    """Whether a folder has this layout."""
    return (folder / "PairAnnotation").is_dir() and (folder / "JPEGImages").is_dir()


def splits(folder: Path) -> tuple[str, ...]:
    """The splits that are there."""
    return tuple(subfolders(folder / "PairAnnotation"))


def open_spair(
    name: str, folder: Path, split: str, size: str = "large", outside: str = "refuse"
) -> PointPairs:
    """The pairs of a split.

    Args:
        name: of the pairs, for messages.
        folder: of the data set.
        size: "large" (all pairs) or "small", by the list in Layout.
        outside: of `point_pairs`.

    Raises:
        SourceError: files that are missing, damaged or contradictory.
    """
    below = Below(folder / "JPEGImages", folder)
    return point_pairs(name, below, _said(folder, below, split, size), outside=outside)


def _said(folder: Path, below: Below, split: str, size: str) -> Iterator[Said]:
    persons: dict[str, str | None] = {}
    for path in spair_files(folder, split, size):
        where, said = str(path), read_json_object(path, folder, KEYS)
        category = said["category"]
        if not isinstance(category, str) or not category.strip("./"):
            raise SourceError(f"{where}: category {category!r}; expected the name of a folder "
                              "below JPEGImages")  # fmt: skip
        pictures = tuple(f"{category}/{said[f'{side}_imname']}" for side in ("src", "trg"))
        for side, picture in zip(("src", "trg"), pictures, strict=True):
            _check_size(below, picture, said.get(f"{side}_imsize"), where)
            if picture not in persons:
                persons[picture] = _person(folder, below.picture(picture, where))
        yield Said(
            where, *pictures, said["src_kps"], said["trg_kps"],
            names=_names(said.get("kps_ids"), where),
            boxes=(said.get("src_bndbox"), said.get("trg_bndbox")),
            category=category, groups=tuple(persons[picture] for picture in pictures),
        )  # fmt: skip


def _names(said: Any, where: str) -> tuple[str, ...]:
    if said is not None and not isinstance(said, list):
        raise SourceError(f"{where}: kps_ids are {said!r:.60}; expected a list of names")
    return tuple(map(str, said or ()))


def _check_size(below: Below, picture: str, said: Any, where: str) -> None:
    """SourceError where a picture's size is not the one that its points belong to."""
    height, width = below.size(picture, where)
    if isinstance(said, list) and len(said) >= 2 and said[:2] != [width, height]:
        raise SourceError(f"{where}: points of a picture of {said[0]}x{said[1]} pixels, but "
                          f"{picture!r} has {width}x{height}; expected the data set's own "
                          "pictures")  # fmt: skip


def _person(folder: Path, picture: str) -> str | None:
    """Whom a picture shows, if its annotation says so."""
    path = (folder / "ImageAnnotation" / picture).with_suffix(".json")
    if not path.is_file():
        return None
    person = read_json_object(path, folder, ()).get("person")
    return None if person in (None, "") else str(person)
