"""How well labels of the first frame are found in the other frames of one clip."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from itertools import repeat
from typing import Any

import numpy as np

from benchmarks.tasks.video.counted import MASKS, Measures, joints
from benchmarks.tasks.video.file import VideoBenchmark
from diffeat.errors import SpecError
from diffeat.targets.video import Clip, VideoTargets
from probes.cells import Cells
from probes.metrics import VideoScores, joint_pck
from probes.pairs import Matches
from probes.propagation import LabelPropagator

Counts = tuple[np.ndarray, np.ndarray]
"""(K, M) above and (K,) below of a clip (see `benchmarks.tasks.video.counted`)."""


def measures_of(targets: VideoTargets, benchmark: VideoBenchmark) -> Measures:
    """Which numbers these targets give."""
    return MASKS if targets.kind == "masks" else joints(benchmark.alphas)


def propagator_of(benchmark: VideoBenchmark, clip: str, grid: tuple[int, int]) -> LabelPropagator:
    """What carries labels over maps of a grid."""
    radius = benchmark.radius
    if radius < 1:
        radius = max(1, round(radius * max(grid)))
    last = benchmark.fewer.get(clip, benchmark.last)
    return LabelPropagator(last=last, radius=int(radius), top_k=benchmark.top_k,
                           temperature=benchmark.temperature)  # fmt: skip


def by_features(
    benchmark: VideoBenchmark, targets: VideoTargets, clip: Clip, cells: Cells
) -> Counts:
    """The labels are carried by features.

    Args:
        cells: one cell, a row for each frame of the clip.
    """
    (key,) = cells.keys
    propagator = propagator_of(benchmark, clip.name, cells.rows(key).shape[2:])
    if targets.kind == "masks":
        return _of_masks(targets, clip, propagator.propagate(cells, _first(targets, clip)))
    points = targets.joints(clip)[0]
    return _of_joints(benchmark, targets, clip, propagator.propagate_points(cells, points))


def unmoved(benchmark: VideoBenchmark, targets: VideoTargets, clip: Clip) -> Counts:
    """Every label stays where it is in the first frame; no picture is looked at."""
    if targets.kind == "masks":
        return _of_masks(targets, clip, repeat(_first(targets, clip)))
    points = targets.joints(clip)[0]
    stays = Matches(points, np.ones(len(points)), np.ones(len(points), bool))
    return _of_joints(benchmark, targets, clip, repeat(stays))


def _first(targets: VideoTargets, clip: Clip) -> np.ndarray:
    return _true(targets, clip, 0)


def _true(targets: VideoTargets, clip: Clip, frame: int) -> np.ndarray:
    mask = targets.mask(clip, frame)
    if mask is None:
        raise SpecError(f"{targets.name}: no mask is known of {clip.frames[frame]!r}; expected "
                        "clips whose frames all have one")  # fmt: skip
    return mask


def _of_masks(targets: VideoTargets, clip: Clip, found: Iterable[np.ndarray]) -> Counts:
    """Sums of J and F over the objects of the first mask; the first and last frame do not count."""
    scores = VideoScores()
    for frame, labels in zip(range(len(clip)), found, strict=False):
        scores.update(clip.name, labels, _true(targets, clip, frame))
    each = [one.mean(0) for one in scores.frames(clip.name).values()]
    return np.sum(each, 0)[None], np.array([len(each)])


def _of_joints(
    benchmark: VideoBenchmark, targets: VideoTargets, clip: Clip, found: Iterable[Any]
) -> Counts:
    """How many frames have each joint right, of those but the first."""
    truth = targets.joints(clip)
    right = np.zeros((truth.shape[1], len(benchmark.alphas)), np.int64)
    for matches, true in _beyond_first(zip(found, truth, strict=False)):
        points = np.where(matches.valid[:, None], matches.points, 0)
        right += joint_pck(points, true, benchmark.alphas) & matches.valid[:, None]
    return right, np.full(len(right), len(truth) - 1)


def _beyond_first(items: Iterable[Any]) -> Iterator[Any]:
    return (one for place, one in enumerate(items) if place)
