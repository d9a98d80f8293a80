"""What masks and joints that were carried through a clip are worth: J, F, and PCK of joints."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from probes.metrics.pck import pck
from probes.pairs import as_points

BOUND = 0.008
"""Of the diagonal: how far a contour may be off."""
BINS = 4
"""Parts of a clip, of which decay compares the first with the last."""


def region_similarity(found: Any, truth: Any) -> float:
    """J: |found ∧ truth| / |found ∨ truth|, and 1 where both are empty.

    Args:
        found, truth: (H, W) bool, or numbers of which those that are not 0 count.

    Returns:
        In [0, 1].

    Raises:
        ValueError: other shapes.

    Source: Perazzi et al. 2016, A benchmark dataset and evaluation methodology for video object
    segmentation.
    """
    found, truth = _masks(found, truth)
    union = np.count_nonzero(found | truth)
    return np.count_nonzero(found & truth) / union if union else 1.0


def contour_accuracy(found: Any, truth: Any, bound: float = BOUND) -> float:
    """F: the harmonic mean of the contours' precision and recall.

        precision: share of the found contour's pixels with one of the true contour within reach
        recall: the same the other way round
        F = 2·precision·recall / (precision + recall)

    A pixel is of the contour if it differs from the next one to the right, below, or both (the last
    row compares to the right only, the last column below only). Within reach is a distance of at
    most ceil(bound·diagonal) pixels, as a dilation by a disk has it. Two empty contours give 1, one
    empty one gives 0.

    Args:
        found, truth: as `region_similarity` takes them.
        bound: share of the diagonal; or from 1 on, pixels.

    Returns:
        In [0, 1].

    Raises:
        ValueError: other shapes; a bound that is not above 0.

    Source: Perazzi et al. 2016, and the DAVIS toolkit's definition of contours.
    """
    found, truth = _masks(found, truth)
    return contours_agree(contour(found), contour(truth), reach_of(bound, truth.shape))


def reach_of(bound: float, size: tuple[int, int]) -> int:
    """Pixels by which a contour may be off; see `contour_accuracy`."""
    if not bound > 0:
        raise ValueError(f"bound={bound}; expected a share of the diagonal, or pixels from 1 on")
    return int(bound if bound >= 1 else np.ceil(bound * np.linalg.norm(size)))


def contours_agree(ours: np.ndarray, theirs: np.ndarray, reach: int) -> float:
    """F of two (H, W) bool contours within `reach` pixels."""
    some, any_true = ours.any(), theirs.any()
    if not some or not any_true:
        return float(some == any_true)
    precision, recall = _near(ours, theirs, reach), _near(theirs, ours, reach)
    both = precision + recall
    return 2 * precision * recall / both if both else 0.0


def contour(mask: Any) -> np.ndarray:
    """(H, W) bool: the pixels of a mask's contour; see `contour_accuracy`."""
    mask = np.asarray(mask) != 0
    found = np.zeros_like(mask)
    right, below = mask[:, :-1] ^ mask[:, 1:], mask[:-1] ^ mask[1:]
    found[:, :-1] |= right
    found[:-1] |= below
    found[:-1, :-1] |= mask[:-1, :-1] ^ mask[1:, 1:]
    return found


def _near(pixels: np.ndarray, others: np.ndarray, reach: int) -> float:
    """Share of the pixels that have one of the others within reach."""
    h, w = others.shape
    before = np.zeros((h, w + 1), np.int32)
    np.cumsum(others, axis=1, out=before[:, 1:])
    y, x = np.nonzero(pixels)
    near = np.zeros(len(y), bool)
    for step in range(-reach, reach + 1):
        half = int((reach**2 - step**2) ** 0.5)
        row, inside = np.clip(y + step, 0, h - 1), (y + step >= 0) & (y + step < h)
        low, high = np.maximum(x - half, 0), np.minimum(x + half + 1, w)
        near |= inside & (before[row, high] > before[row, low])
    return np.count_nonzero(near) / len(near)


def _masks(found: Any, truth: Any) -> tuple[np.ndarray, np.ndarray]:
    found, truth = np.asarray(found), np.asarray(truth)
    if found.shape != truth.shape or truth.ndim != 2 or not truth.size:
        raise ValueError(f"the mask that was found has shape {found.shape} and the true one "
                         f"{truth.shape}; expected the same (H, W)")  # fmt: skip
    return found != 0, truth != 0


