"""PF-PASCAL (Ham et al. 2017) with the lists of pairs that most who use it take.

    JPEGImages/<picture>.jpg                 ids start here
    Annotations/<class>/<picture>.mat        kps (n, 2), nan where one is not seen; bbox x1,y1,x2,y2
    trn_pairs.csv, val_pairs.csv, test_pairs.csv, or train_pairs_pf_pascal.csv and so on:
        source_image,target_image,class[,XA,YA,XB,YB][,flip]

A class is a number from 1 in the alphabetical order of PASCAL's 20, or a name. XA … are the key
points that both pictures have, as "1.5;20;33"; lists without them take the annotations', where
key points of one number correspond. Boxes are the annotations'. Rows with flip = 1 mean mirrored
copies of both pictures, which do not lie on the disk; they are left out and counted.

Without lists, the split "all" has every two pictures of a class, the first by name as the source.
The authors' own choice of pairs lies in parsePascalVOC.mat, which is not read.

Source: Ham, Cho, Schmid, Ponce, "Proposal Flow", TPAMI 2017; lists of Rocco et al., "Weakalign",
CVPR 2018, in the split of Han et al., "SCNet", ICCV 2017. Whether points count from 0 or from 1
is not said there; they are taken as they are.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from itertools import combinations
from pathlib import Path

import numpy as np

from diffeat.errors import SourceError
from diffeat.images.below import Below, read_below
from diffeat.images.paired_layouts import pascal_annotated, pascal_lists, pascal_rows
from diffeat.targets.pairs.base import PointPairs
from diffeat.targets.pairs.building import Said, point_pairs
from diffeat.targets.pairs.mat import read_arrays

FLIPPED = "pairs of mirrored copies (flip = 1)"
POINTS = ("XA", "YA", "XB", "YB")
Annotation = tuple[np.ndarray, np.ndarray | None]
"""(n, 2) key points with nan for those that are not seen, and the box."""


def fits(folder: Path) -> bool:
    """Whether a folder has this layout."""
    return (folder / "JPEGImages").is_dir() and bool(splits(folder))


def splits(folder: Path) -> tuple[str, ...]:
    """The splits that are there."""
    return tuple(pascal_lists(folder)) or (("all",) if pascal_annotated(folder) else ())


def open_pf_pascal(name: str, folder: Path, split: str, outside: str = "refuse") -> PointPairs:
    """The pairs of a split.

    Args:
        name: of the pairs, for messages.
        folder: of the data set.
        split: "trn", "val" or "test"; "all" without lists.
        outside: of `point_pairs`.

    Raises:
        SourceError: files that are missing, damaged or contradictory.
    """
    below, left_out = Below(folder / "JPEGImages", folder), Counter()
    said = _every_two(folder) if split == "all" else _listed(folder, split, left_out)
    return point_pairs(name, below, said, outside=outside, left_out=left_out)


def _listed(folder: Path, split: str, left_out: Counter[str]) -> Iterator[Said]:
    known: dict[Path, Annotation] = {}
    for where, row in pascal_rows(folder, split):
        if row.get("flip", "0").strip() in ("1", "1.0"):
            left_out[FLIPPED] += 1
            continue
        pictures, kind = (row["source_image"], row["target_image"]), row["class"]
        paths = [_annotation(folder, kind, picture) for picture in pictures]
        listed = all(name in row for name in POINTS)
        for path in paths:
            if path not in known and not (listed and not path.is_file()):
                known[path] = read_annotation(path, folder)
        (points_a, box_a), (points_b, box_b) = (
            known.get(path, (np.empty((0, 2)), None)) for path in paths
        )
        if listed:
            points = [_coordinates(where, row, side) for side in "AB"]
            yield Said(where, *pictures, *points, boxes=(box_a, box_b), category=kind)
        else:
            yield _shared(where, pictures, kind, (points_a, box_a), (points_b, box_b))


def _annotation(folder: Path, kind: str, picture: str) -> Path:
    if {"..", "."} & {*picture.split("/"), *kind.split("/")} or kind.startswith("/"):
        raise SourceError(f"{folder}: {kind}/{picture} leads out of the folder")
    return folder / "Annotations" / kind / f"{Path(picture).stem}.mat"


def _coordinates(where: str, row: dict[str, str], side: str) -> np.ndarray:
    """(n, 2) of "1;2;3" and "4;5;6"."""
    try:
        axes = [[float(text) for text in row[f"{axis}{side}"].strip(" ;").split(";") if text]
                for axis in "XY"]  # fmt: skip
        return np.array(axes).T.reshape(-1, 2) if axes[0] or axes[1] else np.empty((0, 2))
    except ValueError as error:
        raise SourceError(f"{where}: X{side}, Y{side} are {row[f'X{side}']!r:.60} and "
                          f"{row[f'Y{side}']!r:.60} ({error}); expected equally many numbers, "
                          "separated by semicolons") from error  # fmt: skip


def _every_two(folder: Path) -> Iterator[Said]:
    """Every two pictures of a class."""
    by_class: dict[str, dict[str, Annotation]] = {}
    for kind, name in pascal_annotated(folder):
        path = folder / "Annotations" / kind / f"{name}.mat"
        by_class.setdefault(kind, {})[f"{name}.jpg"] = read_annotation(path, folder)
    for kind, known in by_class.items():
        for a, b in combinations(known, 2):
            yield _shared(f"{folder}, {kind}", (a, b), kind, known[a], known[b])


def _shared(
    where: str, pictures: tuple[str, str], kind: str, source: Annotation, target: Annotation
) -> Said:
    """A pair with the key points that both pictures have."""
    count = min(len(source[0]), len(target[0]))
    both = np.isfinite(source[0][:count]).all(1) & np.isfinite(target[0][:count]).all(1)
    points = (one[0][:count][both] for one in (source, target))
    names = tuple(str(number) for number in np.flatnonzero(both))
    return Said(where, *pictures, *points, names, (source[1], target[1]), kind)


def read_annotation(path: Path, within: Path) -> Annotation:
    """kps and bbox of a .mat.

    Raises:
        SourceError: no such file, a damaged one, or other arrays in it.
    """
    raw = read_below(path, within, "key points in a .mat")
    try:
        found = read_arrays(raw)
    except ValueError as error:
        raise SourceError(f"{path}: {error}; expected arrays kps (n, 2) and bbox") from error
    if "kps" not in found:
        raise SourceError(f"{path}: has {', '.join(found) or 'no arrays'}; expected kps (n, 2) and "
                          "bbox")  # fmt: skip
    points, box = found["kps"], found["bbox"].ravel() if "bbox" in found else None
    if points.ndim != 2 or points.shape[1] != 2:
        raise SourceError(f"{path}: kps have shape {points.shape}; expected (n, 2)")
    return points, box
