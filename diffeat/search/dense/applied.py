"""A kept dense head applied to features, picture by picture: masks or depth of the picture's size.

Pieces of features come from a file or from pictures that are run now (`diffeat.search.applied`);
one picture's maps at a time are read at all its pixels.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import numpy as np

import diffeat.companions  # noqa: F401 - before anything imports `probes`
from diffeat.errors import NumericsError, SpecError
from diffeat.search.applied import Piece
from diffeat.search.kept import HeadNote
from diffeat.search.tasks import cell_name
from probes.cells import Cells
from probes.dense import DenseHead, Segmenter


@dataclass(frozen=True, eq=False)
class Seen:
    """What a dense head says of one picture.

    Attributes:
        row: of the picture.
        values: (H, W) of the upright picture: class indices in the smallest unsigned type, or
            float32 metres.
        shown: (H, W) bool, which pixels the input shows; predictions of others go on from those.
        uncertainty: (H, W) float32, or None where it was not asked for.
    """

    row: int
    values: np.ndarray
    shown: np.ndarray
    uncertainty: np.ndarray | None = None


@dataclass
class AppliedDense:
    """A dense head that is given features by cell.

    Args:
        head: a fitted `probes.dense` head.
        note: what it takes.
        input_size: (H, W) in pixels of the model's inputs; None where each has its own.

    Attributes:
        kind: "masks" or "depth".
        names: of the classes, by index; () of depth.
        ignore: label of pixels that do not count, of masks.
        palette: (K, 3) colours that its training set has for the classes, or None.

    Raises:
        SpecError: a head that is not dense.
    """

    head: Any
    note: HeadNote
    input_size: tuple[int, int] | None = None
    kind: str = field(init=False)
    names: tuple[str, ...] = field(init=False)
    ignore: int = field(init=False)
    palette: Any = field(init=False)

    def __post_init__(self) -> None:
        if not isinstance(self.head, DenseHead):
            raise SpecError(
                f"{type(self.head).__name__} says something of a whole picture, not of its "
                "pixels; apply it with diffeat predict"
            )
        self.kind = "masks" if isinstance(self.head, Segmenter) else "depth"
        self.names = class_names(self.head, self.note) if self.kind == "masks" else ()
        self.ignore = int(getattr(self.head, "ignore_", 255))
        palette = getattr(self.head, "about_", {}).get("palette")
        self.palette = palette if palette and len(palette) == len(self.names) else None

    @property
    def dtype(self) -> np.dtype:
        """Of masks."""
        return np.dtype(np.uint8 if len(self.names) <= 256 else np.uint16)

    @property
    def most_uncertain(self) -> float:
        """The largest uncertainty of a mask that there can be."""
        return self.head.most_uncertain

    def predict(self, piece: Piece, uncertain: bool = False) -> Iterator[Seen]:
        """What the head says of the pictures of a piece, one after another.

        Args:
            uncertain: also how little sure it is.

        Raises:
            NumericsError: nan or inf among the features.
            SpecError: vectors, features of other shapes than the head was fitted on, or of a
                file that does not know where they lie.
        """
        if not len(piece.rows):
            return
        cells = self._cells(piece)
        try:
            for place, row in enumerate(piece.rows.tolist()):
                one = cells[place : place + 1]
                if uncertain:
                    ((values, doubt),) = self.head.predict_uncertain(one)
                else:
                    (values,), doubt = self.head.predict(one), None
                across, down = one.frame(0).shown()
                yield Seen(row, self._as_kept(values), down[:, None] & across, doubt)
        except ValueError as error:
            raise SpecError(f"these features do not fit the head: {error}") from error

    def _as_kept(self, values: np.ndarray) -> np.ndarray:
        return values.astype(self.dtype if self.kind == "masks" else np.float32)

    def _cells(self, piece: Piece) -> Cells:
        if piece.sizes is None or piece.placements is None:
            raise SpecError(
                "where the maps lie in their pictures is not known, as in files from before 0.8; "
                "extract the pictures again, or give them in place of the file"
            )
        for cell in self.note.cells:
            values = piece.arrays[cell]
            if values.ndim != 4:
                raise SpecError(
                    f"{cell_name(cell)} holds vectors, which have no pixels; extract with "
                    "--pool none"
                )
            if not np.isfinite(values).all():
                raise NumericsError(f"the features of {cell_name(cell)} contain nan or inf; "
                                    "extract them again")  # fmt: skip
        arrays = {cell: piece.arrays[cell] for cell in self.note.cells}
        return Cells(arrays, sizes=piece.sizes, placements=piece.placements,
                     input_size=self.input_size)  # fmt: skip


def class_names(head: Any, note: HeadNote) -> tuple[str, ...]:
    """K names of a segmenter's classes: those that it was told, or that its file says."""
    if head.classes_.dtype.kind in "iu" and len(note.class_names) == len(head.classes_):
        return note.class_names
    return tuple(str(one) for one in head.classes_)
