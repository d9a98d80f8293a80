"""Several (block, t) of the same pictures, as one X."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np

from probes.lazy import Picked, Rows


class Cells:
    """Features of N pictures at several (block, t), row by row; nothing is read before.

    scikit-learn's splitters take it for an array: it has a length, a shape, and
    `cells[rows]` is another `Cells` that reads only these rows.

    Args:
        arrays: (block, t) → (N, C, H, W) or (N, C): numpy arrays, torch tensors, or data
            sets of a file. The order is kept.

    Attributes:
        keys: the (block, t), in order.
        shape: (N, number of cells).

    Raises:
        ValueError: no arrays, or of different lengths.
    """

    def __init__(self, arrays: Mapping[tuple[str, float], Any]):
        self._rows = {tuple(key): Rows(values, str(key)) for key, values in arrays.items()}
        self.keys = tuple(self._rows)
        counts = {key: len(rows) for key, rows in self._rows.items()}
        if len(set(counts.values())) != 1:
            raise ValueError(f"cells hold {counts or 'nothing'}; expected equally many rows")
        self.shape = (next(iter(counts.values())), len(counts))

    def __len__(self) -> int:
        return self.shape[0]

    def __iter__(self) -> Iterator[tuple[str, float]]:
        return iter(self.keys)

    def __getitem__(self, key: Any) -> Any:
        """`cells[block, t]`: that array as it was given; `cells[rows]`: these rows of all."""
        if isinstance(key, tuple) and key and key[-1] is ...:  # as scikit-learn asks
            key = key[0]
        if isinstance(key, tuple):
            if key not in self._rows:
                raise KeyError(f"{key} is none of the cells {list(self.keys)}")
            return self._rows[key].values
        picked = np.arange(len(self))[key]
        if picked.ndim != 1:
            raise IndexError(f"{key!r:.60} names no rows; expected a slice, indices or a mask")
        return Cells({name: Picked(rows, picked) for name, rows in self._rows.items()})

    def rows(self, key: tuple[str, float]) -> Rows:
        """The (N, …) float32 rows of one (block, t)."""
        return self._rows[key]
