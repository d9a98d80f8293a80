"""A matcher over many pairs, in an order in which every picture is read few times."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from diffeat.errors import DiffeatError, SpecError
from diffeat.search.matching.bound import BoundPairs
from diffeat.search.reading import numel
from probes.cells import Cells
from probes.matching.base import Matcher
from probes.pairs import Matches, Pairs


def order_of(pairs: Pairs, most: int) -> np.ndarray:
    """(P,) order of pairs in which `most` held pictures have to be read few times.

    As many sources as can be held are kept while the targets come by one after the other, each
    of them once: where all S sources meet all T targets, S + T·S/(most - 2) pictures are read.
    """
    _, rank = np.unique(pairs.source, return_inverse=True)
    block = rank // max(1, most - 2)  # two targets lie beside the sources when one takes over
    return np.lexsort((pairs.source, pairs.target, block))


def held_by(matcher: Matcher, cells: Cells, sizes: np.ndarray) -> int:
    """How many pictures `match_pairs` holds, about: in half of the matcher's memory.

    Args:
        sizes: (N, 2) H, W of the pictures, of whose pixels one number each is held.
    """
    each = 4 * sum(numel(cells.rows(key).shape[1:]) for key in cells.keys)
    each += 4 * len(cells.keys) * int(np.prod(sizes, axis=1, dtype=np.int64).max())
    return max(2, int(matcher.memory_mb * 2**19 / each))


def stream(
    matcher: Matcher,
    bound: BoundPairs,
    cells: Cells,
    rows: np.ndarray,
    check: float | None = None,
) -> Iterator[tuple[int, Matches]]:
    """Match some pairs, in an order of its own.

    Args:
        cells: those of `bound` that are matched; several are one sum of similarities.
        rows: (n,) int64 pairs.
        check: pixels by which a match, matched back, may miss its point; None checks nothing.

    Yields:
        The pair, and where its points were found; of points that an input does not show nothing
        can be said.

    Raises:
        SpecError: what the matcher refuses.
    """
    rows = rows[order_of(bound.pairs.take(rows), held_by(matcher, cells, bound.sizes))]
    if bound.hidden:
        from sklearn.base import clone

        matcher = clone(matcher).set_params(outside="wrong")
    try:
        found = matcher.match_pairs(cells, bound.pairs.take(rows), check=check)
        for pair, matches in zip(rows.tolist(), found, strict=True):
            if bound.hidden:
                valid = matches.valid & bound.shown(pair)
                matches = Matches(matches.points, matches.score, valid)
            yield pair, matches
    except ValueError as error:
        if isinstance(error, DiffeatError):
            raise
        raise SpecError(f"{bound.name}: {error}") from error
