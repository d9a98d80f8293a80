"""A classification task: features that are read when they are needed, labels and parts."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np

from diffeat.errors import NumericsError, SpecError, nearest
from diffeat.hashing import unit_interval
from diffeat.noise import format_t

TRAIN, VALIDATION, TEST = 0, 1, 2
PARTS = ("training", "validation", "test")
SLAB_BYTES = 4 << 20
"""What is read of a cell at a time, as float32."""
CellKey = tuple[str, float]
"""(block, native t)."""


def split_by_hash(
    ids: Sequence[str], fractions: tuple[float, float, float] = (0.6, 0.2, 0.2), seed: int = 0
) -> np.ndarray:
    """Assign every picture to training (0), validation (1) or test (2) by its id alone.

    A picture keeps its part when others come or go, and in every file that holds it.

    Args:
        ids: N picture ids.
        fractions: expected shares of the three parts, summing to 1.

    Returns:
        (N,) int64.
    """
    if len(fractions) != 3 or min(fractions) < 0 or abs(sum(fractions) - 1) > 1e-6:
        raise SpecError(f"fractions {fractions}; expected three shares that sum to 1")
    edges = np.cumsum(fractions)[:2]
    position = np.array([unit_interval("split", seed, name) for name in ids])
    return np.searchsorted(edges, position, side="right").astype(np.int64)


def readable(size: float) -> str:
    """Bytes for people: "1.50 GiB", "3.2 MiB"."""
    return f"{size / 2**30:.2f} GiB" if size >= 2**29 else f"{size / 2**20:.2f} MiB"


def bytes_fingerprint(values: np.ndarray) -> str:
    """Hash of an array's bytes; much faster than of its JSON."""
    return hashlib.blake2b(np.ascontiguousarray(values), digest_size=16).hexdigest()


