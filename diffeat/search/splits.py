"""Parts of a task: by the hash of what a picture belongs to; small sets class by class."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from diffeat.errors import SpecError
from diffeat.hashing import unit_interval
from diffeat.search.tasks import TEST, TRAIN, VALIDATION, split_by_hash

SMALL = 500
"""Pictures below which a split is stratified: a hash alone would miss its shares by too much."""
Fractions = tuple[float, float, float]


def split(
    ids: Sequence[str],
    labels: np.ndarray,
    fractions: Fractions = (0.6, 0.2, 0.2),
    seed: int = 0,
    groups: Sequence[str] | None = None,
) -> tuple[np.ndarray, str]:
    """Training, validation and test of one set of pictures; no group lies in two parts.

    By the hash of the group alone; class by class where there are fewer than `SMALL` pictures,
    or where the hash leaves a part without a class that has groups enough for all parts.

    Args:
        ids: N picture ids.
        labels: (N,) class indices.
        fractions: shares of the three parts, summing to 1.
        groups: N names of what a picture belongs to (person, scene, drive); None is its id.

    Returns:
        (N,) int64 parts, and "" for a hash split or the reason for a stratified one.

    Raises:
        SpecError: other numbers of labels or groups than of ids, or impossible shares.
    """
    names = list(ids if groups is None else groups)
    if not len(names) == len(labels) == len(ids):
        raise SpecError(
            f"{len(labels)} labels and {len(names)} groups for {len(ids)} pictures; expected one "
            "each"
        )
    part = split_by_hash(names, fractions, seed)
    if len(ids) < SMALL:
        return _stratified(names, labels, fractions, seed), f"fewer than {SMALL} pictures"
    if lacking := _lacking(names, labels, part, fractions):
        reason = f"a hash split would leave class number {lacking[0]} out of a part"
        return _stratified(names, labels, fractions, seed), reason
    return part, ""


def _lacking(names: list[str], labels: np.ndarray, part: np.ndarray, fractions: Fractions) -> list:
    """Classes that a part lacks although they have a group for each."""
    wanted = [number for number, share in enumerate(fractions) if share > 0]
    found = []
    for label in np.unique(labels):
        mine = labels == label
        if len(np.unique(part[mine])) < len(wanted):
            groups = {names[row] for row in np.flatnonzero(mine)}
            if len(groups) >= len(wanted):
                found.append(int(label))
    return found


def _stratified(
    names: list[str], labels: np.ndarray, fractions: Fractions, seed: int
) -> np.ndarray:
    """Each class shared out by largest remainders, its groups in the order of their hashes."""
    counts: dict[str, dict[int, int]] = {name: {} for name in names}
    for name, label in zip(names, np.asarray(labels).tolist(), strict=True):
        counts[name][label] = counts[name].get(label, 0) + 1
    # a group of several classes goes with that of most of its pictures
    main = {name: min(found, key=lambda k: (-found[k], k)) for name, found in counts.items()}
    part_of: dict[str, int] = {}
    for label in sorted(set(main.values())):
        mine = [name for name in main if main[name] == label]
        mine.sort(key=lambda name: (unit_interval("split", seed, name), name))
        shares = _shares(len(mine), fractions)
        for number, name in zip(np.repeat([TRAIN, VALIDATION, TEST], shares), mine, strict=True):
            part_of[name] = int(number)
    return np.array([part_of[name] for name in names], dtype=np.int64)


def _shares(count: int, fractions: Fractions) -> list[int]:
    """How many of `count` each part gets: at least one each where that goes, training first."""
    wanted = [number for number in (TRAIN, TEST, VALIDATION) if fractions[number] > 0]
    shares = [0, 0, 0]
    for number in wanted[:count]:
        shares[number] = 1
    while sum(shares) < count:
        owed = [count * fractions[number] - shares[number] for number in wanted]
        shares[wanted[int(np.argmax(owed))]] += 1
    return shares
