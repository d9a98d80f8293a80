"""A trained VPD over pictures, as dense heads are: masks or depth of each picture's own size."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import torch

from diffeat.adapt.vpd import IGNORE, VPD
from diffeat.errors import PictureError
from diffeat.images import Source
from diffeat.search.applied import Piece
from diffeat.search.dense.applied import Seen

PICTURE = ("picture", 0.0)
"""Cell of pieces that hold pictures."""


class AppliedVPD:
    """What writes and counts masks or depth is given; see `diffeat.search.dense.applied`.

    Args:
        vpd: trained.

    Attributes:
        kind, names, ignore, palette, dtype, most_uncertain: as of `AppliedDense`.
    """

    ignore, palette = IGNORE, None

    def __init__(self, vpd: VPD):
        masks = vpd.task == "segmentation"
        self.vpd, self.head, self.kind = vpd, vpd, "masks" if masks else "depth"
        self.names = vpd.vocabulary_.names if masks else ()

    @property
    def dtype(self) -> np.dtype:
        return np.dtype(np.uint8 if len(self.names) <= 256 else np.uint16)

    @property
    def most_uncertain(self) -> float:
        return 1 - 1 / max(2, len(self.names))

    def predict(self, piece: Piece, uncertain: bool = False) -> Iterator[Seen]:
        """What every pixel of the pictures of a piece shows.

        Args:
            uncertain: of masks, also 1 − the largest share of a class.
        """
        for picture, row in zip(piece.arrays[PICTURE], piece.rows.tolist(), strict=True):
            shown, doubt = self.vpd.shown(picture), None
            if self.kind == "depth":
                (values,) = self.vpd.predict([picture])
            else:
                top, labels = torch.from_numpy(self.vpd.predict_proba(picture)).max(0)
                values = labels.numpy().astype(self.dtype)
                doubt = (1 - top).numpy() if uncertain else None
            yield Seen(row, values, shown, doubt)


def pieces_of_source(source: Source, on_error: str = "fail") -> Iterator[Piece]:
    """Pictures one by one, upright.

    Args:
        on_error: "skip" notes pictures that cannot be read.
    """
    for row in range(len(source)):
        try:
            picture: Any = source.load(row)
        except PictureError as error:
            if on_error == "fail":
                raise
            yield Piece({PICTURE: np.zeros((0, 1, 1, 3))}, np.zeros(0, np.int64),
                        {row: error.reason})  # fmt: skip
            continue
        pixels = np.asarray(picture.convert("RGB"))[None]
        yield Piece({PICTURE: pixels}, np.array([row]))
