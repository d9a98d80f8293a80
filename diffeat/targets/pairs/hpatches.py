"""HPatches' sequences (Balntas et al. 2017), and other planes in their layout.

    <i_NAME or v_NAME>/1.ppm … 6.ppm     or any other ending of a picture
    <i_NAME or v_NAME>/H_1_2 … H_1_6     three rows of three numbers: x_k = H·x_1

Pairs are (1, k). Pixels have their centres at whole numbers, the first at 0, 0. i_* show other
light (category "illumination"), v_* another viewpoint; the group of a picture is its sequence.

Source: Balntas, Lenc, Vedaldi, Mikolajczyk, "HPatches", CVPR 2017; the full sequences
(hpatches-sequences-release). That their homographies count from 0 is what common evaluations take
for granted; the files do not say so.
"""

from __future__ import annotations

from functools import partial
from pathlib import Path

import numpy as np

from diffeat.errors import SourceError
from diffeat.images.below import Below, read_matrix
from diffeat.images.paired_layouts import (
    HPATCHES_CATEGORIES,
    hpatches_numbers,
    hpatches_picture,
    hpatches_scenes,
)
from diffeat.targets.pairs.building import pictures_of
from diffeat.targets.pairs.planes import HomographyPairs

SPLITS = ("all", "108", *HPATCHES_CATEGORIES.values())


def fits(folder: Path) -> bool:
    """Whether a folder has this layout."""
    return next(hpatches_scenes(folder), None) is not None


def splits(folder: Path) -> tuple[str, ...]:
    return SPLITS


def open_hpatches(name: str, folder: Path, split: str = "all") -> HomographyPairs:
    """The pairs of all sequences, or of those of one kind.

    Args:
        name: of the pairs, for messages.
        folder: with the sequences.
        split: "all", "108" (without the eight that are larger than 1600×1200), "illumination" or
            "viewpoint".

    Raises:
        SourceError: no sequences, pictures that are missing, matrices that are none.
    """
    below, pairs = Below(folder), []
    for scene, category in hpatches_scenes(folder, split):
        first = hpatches_picture(folder, scene, "1")
        for number in hpatches_numbers(folder, scene):
            path = folder / scene / f"H_1_{number}"
            other = hpatches_picture(folder, scene, number)
            sizes = tuple(below.size(one, str(path)) for one in (first, other))
            ids = [below.picture(one, str(path)) for one in (first, other)]
            pairs.append((*ids, read_homography(path, folder), sizes, (scene, scene), category))
    if not pairs:
        raise SourceError(f"{name}: no sequences in {folder}; expected folders i_* and v_* with "
                          "1.ppm, 2.ppm … and H_1_2 …")  # fmt: skip
    source, target, matrices, sizes, groups, categories = zip(*pairs, strict=True)
    kinds = tuple(zip(categories, categories, strict=True))
    pictures = partial(pictures_of, name, below, source, target, kinds)
    return HomographyPairs(
        name, source, target, np.stack(matrices), sizes, pictures, groups, categories
    )


def read_homography(path: Path, within: Path) -> np.ndarray:
    """(3, 3) float64 of nine numbers in text.

    Raises:
        SourceError: other than nine finite numbers, or a matrix that cannot be inverted.
    """
    matrix = read_matrix(path, within, (3, 3))
    if np.linalg.matrix_rank(matrix) < 3:
        raise SourceError(f"{path}: {matrix.tolist()} is no homography; expected a matrix that can "
                          "be inverted")  # fmt: skip
    return matrix