class VideoScores:
    """J, F and their mean of clips whose frames come one by one, object by object.

    The first frame, which is given, and the last are left out, as in DAVIS. The objects of a
    sequence are those that its first true mask shows, as in DAVIS' own evaluation: what comes later
    was given to nobody. Where neither mask has an object both measures are 1. What is kept is two
    numbers a frame and object.

    Args:
        bound: see `contour_accuracy`.
        skip: frames left out at the start and at the end of a sequence.

    Raises:
        ValueError: `skip` below 0.
    """

    def __init__(self, bound: float = BOUND, skip: tuple[int, int] = (1, 1)):
        if min(skip) < 0:
            raise ValueError(f"skip={skip}; expected frames at the start and at the end, >= 0")
        self.bound, self.skip = float(bound), (int(skip[0]), int(skip[1]))
        self._frames: dict[str, list[dict[int, tuple[float, float]]]] = {}
        self._objects: dict[str, list[int]] = {}

    def update(self, sequence: str, found: Any, truth: Any) -> None:
        """Count the next frame of a sequence, its first and last one, too.

        Args:
            sequence: its name.
            found, truth: (H, W) whole numbers: 0, or an object's.

        Raises:
            ValueError: other shapes.
        """
        found, truth = np.asarray(found), np.asarray(truth)
        _masks(found, truth)
        frames = self._frames.setdefault(str(sequence), [])
        if not frames:
            self._objects[str(sequence)] = [one for one in np.unique(truth).tolist() if one]
        scores = {}
        if len(frames) >= self.skip[0]:
            for one in self._objects[str(sequence)]:
                ours, theirs = found == one, truth == one
                scores[one] = (region_similarity(ours, theirs),
                               contour_accuracy(ours, theirs, self.bound))  # fmt: skip
        frames.append(scores)

    def merge(self, other: VideoScores) -> VideoScores:
        """Add the sequences of another, such as of another process.

        Raises:
            ValueError: another bound or other frames left out; sequences that both have.
        """
        if (self.bound, self.skip) != (other.bound, other.skip):
            raise ValueError(f"bound and skip are {self.bound}, {self.skip} and {other.bound}, "
                             f"{other.skip}; expected the same")  # fmt: skip
        if both := sorted(set(self._frames) & set(other._frames)):
            raise ValueError(f"both counted the sequences {both[:5]}; expected each once")
        for name, frames in other._frames.items():
            self._frames[name] = list(frames)
            self._objects[name] = list(other._objects[name])
        return self

    @property
    def sequences(self) -> tuple[str, ...]:
        """Names in the order they came."""
        return tuple(self._frames)

    def frames(self, sequence: str) -> dict[int, np.ndarray]:
        """Object → (frames, 2) float64 J and F of the frames that count, in order.

        Raises:
            KeyError: no such sequence.
            ValueError: none of its frames counts, or its first true mask shows no object.
        """
        if sequence not in self._frames:
            raise KeyError(f"{sequence!r} is none of the sequences {list(self._frames)[:20]}")
        every, (start, end) = self._frames[sequence], self.skip
        counted = every[start : len(every) - end]
        if not counted:
            raise ValueError(f"sequence {sequence!r} has {len(every)} frames; expected more than "
                             f"{start + end}, since the first {start} and the last {end} do not "
                             "count")  # fmt: skip
        if not self._objects[sequence]:
            raise ValueError(f"the first true mask of sequence {sequence!r} shows no object; leave "
                             "it out")  # fmt: skip
        return {one: np.array([scores[one] for scores in counted])
                for one in self._objects[sequence]}  # fmt: skip

    def by_object(self) -> dict[tuple[str, int], dict[str, float]]:
        """(sequence, object) → what `compute` gives, of it alone."""
        return {(name, one): _statistics(values)
                for name in self._frames for one, values in self.frames(name).items()}  # fmt: skip

    def by_sequence(self) -> dict[str, dict[str, float]]:
        """Sequence → means over its objects of what `compute` gives."""
        return {name: _means([_statistics(values) for values in self.frames(name).values()])
                for name in self._frames}  # fmt: skip

    def compute(self) -> dict[str, float]:
        """Means over all objects of all sequences, as DAVIS reports them.

        Returns:
            "J&F": mean of the two means; "J", "F": means over frames; "J recall", "F recall":
            shares of frames above .5; "J decay", "F decay": mean of the first quarter of the
            frames minus that of the last.

        Raises:
            ValueError: no sequences; and as `frames`.
        """
        if not self._frames:
            raise ValueError("no sequences; expected at least one")
        return _means(list(self.by_object().values()))


def _statistics(values: np.ndarray) -> dict[str, float]:
    """Of one object's (frames, 2) J and F."""
    mean, recall, decay = values.mean(0), (values > 0.5).mean(0), _decay(values)
    found = {"J&F": mean.mean()}
    for place, name in enumerate("JF"):
        found |= {name: mean[place], f"{name} recall": recall[place],
                  f"{name} decay": decay[place]}  # fmt: skip
    return {name: float(value) for name, value in found.items()}


def _decay(values: np.ndarray) -> np.ndarray:
    """(2,): quarters begin and end at frames evenly apart, which two neighbours share."""
    edges = np.floor(np.linspace(1, len(values), BINS + 1) + 0.5 + 1e-9).astype(int) - 1
    return values[edges[0] : edges[1] + 1].mean(0) - values[edges[-2] : edges[-1] + 1].mean(0)


def _means(each: Sequence[dict[str, float]]) -> dict[str, float]:
    return {name: float(np.mean([one[name] for one in each])) for name in each[0]}


