"""Two opinions on the class of a mask as one: a geometric mean, by class.

p_k ∝ a_k^(1 − w_k) · b_k^w_k
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
from scipy.special import xlogy

from probes.lazy import as_numpy

SEEN, UNSEEN = 0.3, 0.7
"""ODISE's weights of its CLIP, of classes that it was trained on and of all others."""


def geometric_mean(a: Any, b: Any, weights: Any, *, renormalise: bool = True) -> np.ndarray:
    """a_k^(1 − w_k) · b_k^w_k, where 0⁰ is 1.

    Args:
        a: (Q, K) probabilities, such as those by diffusion features.
        b: (Q, K) of the same classes, such as a CLIP's.
        weights: one number in [0, 1] for all classes, or (K,): how much `b` counts.
        renormalise: rows of the result sum to 1, as ODISE has it (a softmax of the logarithms).
            False: they are the products themselves, which sum to less the more the two disagree. A
            row of products that are all 0 stays 0 in either case.

    Returns:
        (Q, K) float64.

    Raises:
        ValueError: other shapes, numbers outside [0, 1], weights likewise.

    Source: Xu et al. 2023 (ODISE), section 3.5, and its code.
    """
    a, b, weights = (np.asarray(as_numpy(one), np.float64) for one in (a, b, weights))
    if a.ndim != 2 or a.shape != b.shape or weights.shape not in ((), a.shape[1:]):
        raise ValueError(
            f"probabilities have shapes {a.shape} and {b.shape}, weights {weights.shape}; expected "
            "(Q, K) twice, and one weight or K"
        )
    for name, values in (("a", a), ("b", b), ("weights", weights)):
        if values.size and not (values.min() >= 0 and values.max() <= 1 + 1e-6):
            raise ValueError(f"{name} go from {values.min():.4g} to {values.max():.4g}; expected "
                             "numbers in [0, 1]")  # fmt: skip
    logs = xlogy(1 - weights, a) + xlogy(weights, b)
    if not renormalise:
        return np.exp(logs)
    top = logs.max(1, keepdims=True) if logs.shape[1] else logs
    found = np.exp(logs - np.where(np.isfinite(top), top, 0))
    total = found.sum(1, keepdims=True)
    return found / np.where(total > 0, total, 1)


def class_weights(seen: Any, of_seen: float = SEEN, of_unseen: float = UNSEEN) -> np.ndarray:
    """(K,) weights for `geometric_mean`.

    Args:
        seen: (K,) bool: classes that were trained on, see `seen_classes`.
        of_seen, of_unseen: weight of the second opinion of either kind.
    """
    return np.where(np.asarray(seen, bool), of_seen, of_unseen).astype(np.float64)


def seen_classes(classes: Sequence[Iterable[str]], trained: Iterable[str]) -> np.ndarray:
    """(K,) bool: whether a class has a word that was trained with, without regard to capitals.

    Args:
        classes: the words of each of K classes.
        trained: all words of the training's classes.

    Source: Xu et al. 2023 (ODISE), its code, which regards capitals.
    """
    known = {word.casefold() for word in trained}
    return np.array([any(word.casefold() in known for word in words) for words in classes], bool)


def with_nothing(classes: Any, nothing: Any) -> np.ndarray:
    """(Q, K + 1): probabilities of classes, given that there is something, and of no object, last.

    Args:
        classes: (Q, K) that sum to 1.
        nothing: (Q,) probabilities of no object, in [0, 1].

    Raises:
        ValueError: other shapes.
    """
    classes, nothing = (np.asarray(as_numpy(one), np.float64) for one in (classes, nothing))
    if classes.ndim != 2 or nothing.shape != classes.shape[:1]:
        raise ValueError(f"classes have shape {classes.shape}, no object {nothing.shape}; expected "
                         "(Q, K) and (Q,)")  # fmt: skip
    return np.concatenate([classes * (1 - nothing)[:, None], nothing[:, None]], 1)
