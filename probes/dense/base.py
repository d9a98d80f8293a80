"""What all dense heads share: cells of maps in, something at every pixel of the picture out.

    fit(cells, masks)      learns from pictures and what is known of their pixels
    predict(cells)         one (H, W) array a picture, as they are asked for
    predict_maps(maps)     the same of one picture

Maps stay on their own grids; what comes out has the size of the upright picture. A subclass says
how in `_strips`, rows of one picture at a time, so that memory is that of a strip.
"""

from __future__ import annotations

import warnings
from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import torch

from probes.cells import Cells, cells_of
from probes.checks import named_classes
from probes.dense.truth import Masks, count_classes
from probes.lazy import as_numpy
from probes.maps import Maps
from probes.metrics.classification import ConfusionMatrix
from probes.on_maps import OnMaps

Strips = Iterator[tuple[int, torch.Tensor]]
"""Pairs of a first row and (D, r, W), down a picture."""


class DenseHead(OnMaps, ABC):
    """A head that says something at every pixel; what is up to the subclass.

    Attributes: cells_, shapes_: those of `OnMaps`.
    """

    @abstractmethod
    def fit(self, cells: Any, targets: Any, validation: Any = None):
        """Learn from pictures and what is known of their pixels."""

    @abstractmethod
    def _strips(self, maps: Maps) -> Strips:
        """What the head gives at the pixels of one picture: (D, r, W) float32, down the picture."""

    @abstractmethod
    def _say(self, strip: torch.Tensor) -> torch.Tensor:
        """(D, r, W) of `_strips` → (r, W): what is predicted."""

    def predict(self, cells: Any) -> Iterator[np.ndarray]:
        """One (H, W) array a picture, of the picture's size, made when it is asked for.

        Pixels that an input does not show (a crop) continue the outermost sites.

        Raises:
            ValueError: cells or channels that are not those of `fit`.
            NotFittedError: it is not fitted.
        """
        cells = self._checked(cells)
        return (self.predict_maps(self._maps(cells, row)) for row in range(len(cells)))

    def predict_maps(self, maps: Maps) -> np.ndarray:
        """(H, W) of one picture."""
        return gathered((first, self._say(strip)) for first, strip in self._strips(maps))

    def _maps(self, cells: Cells, row: int) -> Maps:
        """What `_strips` takes of one picture."""
        return cells.maps(row)


class Segmenter(DenseHead):
    """A dense head that tells classes apart: `_strips` gives K scores, the larger the likelier.

    Attributes:
        classes_: (K,) names of the classes (their numbers where they have no names); labels and
            predictions are indices into it.
        ignore_: label of pixels that do not count.
        seen_: (K,) bool, which classes training had; the others are never predicted.
    """

    def predict_proba(self, cells: Any) -> Iterator[np.ndarray]:
        """(K, H, W) float32 probabilities a picture."""
        cells = self._checked(cells)
        for row in range(len(cells)):
            strips = self._strips(self._maps(cells, row))
            yield gathered(((first, self._share(strip)) for first, strip in strips), axis=1)

    def uncertainty(self, cells: Any) -> Iterator[np.ndarray]:
        """(H, W) float32 a picture: how little sure the head is (see `_doubt`)."""
        cells = self._checked(cells)
        for row in range(len(cells)):
            strips = self._strips(self._maps(cells, row))
            yield gathered((first, self._doubt(strip)) for first, strip in strips)

    def predict_uncertain(self, cells: Any) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        """What `predict` and `uncertainty` give of a picture, in one pass over its maps."""
        cells = self._checked(cells)
        for row in range(len(cells)):
            said, doubts = [], []
            for first, strip in self._strips(self._maps(cells, row)):
                said.append((first, self._say(strip)))
                doubts.append((first, self._doubt(strip)))
            yield gathered(iter(said)), gathered(iter(doubts))

    @property
    def most_uncertain(self) -> float:
        """The largest uncertainty that there can be; here 1 − 1/K of K classes."""
        return 1 - 1 / max(2, len(self.classes_))

    def score(self, cells: Any, masks: Any) -> float:
        """Mean intersection over union of the classes that occur, in [0, 1]; see
        `probes.metrics` for other policies."""
        cells = self._checked(cells)
        truth = Masks(masks, cells, len(self.classes_), self.ignore_)
        matrix = ConfusionMatrix(len(self.classes_), self.ignore_)
        for row, found in enumerate(self.predict(cells)):
            matrix.update(found, truth[row])
        return matrix.jaccard("macro")

    def _note_seen(self, counts: np.ndarray) -> None:
        """Keep which classes training has, of (K,) pixels of each.

        Raises:
            ValueError: every pixel is ignored.
        """
        self.seen_ = np.asarray(counts) > 0
        if not self.seen_.any():
            raise ValueError(
                f"every pixel is ignored (label {self.ignore_}); expected some that count"
            )
        if self.seen_.sum() == 1:
            only = self.classes_[self.seen_][0]
            raise ValueError(
                f"every pixel that counts is of one class, {only}; expected two at least (are "
                f"these masks of 0 and 255? label {self.ignore_} does not count)"
            )
        if not self.seen_.all():
            names = ", ".join(str(name) for name in self.classes_[~self.seen_][:10])
            warnings.warn(
                f"{(~self.seen_).sum()} of {len(self.seen_)} classes have no pixel in training "
                f"({names}); they are never predicted",
                UserWarning,
                stacklevel=3,
            )

    def _say(self, strip: torch.Tensor) -> torch.Tensor:
        return self._known_only(strip).argmax(0)

    def _share(self, strip: torch.Tensor) -> torch.Tensor:
        """(K, r, W) scores → probabilities; here by softmax."""
        return self._known_only(strip).softmax(0)

    def _doubt(self, strip: torch.Tensor) -> torch.Tensor:
        """(K, r, W) scores → (r, W) uncertainty; here 1 − the largest share."""
        return 1 - self._share(strip).amax(0)

    def _known_only(self, strip: torch.Tensor) -> torch.Tensor:
        return known_only(strip, self.seen_)

    def _opened(
        self, cells: Any, masks: Any, classes: int | Sequence[str] | None, ignore: int
    ) -> tuple[Cells, Masks]:
        """Cells and masks of a fit, checked; notes cells, `classes_` and `ignore_`.

        Args:
            classes: K, or K names; None: as many as the labels say.
        """
        cells = cells_of(cells)
        self._note(cells)
        if classes is None:
            classes = count_classes(masks, ignore)
        names = named_classes(classes)
        self.classes_, self.ignore_ = names, int(ignore)
        return cells, Masks(masks, cells, len(names), ignore)


def known_only(scores: torch.Tensor, seen: np.ndarray) -> torch.Tensor:
    """(K, …) scores, −inf of classes that are not among the (K,) bool `seen`."""
    unseen = torch.from_numpy(~seen).to(scores.device)
    if not unseen.any():
        return scores
    return scores.masked_fill(unseen.view(-1, *[1] * (scores.ndim - 1)), float("-inf"))


def gathered(strips: Iterator[tuple[int, torch.Tensor]], axis: int = 0) -> np.ndarray:
    """Strips of one picture, joined along its rows."""
    return np.concatenate([as_numpy(strip) for _, strip in strips], axis)
