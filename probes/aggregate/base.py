"""What all aggregators share: cells of a picture in, one map of it out, row by row when asked for.

    fit(cells, …)       learns what is to be learnt; many learn nothing and note what they saw
    transform(cells)    another `Cells`, of one key, whose rows are made when they are read
    transform_maps(m)   the same of one picture

What comes out lies where what went in lay: sizes, placements and input size are carried over.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from functools import partial
from typing import Any, ClassVar

import numpy as np
from sklearn.utils.validation import check_is_fitted

from probes.cells import Cells, cells_of
from probes.lazy import CHUNK_BYTES, Deferred, Rows, as_numpy
from probes.maps import Maps
from probes.on_maps import Key, OnMaps


class Aggregator(OnMaps, ABC):
    """Several cells of a picture as one map; a subclass says how in `_apply`.

    Class attributes:
        block: name of what comes out; its t is 0, as of what has no noise level of its own.

    Attributes:
        cells_: the (block, t) it was fitted on, in order.
        shapes_: (C, h, w) of each.
    """

    block: ClassVar[str] = "mixed"

    @property
    def key(self) -> Key:
        """The (block, t) of what comes out."""
        return self.block, 0.0

    def fit(self, cells: Any, y: Any = None):
        """Note which cells there are; learns nothing unless a subclass does.

        Args:
            cells: `probes.Cells`, or a mapping from (block, t) to (N, C, h, w) maps.

        Returns:
            self.

        Raises:
            ValueError: cells that are no maps.
        """
        self._note(cells_of(cells))
        return self

    def transform(self, cells: Any) -> Cells:
        """One map a picture; nothing is computed before rows of it are read.

        Args:
            cells: with those of `fit`, of any pictures.

        Returns:
            `Cells` of the one key (`block`, 0), float32 (N, C, h, w), which lie where the maps
            that went in lay.

        Raises:
            ValueError: cells or channels that are not those of `fit`.
            NotFittedError: it is not fitted.
        """
        cells = self._checked(cells)
        parts = [cells.rows(key) for key in self.cells_]
        shape = len(cells), *self.shape_of([part.shape[1:] for part in parts])
        values = Deferred(shape, partial(self._made, parts, shape), np.float32)
        return Cells(
            {self.key: values}, sizes=cells.sizes, placements=cells.placements,
            input_size=cells.input_size,
        )  # fmt: skip

    def transform_maps(self, maps: Maps) -> Maps:
        """The one map of one picture: {key: (C, h, w) float32 numpy}."""
        check_is_fitted(self)
        arrays = {
            key: np.asarray(as_numpy(maps[key]), np.float32)[None]
            for key in self._known(maps.values)
        }
        made = self.transform(Cells(arrays))[self.key][0:1][0]
        return Maps({self.key: made}, maps.size, maps.input_size, maps.placement)

    @abstractmethod
    def shape_of(self, shapes: Sequence[tuple[int, ...]]) -> tuple[int, int, int]:
        """(C, h, w) of what comes out, of cells of these shapes, in the order of `cells_`."""

    @abstractmethod
    def _apply(self, arrays: list[np.ndarray]) -> np.ndarray:
        """(n, C_s, h_s, w_s) float32 of each cell → (n, C, h, w) float32."""

    def pair(self, source: Maps, target: Maps, points: Any = None) -> tuple[Maps, Maps, Any]:
        """Both pictures of a pair, as one map each, and the source's points as they came.

        Those that look at both pictures at once say otherwise (`CoPCA`, `PoseAdapter`).
        """
        return self.transform_maps(source), self.transform_maps(target), points

    # what subclasses and this share

    def _restore(self) -> None:
        """ValueError where attributes that were read from a file do not fit together."""
        if any(len(shape) != 3 for shape in self.shapes_):
            raise ValueError(f"shapes_={self.shapes_}; expected those of maps")
        self.shape_of(self.shapes_)

    def _between(self, shape: tuple[int, ...]) -> int:
        """Bytes that a picture takes in `_apply` beside what goes in and comes out.

        Args:
            shape: (N, C, h, w) of what comes out.
        """
        return 0

    def _made(self, parts: list[Rows], shape: tuple[int, ...], rows: Any) -> np.ndarray:
        """Some rows, a bounded number at a time."""
        rows = np.arange(shape[0])[rows]
        found = np.empty((len(rows), *shape[1:]), np.float32)
        each = 4 * sum(int(np.prod(part.shape[1:])) for part in parts) + found[:1].nbytes
        each += self._between(shape)
        step = max(1, CHUNK_BYTES // max(1, each))
        for start in range(0, len(rows), step):
            some = rows[start : start + step]
            found[start : start + step] = self._apply([part[some] for part in parts])
        return found
