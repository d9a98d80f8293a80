"""Parts of a task: by the hash of what a picture belongs to; small sets class by class."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from diffeat.errors import SpecError
from diffeat.hashing import unit_interval

TRAIN, VALIDATION, TEST, LEFT_OUT = 0, 1, 2, -1
PART_NAMES = ("training", "validation", "test")
SMALL = 500
"""Pictures below which a split is stratified: a hash alone would miss its shares by too much."""
Fractions = tuple[float, float, float]


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


def split_groups(
    groups: Sequence[str],
    fractions: Fractions = (0.6, 0.2, 0.2),
    seed: int = 0,
    labels: np.ndarray | None = None,
) -> tuple[np.ndarray, str]:
    """Training, validation and test of one set of pictures; no group lies in two parts.

    By the hash of the group alone; class by class where there are fewer than `SMALL` pictures,
    or where the hash leaves a part without a class that has groups enough for all parts.

    Args:
        groups: N names of what a picture belongs to (person, scene, drive), or its own id.
        fractions: shares of the three parts, summing to 1.
        labels: (N,) class indices; None where there are no classes.

    Returns:
        (N,) int64 parts, and "" for a hash split or the reason for a stratified one.

    Raises:
        SpecError: another number of labels than of groups, or impossible shares.
    """
    names = list(groups)
    labels = np.zeros(len(names), np.int64) if labels is None else labels
    if len(names) != len(labels):
        raise SpecError(f"{len(labels)} labels for {len(names)} groups; expected one for each")
    part = split_by_hash(names, fractions, seed)
    if len(names) < SMALL:
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


def balance_of(labels: np.ndarray) -> np.ndarray:
    """(N,) classes that splits keep in balance.

    Of (N, K) labels the rarest one of a picture, K where it has none; of numbers their quarters.
    """
    labels = np.asarray(labels)
    if labels.ndim == 1:
        if labels.dtype.kind != "f":
            return labels
        return np.searchsorted(np.nanquantile(labels, [0.25, 0.5, 0.75]), labels)
    rare = np.where(labels > 0, labels.clip(0).sum(0), len(labels) + 1)
    return np.where((labels > 0).any(1), rare.argmin(1), labels.shape[1])


def split_pairs(
    first: Sequence[str],
    second: Sequence[str],
    fractions: Fractions = (0.6, 0.2, 0.2),
    seed: int = 0,
) -> tuple[np.ndarray, int]:
    """Parts of pairs of pictures: that in which the groups of both lie.

    Args:
        first, second: P names of what the two pictures of a pair belong to.

    Returns:
        (P,) int64 parts, LEFT_OUT where the two groups lie in different parts, and how many
        these are.
    """
    names = list(dict.fromkeys([*first, *second]))
    part_of = dict(zip(names, split_groups(names, fractions, seed)[0].tolist(), strict=True))
    sides = np.array([[part_of[a], part_of[b]] for a, b in zip(first, second, strict=True)])
    apart = sides[:, 0] != sides[:, 1]
    return np.where(apart, LEFT_OUT, sides[:, 0]), int(apart.sum())


def random_pairs(
    part: np.ndarray, groups: Sequence[tuple[str, str]], seed: int, repeat: int
) -> np.ndarray:
    """(P,) the same test part, and for validation about half of the other pairs.

    These are the pairs both of whose groups are among √½ of them, by a hash; what is left is in
    no part, since nothing is learnt from it.

    Args:
        part: (P,) parts; what is in none of them stays there.
        groups: P pairs of names.
    """
    rest = (part == TRAIN) | (part == VALIDATION)
    names = {name for row in np.flatnonzero(rest) for name in groups[row]}
    order = sorted(names, key=lambda name: (unit_interval("repeat", seed, repeat, name), name))
    held = set(order[: max(2, round(0.5**0.5 * len(order)))])
    both = np.array([a in held and b in held for a, b in groups])
    return np.where(rest, np.where(both, VALIDATION, LEFT_OUT), part)


def random_part(
    part: np.ndarray,
    groups: Sequence[str],
    seed: int,
    repeat: int,
    labels: np.ndarray | None = None,
) -> np.ndarray:
    """(N,) the same test part, and another hash-seeded split of the rest in equal shares.

    Args:
        part: (N,) parts; what is in none of them stays there.
        groups: N names of what belongs together.
        labels: (N,) to split class by class (a group counts for the class of its first
            picture); None splits by the hash alone.
    """
    rest = (part == TRAIN) | (part == VALIDATION)
    share = (part == VALIDATION).sum() / rest.sum()
    place = np.array([unit_interval("repeat", seed, repeat, name) for name in groups])
    held = place < share
    if labels is not None:
        held = _held_of_each_class(labels, groups, place, rest, share)
    return np.where(rest, np.where(held, VALIDATION, TRAIN), part)


def _held_of_each_class(
    labels: np.ndarray, names: Sequence[str], place: np.ndarray, rest: np.ndarray, share: float
) -> np.ndarray:
    """(N,) which rows are for validation: of each class those whose groups come first."""
    first = {}
    for row in np.flatnonzero(rest):
        first.setdefault(names[row], (int(labels[row]), place[row]))
    held = set()
    for label in sorted({label for label, _ in first.values()}):
        groups = sorted((at, name) for name, (k, at) in first.items() if k == label)
        count = max(1, round(share * len(groups))) if len(groups) > 1 else 0
        held.update(name for _, name in groups[:count])
    return np.array([name in held for name in names])


def balanced_order(chosen: np.ndarray, seed: int, labels: np.ndarray | None = None) -> np.ndarray:
    """Row numbers of the chosen pictures, so that every prefix has its classes in balance.

    Args:
        chosen: (N,) bool.
        labels: (N,) classes; None means one.
    """
    rng = np.random.default_rng(seed)
    rows = rng.permutation(np.flatnonzero(chosen))
    labels = np.zeros(len(chosen), np.int64) if labels is None else labels
    rank = np.empty(len(rows), np.int64)  # of a picture within its class
    for label in np.unique(labels[rows]):
        same = labels[rows] == label
        rank[same] = np.arange(same.sum())
    return rows[np.argsort(rank, kind="stable")]
