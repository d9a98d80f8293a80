"""What finds parts of one picture at a time: maps in, a number of a part at every pixel out."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator
from typing import Any

import numpy as np
import torch

from probes.cells import Cells, cells_of
from probes.dense.column import Column
from probes.maps import Maps
from probes.on_maps import OnMaps


class PictureParts(OnMaps, ABC):
    """Parts of each picture on its own: part 3 of one picture has nothing to do with another's.

    Parts are numbered by their size, the largest is 0, equal ones in the order of their first
    pixels: whatever the order in which they were found.

    Attributes: cells_, shapes_: those of `OnMaps`.
    """

    def fit(self, cells: Any, targets: Any = None):
        """Note which cells there are; nothing is learned.

        Args:
            cells: `probes.Cells` of (N, C, h, w) maps.
            targets: not looked at.

        Returns:
            self.

        Raises:
            ValueError: vectors, or maps that this way cannot use.
        """
        self._check()
        cells = cells_of(cells)
        self._note(cells)
        return self

    @abstractmethod
    def _check(self) -> None:
        """ValueError for a parameter that cannot be meant."""

    @abstractmethod
    def _parts(self, maps: Maps) -> np.ndarray:
        """(H, W) whole numbers of one picture, in any order."""

    def predict(self, cells: Any) -> Iterator[np.ndarray]:
        """One (H, W) int64 array a picture, of the picture's size, made when it is asked for.

        Raises:
            ValueError: cells or channels that are not those of `fit`.
            NotFittedError: it is not fitted.
        """
        cells = self._cells(cells)
        return (self.predict_maps(cells.maps(row)) for row in range(len(cells)))

    def predict_maps(self, maps: Maps) -> np.ndarray:
        """(H, W) int64 of one picture."""
        return by_size(self._parts(maps))

    def _cells(self, cells: Any) -> Cells:
        return self._checked(cells)


def by_size(labels: np.ndarray) -> np.ndarray:
    """Whole numbers → int64 of the same shape, 0 … the number of parts − 1, the largest first; of
    equal ones that which comes first, row by row."""
    _, first, places, counts = np.unique(
        labels, return_index=True, return_inverse=True, return_counts=True
    )
    rank = np.empty(len(counts), np.int64)
    rank[np.lexsort((first, -counts))] = np.arange(len(counts))
    return rank[places].reshape(np.shape(labels))


def largest(
    maps: Maps, keys: Any, weight: np.ndarray, bias: np.ndarray | None = None
) -> np.ndarray:
    """(H, W) int64: the row of W·f + b that is the largest at each pixel, maps read bilinearly.

    Args:
        weight: (M, C). bias: (M,) or None.
    """
    given = torch.from_numpy(np.ascontiguousarray(weight, np.float32))
    add = None if bias is None else torch.from_numpy(np.asarray(bias, np.float32))
    strips = Column(maps, keys).linear(given, add)
    return np.concatenate([strip.argmax(0).numpy() for _, strip in strips])
