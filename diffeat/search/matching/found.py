"""Where the points of many pairs were found, in a few bytes a point."""

from __future__ import annotations

import base64
from collections.abc import Sequence

import numpy as np

from probes.pairs import Matches, Pairs

NUMBERS = "<f8"
"""x, y, score and whether it is valid, of each point."""


class Found:
    """Matches of P pairs, by pair, whatever the order in which they come.

    Args:
        pairs: P pairs; the points of each are as many as its matches.
    """

    def __init__(self, pairs: Pairs):
        counts = [len(points) for points in pairs.source_points]
        self._ends = np.cumsum([0, *counts])
        self._numbers = np.full((self._ends[-1], 4), np.nan)

    def __len__(self) -> int:
        return len(self._ends) - 1

    def __getitem__(self, pair: int) -> Matches:
        x_y, score, valid = np.split(self._numbers[self._of(pair)], (2, 3), axis=1)
        return Matches(x_y, score[:, 0], valid[:, 0] == 1)

    def __setitem__(self, pair: int, matches: Matches) -> None:
        columns = (matches.points, matches.score[:, None], matches.valid[:, None])
        self._numbers[self._of(pair)] = np.concatenate(columns, axis=1)

    def _of(self, pair: int) -> slice:
        return slice(self._ends[pair], self._ends[pair + 1])

    def pack(self, pairs: Sequence[int]) -> str:
        """Some pairs as text, to the last bit."""
        parts = [self._numbers[self._of(pair)] for pair in pairs]
        return base64.b64encode(np.concatenate(parts).astype(NUMBERS).tobytes()).decode("ascii")

    def unpack(self, pairs: Sequence[int], text: str) -> None:
        """Take some pairs from what `pack` made of them.

        Raises:
            ValueError: text of something else.
        """
        numbers = np.frombuffer(base64.b64decode(text, validate=True), NUMBERS).reshape(-1, 4)
        places = [np.arange(self._ends[pair], self._ends[pair + 1]) for pair in pairs]
        self._numbers[np.concatenate(places)] = numbers
