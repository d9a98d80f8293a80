"""Rows that are held back to score the epochs of a training."""

from __future__ import annotations

from typing import Any

import numpy as np


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
                "change it, or give X_validation and y_validation"
            )
    return np.flatnonzero(~held), np.flatnonzero(held)
