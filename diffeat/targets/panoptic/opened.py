"""Segments by name: a panoptic layout, or the pieces of masks."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from diffeat.errors import SpecError
from diffeat.targets.dense import open_dense
from diffeat.targets.panoptic.base import PanopticTargets, panoptic_of_masks
from diffeat.targets.panoptic.coco import open_panoptic

MASKS = "masks:"
"""What stands before the name of masks whose connected pieces are meant."""
SPECK = 50
"""Pixels below which such a piece is void: masks have specks at edges."""


def open_segments(
    name: str | Path,
    things: Sequence[int | str] | None = None,
    *,
    smallest: int = SPECK,
) -> PanopticTargets:
    """Find the segments that a name stands for.

    Args:
        name: "FOLDER:SPLIT" or a JSON in COCO's or ADE20K's panoptic layout; or "masks:NAME", the
            connected pieces of what `diffeat.targets.dense.open_dense` opens by that name, such as
            "masks:clothing:val".
        things: of masks, the classes that can be counted; None: all but the first.
        smallest: of masks, pixels of a piece at least.

    Raises:
        SourceError: nothing is there, or files of another form.
        SpecError: things that are no classes, or of a layout that says itself which they are.
    """
    text = str(name)
    if not text.startswith(MASKS):
        if things is not None:
            raise SpecError(f"{name}: its JSON says which classes are things; leave things out, or "
                            f"name {MASKS}NAME")  # fmt: skip
        return open_panoptic(name)
    return panoptic_of_masks(open_dense(text.removeprefix(MASKS)), things, smallest=smallest)
