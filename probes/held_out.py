"""Rows that are held back to score a training, or to choose by."""

from __future__ import annotations

import numbers
from typing import Any

import numpy as np
from sklearn.utils import check_consistent_length

from probes.checks import check_number
from probes.lazy import as_numpy


def validation_share(validation: Any, fraction: float, targets: str = "targets") -> float:
    """The share of rows that a `validation` argument holds back; 0 where it gives some.

    Args:
        validation: a share, (cells, targets), or None: `fraction`.
        targets: what they are called, for errors.

    Raises:
        ValueError: no share in [0, 1); other than two members.
    """
    if isinstance(validation, (tuple, list)):
        if len(validation) != 2:
            raise ValueError(f"validation has {len(validation)} members; expected (cells, "
                             f"{targets})")  # fmt: skip
        return 0.0
    found = fraction if validation is None else validation
    good = isinstance(found, numbers.Real) and 0 <= found < 1
    check_number("validation", found, good, f"in [0, 1), or (cells, {targets})")
    return float(found)


def split_rows(
    count: int, fraction: float, groups: Any, rng: np.random.Generator
) -> tuple[np.ndarray, np.ndarray]:
    """Training and validation rows, ascending: a share of the rows, or of their (N,) groups.

    Raises:
        ValueError: another number of groups; see `by_groups`.
    """
    if not fraction:
        return np.arange(count), np.arange(0)
    if groups is None:
        return at_random(count, fraction, rng)
    check_consistent_length(np.empty(count), groups)
    return by_groups(as_numpy(groups), fraction, rng)


def stratified(
    targets: np.ndarray, fraction: float, rng: np.random.Generator
) -> tuple[np.ndarray, np.ndarray]:
    """Training and validation rows, ascending; each class gives its share, to one row.

    The rows, ordered by class and at random within, are counted off at even distances. A
    class whose rows would all go keeps one in training.

    Raises:
        ValueError: the fraction is not in (0, 1), or leaves no validation rows.
    """
    _check_fraction(fraction)
    order = rng.permutation(len(targets))
    order = order[np.argsort(targets[order], kind="stable")]
    steps = np.floor((np.arange(len(order) + 1) + rng.random()) * fraction)
    held = np.zeros(len(targets), bool)
    held[order] = np.diff(steps) > 0
    for k in np.unique(targets):
        mine = np.flatnonzero(targets == k)
        if held[mine].all():
            held[mine[0]] = False
    return _parts(held, fraction)


def at_random(
    count: int, fraction: float, rng: np.random.Generator
) -> tuple[np.ndarray, np.ndarray]:
    """Training and validation rows, ascending, of targets that are no classes.

    Raises:
        ValueError: the fraction is not in (0, 1), or leaves no validation or no training rows.
    """
    _check_fraction(fraction)
    held = np.zeros(count, bool)
    held[rng.permutation(count)[: round(count * fraction)]] = True
    return _parts(held, fraction)


def by_groups(
    groups: Any, fraction: float, rng: np.random.Generator
) -> tuple[np.ndarray, np.ndarray]:
    """Training and validation rows, ascending; a share of the groups is held back whole.

    Args:
        groups: (N,) names.

    Raises:
        ValueError: the fraction is not in (0, 1), or leaves no validation or no training rows.
    """
    _check_fraction(fraction)
    known, place = np.unique(np.asarray(groups), return_inverse=True)
    held = rng.permutation(len(known))[: round(fraction * len(known))]
    return _parts(np.isin(place, held), fraction)


def _check_fraction(fraction: float) -> None:
    if not 0 < fraction < 1:
        raise ValueError(f"validation_fraction={fraction!r}; expected a number in [0, 1)")


def _parts(held: np.ndarray, fraction: float) -> tuple[np.ndarray, np.ndarray]:
    for there, what in ((held.any(), "validation"), (not held.all(), "training")):
        if not there:
            raise ValueError(
                f"validation_fraction={fraction} of {len(held)} rows leaves none for {what}; "
                "change it, or give validation rows"
            )
    return np.flatnonzero(~held), np.flatnonzero(held)
