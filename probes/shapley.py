"""Shapley values of linear heads: what each feature adds to a score, exactly.

    f(x) = w·x + b,   v(S) = E[f(x_S, X_rest)],   phi_i = w_i·(x_i − E[X_i])

v is what is expected of the score when the features of S are known and the others are drawn from
the background, each independently of S. For a linear f Shapley's average over all orders of the
features is then that one product; a group of features that enter together gets the sum of its
members, whatever the other groups are; and all of them add up to f(x) − E[f(X)].

Source: Shapley 1953; Lundberg & Lee 2017, corollary 1 (linear SHAP); interventional expectations
as in Janzing et al. 2020.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from sklearn.utils.validation import check_is_fitted


def linear_weights(head: Any) -> tuple[np.ndarray, np.ndarray]:
    """(M, D) weights and (M,) offsets of a linear head, for features as they come.

    Heads with probabilities are linear in their logits, which is what is explained.

    Raises:
        ValueError: a head that is not linear in its features.
        NotFittedError: it is not fitted.
    """
    check_is_fitted(head)
    weights, offsets = getattr(head, "coef_", None), getattr(head, "intercept_", None)
    if weights is None or offsets is None:
        raise ValueError(
            f"{type(head).__name__} is not linear in its features, so its Shapley values have no "
            "closed form; expected a head with coef_ and intercept_, such as LinearProbe, "
            "RidgeProbe, RidgeRegressionProbe, RidgeMultilabelProbe or their kin"
        )
    weights = np.atleast_2d(np.asarray(weights, np.float64))
    if weights.ndim > 2:
        raise ValueError(f"{type(head).__name__} holds {len(weights)} heads; expected one of them, "
                         "such as head.probe(0)")  # fmt: skip
    return weights, np.atleast_1d(np.asarray(offsets, np.float64))


def linear_shapley(weights: Any, x: Any, mean: Any) -> np.ndarray:
    """phi = w·(x − mean), feature by feature.

    Args:
        weights: (D,) of one score; or (n, D), one for each row.
        x: (n, D) rows.
        mean: (D,) of the background.

    Returns:
        (n, D) float64; each row sums to f(x) − f(mean).

    Raises:
        ValueError: shapes that do not go together.
    """
    weights, x, mean = (np.asarray(one, np.float64) for one in (weights, x, mean))
    if x.ndim != 2 or mean.shape != x.shape[1:] or weights.shape not in (x.shape[1:], x.shape):
        raise ValueError(f"weights {weights.shape}, rows {x.shape} and mean {mean.shape}; expected "
                         "(D,) or (n, D), (n, D) and (D,)")  # fmt: skip
    return weights * (x - mean)


def grouped(phi: np.ndarray, groups: Sequence[int] | np.ndarray, count: int) -> np.ndarray:
    """Shapley values of groups that enter together: sums over their members.

    Args:
        phi: (n, D).
        groups: (D,) which group a feature is of, 0 … count − 1.
        count: G.

    Returns:
        (n, G) float64.

    Raises:
        ValueError: another number of groups than features, or one out of range.
    """
    groups = np.asarray(groups)
    if groups.shape != phi.shape[1:] or (groups < 0).any() or (groups >= count).any():
        raise ValueError(f"groups {groups.shape} of {phi.shape[1]} features; expected one of "
                         f"0 … {count - 1} for each")  # fmt: skip
    found = np.zeros((len(phi), count))
    np.add.at(found, (slice(None), groups), phi)
    return found
