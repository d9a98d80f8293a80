"""PF-WILLOW (Ham et al. 2016): 900 pairs with ten key points each.

    PF-dataset/<class>/<picture>.png, or <class>/ in the folder itself      ids start at <class>
    test_pairs.csv: imageA,imageB,XA1…XA10,YA1…YA10,XB1…XB10,YB1…YB10

Classes are named as their folders: car(G), winebottle(woC). There are no boxes; the extent of the
key points is the usual reference.

Source: Ham, Cho, Schmid, Ponce, "Proposal Flow", CVPR 2016; the list comes with several public
evaluations. Whether points count from 0 or from 1 is not said there; they are taken as they are.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from diffeat.errors import SourceError
from diffeat.images.below import Below
from diffeat.images.paired_layouts import willow_root, willow_rows
from diffeat.targets.pairs.base import PointPairs
from diffeat.targets.pairs.building import Said, point_pairs

POINTS = 10


def fits(folder: Path) -> bool:
    """Whether a folder has this layout."""
    try:
        with open(folder / "test_pairs.csv", encoding="utf-8", errors="replace") as file:
            return file.readline().lstrip("\ufeff").startswith("imageA")
    except OSError:
        return False


def splits(folder: Path) -> tuple[str, ...]:
    return ("test",)


def open_pf_willow(name: str, folder: Path, split: str, outside: str = "refuse") -> PointPairs:
    """All pairs.

    Args:
        name: of the pairs, for messages.
        folder: of the data set.
        split: "test", there is no other.
        outside: of `point_pairs`.

    Raises:
        SourceError: files that are missing or damaged.
    """
    below = Below(willow_root(folder), folder)
    return point_pairs(name, below, _said(folder), outside=outside)


def _said(folder: Path) -> Iterator[Said]:
    for where, row in willow_rows(folder):
        try:
            points = [
                [[float(row[f"{axis}{side}{k}"]) for axis in "XY"] for k in range(1, POINTS + 1)]
                for side in "AB"
            ]
        except ValueError as error:
            raise SourceError(f"{where}: {error}; expected {POINTS} points in pixels") from error
        names = tuple(str(k) for k in range(1, POINTS + 1))
        category = row["imageA"].rpartition("/")[0]
        yield Said(where, row["imageA"], row["imageB"], *points, names, category=category)
