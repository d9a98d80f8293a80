"""AP-10K (Yu et al. 2021): animals of 54 species with seventeen key points.

As published, in COCO's form:

    data/<picture>.jpg                                    ids start here
    annotations/ap10k-{train,val,test}-split1.json        images, annotations (keypoints x, y, v …;
                                                          bbox x, y, w, h), categories (species,
                                                          supercategory is the family)

Splits are trn, val and test (pairs within a species), and with _cross_species (two species of a
family) or _cross_family behind (two families). Pairs are drawn (`diffeat.targets.pairs.drawn`, by
seed and species, family or all): up to `per_class` ordered pairs of a species or family, as many
times the number of families across families. Pictures with several animals are left out and
counted, since a pair means one animal in each. Figures for drawn pairs compare with each other,
not with published ones.

As GeoAware-SC arranges it, with its own pairs:

    JPEGImages/<family>/<species>/<picture>.jpg           ids start at <family>
    ImageAnnotation/<family>/<species>/<picture>.json     keypoints, bbox x, y, w, h
    PairAnnotation/<split>/*.json                         src_json_path, trg_json_path

In both, a pair has the key points that are labelled in both pictures (v > 0), at least three.

Source: Yu et al., "AP-10K", NeurIPS 2021 (its readme); Zhang et al., "Telling Left from Right",
CVPR 2024, whose code reads the second layout.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from diffeat.errors import SourceError
from diffeat.images.below import Below, read_json_object
from diffeat.images.paired_layouts import (
    AP10K_KINDS,
    AP10K_PARTS,
    ap10k_names,
    ap10k_root,
    ap10k_said,
    is_geoaware,
    spair_files,
    subfolders,
)
from diffeat.targets.pairs.base import PointPairs
from diffeat.targets.pairs.building import Said, point_pairs
from diffeat.targets.pairs.drawn import PER_CLASS, SHARED, drawn_pairs

SEVERAL = "pictures with several animals"
FEW = f"pairs with fewer than {SHARED} common points"
ACROSS = "all"
"""Category of pairs of two families, as GeoAware-SC calls it."""


@dataclass(frozen=True, eq=False)
class Animal:
    """A picture of one animal: (17, 2) points, (17,) bool which are labelled, x1, y1, x2, y2."""

    path: str
    species: str
    family: str
    points: np.ndarray
    seen: np.ndarray
    box: np.ndarray | None
    names: tuple[str, ...] = ()


def fits(folder: Path) -> bool:
    """Whether a folder has one of these layouts."""
    if is_geoaware(folder):
        return (folder / "JPEGImages").is_dir() and _is_of_pairs(folder)
    return bool(splits(folder))


def _is_of_pairs(folder: Path) -> bool:
    """Whether the first annotation of a pair names those of its pictures."""
    first = next((folder / "PairAnnotation").glob("*/*.json"), None)
    try:
        return first is not None and "src_json_path" in read_json_object(first, folder, ())
    except SourceError:
        return False


def splits(folder: Path) -> tuple[str, ...]:
    """The splits that are there."""
    if is_geoaware(folder):
        return tuple(subfolders(folder / "PairAnnotation"))
    there = [part for part, word in AP10K_PARTS.items()
             if (folder / "annotations" / f"ap10k-{word}-split1.json").is_file()]  # fmt: skip
    return tuple(part + kind for kind in AP10K_KINDS for part in there)


def open_ap10k(
    name: str,
    folder: Path,
    split: str,
    outside: str = "refuse",
    seed: int = 0,
    per_class: int = PER_CLASS,
) -> PointPairs:
    """The pairs of a split.

    Args:
        name: of the pairs, for messages.
        folder: of the data set.
        split: see above.
        outside: of `point_pairs`.
        seed, per_class: of pairs that are drawn.

    Raises:
        SourceError: files that are missing, damaged or contradictory.
    """
    below, left_out = Below(ap10k_root(folder), folder), Counter()
    if is_geoaware(folder):
        said = _listed(folder, split, left_out)
    else:
        animals = read_animals(folder, split, left_out)
        said = _drawn(folder, animals, split, seed, per_class)
    return point_pairs(name, below, said, outside=outside, left_out=left_out)


def _listed(folder: Path, split: str, left_out: Counter[str]) -> Iterator[Said]:
    below = Below(folder / "ImageAnnotation", folder)
    known: dict[str, Animal] = {}
    for path in spair_files(folder, split):
        names = ap10k_names(path, folder)
        for name in names:
            if name not in known:
                below.picture(f"{name}.json", str(path))
                known[name] = _one(folder, name)
        a, b = (known[name] for name in names)
        category = path.stem.rpartition(":")[2]
        if len(a.seen) != len(b.seen):
            raise SourceError(f"{path}: {len(a.seen)} and {len(b.seen)} key points in its two "
                              "pictures; expected equally many")  # fmt: skip
        if (a.seen & b.seen).sum() < SHARED:
            left_out[FEW] += 1
        else:
            yield _said(str(path), a, b, category)


def _one(folder: Path, name: str) -> Animal:
    path = folder / "ImageAnnotation" / f"{name}.json"
    said = read_json_object(path, folder, ("keypoints", "bbox"))
    family, _, species = name.rpartition("/")[0].rpartition("/")
    return _animal(str(path), f"{name}.jpg", species, family, said, ())


def read_animals(folder: Path, split: str, left_out: Counter[str]) -> list[Animal]:
    """The pictures of a split that show one animal, by path."""
    said = ap10k_said(folder, split)
    where = str(folder / "annotations")
    kinds = {str(one.get("id")): one for one in said["categories"]}
    by_picture: dict[str, list[dict]] = {}
    for one in said["annotations"]:
        by_picture.setdefault(str(one.get("image_id")), []).append(one)
    found = []
    for picture in said["images"]:
        annotations = by_picture.get(str(picture.get("id")), [])
        if len(annotations) != 1:
            left_out[SEVERAL] += len(annotations) > 1
            continue
        kind = kinds.get(str(annotations[0].get("category_id")), {})
        words = [str(kind.get(key, "")) for key in ("name", "supercategory")]
        names = kind.get("keypoints")
        names = tuple(map(str, names)) if isinstance(names, list) else ()
        path = str(picture.get("file_name"))
        found.append(_animal(f"{where}, {path}", path, *words, annotations[0], names))
    left_out += Counter()  # without zeros
    return sorted(found, key=lambda one: one.path)


def _animal(
    where: str, path: str, species: str, family: str, said: dict, names: tuple[str, ...]
) -> Animal:
    try:
        values = np.array(said["keypoints"], np.float64).reshape(-1, 3)
        x, y, width, height = (float(value) for value in said["bbox"])
    except (KeyError, TypeError, ValueError) as error:
        raise SourceError(f"{where}: {error}; expected keypoints x, y, v … and a bbox x, y, w, "
                          "h") from error  # fmt: skip
    box = np.array([x, y, x + width, y + height])
    return Animal(path, species, family, values[:, :2], values[:, 2] > 0, box, names)


def _drawn(
    folder: Path, animals: list[Animal], split: str, seed: int, per_class: int
) -> Iterator[Said]:
    """Pairs of a species, of two species of a family, or of two families."""
    kind = split.partition("_")[2]
    sets: dict[str, list[Animal]] = {}
    for one in animals:
        key = {"": one.species, "cross_species": one.family}.get(kind, ACROSS)
        sets.setdefault(key, []).append(one)
    families = len({one.family for one in animals})
    count = per_class * (families if kind == "cross_family" else 1)

    def fit(a: Animal, b: Animal) -> bool:
        apart = {"": True, "cross_species": a.species != b.species}.get(kind, a.family != b.family)
        return apart and len(a.seen) == len(b.seen) and (a.seen & b.seen).sum() >= SHARED

    for key in sorted(sets):
        for a, b in drawn_pairs(sets[key], count, fit, seed, kind, key):
            yield _said(str(folder / "annotations"), a, b, key)


def _said(where: str, a: Animal, b: Animal, category: str) -> Said:
    shared = np.flatnonzero(a.seen & b.seen)
    names = tuple(a.names[k] if len(a.names) == len(a.seen) else str(k) for k in shared)
    return Said(where, a.path, b.path, a.points[shared], b.points[shared], names, (a.box, b.box),
                category, kinds=(a.species, b.species))  # fmt: skip
