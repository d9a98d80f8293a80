"""What masks of a picture are called."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from typing import Any

import numpy as np

from probes.open_vocabulary.fusion import with_nothing
from probes.open_vocabulary.merging import THRESHOLDS, Panoptic, panoptic, semantic


@dataclass(frozen=True, eq=False)
class NamedMasks:
    """What masks are called.

    Attributes:
        classes: K names.
        scores: (Q, K) float64 probabilities of the classes, given that there is something.
        nothing: (Q,) probabilities of no object: as it was learned; else as the proposals say it;
            0 where nobody says it.
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


def nothing_of(proposals: Any) -> np.ndarray:
    """(Q,) float64 probabilities of no object, as proposals say them; 0 of plain masks."""
    scores = getattr(proposals, "scores", None)
    if scores is None:
        return np.zeros(len(proposals))
    return 1 - scores.double().cpu().numpy()


def merged(
    found: NamedMasks, masks: np.ndarray, shares: np.ndarray, things: Collection[int] | None
) -> np.ndarray | Panoptic:
    """Masks that have names as one picture.

    Args:
        masks: (Q, H, W) bool. shares: (Q, H, W) float32 in [0, 1], the same as probabilities.
        things: classes that are countable; None: classes are given, and no segments.

    Returns:
        `Panoptic` with ODISE's thresholds; or (H, W) int64 class indices, -1 where no mask lies.
    """
    if things is not None:
        nothing = np.where(found.valid, found.nothing, 1.0)
        return panoptic(found.class_scores, shares, things, void=nothing, **THRESHOLDS["odise"])
    lies = masks[found.valid].any(0)
    return np.where(lies, semantic(found.class_scores, shares).argmax(0), -1)
