"""Which pictures data sets of masks and of depth have, and which file tells of each: a few lines a
layout.

Each `*_listed` gives (where it is named, path of the picture below the root of the pictures, path
of its mask or depth map below the data set's folder, group or "") for every picture of a split.
Whether the files are there is seen later.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from pathlib import Path

from diffeat.errors import SourceError
from diffeat.images.below import read_text
from diffeat.images.paired_layouts import rgbd_colours, subfolders
from diffeat.images.walk import is_picture, walk

Listed = Iterator[tuple[str, str, str, str]]
DDPM_SEG = {
    "bedroom28": ("bedroom_28", 40, 20), "ffhq34": ("ffhq_34", 20, 20), "cat15": ("cat_15", 30, 20),
    "horse21": ("horse_21", 30, 30), "celeba19": ("celeba_19", 20, 500),
    "ade-bedroom30": ("ade_bedroom_30", 50, 650),
}  # fmt: skip
"""DDPM-Seg's sets → folder, and how many pictures of train and of test count, the first by path."""
DDPM_SEG_KINDS = (".jpg", ".jpeg", ".png", ".gif")
ADE20K_PARTS = {"train": "training", "val": "validation"}
NYU_LISTS = {
    part: (f"nyudepthv2_{part}_files_with_gt.txt", f"{part}_list.txt") for part in ("train", "test")
}
NYU_FOLDERS = {"train": ("sync", ""), "test": ("official_splits/test", "")}
VOC_NAME = re.compile(r"\d{4}_\d{6}")
NYU_SCENE = re.compile(r"(.*_\d+)[a-z]")
RUN = 100
"""Numbers of frames that count as one group of a room."""


def pictures_in(folder: Path) -> list[str]:
    """Names of the pictures in a folder, ascending; none where there is no such folder."""
    try:
        return sorted(one.name for one in folder.iterdir()
                      if is_picture(one.name) and not one.name.startswith("."))  # fmt: skip
    except OSError:
        return []


def stem_of(name: str) -> str:
    """A path without the ending of its file."""
    head, dot, tail = name.rpartition(".")
    return head if dot and "/" not in tail and head.rpartition("/")[2] else name


def beside_listed(folder: Path, split: str) -> Listed:
    """<split>/NAME.jpg and <split>annot/NAME.png, as SegNet has CamVid; no groups."""
    for name in pictures_in(folder / split):
        where = str(folder / split)
        yield where, f"{split}/{name}", f"{split}annot/{stem_of(name)}.png", ""


def camvid_listed(folder: Path, split: str) -> Listed:
    """The same; a group is a drive, the name up to its first "_"."""
    for where, picture, mask, _ in beside_listed(folder, split):
        yield where, picture, mask, picture.rpartition("/")[2].partition("_")[0]


def horses_listed(folder: Path, split: str) -> Listed:
    """annotation/<split>.txt with names; horse/NAME.jpg, mask/NAME.png."""
    for where, name in _lines(folder / "annotation" / f"{split}.txt", folder):
        yield where, f"{name}.jpg", f"mask/{name}.png", ""


def ddpm_seg_listed(folder: Path, split: str, counts: tuple[int, int]) -> Listed:
    """real/<split>/NAME.png and NAME.npy beside it; the first by path, as the code takes them."""
    place = folder / "real" / split
    names = walk(place, wanted=_is_ddpm_seg)[0] if place.is_dir() else []
    for name in names[: counts[split == "test"]]:
        yield str(place), f"{split}/{name}", f"real/{split}/{stem_of(name)}.npy", ""


def _is_ddpm_seg(name: str) -> bool:
    return name.lower().endswith(DDPM_SEG_KINDS)


def voc_listed(folder: Path, split: str) -> Listed:
    """ImageSets/Segmentation/<split>.txt; JPEGImages/NAME.jpg, SegmentationClass/NAME.png."""
    for where, name in _lines(folder / "ImageSets" / "Segmentation" / f"{split}.txt", folder):
        yield where, f"{name}.jpg", f"SegmentationClass/{name}.png", ""


def ade20k_listed(folder: Path, split: str) -> Listed:
    """images/training/NAME.jpg, annotations/training/NAME.png; or validation."""
    part = ADE20K_PARTS[split]
    for name in pictures_in(folder / "images" / part):
        where = str(folder / "images" / part)
        yield where, f"{part}/{name}", f"annotations/{part}/{stem_of(name)}.png", ""


def cityscapes_listed(folder: Path, split: str) -> Listed:
    """leftImg8bit/<split>/<city>/NAME_leftImg8bit.png, gtFine/…/NAME_gtFine_labelIds.png."""
    for city in subfolders(folder / "leftImg8bit" / split):
        place = folder / "leftImg8bit" / split / city
        for name in pictures_in(place):
            mask = stem_of(name).removesuffix("_leftImg8bit") + "_gtFine_labelIds.png"
            yield str(place), f"{split}/{city}/{name}", f"gtFine/{split}/{city}/{mask}", city


def nyu_list(folder: Path, split: str) -> Path:
    """The list of a split: BTS's or VPD's name, in the folder or in one of its own."""
    places = folder, folder / "train_test_inputs", folder / "filenames" / "nyudepthv2"
    tries = [place / name for name in NYU_LISTS[split] for place in places]
    return next((one for one in tries if one.is_file()), tries[0])


def nyu_listed(folder: Path, split: str) -> Listed:
    """A list with "/SCENE/rgb_N.jpg /SCENE/sync_depth_N.png FOCAL" a line."""
    tries = [folder / name for name in NYU_FOLDERS[split]]
    root = next((one for one in tries if one.is_dir()), folder)
    below = "" if root == folder else f"{root.relative_to(folder).as_posix()}/"
    for where, line in _lines(nyu_list(folder, split), folder):
        words = line.split()
        if len(words) not in (2, 3):
            raise SourceError(f"{where}: {line!r:.120}; expected a picture, its depth map and, if "
                              "at all, a focal length")  # fmt: skip
        picture, depth = (f"{below}{word.lstrip('/')}" for word in words[:2])
        scene = words[0].lstrip("/").partition("/")[0]
        found = NYU_SCENE.fullmatch(scene)
        yield where, picture, depth, found[1] if found else scene


def frames_listed(folder: Path, split: str) -> Listed:
    """frame-NNNNNN.color.jpg and .depth.png; train is below 700, test from there on."""
    part = {"train": "trn", "test": "val"}.get(split, split)
    for number, name in rgbd_colours(folder, part).items():
        first = number // RUN * RUN
        yield str(folder), name, f"{name.partition('.')[0]}.depth.png", f"frames from {first}"


def _lines(path: Path, folder: Path) -> Iterator[tuple[str, str]]:
    """(where, text) of the lines of a list that are not empty."""
    for number, line in enumerate(read_text(path, folder, "a picture a line").splitlines(), 1):
        if line.strip():
            yield f"{path}, line {number}", line.strip()


def is_voc(folder: Path) -> bool:
    """Whether a folder is of PASCAL VOC, and not of others in its layout: by its names' form."""
    lists = folder / "ImageSets" / "Segmentation"
    if not ((folder / "SegmentationClass").is_dir() and lists.is_dir()):
        return False
    names = [stem_of(name) for name in pictures_in(folder / "JPEGImages")[:1]]
    return any(VOC_NAME.fullmatch(name) for name in names)


def fits(*needed: str) -> Callable[[Path], bool]:
    """Whether a folder has all of some files and folders."""
    return lambda folder: all((folder / one).exists() for one in needed)
