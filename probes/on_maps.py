"""What all share that are fitted on maps of several (block, t) and applied to the same ones."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from sklearn.base import BaseEstimator
from sklearn.utils.validation import check_is_fitted

from probes.cells import Cells, cells_of

Key = tuple[str, float]


class OnMaps(BaseEstimator):
    """Notes which cells there were in `fit`, and asks for the same ones later.

    Attributes:
        cells_: the (block, t) it was fitted on, in order.
        shapes_: (C, h, w) of each.
    """

    @property
    def channels(self) -> int:
        """C, of all cells together."""
        return sum(shape[0] for shape in self.shapes_)

    def _note(self, cells: Cells) -> None:
        """Keep which cells there are, which must be maps."""
        for key in cells.keys:
            if len(cells.rows(key).shape) != 4:
                raise ValueError(
                    f"{key} has rows of shape {cells.rows(key).shape[1:]}; expected maps "
                    "(C, h, w), which are extracted without a pool"
                )
        self.cells_ = cells.keys
        self.shapes_ = [cells.rows(key).shape[1:] for key in cells.keys]

    def _checked(self, cells: Any) -> Cells:
        """Cells that hold those of `fit`, with as many channels; grids may differ."""
        check_is_fitted(self)
        cells = cells_of(cells)
        for key, shape in zip(self._known(cells.keys), self.shapes_, strict=True):
            found = cells.rows(key).shape[1:]
            if len(found) != 3 or found[0] != shape[0]:
                raise ValueError(
                    f"{key} has rows of shape {found}; expected maps of {shape[0]} channels, as "
                    "in fit"
                )
        return cells

    def _known(self, keys: Any) -> Sequence[Key]:
        if missing := [key for key in self.cells_ if key not in keys]:
            raise ValueError(
                f"the cells {missing} are missing; expected {list(self.cells_)}, as in fit"
            )
        return self.cells_
