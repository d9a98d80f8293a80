"""Rows that are held back to score the epochs of a training."""

from __future__ import annotations

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
