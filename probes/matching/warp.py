"""What matches carry from one picture to another."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch

from probes.axes import Axis
from probes.lazy import as_numpy
from probes.maps import Maps
from probes.matching.base import Matcher
from probes.matching.flow import Flow


def warp(labels: Any, source: Maps, target: Maps, matcher: Matcher, *, stride: int | str = 1,
         check: Any = None, fill: float = 0) -> np.ndarray:  # fmt: skip
    """Carry what is known of the source's pixels to every pixel of the target.

    Every pixel of the target is matched in the source and takes what stands there: with a picture
    and its mask that segments the target in context. Labels and masks are read at the nearest
    pixel, soft labels between pixels.

    Args:
        labels: (H, W) whole numbers or bools; or (H, W, K) or (H·W, K), K masks or soft labels;
            of the upright source.
        source, target: maps of the same cells.
        matcher: finds the target's pixels in the source.
        stride: of the target's pixels that are matched, as `Matcher.flow` takes it; those between
            take the nearest one's labels, soft labels are interpolated.
        check: as `Matcher.match` takes it.
        fill: what pixels get whose match is not valid, or that the target's input does not show.

    Returns:
        (H', W'), (H', W', K) or (H'·W', K) as `labels` are, in their dtype (half precision: in
        float32).

    Raises:
        ValueError: labels of another shape, or as `Matcher.flow`.
    """
    labels = np.asarray(as_numpy(labels))
    known, soft = _as_layers(labels, source.size), labels.dtype.kind == "f"
    flow = matcher.flow(target, source, stride, check=check)
    found = _looked_up(known, flow.points.reshape(-1, 2), soft)
    found[~flow.valid.ravel()] = fill
    whole = _spread(found.reshape(*flow.valid.shape, -1), flow, target.size, soft)
    across, down = target.shown()
    whole[~(down[:, None] & across)] = fill
    if labels.shape[:2] == tuple(source.size):
        return whole.reshape(*target.size, *labels.shape[2:])
    return whole.reshape(-1, labels.shape[1])


def _as_layers(labels: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """(H, W, K) of any of the layouts."""
    height, width = size
    pixels = labels.ndim in (2, 3) and labels.shape[:2] == (height, width)
    if not pixels and (labels.ndim != 2 or len(labels) != height * width):
        raise ValueError(
            f"labels have shape {labels.shape}; expected ({height}, {width}), ({height}, {width}, "
            f"K) or ({height * width}, K), of every pixel of the source"
        )
    return labels.reshape(height, width, -1)


def _looked_up(known: np.ndarray, points: np.ndarray, soft: bool) -> np.ndarray:
    """(n, K) of an (H, W, K) picture at points."""
    size = known.shape[:2]
    if soft:
        picture = Maps({"labels": known.transpose(2, 0, 1)}, size, size)
        return np.array(picture.sample("labels", points)[0], known.dtype)
    column, row = (
        np.clip(np.rint(line), 0, side - 1).astype(int)
        for line, side in zip(points.T, size[::-1], strict=True)
    )
    return known[row, column]


def _spread(found: np.ndarray, flow: Flow, size: tuple[int, int], soft: bool) -> np.ndarray:
    """(H, W, K) of what is known at a flow's places."""
    pixels = [np.arange(side, dtype=np.float64) for side in size]
    if not soft:
        sides = zip(pixels, (flow.y, flow.x), strict=True)
        rows, columns = (np.abs(line[:, None] - at).argmin(1) for line, at in sides)
        return found[rows[:, None], columns]
    for side, (line, places) in enumerate(zip(pixels, (flow.y, flow.x), strict=True)):
        order = np.argsort(places)  # of a mirrored picture's sites
        at = np.interp(line, places[order], order.astype(np.float64))
        values = torch.from_numpy(np.ascontiguousarray(np.moveaxis(found, side, 0)))
        axis = Axis(at, len(places), values)
        found = np.moveaxis(axis.read(values, 0, len(axis)).numpy(), 0, side)
    return np.array(found)