class JointPCK:
    """PCK of joints that were carried through clips.

        right: |found − truth| ≤ alpha·0.6·diagonal of the extent of that frame's true joints

    Shares are of all frames but each clip's first; the mean is over joints, each of which counts
    alike.

    Args:
        alphas: shares of the reference.
        share: of the diagonal, that stands for the person's size.

    Source: the evaluation of JHMDB in the authors' code of Wang et al. 2019, Learning
    correspondence from the cycle-consistency of time, and Jabri et al. 2020.
    """

    def __init__(self, alphas: Sequence[float] = (0.1, 0.2, 0.3, 0.4, 0.5), share: float = 0.6):
        self.alphas, self.share = tuple(float(alpha) for alpha in alphas), float(share)
        if not self.alphas or not min(self.alphas) > 0 or not self.share > 0:
            raise ValueError(f"alphas={self.alphas}, share={share}; expected numbers above 0")
        self._right: np.ndarray | None = None  # (joints, alphas)
        self._seen: np.ndarray | None = None  # (joints,)

    def update(self, found: Any, truth: Any, *, valid: Any = None, visible: Any = None) -> None:
        """Count one frame; leave each clip's first one out.

        Args:
            found, truth: (n, 2) x, y in pixels, of the same n joints in every frame.
            valid: (n,) bool; what is not valid is wrong, and may be nan. None: all are.
            visible: (n,) bool: the true joints that count. None: all do.

        Raises:
            ValueError: another number of joints, points that are not finite, no extent.
        """
        truth, found = as_points(truth), np.asarray(found, np.float64)
        count = len(truth)
        valid, visible = (_flags(name, flags, count)
                          for name, flags in (("valid", valid), ("visible", visible)))  # fmt: skip
        if found.shape != truth.shape:
            raise ValueError(f"{len(found)} joints found for {count}; expected equally many")
        if self._seen is None:
            self._right = np.zeros((count, len(self.alphas)), np.int64)
            self._seen = np.zeros(count, np.int64)
        if len(self._seen) != count:
            raise ValueError(f"{count} joints; expected {len(self._seen)}, as in other frames")
        if not visible.any():
            return
        found = np.where(valid[:, None], found, 0)
        hits = joint_pck(found, truth, self.alphas, self.share, visible)
        self._right += hits & valid[:, None] & visible[:, None]
        self._seen += visible

    def merge(self, other: JointPCK) -> JointPCK:
        """Add what another counted.

        Raises:
            ValueError: other alphas, another share or number of joints.
        """
        if (self.alphas, self.share) != (other.alphas, other.share):
            raise ValueError(f"alphas and shares are {self.alphas}, {self.share} and "
                             f"{other.alphas}, {other.share}; expected the same")  # fmt: skip
        if other._seen is not None:
            if self._seen is None:
                self._right, self._seen = np.zeros_like(other._right), np.zeros_like(other._seen)
            if len(self._seen) != len(other._seen):
                raise ValueError(f"{len(self._seen)} joints and {len(other._seen)}; expected "
                                 "equally many")  # fmt: skip
            self._right, self._seen = self._right + other._right, self._seen + other._seen
        return self

    def by_joint(self) -> np.ndarray:
        """(n, alphas) float64 shares; nan of joints that were never visible."""
        if self._seen is None or not self._seen.any():
            raise ValueError("no joints were counted; expected one frame at least")
        seen = self._seen[:, None]
        return np.divide(self._right, seen, out=np.full(self._right.shape, np.nan), where=seen > 0)

    def compute(self) -> dict[float, float]:
        """Alpha → mean over joints, of those that were ever visible.

        Raises:
            ValueError: nothing was counted.
        """
        return dict(zip(self.alphas, np.nanmean(self.by_joint(), 0).tolist(), strict=True))


def joint_pck(
    found: Any, truth: Any, alphas: Sequence[float], share: float = 0.6, visible: Any = None
) -> np.ndarray:
    """(n, alphas) bool: which joints of one frame are right; see `JointPCK`.

    Args:
        found, truth: (n, 2) x, y in pixels.
        alphas: shares of the reference.
        share: of the diagonal of the visible true joints' extent: the reference.
        visible: (n,) bool; None: all joints are.

    Raises:
        ValueError: different numbers of joints, points that are not finite, an extent of 0.
    """
    truth = as_points(truth)
    seen = truth[_flags("visible", visible, len(truth))]
    diagonal = np.linalg.norm(np.ptp(seen, axis=0)) if len(seen) else 0.0
    if not diagonal > 0:
        raise ValueError(f"{len(seen)} visible joints have no extent; expected two apart, by which "
                         "errors are measured")  # fmt: skip
    return np.stack([pck(found, truth, share * diagonal, alpha) for alpha in alphas], 1)


def _flags(name: str, flags: Any, count: int) -> np.ndarray:
    found = np.ones(count, bool) if flags is None else np.asarray(flags, bool)
    if found.shape != (count,):
        raise ValueError(f"{name} has shape {found.shape}; expected ({count},)")
    return found
