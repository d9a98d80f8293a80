"""Pairs of RGB-D frames with true dense correspondences, from depth and poses."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path

import numpy as np

from diffeat.errors import SourceError, SpecError
from diffeat.hashing import digest, files_fingerprint, fingerprint, unit_interval
from diffeat.images import Source
from diffeat.images.paired_layouts import RGBD_SPLITS, rgbd_colours
from diffeat.targets.pairs.base import PairTargets, Truth
from diffeat.targets.pairs.frames import KINECT, Calibration, Frames
from diffeat.targets.pairs.reprojection import TOLERANCE, View, angle_between, reproject

SAME_SPLIT = {"train": "trn", "test": "val"}
ANGLES = (0.0, 10.0, 20.0, 30.0, 180.0)
"""Edges of the bins that pairs are spread over, degrees between the optical axes."""
MOST_FRAMES = 100
"""Of more frames, so many evenly spaced ones are paired."""
COARSE = (60, 80)
"""(H, W) of the views that overlaps are counted on."""


@dataclass(frozen=True)
class DepthRule:
    """How pairs are made and which of their points are asked for.

    Attributes:
        overlap: share of the pixels with depth that must show in the other picture, from both
            sides.
        angles: edges of the bins of viewpoint angles; each bin has the same number of pairs,
            as far as there are so many.
        points: of a pair at most; drawn from whole pixels of the source that show in the target.
        tolerance, check: see `reproject`.
        seed: of pairs, directions and points.
    """

    overlap: float = 0.3
    angles: tuple[float, ...] = ANGLES
    points: int = 200
    tolerance: float = TOLERANCE
    check: float | None = 3.0
    seed: int = 0


@dataclass(frozen=True, eq=False)
class DepthPairs(PairTargets):
    """Pairs of frames of one room, and where what both show lies.

    A point is a whole pixel of the source; where it lies in the target follows from depth and
    poses, to a part of a pixel, and counts only if the target sees the same surface there.

    Groups are the frames: all are of one room. Intervals over them say how far a number would
    move with other frames of this room, and nothing of other rooms; both frames of a pair belong
    to its draw.

    Attributes:
        frames: where depth and poses lie.
        rule: by which pairs were made and points are drawn.
        angles: (P,) float64 degrees between the optical axes (a turn about the axis is none).
        overlaps: (P,) float64 the smaller of the two shares.
    """

    name: str
    source: tuple[str, ...]
    target: tuple[str, ...]
    frames: Frames
    rule: DepthRule
    angles: np.ndarray
    overlaps: np.ndarray
    left_out: dict[str, int] = field(default_factory=dict)
    kind: str = "depth"

    @property
    def groups(self) -> tuple[tuple[str, str], ...]:
        return tuple(zip(self.source, self.target, strict=True))

    @property
    def categories(self) -> tuple[str, ...]:
        return ("",) * len(self)

    def pictures(self) -> Source:
        """The colour pictures of the pairs."""
        return self.frames.pictures(self.name, tuple(sorted({*self.source, *self.target})))

    def truth(self, pair: int) -> Truth:
        """At most `rule.points` points, drawn by a seed and the names of the pictures."""
        names = self.source[pair], self.target[pair]
        source, target = (self.frames.view(name) for name in names)
        y, x = np.nonzero(np.isfinite(source.depth))
        points = np.stack([x, y], 1).astype(np.float64)
        found, shown = reproject(points, source, target, self.rule.tolerance, self.rule.check)
        rows = np.flatnonzero(shown)
        if not len(rows):
            raise SourceError(f"{self.name}: no point of {names[0]} shows in {names[1]}; allow a "
                              "larger tolerance or check, or leave the pair out")  # fmt: skip
        seed = int.from_bytes(digest("points", self.rule.seed, *names, size=8), "big")
        drawn = np.random.default_rng(seed).permutation(rows)[: self.rule.points]
        return Truth(points[np.sort(drawn)], found[np.sort(drawn)])

    @cached_property
    def fingerprint(self) -> str:
        """Of the pairs, the rule, the calibration, and every byte of depths and poses."""
        colours = sorted({*self.source, *self.target})
        files = {path for name in colours for path in self.frames.files(name)}
        rule = (str(self.rule), str(self.frames.calibration))
        return fingerprint(self.source, self.target, *rule, files_fingerprint(files))

    def take(self, pairs: Sequence[int] | np.ndarray) -> DepthPairs:
        rows = np.arange(len(self))[np.asarray(pairs)]
        names = (tuple(values[row] for row in rows) for values in (self.source, self.target))
        source, target = names
        return replace(self, source=source, target=target, angles=self.angles[rows],
                       overlaps=self.overlaps[rows])  # fmt: skip


def fits(folder: Path) -> bool:
    """Whether a folder has RGB-D frames."""
    return bool(rgbd_colours(folder))


def splits(folder: Path) -> tuple[str, ...]:
    return tuple(part for part in RGBD_SPLITS if rgbd_colours(folder, part))


def open_rgbd(name: str, folder: Path, split: str = "all") -> DepthPairs:
    """`open_depth` under a name, as `open_pairs` calls it."""
    return replace(open_depth(folder, split), name=name)


def open_depth(
    folder: str | Path,
    split: str = "all",
    count: int = 60,
    rule: DepthRule | None = None,
    calibration: Calibration = KINECT,
) -> DepthPairs:
    """Pairs of the RGB-D frames of a folder, spread over viewpoint angles.

    Of all pairs of frames that overlap enough, each bin of angles gives the same number, as far
    as it has so many; which, and which of the two is the source, is drawn by a hash of the
    names, so the same folder gives the same pairs everywhere.

    Args:
        folder: frames as a sequence of 7-Scenes has them (see `frames`).
        split: "trn" (frames below 700), "val" (the others) or "all"; of "train" and "test" the
            same.
        count: pairs at most.
        rule: None is `DepthRule()`.
        calibration: of the two cameras.

    Raises:
        SpecError: another split, or a count or rule that cannot be meant.
        SourceError: no frames, damaged ones, or no two that overlap enough.
    """
    rule = rule or DepthRule()
    split = SAME_SPLIT.get(split, split)
    _check(split, count, rule)
    frames, name = Frames.open(folder, split, calibration), f"{folder}:{split}"
    taken, left_out = _spread(len(frames), MOST_FRAMES), dict(frames.left_out)
    if more := len(frames) - len(taken):
        left_out[f"frames beyond {MOST_FRAMES} that are evenly spaced"] = more
    pairs, apart = _overlapping(frames.take(taken), rule)
    if not pairs:
        raise SourceError(
            f"{name}: no two of {len(taken)} frames show {rule.overlap:.0%} of each other; take "
            "more frames, or allow less overlap"
        )
    chosen = _chosen(pairs, count, rule)
    left_out["pairs of frames that overlap too little"] = apart
    left_out["pairs of frames that were not drawn"] = len(pairs) - len(chosen)
    source, target, angles, overlaps = zip(*chosen, strict=True)
    return DepthPairs(name, source, target, frames, rule, np.array(angles), np.array(overlaps),
                      {why: number for why, number in left_out.items() if number})  # fmt: skip


def _check(split: str, count: int, rule: DepthRule) -> None:
    if split not in RGBD_SPLITS:
        raise SpecError(f"split {split!r} of RGB-D frames; expected {', '.join(RGBD_SPLITS)}")
    if count < 1 or rule.points < 1:
        raise SpecError(f"{count} pairs of {rule.points} points; expected at least one of each")
    if not 0 < rule.overlap <= 1 or rule.tolerance <= 0:
        raise SpecError(f"overlap {rule.overlap} and tolerance {rule.tolerance}; expected shares "
                        "above 0, the overlap up to 1")  # fmt: skip
    if len(rule.angles) < 2 or list(rule.angles) != sorted(set(rule.angles)):
        raise SpecError(f"angles {rule.angles}; expected ascending edges of bins, in degrees")


def _spread(count: int, most: int) -> list[int]:
    """Rows of at most so many, evenly spaced."""
    return sorted(set(np.linspace(0, count - 1, min(count, most)).round().astype(int).tolist()))


Pair = tuple[str, str, float, float]
"""Source, target, angle, overlap."""


def _overlapping(frames: Frames, rule: DepthRule) -> tuple[list[Pair], int]:
    """All pairs that overlap enough within the bins' ends, in one direction each, and how many
    do not."""
    views = {name: frames.view(name, COARSE) for name in frames.colours}
    grids = {name: _with_depth(view) for name, view in views.items()}
    found, apart = [], 0
    for row, first in enumerate(frames.colours):
        for second in frames.colours[row + 1 :]:
            one, other = views[first], views[second]
            angle = angle_between(one, other)
            there = reproject(grids[first], one, other, rule.tolerance)[1].mean()
            back = reproject(grids[second], other, one, rule.tolerance)[1].mean()
            overlap = float(min(there, back))
            if overlap < rule.overlap or not rule.angles[0] <= angle < rule.angles[-1]:
                apart += 1
                continue
            turned = unit_interval("direction", rule.seed, first, second) < 0.5
            names = (second, first) if turned else (first, second)
            found.append((*names, angle, overlap))
    return found, apart


def _with_depth(view: View) -> np.ndarray:
    """(n, 2) pixels whose depth is known, every fourth; one that is nowhere if there are none."""
    y, x = np.nonzero(np.isfinite(view.depth))
    points = np.stack([x, y], 1).astype(np.float64)[::4]
    return points if len(points) else np.full((1, 2), np.nan)


def _chosen(pairs: list[Pair], count: int, rule: DepthRule) -> list[Pair]:
    """At most `count`, the same number of each bin as far as there are so many; in order."""
    bins: list[list[Pair]] = [[] for _ in rule.angles[1:]]
    for pair in pairs:
        bins[int(np.searchsorted(rule.angles, pair[2], side="right")) - 1].append(pair)
    for one in bins:
        one.sort(key=lambda pair: unit_interval("pair", rule.seed, *pair[:2]))
    chosen: list[Pair] = []
    rank = 0
    while len(chosen) < min(count, len(pairs)):  # one of each bin in turn
        chosen += [one[rank] for one in bins if rank < len(one)][: count - len(chosen)]
        rank += 1
    return sorted(chosen)
