"""DDAE's classifier that is told the noise level."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from sklearn.utils.validation import check_is_fitted
from torch import nn

from probes.batches import Batches
from probes.checks import accuracy, check_both, pick_device
from probes.lazy import Rows, as_numpy
from probes.network import NetworkProbe, Shapes, softmax, standardizer


def sinusoids(t: torch.Tensor, width: int) -> torch.Tensor:
    """(n,) noise levels → (n, width): sines, then cosines, of t·10000^(-k/half).

    half = width // 2 and k = 0 … half - 1; an odd width ends with 0. (DDPM divides k by
    half - 1, ADM has the cosines first; which one DDAE's classifier has is not verified.)
    """
    half = width // 2
    rates = torch.exp(torch.arange(half, device=t.device) * (-math.log(10000) / max(half, 1)))
    angles = t[:, None] * rates
    waves = torch.cat([angles.sin(), angles.cos()], 1)
    return nn.functional.pad(waves, (0, width - 2 * half))


class NoiseConditionalHead(nn.Module):
    """SiLU network of one hidden layer on feature + sinusoids(t): D → 2·D → K."""

    def __init__(self, norm: nn.Module, width: int, classes: int):
        super().__init__()
        self.norm = norm
        self.layers = nn.Sequential(
            nn.Linear(width, 2 * width), nn.SiLU(), nn.Linear(2 * width, classes)
        )

    def forward(self, x: torch.Tensor, t: torch.Tensor) -> torch.Tensor:
        x = self.norm(x)
        x = x.mean((2, 3)) if x.ndim == 4 else x
        return self.layers(x + sinusoids(t, x.shape[1]))


@dataclass(eq=False, repr=False, kw_only=True)
class NoiseConditionalProbe(NetworkProbe):
    """One classifier for features of many noise levels.

        logits = W_2·silu(W_1·(x + sinusoids(t)) + b_1) + b_2,  D → 2·D → K

    Every row comes with its t: `fit(X, y, t=…)`, `predict(X, t=…)`; a number stands for all
    rows. Maps are averaged over their places.

    In scikit-learn's tools the levels are routed, which splits them as it does X and y:

        sklearn.set_config(enable_metadata_routing=True)
        probe = NoiseConditionalProbe().set_fit_request(t=True).set_score_request(t=True)
        GridSearchCV(probe, grid).fit(X, y, t=t)

    Args:
        standardize: begin with mean 0 and variance 1 per feature on the training rows (our
            addition: otherwise the waves, of size 1, may drown the features or be drowned).

    All others are those of `NetworkProbe`.

    Source: DDAE (Xiang et al. 2023), the noise-conditional classifier.
    """

    standardize: bool = True

    def _build(self, shapes: Shapes, classes: int, batches: Batches) -> nn.Module:
        width = shapes[0][0]
        return NoiseConditionalHead(standardizer(self.standardize, batches), width, classes)

    def fit(
        self,
        X: Any,
        y: Any,
        X_validation: Any = None,
        y_validation: Any = None,
        *,
        t: Any = None,
        t_validation: Any = None,
    ):
        """Train on (N, …) features, (N,) labels, (N,) noise levels; else as `NetworkProbe.fit`."""
        parts, y = self._opened(X, y)
        held_out = None
        check_both(X_validation, y_validation)
        if X_validation is not None:
            held = self._again(X_validation)
            held_out = (
                [*held, _levels(t_validation, held[0], "t_validation")],
                as_numpy(y_validation),
            )
        device = pick_device(self.device, parts[0].values)
        return self._train([*parts, _levels(t, parts[0], "t")], y, held_out, device)

    def decision_function(self, X: Any, t: Any = None) -> np.ndarray:
        """Logits, as `NetworkProbe.decision_function`, of rows at (N,) noise levels."""
        logits = self._at(X, t)
        return logits[:, 1] - logits[:, 0] if len(self.classes_) == 2 else logits

    def predict(self, X: Any, t: Any = None) -> np.ndarray:
        """(N,) the likeliest class of each row at its noise level."""
        likeliest = self._at(X, t).argmax(1)
        return self.classes_[likeliest]

    def predict_proba(self, X: Any, t: Any = None) -> np.ndarray:
        """(N, K) float32 probabilities of rows at (N,) noise levels."""
        return softmax(self._at(X, t))

    def score(self, X: Any, y: Any, sample_weight: Any = None, *, t: Any = None) -> float:
        """Accuracy in [0, 1] of rows at (N,) noise levels.

        Raises:
            ValueError: as `predict`; or not one label per row.
        """
        return accuracy(self.predict(X, t), y, sample_weight)

    def _at(self, X: Any, t: Any) -> np.ndarray:
        check_is_fitted(self)
        parts = self._again(X)
        return self._logits([*parts, _levels(t, parts[0], "t")])


def _levels(t: Any, rows: Rows, name: str) -> Rows:
    """(N,) float32 noise levels; a number is repeated."""
    if t is None:
        raise ValueError(f"{name} is missing; expected a noise level per row, or a number")
    levels = np.asarray(as_numpy(t), np.float32)
    if levels.ndim == 0:
        levels = np.full(len(rows), levels)
    if levels.shape != (len(rows),):
        raise ValueError(f"{name} has shape {levels.shape}; expected ({len(rows)},), or a number")
    return Rows(levels, name)
