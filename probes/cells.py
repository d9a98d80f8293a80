"""Several (block, t) of the same pictures, as one X."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from probes.lazy import Picked, Rows
from probes.maps import Maps


class Cells:
    """Features of N pictures at several (block, t), row by row; nothing is read before.

    scikit-learn's splitters take it for an array: it has a length, a shape, and
    `cells[rows]` is another `Cells` that reads only these rows.

    Args:
        arrays: (block, t) → (N, C, H, W) or (N, C): numpy arrays, torch tensors, or data
            sets of a file. The order is kept.
        sizes: (N, 2) H, W in pixels of the upright pictures.
        placements: (N, 4) sx, tx, sy, ty of the inputs in the pictures (see `probes.maps`);
            None: the pictures were squashed.
        input_size: (H, W) in pixels of the inputs. None: each input shows its whole picture and
            nothing else, and has the size that follows from the placement.

    Attributes:
        keys: the (block, t), in order.
        shape: (N, number of cells).

    Raises:
        ValueError: no arrays, or of different lengths; sizes or placements of another shape.
    """

    def __init__(
        self,
        arrays: Mapping[tuple[str, float], Any],
        *,
        sizes: Any = None,
        placements: Any = None,
        input_size: tuple[int, int] | None = None,
    ):
        self._rows = {tuple(key): Rows(values, str(key)) for key, values in arrays.items()}
        self.keys = tuple(self._rows)
        counts = {key: len(rows) for key, rows in self._rows.items()}
        if len(set(counts.values())) != 1:
            raise ValueError(f"cells hold {counts or 'nothing'}; expected equally many rows")
        self.shape = (next(iter(counts.values())), len(counts))
        self.sizes = _table("sizes", sizes, (len(self), 2), np.int64)
        self.placements = _table("placements", placements, (len(self), 4), np.float64)
        self.input_size = input_size

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
        return Cells(
            {name: Picked(rows, picked) for name, rows in self._rows.items()},
            sizes=None if self.sizes is None else self.sizes[picked],
            placements=None if self.placements is None else self.placements[picked],
            input_size=self.input_size,
        )

    def rows(self, key: tuple[str, float]) -> Rows:
        """The (N, …) float32 rows of one (block, t)."""
        return self._rows[key]

    def like(
        self, keys: Sequence[tuple[str, float]], shapes: Sequence[tuple[int, ...]]
    ) -> list[Rows]:
        """The arrays of some (block, t), whose rows have these shapes; ValueError otherwise."""
        if missing := [key for key in keys if key not in self.keys]:
            raise ValueError(f"X lacks the cells {missing}; expected those of fit")
        parts = [self.rows(key) for key in keys]
        for part, shape in zip(parts, shapes, strict=True):
            if part.shape[1:] != tuple(shape):
                raise ValueError(
                    f"{part.name} has rows of shape {part.shape[1:]}; expected {shape}, as in fit"
                )
        return parts

    def maps(self, row: int) -> Maps:
        """The maps of one picture, read now, and where they lie.

        Args:
            row: its row; negative ones count from the end.

        Raises:
            IndexError: no such row.
            ValueError: a cell holds no maps; sizes are not known; or the inputs' size is neither
                given nor to be told from the placement.
        """
        where, values = self.frame(row), {}
        row = range(len(self))[row]
        for key, rows in self._rows.items():
            if len(rows.shape) != 4:
                raise ValueError(
                    f"{key} has rows of shape {rows.shape[1:]}; expected maps (C, H, W), which "
                    "are extracted without a pool"
                )
            values[key] = rows[row : row + 1][0]
        return replace(where, values=values)

    def frame(self, row: int) -> Maps:
        """Where the maps of one picture lie: `maps(row)` without any map, and nothing is read.

        Raises:
            IndexError: no such row.
            ValueError: sizes are not known; or the inputs' size is neither given nor to be told
                from the placement.
        """
        if self.sizes is None:
            raise ValueError(
                "the sizes of the pictures are not known, so nothing can be said of where maps "
                "lie; give Cells(…, sizes=…), such as those of a file (not known before 0.8)"
            )
        row = range(len(self))[row]
        size = tuple(int(side) for side in self.sizes[row])
        numbers = None if self.placements is None else self.placements[row]
        return Maps({}, size, self.input_size or _whole(size, numbers), numbers)


def cells_of(X: Any) -> Cells:
    """X as `Cells`, of which it may be the mapping."""
    if isinstance(X, Cells):
        return X
    if isinstance(X, Mapping):
        return Cells(X)
    raise ValueError(
        f"X is a {type(X).__name__}; expected probes.Cells, or a mapping from (block, t) to arrays"
    )


def _table(name: str, values: Any, shape: tuple[int, int], dtype: Any) -> np.ndarray | None:
    """(N, …) numbers of the pictures, where there are any."""
    if values is None:
        return None
    found = np.asarray(values, dtype)
    if found.shape != shape:
        raise ValueError(f"{name} have shape {found.shape}; expected {shape}, one row per picture")
    return found


def _whole(size: tuple[int, int], numbers: np.ndarray | None) -> tuple[int, int]:
    """(H, W) of an input that shows its whole picture and nothing else."""
    if numbers is None:  # squashed; how large the input was plays no part
        return size
    sx, tx, sy, ty = numbers.tolist()
    exact = abs(sy) * size[0], abs(sx) * size[1]
    found = round(exact[0]), round(exact[1])
    starts = 0 if sy > 0 else exact[0], 0 if sx > 0 else exact[1]
    gaps = (exact[0] - found[0], exact[1] - found[1], ty - starts[0], tx - starts[1])
    if max(map(abs, gaps)) > 1e-6:
        raise ValueError(
            f"placement {numbers.tolist()} is of an input that does not show its whole picture "
            f"of {size[0]}×{size[1]}; give Cells(…, input_size=(H, W)), in pixels"
        )
    return found
