"""A task: features that are read when they are needed, targets and parts."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy as np

from diffeat.blocks import select_names
from diffeat.errors import SpecError, nearest
from diffeat.hashing import fingerprint
from diffeat.noise import format_t
from diffeat.search.reading import numel, read_rows
from diffeat.search.splits import LEFT_OUT, PART_NAMES, TEST, TRAIN, VALIDATION
from diffeat.specs import ExtractSpec

CellKey = tuple[str, float]
"""(block, native t)."""


def readable(size: float) -> str:
    """Bytes for people: "1.50 GiB", "3.2 MiB"."""
    return f"{size / 2**30:.2f} GiB" if size >= 2**29 else f"{size / 2**20:.2f} MiB"


def bytes_fingerprint(values: np.ndarray) -> str:
    """Hash of an array's bytes; much faster than of its JSON."""
    return hashlib.blake2b(np.ascontiguousarray(values), digest_size=16).hexdigest()


@dataclass(frozen=True)
class Made:
    """What features were made of, as files note it.

    Attributes:
        spec: of the extraction.
        model, pictures: what is known of them (see `diffeat.work.request_of`).
        class_names: of the classes or labels, by index; of numbers what they are, where known.
        digests: (n, 16) uint8 of the pictures of the first n rows of a task; None if not known.
    """

    spec: ExtractSpec
    model: Mapping[str, Any]
    pictures: Mapping[str, Any]
    class_names: tuple[str, ...] = ()
    digests: np.ndarray | None = field(default=None, compare=False, repr=False)


