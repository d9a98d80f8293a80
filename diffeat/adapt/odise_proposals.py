"""A kept ODISE at work on proposals: what masks are called, ready to be merged."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from diffeat.adapt.odise import ODISE
from diffeat.backbones.base import Backbone
from diffeat.vision.joint import JointModel
from diffeat.vision.proposals import Proposals


def load_odise(path: str | Path, backbone: Backbone, clip: str, device: str = "auto") -> ODISE:
    """A kept ODISE with the models that it was trained with.

    Args:
        clip: a CLIP of transformers, a folder or hub id.

    Raises:
        ModelError: no such CLIP. SpecError: no ODISE, or one of other models.
    """
    return ODISE.load(path, backbone, JointModel.load(clip, device))


def named_proposals(
    odise: ODISE, picture: Any, found: Proposals, vocabulary: Any = None
) -> tuple[np.ndarray, np.ndarray]:
    """Class scores and chances of nothing of proposals, for `probes.open_vocabulary.merging`.

    Where the ODISE learned what "no object" is, that is asked; else the proposals' own scores are.

    Args:
        picture: (H, W, 3) uint8, or of PIL.
        found: at the picture's size.
        vocabulary: other classes than those of the training.

    Returns:
        (Q, K) and (Q,) float64, which sum to 1 for each mask; masks without a pixel are nothing.
    """
    named = odise.name(picture, found, vocabulary=vocabulary)
    return named.class_scores, np.where(named.valid, named.nothing, 1.0)
