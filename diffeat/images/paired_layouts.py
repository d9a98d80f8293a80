"""Which pictures data sets of pairs have, and in which files the pairs are: a few lines a layout.

Each `*_shown` gives (where it is named, path below the root of the pictures, category or "") for
every picture of a split, more than once where pairs share it.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

from diffeat.errors import SourceError
from diffeat.images.below import Records, read_json_object, read_records, read_text
from diffeat.images.walk import is_picture

Shown = Iterator[tuple[str, str, str]]
SIZES = ("large", "small")
"""Of SPair-71k's lists of pairs."""
HPATCHES_CATEGORIES = {"i_": "illumination", "v_": "viewpoint"}
"""What the sequences' names begin with → what changes in them."""
LARGE_SEQUENCES = ("i_contruction", "i_crownnight", "i_dc", "i_pencils", "i_whitebuilding",
                   "v_artisans", "v_astronautis", "v_talent")  # fmt: skip
"""Of HPatches, above 1600×1200; 108 of 116 are without them, as D2-Net and most since count."""
VOC_CLASSES = (
    "aeroplane", "bicycle", "bird", "boat", "bottle", "bus", "car", "cat", "chair", "cow",
    "diningtable", "dog", "horse", "motorbike", "person", "pottedplant", "sheep", "sofa", "train",
    "tvmonitor",
)  # fmt: skip
"""By the number, from 1, that PF-PASCAL's lists have."""
AP10K_PARTS = {"trn": "train", "val": "val", "test": "test"}
AP10K_KINDS = ("", "_cross_species", "_cross_family")
AP10K_SPLITS = tuple(part + kind for kind in AP10K_KINDS for part in AP10K_PARTS)
TSS_PARTS = ("FG3DCar", "JODS", "PASCAL")
RGBD_COLOUR = re.compile(r"frame-(\d+)\.color\.(?:png|jpe?g)", re.IGNORECASE)
FIRST_HELD = 700
"""Frames of a sequence from this number on are held out."""
RGBD_SPLITS: dict[str, Callable[[int], bool]] = {
    "trn": lambda number: number < FIRST_HELD,
    "val": lambda number: number >= FIRST_HELD,
    "all": lambda number: True,
}


def subfolders(folder: Path) -> list[str]:
    """Names of the folders in a folder, ascending; none where there is no such folder."""
    try:
        return sorted(one.name for one in folder.iterdir() if one.is_dir())
    except OSError:
        return []


def after(path: str, folder: str) -> str:
    """A path behind the last folder of a name, or the whole where there is none."""
    return path.rpartition(f"{folder}/")[2] if f"/{folder}/" in f"/{path}" else path


# SPair-71k


def spair_files(folder: Path, split: str, size: str = "large") -> list[Path]:
    """The annotations of SPair-71k's pairs, in the order of Layout/<size>/<split>.txt.

    Without that list they are all of PairAnnotation/<split>, by name.

    Raises:
        SourceError: no such split, or a list with names of files elsewhere.
    """
    there = subfolders(folder / "PairAnnotation")
    if split not in there:
        raise SourceError(f"{folder}: no split {split!r}; expected PairAnnotation/{split}/*.json "
                          f"(there are: {', '.join(there) or 'none'})")  # fmt: skip
    inner, listed = folder / "PairAnnotation" / split, folder / "Layout" / size / f"{split}.txt"
    if not listed.is_file():
        if size != "large":
            raise SourceError(f"{listed}: missing; expected names of annotations in it")
        return sorted(inner.glob("*.json"))
    text = read_text(listed, folder, "names of annotations")
    names = [line.strip() for line in text.splitlines()]
    for line, name in enumerate(names, 1):
        if "/" in name or "\0" in name:
            raise SourceError(f"{listed}, line {line}: {name!r:.120} leads out of {inner}; "
                              "expected the name of an annotation there")  # fmt: skip
    return [inner / f"{name}.json" for name in names if name]


def spair_shown(folder: Path, split: str) -> Shown:
    for path in spair_files(folder, split):
        said = read_json_object(path, folder, ("src_imname", "trg_imname", "category"))
        for name in ("src_imname", "trg_imname"):
            yield str(path), f"{said['category']}/{said[name]}", said["category"]


# HPatches


