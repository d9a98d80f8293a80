"""Data sets of pairs as they lie on disk: where they are, and which pictures a split has.

What corresponds in the pairs is read by `diffeat.targets.pairs`, from the same folders.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from diffeat.images import paired_layouts as layouts
from diffeat.images.below import Below
from diffeat.images.classes import numbered
from diffeat.images.sources import FileSource


@dataclass(frozen=True)
class PairedSet:
    """A data set of pairs that has a name.

    Attributes:
        folders: what its folder may be called, too, as it is unpacked.
        wanted: what is expected in it, in words.
        how: where it comes from.
        splits: that have names, too.
        root: the data set's folder → the one that pictures' ids start at.
        shown: (the data set's folder, split) → its pictures.
    """

    folders: tuple[str, ...]
    wanted: str
    how: str
    splits: tuple[str, ...]
    root: Callable[[Path], Path]
    shown: Callable[[Path, str], layouts.Shown]

    def pictures(self, name: str, folder: Path, split: str) -> FileSource:
        """Every picture of a split once, by id; its label is its category where each has one."""
        below, of = Below(self.root(folder), folder), {}
        for where, path, category in self.shown(folder, split):
            of.setdefault(below.picture(path, where), set()).add(category)
        return by_category(name, below, of)


def by_category(name: str, below: Below, of: Mapping[str, set[str]]) -> FileSource:
    """Pictures below a folder, in the order of their ids; labels if each has one category.

    Args:
        below: the folder, which has been asked for all of them.
        of: id → categories, "" for none.
    """
    ids = tuple(sorted(of))
    found = FileSource(name=name, ids=ids, paths=tuple(map(below.path, ids)))
    if any(len(of[one]) != 1 or "" in of[one] for one in ids):
        return found
    labels, names = numbered([next(iter(of[one])) for one in ids])
    return replace(found, labels=labels, class_names=names)


def _in(name: str) -> Callable[[Path], Path]:
    return lambda folder: folder / name


PAIRED = {
    "spair": PairedSet(
        ("SPair-71k",),
        "JPEGImages/, ImageAnnotation/, PairAnnotation/ and Layout/ as in SPair-71k.tar.gz",
        "It is at https://cvlab.postech.ac.kr/research/SPair-71k/.",
        ("trn", "val", "test"), _in("JPEGImages"), layouts.spair_shown,
    ),
    "pf-pascal": PairedSet(
        ("PF-dataset-PASCAL", "PF-PASCAL"),
        "JPEGImages/, Annotations/<class>/*.mat, and trn_pairs.csv, val_pairs.csv, test_pairs.csv "
        "(or train_pairs_pf_pascal.csv and so on)",
        "The pictures are at https://www.di.ens.fr/willow/research/proposalflow/, the lists at "
        "https://www.di.ens.fr/willow/research/cnngeometric/.",
        ("trn", "val", "test", "all"), _in("JPEGImages"), layouts.pascal_shown,
    ),
    "pf-willow": PairedSet(
        ("PF-WILLOW",),
        "test_pairs.csv, and PF-dataset/ or its folders of classes such as car(G)/",
        "The pictures are at https://www.di.ens.fr/willow/research/proposalflow/; the list comes "
        "with the code of Hyperpixel Flow and others.",
        ("test",), layouts.willow_root, layouts.willow_shown,
    ),
    "cub": PairedSet(
        ("CUB_200_2011",),
        "images/, images.txt, train_test_split.txt, bounding_boxes.txt, parts/parts.txt and "
        "parts/part_locs.txt",
        "It is at https://www.vision.caltech.edu/datasets/cub_200_2011/.",
        ("train", "test"), _in("images"), layouts.cub_shown,
    ),
    "ap10k": PairedSet(
        ("ap-10k", "AP-10K"),
        "data/*.jpg and annotations/ap10k-{train,val,test}-split1.json, or GeoAware-SC's "
        "JPEGImages/, ImageAnnotation/ and PairAnnotation/",
        "It is at https://github.com/AlexTheBad/AP-10K.",
        layouts.AP10K_SPLITS, layouts.ap10k_root, layouts.ap10k_shown,
    ),
    "tss": PairedSet(
        ("TSS_CVPR2016",),
        "FG3DCar/, JODS/ and PASCAL/ with folders that hold image1.png, image2.png, flow1.flo, "
        "flow2.flo, mask1.png and mask2.png",
        "It is at https://taniai.space/projects/cvpr16_dccs/.",
        ("all", *layouts.TSS_PARTS), _in(""), layouts.tss_shown,
    ),
    "hpatches": PairedSet(
        ("hpatches-sequences-release",),
        "the full sequences, i_*/ and v_*/ with 1.ppm … 6.ppm and H_1_2 … H_1_6",
        "They are at https://github.com/hpatches/hpatches-dataset.",
        ("all", "108", *layouts.HPATCHES_CATEGORIES.values()), _in(""), layouts.hpatches_shown,
    ),
    "7scenes": PairedSet(
        ("kitchen-rgbd", "seq-01"),
        "RGB-D frames of one sequence (frame-NNNNNN.color.png, .depth.png, .pose.txt)",
        "It is at https://www.microsoft.com/en-us/research/project/rgb-d-dataset-7-scenes/.",
        tuple(layouts.RGBD_SPLITS), _in(""), layouts.rgbd_shown,
    ),
}  # fmt: skip
"""Named sets of pairs, in the order in which a folder is tried."""
