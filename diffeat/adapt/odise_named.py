"""What masks of a picture are called."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from probes.open_vocabulary.fusion import with_nothing


@dataclass(frozen=True, eq=False)
class NamedMasks:
    """What masks are called.

    Attributes:
        classes: K names.
        scores: (Q, K) float64 probabilities of the classes, given that there is something.
        nothing: (Q,) probabilities of no object; 0 where that was not learned.
        valid: (Q,) bool: False of masks without a pixel (or site), whose names mean nothing.
    """

    classes: tuple[str, ...]
    scores: np.ndarray
    nothing: np.ndarray
    valid: np.ndarray

    @property
    def labels(self) -> np.ndarray:
        """(Q,) int64 classes; -1 of what is not valid, or likelier nothing than any class."""
        whole = with_nothing(self.scores, self.nothing)
        best = whole[:, :-1].argmax(1)
        something = self.valid & (whole[:, :-1].max(1) >= self.nothing)
        return np.where(something, best, -1)

    @property
    def class_scores(self) -> np.ndarray:
        """(Q, K) for merging: with the chance that there is something; 0 of what is not valid."""
        return self.scores * ((1 - self.nothing) * self.valid)[:, None]
