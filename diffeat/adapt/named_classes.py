"""What all that is trained with named classes shares: which class is which word; pictures given."""

from __future__ import annotations

from typing import Any

import numpy as np
from PIL import Image

from diffeat.errors import SpecError, nearest
from diffeat.targets.dense import DenseTargets
from diffeat.words.vocabulary import Vocabulary


def classes_in(targets: DenseTargets, vocabulary: Vocabulary) -> dict[int, int]:
    """Class index of the targets → of the vocabulary, by any of its words.

    Raises:
        SpecError: depth, or a class that is no word.
    """
    if targets.kind != "masks":
        raise SpecError(f"{targets.name} is {targets.kind}; expected masks of classes")
    owner = {word.casefold(): k for word, k in zip(vocabulary.words, vocabulary.owners,
                                                   strict=True)}  # fmt: skip
    for name in targets.classes:
        if name.casefold() not in owner:
            raise SpecError(
                f"{targets.name} has the class {name!r}, which is no word of {vocabulary.source}"
                f"{nearest(name, vocabulary.words)}; expected all of {', '.join(targets.classes)}"
            )
    return {k: owner[name.casefold()] for k, name in enumerate(targets.classes)}


def picture_of(picture: Any) -> Image.Image:
    """An RGB picture of PIL, from one, or from (H, W, 3) uint8.

    Raises:
        SpecError: an array of another shape or kind.
    """
    if not isinstance(picture, Image.Image):
        values = np.asarray(picture)
        if values.dtype != np.uint8 or values.ndim != 3 or values.shape[2] != 3:
            raise SpecError(f"a picture is {values.dtype} of shape {values.shape}; expected one of "
                            "PIL, or (H, W, 3) uint8")  # fmt: skip
        picture = Image.fromarray(values)
    return picture.convert("RGB")
