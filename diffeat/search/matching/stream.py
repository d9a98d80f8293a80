"""A matcher over many pairs, in an order in which every picture is read few times."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterator

import numpy as np

from diffeat.search.matching.bound import BoundPairs
from diffeat.search.reading import numel
from probes.cells import Cells
from probes.maps import Maps
from probes.matching.base import Matcher
from probes.pairs import Matches, Pairs

HELD = 256 << 20
"""Bytes of maps that are held, unless told otherwise."""


class Held:
    """Maps of pictures, of which the last ones are kept in memory.

    Args:
        cells: that are read; `maps(row)` is theirs.
        memory: bytes for maps, of which two are held in any case.

    Attributes:
        most: pictures that are held.
        reads: pictures that were read so far.
    """

    def __init__(self, cells: Cells, memory: int = HELD):
        self.cells, self.reads = cells, 0
        self.most = max(2, memory // max(1, self.bytes_of(cells)))
        self._maps: OrderedDict[int, Maps] = OrderedDict()

    @staticmethod
    def bytes_of(cells: Cells) -> int:
        """Of the float32 maps of one picture."""
        return 4 * sum(numel(cells.rows(key).shape[1:]) for key in cells.keys)

    def maps(self, row: int) -> Maps:
        """The maps of one picture, read now if they are not held."""
        if row in self._maps:
            self._maps.move_to_end(row)
            return self._maps[row]
        self.reads += 1
        while len(self._maps) >= self.most:
            self._maps.popitem(last=False)
        self._maps[row] = self.cells.maps(row)
        return self._maps[row]


def order_of(pairs: Pairs, most: int) -> np.ndarray:
    """(P,) order of pairs in which `most` held pictures have to be read few times.

    As many sources as can be held are kept while the targets come by one after the other, each
    of them once: of S sources and T targets at most S + T·S/(most - 2) pictures are read.
    """
    _, rank = np.unique(pairs.source, return_inverse=True)
    block = rank // max(1, most - 2)  # two targets lie beside the sources when one takes over
    return np.lexsort((pairs.source, pairs.target, block))


def stream(
    matcher: Matcher, bound: BoundPairs, cells: Cells, rows: np.ndarray, memory: int = HELD
) -> Iterator[tuple[int, np.ndarray, Matches]]:
    """Match some pairs, in an order of its own.

    Args:
        cells: those of `bound` that are matched; several are one sum of cosines.
        rows: (n,) int64 pairs.
        memory: bytes for maps that are held.

    Yields:
        The pair; (m,) which of its points are shown and were looked for; where these were found.
    """
    held = Held(cells, memory)
    rows = rows[order_of(bound.pairs.take(rows), held.most)]
    some = bound.pairs.take(rows)
    points = some.source_points
    if bound.hidden:
        shown = [bound.shown(row) for row in rows.tolist()]
        points = [found[seen] for found, seen in zip(points, shown, strict=True)]
    else:
        shown = (np.ones(len(found), bool) for found in points)
    found = matcher.match_pairs(held, Pairs(some.source, some.target, points))
    yield from zip(rows.tolist(), shown, found, strict=True)