@dataclass(frozen=True)
class Task:
    """Features of one task: `read(block, t)` gives them for all pictures, row by row.

    Attributes:
        name: what the rows come from, for tables.
        labels: (N,) class indices.
        part: (N,) TRAIN, VALIDATION or TEST; others are left out.
        cells: the (block, t) that there are, in table order.
        read: (block, t) → (N, …) array, or anything with `shape` whose slices are arrays, such
            as an h5py data set; only slices are then held in memory.
        identity: names what the features are, for finished work that is kept; "" if nothing
            is to be kept.
        ids: N names that random splits are hashed from; () means the row numbers.
        owners: N names of what a picture belongs to, which no split parts (person, scene, copies
            of one picture); () means its id.
        how: "" for parts by a hash, or why they were made class by class.
        groups: cells that should be worked on together because their features are at hand
            together; () if it does not matter.
        conditioned: by what the features were told their targets (see `diffeat.conditioned`),
            which marks whatever is made of the task; "" if they were not.

    Raises:
        SpecError: an empty part, fewer than two classes in one, or a class that only test has.
    """

    name: str
    labels: np.ndarray
    part: np.ndarray
    cells: tuple[CellKey, ...]
    read: Callable[[str, float], Any]
    identity: str = ""
    ids: tuple[str, ...] = ()
    groups: tuple[tuple[CellKey, ...], ...] = ()
    conditioned: str = ""
    owners: tuple[str, ...] = ()
    how: str = ""

    def __post_init__(self) -> None:
        check_parts(self.name, self.labels, self.part)

    @property
    def counts(self) -> tuple[int, int, int]:
        """Pictures in training, validation and test."""
        return tuple(int((self.part == part).sum()) for part in (TRAIN, VALIDATION, TEST))

    @property
    def seen(self) -> np.ndarray:
        """Rows of training and validation, ascending: what may be looked at before the end."""
        return np.flatnonzero((self.part == TRAIN) | (self.part == VALIDATION))

    @property
    def classes(self) -> int:
        return len(np.unique(self.labels))

    @cached_property
    def labels_fingerprint(self) -> str:
        return bytes_fingerprint(np.asarray(self.labels, np.int64))

    def shape(self, cell: CellKey) -> tuple[int, ...]:
        """(N, …) of a cell; nothing is read."""
        return tuple(self.read(*cell).shape)

    def width(self, cell: CellKey) -> int:
        """D: numbers per picture, maps flattened."""
        return int(np.prod(self.shape(cell)[1:], dtype=np.int64))

    def matrix(self, cell: CellKey, rows: np.ndarray) -> np.ndarray:
        """(n, D) float32 features of some pictures, maps flattened.

        Slabs of 4 MiB are read one after the other, so no more than those is held beside the
        answer.

        Args:
            rows: (N,) bool.

        Raises:
            NumericsError: nan or inf among them.
            SpecError: the cell has not one row per picture.
        """
        values, width = self.read(*cell), self.width(cell)
        if len(rows) != values.shape[0] or len(self.labels) != values.shape[0]:
            raise SpecError(
                f"{_named(cell)} has {values.shape[0]} rows; expected one for each of the "
                f"{len(self.labels)} pictures"
            )
        out = np.empty((int(rows.sum()), width), np.float32)
        step, filled = max(1, SLAB_BYTES // max(4 * width, 1)), 0
        for start in range(0, len(rows), step):
            chosen = rows[start : start + step]
            if not chosen.any():
                continue
            slab = np.asarray(values[start : start + step])[chosen]
            out[filled : filled + len(slab)] = slab.reshape(len(slab), -1)
            filled += len(slab)
        self._check_finite(cell, out, rows)
        return out

    def _check_finite(self, cell: CellKey, values: np.ndarray, rows: np.ndarray) -> None:
        with np.errstate(invalid="ignore"):  # inf - inf
            if np.isfinite(values.sum(dtype=np.float64)):  # one pass, and it hides neither
                return
        bad = ~np.isfinite(values).all(1)
        what = "nan" if np.isnan(values).any() else "inf"
        first = int(np.flatnonzero(rows)[bad][0])
        raise NumericsError(
            f"{self.name}: the features of {_named(cell)} contain {what} in {int(bad.sum())} "
            f"pictures, the first in row {first}; expected finite numbers: extract them again, "
            "with --dtype float32 if float16 was too narrow, or leave this cell out"
        )

    def choose(
        self, blocks: Sequence[str] | None = None, timesteps: Sequence[float] | None = None
    ) -> tuple[CellKey, ...]:
        """The cells of some blocks and t, in table order; None means all.

        Raises:
            SpecError: a block or t that the task lacks.
        """
        return choose_cells(self.name, self.cells, blocks, timesteps)


def choose_cells(
    name: str,
    cells: Sequence[CellKey],
    blocks: Sequence[str] | None = None,
    timesteps: Sequence[float] | None = None,
) -> tuple[CellKey, ...]:
    """The cells of some blocks and t, in their order; None means all.

    Args:
        name: of what has the cells, for errors.

    Raises:
        SpecError: a block or t that is not among the cells.
    """
    have_blocks = list(dict.fromkeys(block for block, _ in cells))
    have_t = list(dict.fromkeys(t for _, t in cells))
    for block in blocks or ():
        if block not in have_blocks:
            raise SpecError(
                f"{name} has no block {block!r}{nearest(block, have_blocks)}; it has "
                f"{', '.join(have_blocks)}"
            )
    for t in timesteps or ():
        if t not in have_t:
            raise SpecError(
                f"{name} has no t={format_t(t)}; it has {', '.join(map(format_t, have_t))}"
            )
    return tuple(
        (block, t)
        for block, t in cells
        if (blocks is None or block in blocks) and (timesteps is None or t in timesteps)
    )


def _named(cell: CellKey) -> str:
    return f"block {cell[0]!r} at t={format_t(cell[1])}"


def check_parts(name: str, labels: np.ndarray, part: np.ndarray) -> None:
    """SpecError if a part cannot be fitted or scored."""
    if len(labels) != len(part):
        raise SpecError(f"{name}: {len(labels)} labels for {len(part)} pictures")
    if len(labels) and np.min(labels) < 0:
        raise SpecError(f"{name}: {int((labels < 0).sum())} pictures have no label; leave them out")
    for number, what in enumerate(PARTS):
        found = labels[part == number]
        if not len(found):
            raise SpecError(
                f"{name}: the {what} part is empty; give more pictures or another split"
            )
        if len(np.unique(found)) < 2:
            raise SpecError(
                f"{name}: fewer than two classes in the {what} part "
                f"({len(found)} pictures); give more pictures"
            )
    # a class that only validation has counts as wrong there, and is fitted before the test
    missing = np.setdiff1d(labels[part == TEST], labels[(part == TRAIN) | (part == VALIDATION)])
    if len(missing):
        raise SpecError(
            f"{name}: class {missing[0]} occurs in the test part, but there is no training or "
            f"validation picture of it ({len(missing)} such classes); give more pictures, or "
            "another split"
        )
