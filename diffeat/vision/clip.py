"""A CLIP that names masks: what it sees is the pixels of a mask alone, in the mask's box."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F

from diffeat.vision.joint import JointModel
from diffeat.words.templates import PHOTO
from diffeat.words.vocabulary import Vocabulary

AT_ONCE = 16
"""Masks of one forward."""


class ClipNamer:
    """Classes of masks by a CLIP of transformers.

        p(k | mask) = softmax over k of exp(s) · max over synonyms w of k of <image, text_w>

    The image is the picture cut to the mask's box, grey (the mean of the CLIP's training pictures)
    outside of the mask, and squashed to the CLIP's input; a text is the mean, of unit length, of a
    word's templates.

    Args:
        clip: a folder with weights, preprocessing and tokenizer, or a hub id; or a `JointModel`.
        vocabulary: K classes.
        templates: see `templates_of`.
        device: "auto", "cpu", "cuda", …

    Raises:
        ModelError: it is not there, or no CLIP.
        SpecError: a text that is longer than it reads, templates without {}.
    """

    def __init__(
        self,
        clip: str | Path | JointModel,
        vocabulary: Vocabulary,
        templates: str | Iterable[str] = PHOTO,
        device: str = "auto",
    ):
        self.clip = clip if isinstance(clip, JointModel) else JointModel.load(clip, device)
        self._vocabulary = vocabulary
        self._texts = self.clip.words(vocabulary.words, templates)  # (W, E)

    @torch.no_grad()
    def scores(self, picture: np.ndarray, masks: np.ndarray) -> np.ndarray:
        """(Q, K) float64 probabilities of the classes of (Q, H, W) bool masks of a picture, (H, W,
        3) uint8."""
        found = np.zeros((len(masks), len(self._vocabulary)))
        for start in range(0, len(masks), AT_ONCE):
            some = torch.cat([self._seen(picture, mask) for mask in masks[start : start + AT_ONCE]])
            near = self.clip.scale * F.normalize(self.clip.pictures(some), dim=1) @ self._texts.T
            near = near.double().cpu()
            owners = torch.tensor(self._vocabulary.owners).expand(len(near), -1)
            best = near.new_full((len(near), found.shape[1]), -torch.inf)
            best.scatter_reduce_(1, owners, near, "amax")
            found[start : start + AT_ONCE] = best.softmax(1).numpy()
        return found

    def _seen(self, picture: np.ndarray, mask: np.ndarray) -> torch.Tensor:
        """(1, 3, S, S) in [0, 1]: the mask's box, squashed to the CLIP's input."""
        x = torch.from_numpy(_cut(picture, mask, self.clip.grey)).permute(2, 0, 1)[None]
        return self.clip.squashed(x.to(self.clip.device).float() / 255)


def _cut(picture: np.ndarray, mask: np.ndarray, grey: np.ndarray) -> np.ndarray:
    """The picture cut to the mask's box, grey outside of the mask; all of it where that is none."""
    if not mask.any():
        return np.array(picture)
    rows, columns = np.nonzero(mask.any(1))[0], np.nonzero(mask.any(0))[0]
    box = np.s_[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]
    return np.where(mask[box][..., None], picture[box], grey)
