"""The same pictures twice: under another name, in another part, or in the other file."""

from __future__ import annotations

import warnings
from collections.abc import Sequence

import numpy as np

from diffeat.errors import SpecError
from diffeat.search.splits import LEFT_OUT, TEST, VALIDATION

CHOICES = ("warn", "drop")


def copies(digests: np.ndarray) -> np.ndarray:
    """(N,) row of the first picture with the same bytes; its own row where it is the first.

    Args:
        digests: (N, 16) uint8.
    """
    rows = np.ascontiguousarray(digests).view("V16").ravel()
    _, first, inverse = np.unique(rows, return_index=True, return_inverse=True)
    return first[inverse.ravel()]


def groups_of_copies(ids: Sequence[str], digests: np.ndarray) -> list[str]:
    """N names; copies bear that of the first of them, so that no split parts them."""
    return [ids[row] for row in copies(digests)]


def without_copies(
    name: str,
    digests: np.ndarray,
    labels: np.ndarray,
    part: np.ndarray,
    duplicates: str = "warn",
) -> np.ndarray:
    """Warn of pictures that stand in several rows, or leave them out.

    Of copies, the one in test stays, then that in validation, then the first row: a test set
    stays what it is, and what was learnt or chosen on never holds its pictures.

    Args:
        name: of the task, for messages.
        digests: (N, 16) uint8 of all rows.
        labels: (N,) or (N, K) targets.
        part: (N,) parts.
        duplicates: "warn" or "drop".

    Returns:
        (N,) parts; with "drop", copies are LEFT_OUT.

    Raises:
        SpecError: another word for `duplicates`.
    """
    if duplicates not in CHOICES:
        raise SpecError(f"duplicates={duplicates!r}; expected {' or '.join(map(repr, CHOICES))}")
    order = np.lexsort((np.arange(len(part)), -part))  # test first, then validation, then rows
    first = np.empty(len(part), np.int64)
    first[order] = order[copies(digests[order])]
    again = np.flatnonzero(first != np.arange(len(part)))
    if not len(again):
        return part
    _warn(name, first, again, labels, part, duplicates)
    if duplicates == "warn":
        return part
    kept = part.copy()
    kept[again] = LEFT_OUT
    return kept


def _warn(name, first, again, labels, part, duplicates) -> None:
    """One warning: how many there are, how many reach test or validation, how many contradict."""
    text = [f"{name}: {len(again)} pictures are copies of others, byte for byte"]
    for number, what in ((TEST, "test"), (VALIDATION, "validation")):
        lower = again[(part[first[again]] == number) & (part[again] < number)]
        if len(lower):
            known = "training" if number == VALIDATION else "training or validation"
            text.append(f"{len(np.unique(first[lower]))} {what} pictures are in {known} too")
    differ = (labels[again] != labels[first[again]]).reshape(len(again), -1).any(1)
    if contrary := int(differ.sum()):
        text.append(f"{contrary} bear another label than their copy, a contradiction")
    if duplicates == "drop":
        text.append("the copies were left out, those in test stay")
    else:
        text.append("leave them out with --drop-duplicates (duplicates='drop')")
    warnings.warn("; ".join(text), stacklevel=4)