@dataclass(frozen=True)
class Task:
    """Features of one task: `read(block, t)` gives them for all pictures, row by row.

    Attributes:
        name: what the rows come from, for tables.
        labels: (N,) class indices, (N,) float64 numbers, or (N, K) of 0 and 1, one column per
            label; -1 or nan of pictures that are left out.
        part: (N,) TRAIN, VALIDATION or TEST; others are left out.
        cells: the (block, t) that there are, in table order.
        read: (block, t) → (N, …) array, or anything with `shape` whose slices are arrays, such
            as an h5py data set; only slices are then held in memory.
        identity: names what the features are, for finished work that is kept; "" if nothing
            is to be kept.
        ids: N names that random splits are hashed from; () means the row numbers.
        groups: N names of what a picture belongs to, which no split parts (person, scene, copies
            of one picture); () means its id.
        how: "" for parts by a hash, or why they were made class by class.
        made: what the features were made of, where that is known; a head is kept with it.
        together: cells that should be worked on together because their features are at hand
            together; () if it does not matter.
        conditioned: by what the features were told their targets (see `diffeat.conditioned`),
            which marks whatever is made of the task; "" if they were not.
        corrupted: which pictures were made worse, and how; marks everything, too.

    Raises:
        SpecError: an empty part, or one whose targets are all alike, or a class that only test has.
    """

    name: str
    labels: np.ndarray
    part: np.ndarray
    cells: tuple[CellKey, ...]
    read: Callable[[str, float], Any]
    identity: str = ""
    ids: tuple[str, ...] = ()
    together: tuple[tuple[CellKey, ...], ...] = ()
    conditioned: str = ""
    corrupted: str = ""
    groups: tuple[str, ...] = ()
    how: str = ""
    made: Made | None = None

    def __post_init__(self) -> None:
        check_parts(self.name, self.labels, self.part)

    @property
    def counts(self) -> tuple[int, int, int]:
        """Pictures in training, validation and test."""
        return tuple(int((self.part == part).sum()) for part in (TRAIN, VALIDATION, TEST))

    @property
    def owners(self) -> tuple[str, ...]:
        """N names that splits and intervals go by: groups, else ids, else row numbers."""
        return self.groups or self.ids or tuple(map(str, range(len(self.labels))))

    @property
    def seen(self) -> np.ndarray:
        """Rows of training and validation, ascending: what may be looked at before the end."""
        return np.flatnonzero((self.part == TRAIN) | (self.part == VALIDATION))

    @property
    def kind(self) -> str:
        """Of the targets: "class", "number" or "labels"."""
        return kind_of(self.labels)

    @property
    def remarks(self) -> str:
        """What to say of the pictures: ", 30 groups, 3 without a label left out", or ""."""
        known = known_targets(self.labels)
        missing = int((~known).sum())
        used = [self.groups[row] for row in np.flatnonzero(known)] if self.groups else []
        count = len(set(used))
        text = f", {count} groups" if count < len(used) else ""
        return text + (f", {missing} without a label left out" if missing else "")

    @property
    def classes(self) -> int:
        return len(np.unique(self.labels[known_targets(self.labels)]))

    @cached_property
    def labels_fingerprint(self) -> str:
        if self.kind == "labels":
            return fingerprint(self.labels.shape[1], bytes_fingerprint(self.labels))
        exact = np.float64 if self.kind == "number" else np.int64
        return bytes_fingerprint(np.asarray(self.labels, exact))

    def shape(self, cell: CellKey) -> tuple[int, ...]:
        """(N, …) of a cell; nothing is read."""
        return tuple(self.read(*cell).shape)

    def width(self, cell: CellKey) -> int:
        """D: numbers per picture, maps flattened."""
        return numel(self.shape(cell)[1:])

    def matrix(self, cell: CellKey, rows: np.ndarray) -> np.ndarray:
        """(n, D) float32 features of some pictures, maps flattened.

        Read in slabs of 4 MiB (see `read_rows`).

        Args:
            rows: (N,) bool.

        Raises:
            NumericsError: nan or inf among them.
            SpecError: the cell has not one row per picture.
        """
        values = self.read(*cell)
        if len(rows) != values.shape[0] or len(self.labels) != values.shape[0]:
            raise SpecError(
                f"{cell_name(cell)} has {values.shape[0]} rows; expected one for each of the "
                f"{len(self.labels)} pictures"
            )
        found = read_rows(values, rows, f"{self.name}: the features of {cell_name(cell)}")
        return found.reshape(len(found), -1)

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
        blocks: names or wildcards, such as "up.0.*".

    Raises:
        SpecError: a block or t that is not among the cells.
    """
    have_blocks = list(dict.fromkeys(block for block, _ in cells))
    have_t = list(dict.fromkeys(t for _, t in cells))
    chosen: set[str] = set()
    for block in blocks or ():
        found = select_names(block, have_blocks)
        if not found:
            raise SpecError(
                f"{name} has no block {block!r}{nearest(block, have_blocks)}; it has "
                f"{', '.join(have_blocks)}"
            )
        chosen.update(found)
    for t in timesteps or ():
        if t not in have_t:
            raise SpecError(
                f"{name} has no t={format_t(t)}; it has {', '.join(map(format_t, have_t))}"
            )
    return tuple(
        (block, t)
        for block, t in cells
        if (blocks is None or block in chosen) and (timesteps is None or t in timesteps)
    )


def cell_name(cell: CellKey) -> str:
    return f"block {cell[0]!r} at t={format_t(cell[1])}"


def kind_of(labels: np.ndarray) -> str:
    """What an array of targets holds: "class", "number" or "labels"."""
    labels = np.asarray(labels)
    if labels.ndim == 2:
        return "labels"
    return "number" if labels.dtype.kind == "f" else "class"


def known_targets(labels: np.ndarray) -> np.ndarray:
    """(N,) bool: which pictures have a target."""
    labels = np.asarray(labels)
    if kind_of(labels) == "number":
        return ~np.isnan(labels)
    return (labels.reshape(len(labels), -1) >= 0).all(1)


def check_parts(name: str, labels: np.ndarray, part: np.ndarray) -> None:
    """SpecError if a part cannot be fitted or scored."""
    if len(labels) != len(part):
        raise SpecError(f"{name}: {len(labels)} labels for {len(part)} pictures")
    missing = ~known_targets(labels) & (np.asarray(part) != LEFT_OUT)
    if missing.any():
        raise SpecError(f"{name}: {int(missing.sum())} pictures have no label; leave them out")
    for number, what in enumerate(PART_NAMES):
        found = labels[part == number]
        if not len(found):
            raise SpecError(
                f"{name}: the {what} part is empty; give more pictures or another split"
            )
        _check_varied(f"{what} part ({len(found)} pictures)", name, found)
    if kind_of(labels) == "class":
        _check_known(name, labels, part)


def _check_varied(where: str, name: str, found: np.ndarray) -> None:
    """SpecError where the targets of a part leave nothing to tell."""
    kind = kind_of(found)
    if kind == "labels":
        lacking = "no picture with a label" if not found.any() else ""
    elif len(np.unique(found)) < 2:
        lacking = "fewer than two " + ("classes" if kind == "class" else "different numbers")
    else:
        lacking = ""
    if lacking:
        raise SpecError(f"{name}: {lacking} in the {where}; give more pictures")


def _check_known(name: str, labels: np.ndarray, part: np.ndarray) -> None:
    """SpecError for a class that only test has; one that only validation has counts as wrong
    there, and is fitted before the test."""
    missing = np.setdiff1d(labels[part == TEST], labels[(part == TRAIN) | (part == VALIDATION)])
    if len(missing):
        raise SpecError(
            f"{name}: class {missing[0]} occurs in the test part, but there is no training or "
            f"validation picture of it ({len(missing)} such classes); give more pictures, or "
            "another split"
        )
