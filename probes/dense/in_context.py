"""Labels carried from pictures like this one: segmentation without training."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from probes.checks import check_choice, check_counts
from probes.dense.base import Segmenter, Strips
from probes.lazy import as_numpy
from probes.maps import Maps
from probes.matching import NearestMatcher, warp

CHOICES = ("similar", "first")
ALONG = 32
"""Pixels along each side that are matched, at most, where nobody says how many."""
PRIOR = 1e-3
"""Of a vote, which the classes' shares in training have: it decides where nothing was carried."""


@dataclass(eq=False, repr=False, kw_only=True)
class InContext(Segmenter):
    """Every pixel takes the labels of the pixels that it matches in some labelled pictures.

        score_k(x) = mean over references r of [label of r at match_r(x) is k]

    Labels are carried by `probes.matching.warp`, as soft labels: between the places that are
    matched, votes are interpolated. Nothing is learnt; the references' features are read again for
    every picture.

    Args:
        matcher: finds the picture's pixels in a reference; None is
            `NearestMatcher(resolution="site")`, which compares the sites of the finest grid.
        references: labelled pictures that vote, at most.
        choose: "similar", those whose mean features are the most like the picture's (cosine, mean
            over cells); "first", the first ones of training for every picture.
        stride: of the pixels that are matched, as `warp` takes it: pixels, or "site". Time is that
            of as many matches per reference. None: so many pixels that at most 32 are matched along
            each side.

    Attributes:
        pooled_: cell → (N, C) float32 mean features of length 1 ("similar").
        prior_: (K,) float32 shares of the classes' pixels in training; those of `Segmenter`.
    """

    matcher: Any = None
    references: int = 5
    choose: str = "similar"
    stride: int | str | None = None

    def fit(
        self,
        cells: Any,
        masks: Any,
        validation: Any = None,
        *,
        classes: int | Sequence[str] | None = None,
        ignore: int = 255,
    ):
        """Keep the labelled pictures, which are not copied, and pool them.

        Args:
            cells: `probes.Cells` of (N, C, h, w) maps; it has to stay readable.
            masks: N (H, W) label maps of the pictures' size; as `cells`.
            validation: not looked at.
            classes: K or K names; None: as many as the labels say.
            ignore: label of pixels that do not count.

        Returns:
            self.

        Raises:
            ValueError: see `probes.dense.truth.Masks`; cells that are no maps; no pixel counts.
        """
        check_counts(self, "references")
        check_choice("choose", self.choose, CHOICES)
        cells, truth = self._opened(cells, masks, classes, ignore)
        counts, pooled = np.zeros(truth.classes, np.int64), []
        for row in range(len(cells)):
            labels = truth[row]
            counts += np.bincount(labels[labels != ignore], minlength=truth.classes)
            if self.choose == "similar":
                pooled.append(self._pooled(cells.maps(row)))
        self._note_seen(counts)
        self.prior_ = (counts / counts.sum()).astype(np.float32)
        if pooled:
            self.pooled_ = {key: np.stack([one[key] for one in pooled]) for key in self.cells_}
        self._labelled = cells, truth
        return self

    def chosen(self, maps: Maps) -> np.ndarray:
        """(r,) rows of the references of a picture, the most similar first."""
        count = min(self.references, len(self._labelled[0]))
        if self.choose == "first":
            return np.arange(count)
        own = self._pooled(maps)
        likeness = sum(self.pooled_[key] @ own[key] for key in self.cells_)
        return np.argsort(-likeness, kind="stable")[:count]

    def _pooled(self, maps: Maps) -> dict[Any, np.ndarray]:
        """Mean features of a picture's cells, of length 1."""
        found = {key: as_numpy(maps[key]).astype(np.float32).mean((1, 2)) for key in self.cells_}
        return {key: one / max(np.linalg.norm(one), 1e-12) for key, one in found.items()}

    def _strips(self, maps: Maps) -> Strips:
        cells, truth = self._labelled
        matcher = NearestMatcher(resolution="site") if self.matcher is None else self.matcher
        stride = -(-max(maps.size) // ALONG) if self.stride is None else self.stride
        own = self._of_fit(maps)
        rows = self.chosen(maps)
        votes = np.zeros((*maps.size, truth.classes), np.float32)
        for row in rows.tolist():
            soft = (truth[row][..., None] == np.arange(truth.classes)).astype(np.float32)
            votes += warp(soft, self._of_fit(cells.maps(row)), own, matcher, stride=stride)
        scores = votes[_outwards(maps)] / len(rows) + PRIOR * self.prior_
        yield 0, torch.from_numpy(np.ascontiguousarray(scores.transpose(2, 0, 1)))

    def _of_fit(self, maps: Maps) -> Maps:
        values = {key: maps[key] for key in self.cells_}
        return Maps(values, maps.size, maps.input_size, maps.placement)

    def _share(self, strip: torch.Tensor) -> torch.Tensor:
        return strip / strip.sum(0)


def _outwards(maps: Maps) -> tuple[np.ndarray, np.ndarray]:
    """(H, 1) rows and (1, W) columns: those that the input shows, and beyond them the outermost."""
    found = []
    for shown in reversed(maps.shown()):
        inside = np.flatnonzero(shown)
        found.append(np.clip(np.arange(len(shown)), inside[0], inside[-1]))
    return found[0][:, None], found[1]