def hpatches_scenes(folder: Path, split: str = "all") -> Iterator[tuple[str, str]]:
    """(sequence, its category) of HPatches."""
    for name in subfolders(folder):
        category = HPATCHES_CATEGORIES.get(name[:2], "")
        wanted = split in ("all", category) or (split == "108" and name not in LARGE_SEQUENCES)
        if wanted and any((folder / name).glob("H_1_*")):
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


# Proposal Flow


def pascal_lists(folder: Path) -> dict[str, Path]:
    """PF-PASCAL's lists of pairs by split."""
    names = {
        split: [f"{word}_pairs{end}.csv" for word in words for end in ("", "_pf_pascal")]
        for split, words in (("trn", ("trn", "train")), ("val", ("val",)), ("test", ("test",)))
    }
    found = {
        split: next((folder / name for name in some if (folder / name).is_file()), None)
        for split, some in names.items()
    }
    return {split: path for split, path in found.items() if path is not None}


def pascal_rows(folder: Path, split: str) -> Records:
    """The rows of a list, with "class" as a name and paths below JPEGImages."""
    lists = pascal_lists(folder)
    if split not in lists:
        raise SourceError(f"{folder}: no list of pairs {split}_pairs.csv (there are: "
                          f"{', '.join(lists) or 'none'}); it comes with the lists of SCNet or "
                          "Weakalign")  # fmt: skip
    has = partial(_check_columns, wanted=("source_image", "target_image", "class"))
    _, rows = read_records(lists[split], folder, has)
    for where, row in rows:
        for name in ("source_image", "target_image"):
            row[name] = after(row[name].strip(), "JPEGImages")
        row["class"] = _voc_class(where, row["class"].strip())
    return rows


def _voc_class(where: str, text: str) -> str:
    number = text.removesuffix(".0")
    if number.isdecimal() and 1 <= int(number) <= len(VOC_CLASSES):
        return VOC_CLASSES[int(number) - 1]
    if not text or number.isdecimal():
        raise SourceError(f"{where}: class {text!r}; expected 1 to {len(VOC_CLASSES)}, or a name")
    return text


def _check_columns(path: Path, columns: tuple[str, ...], wanted: tuple[str, ...]) -> None:
    lacking = [name for name in wanted if name not in columns]
    if lacking:
        raise SourceError(f"{path}: the header ({', '.join(columns)[:200] or 'empty'}) lacks "
                          f"{', '.join(lacking)}; expected {', '.join(wanted)}")  # fmt: skip


def pascal_shown(folder: Path, split: str) -> Shown:
    if split == "all":
        yield from (("", f"{name}.jpg", kind) for kind, name in pascal_annotated(folder))
        return
    for where, row in pascal_rows(folder, split):
        for name in ("source_image", "target_image"):
            yield where, row[name], row["class"]


def pascal_annotated(folder: Path) -> list[tuple[str, str]]:
    """(class, name) of all Annotations/<class>/<name>.mat."""
    inner = folder / "Annotations"
    return [(kind, one.stem) for kind in subfolders(inner)
            for one in sorted((inner / kind).glob("[!.]*.mat"))]  # fmt: skip


def willow_root(folder: Path) -> Path:
    """The folder with PF-WILLOW's classes: PF-dataset in the folder, or the folder itself."""
    inner = folder / "PF-dataset"
    return inner if inner.is_dir() else folder


def willow_rows(folder: Path) -> Records:
    """The rows of PF-WILLOW's list, with paths below its root."""
    path = folder / "test_pairs.csv"
    points = tuple(f"{axis}{side}{k}" for side in "AB" for axis in "XY" for k in range(1, 11))
    has = partial(_check_columns, wanted=("imageA", "imageB", *points))
    _, rows = read_records(path, folder, has)
    for _, row in rows:
        for name in ("imageA", "imageB"):
            row[name] = after(row[name].strip(), "PF-dataset")
    return rows


def willow_shown(folder: Path, split: str) -> Shown:
    for where, row in willow_rows(folder):
        for name in ("imageA", "imageB"):
            yield where, row[name], row[name].rpartition("/")[0]


# CUB-200-2011


