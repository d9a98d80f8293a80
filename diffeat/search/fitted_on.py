"""Which pictures a head was fitted on, remembered by what they hold, so that they are known again.

A picture is told by the first 8 bytes of its digest, as a number. Of many pictures the `MOST`
smallest numbers are kept: which those are depends on contents alone, so of any other pictures
those below the largest of them can be compared, as a sample.
"""

from __future__ import annotations

import base64
import binascii
from collections.abc import Iterable, Iterator
from typing import Any, NamedTuple

import numpy as np

MOST = 1 << 16
"""Pictures of which a head takes note, 8 bytes each."""
FITTED_ON = "fitted_on"
"""Key of `how` of aggregated maps: those of its pictures whose targets its aggregator saw."""


class Known(NamedTuple):
    """How many of some pictures a head was fitted on.

    Attributes:
        count: of those that can be compared.
        compared: which are all of them, or a sample.
        sampled: whether they are a sample.
    """

    count: int
    compared: int
    sampled: bool


def noted(digests: np.ndarray) -> str:
    """Pictures as text, for the file of a head.

    Args:
        digests: (n, 16) uint8.
    """
    smallest = np.unique(_numbers(digests))[:MOST]
    return base64.b64encode(smallest.astype("<u8").tobytes()).decode("ascii")


def read_note(text: Any) -> np.ndarray:
    """(m,) uint64 ascending of what `noted` wrote.

    Raises:
        ValueError, TypeError: it is no such text.
    """
    try:
        return np.frombuffer(base64.b64decode(text, validate=True), "<u8")
    except binascii.Error as error:
        raise ValueError(f"its note of pictures: {error}") from error


def known_among(note: np.ndarray, digests: np.ndarray) -> Known:
    """How many of some pictures are noted.

    Args:
        note: of `read_note`.
        digests: (n, 16) uint8 of the pictures.
    """
    numbers, sampled = _numbers(digests), len(note) >= MOST
    if sampled:
        numbers = numbers[numbers <= note[-1]]
    return Known(int(np.isin(numbers, note).sum()), len(numbers), sampled)


def among(notes: Iterable[str], digests: np.ndarray) -> np.ndarray:
    """(n,) bool: which of pictures with these digests, (n, 16) uint8, any of `notes` has.

    Raises:
        ValueError, TypeError: as `read_note`.
    """
    numbers, found = _numbers(digests), np.zeros(len(digests), bool)
    for text in notes:
        found |= np.isin(numbers, read_note(text))
    return found


def notes_in(how: Any) -> Iterator[str]:
    """Every note of pictures in what a file says of how it was made, also of merged ones."""
    if isinstance(how, dict):
        if FITTED_ON in how:
            yield how[FITTED_ON]["note"]
        how = [value for name, value in how.items() if name != FITTED_ON]
    if isinstance(how, list):
        for one in how:
            yield from notes_in(one)


def _numbers(digests: np.ndarray) -> np.ndarray:
    """(n,) uint64."""
    return np.ascontiguousarray(digests[:, :8]).view("<u8")[:, 0]
