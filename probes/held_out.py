"""Rows that score the epochs of a training: held back, or given."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from sklearn.utils import check_consistent_length, column_or_1d

from probes.arrays import Rows


def stratified(
    targets: np.ndarray, fraction: float, rng: np.random.Generator
) -> tuple[np.ndarray, np.ndarray]:
    """Training and validation rows, ascending; each class gives its share, to one row.

    The rows, ordered by class and at random within, are counted off at even distances. A
    class whose rows would all go keeps one in training.

    Raises:
        ValueError: the fraction is not in (0, 1), or leaves no validation rows.
    """
    if not 0 < fraction < 1:
        raise ValueError(f"validation_fraction={fraction!r}; expected a number in [0, 1)")
    order = rng.permutation(len(targets))
    order = order[np.argsort(targets[order], kind="stable")]
    steps = np.floor((np.arange(len(order) + 1) + rng.random()) * fraction)
    held = np.zeros(len(targets), bool)
    held[order] = np.diff(steps) > 0
    for k in np.unique(targets):
        mine = np.flatnonzero(targets == k)
        if held[mine].all():
            held[mine[0]] = False
    if not held.any():
        raise ValueError(
            f"validation_fraction={fraction} of {len(targets)} rows leaves none for validation; "
            "raise it, or give X_validation and y_validation"
        )
    return np.flatnonzero(~held), np.flatnonzero(held)


def known_classes(held_out: tuple[Sequence[Rows], np.ndarray], classes: np.ndarray) -> np.ndarray:
    """(N,) int64 class indices of validation labels.

    Raises:
        ValueError: no rows, not as many labels as rows, or classes that are not known.
    """
    parts, y = held_out
    y = column_or_1d(y)
    check_consistent_length(parts[0], y)
    if not len(y):
        raise ValueError("X_validation has no rows; expected at least one")
    unknown = np.setdiff1d(y, classes)
    if len(unknown):
        raise ValueError(
            f"y_validation has classes that y lacks: {unknown[:5].tolist()}; expected among "
            f"{classes[:20].tolist()}"
        )
    return np.searchsorted(classes, y).astype(np.int64)