def cub_lines(folder: Path, name: str, count: int) -> list[tuple[str, list[str]]]:
    """(where, fields) of one of CUB's tables, which have white space between fields.

    Args:
        count: fields of a line.
    """
    path = folder / name
    found = []
    for line, text in enumerate(read_text(path, folder, "a table of CUB-200-2011").splitlines(), 1):
        fields = text.split()
        if fields and len(fields) != count:
            raise SourceError(f"{path}, line {line}: {len(fields)} fields; expected {count}")
        if fields:
            found.append((f"{path}, line {line}", fields))
    return found


def cub_pictures(folder: Path, split: str) -> dict[str, str]:
    """Number → path below images/ of the pictures of "train" or "test"."""
    wanted = {"train": "1", "test": "0"}[split]
    of_split = {
        number
        for _, (number, flag) in cub_lines(folder, "train_test_split.txt", 2)
        if flag == wanted
    }
    lines = cub_lines(folder, "images.txt", 2)
    return {number: path for _, (number, path) in lines if number in of_split}


def cub_shown(folder: Path, split: str) -> Shown:
    for path in cub_pictures(folder, split).values():
        yield str(folder / "images.txt"), path, path.partition("/")[0]


# AP-10K


def is_geoaware(folder: Path) -> bool:
    """Whether AP-10K lies as GeoAware-SC arranges it, with a file for each pair."""
    return (folder / "PairAnnotation").is_dir()


def ap10k_root(folder: Path) -> Path:
    return folder / ("JPEGImages" if is_geoaware(folder) else "data")


def ap10k_said(folder: Path, split: str) -> dict[str, Any]:
    """The annotations of a part, in COCO's form, of split 1."""
    path = folder / "annotations" / f"ap10k-{AP10K_PARTS[split.partition('_')[0]]}-split1.json"
    said = read_json_object(path, folder, ("images", "annotations", "categories"))
    for name in ("images", "annotations", "categories"):
        if not isinstance(said[name], list) or not all(isinstance(x, dict) for x in said[name]):
            raise SourceError(f"{path}: {name} is no list of objects; expected COCO's form")
    return said


def ap10k_names(path: Path, folder: Path) -> list[str]:
    """Paths below ImageAnnotation, without their ending, of the two pictures of a pair."""
    keys = ("src_json_path", "trg_json_path")
    said = read_json_object(path, folder, keys)
    return [after(str(said[key]), "ImageAnnotation").removesuffix(".json") for key in keys]


def ap10k_shown(folder: Path, split: str) -> Shown:
    if is_geoaware(folder):
        for path in spair_files(folder, split):
            for name in ap10k_names(path, folder):
                yield str(path), f"{name}.jpg", name.split("/")[-2] if "/" in name else ""
        return
    said = ap10k_said(folder, split)
    species = {str(one.get("id")): str(one.get("name", "")) for one in said["categories"]}
    kinds: dict[str, set[str]] = {}
    for one in said["annotations"]:
        kind = species.get(str(one.get("category_id")), "")
        kinds.setdefault(str(one.get("image_id")), set()).add(kind)
    for one in said["images"]:
        found = kinds.get(str(one.get("id")), set())
        yield str(folder), str(one.get("file_name")), found.pop() if len(found) == 1 else ""


# TSS


def tss_scenes(folder: Path) -> list[str]:
    """ "JODS/apple": folders of pairs."""
    return [f"{part}/{name}" for part in TSS_PARTS for name in subfolders(folder / part)
            if (folder / part / name / "flow1.flo").exists()]  # fmt: skip


def tss_shown(folder: Path, split: str) -> Shown:
    for scene in tss_scenes(folder):
        part = scene.partition("/")[0]
        if split in ("all", part):
            for number in (1, 2):
                yield str(folder / scene), f"{scene}/image{number}.png", part


# RGB-D frames


def rgbd_colours(folder: Path, split: str = "all") -> dict[int, str]:
    """Number → colour picture of the RGB-D frames of a folder, as a sequence of 7-Scenes has
    them; "trn" are those below 700, "val" the others."""
    try:
        names = sorted(one.name for one in folder.iterdir())
    except OSError:
        return {}
    found = {int(match[1]): match[0] for name in names if (match := RGBD_COLOUR.fullmatch(name))}
    return {k: found[k] for k in sorted(found) if RGBD_SPLITS[split](k)}


def rgbd_shown(folder: Path, split: str) -> Shown:
    for name in rgbd_colours(folder, split).values():
        yield str(folder), name, ""
