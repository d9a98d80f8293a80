"""Which row of a table belongs to which picture."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field

import numpy as np

from diffeat.errors import SourceError
from diffeat.images.walk import is_picture, nfc

DEEPEST = 8
"""So many folders are left out at most."""


@dataclass(frozen=True)
class RowsById:
    """Rows of pictures.

    Attributes:
        rows: (N,) int64 row of each picture; -1 where there is none.
        unused: rows that no picture has, ascending.
        ambiguous: picture → rows that may be its own, by file name; rows that are another's by
            its id may not.
        by_name: how many pictures were found by their file's name alone.
    """

    rows: np.ndarray
    unused: tuple[int, ...]
    ambiguous: dict[str, tuple[str, ...]] = field(default_factory=dict)
    by_name: int = 0


def match_ids(ids: Sequence[str], keys: Sequence[str]) -> RowsById:
    """Find the row of every picture: exactly, else by file name, else by that without its ending.

    Where no row is a picture's exactly, folders that all rows, or all pictures, begin with are
    left out first, as far as rows then are. All is compared in NFC. A name counts only where one
    picture and one row have it; of names that several have, none is taken.

    Args:
        ids: N picture ids.
        keys: what the rows call their pictures, each once in NFC.
    """
    rows = _exact(ids, keys)
    if (rows < 0).all():
        tries = [_exact(ids, shorter) for shorter in _below(keys)]
        tries += [_exact(shorter, keys) for shorter in _below(ids)]
        rows = max([rows, *tries], key=lambda found: int((found >= 0).sum()))
    exact, by_id = int((rows >= 0).sum()), set(rows.tolist())
    ambiguous: dict[str, tuple[str, ...]] = {}
    for short in (_file_name, _stem):
        if (rows >= 0).all():
            break
        of_rows, of_ids = _by(short, keys), _by(short, ids)
        taken = set(rows.tolist())
        for place in np.flatnonzero(rows < 0):
            mine, alike = of_rows.get(short(ids[place]), []), of_ids[short(ids[place])]
            if len(mine) == len(alike) == 1 and mine[0] not in taken:
                rows[place] = mine[0]
                ambiguous.pop(ids[place], None)
            elif free := [row for row in mine if row not in by_id]:
                ambiguous[ids[place]] = tuple(keys[row] for row in free)
    used = set(rows.tolist())
    unused = tuple(row for row in range(len(keys)) if row not in used)
    return RowsById(rows, unused, ambiguous, int((rows >= 0).sum()) - exact)


def rows_of_all(ids: Sequence[str], keys: Sequence[str], name: str) -> np.ndarray:
    """(N,) int64 row of every picture, as `match_ids` finds them.

    Args:
        name: of the targets, for the error.

    Raises:
        SourceError: pictures of which nothing is known.
    """
    rows = match_ids(ids, keys).rows
    if (rows < 0).any():
        lacking = [ids[k] for k in np.flatnonzero(rows < 0)]
        raise SourceError(f"{name}: nothing is known of {len(lacking)} of {len(ids)} pictures "
                          f"({', '.join(lacking[:3])}); leave them out")  # fmt: skip
    return rows


def _exact(ids: Sequence[str], keys: Sequence[str]) -> np.ndarray:
    """(N,) int64 row whose key is a picture's id; -1 where there is none."""
    known = {nfc(key): row for row, key in enumerate(keys)}
    return np.array([known.get(nfc(name), -1) for name in ids], np.int64)


def _below(names: Sequence[str]) -> Iterator[list[str]]:
    """Paths without one, two, … of the folders that all of them begin with."""
    parts = [name.replace("\\", "/").split("/") for name in names]
    shared = os.path.commonprefix([one[:-1] for one in parts])  # noqa: RUF071 - of lists
    for depth in range(1, min(len(shared), DEEPEST) + 1):
        yield ["/".join(one[depth:]) for one in parts]


def _by(short: Callable[[str], str], names: Sequence[str]) -> dict[str, list[int]]:
    """Short name → places of those that have it."""
    found: dict[str, list[int]] = {}
    for place, name in enumerate(names):
        found.setdefault(short(name), []).append(place)
    return found


def _file_name(name: str) -> str:
    return nfc(name).replace("\\", "/").rpartition("/")[2]


def _stem(name: str) -> str:
    """The file's name without the ending of a picture."""
    last = _file_name(name)
    return last.rpartition(".")[0] if is_picture(last) else last
