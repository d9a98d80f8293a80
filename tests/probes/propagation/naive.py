"""Label propagation as its definition says: every pair of sites, float64, site by site."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np


def normalised(maps: np.ndarray) -> np.ndarray:
    """(C, h, w) → the same, sites of length 1, zero vectors as they are."""
    maps = maps.astype(np.float64)
    lengths = np.sqrt((maps**2).sum(0))
    return maps / np.where(lengths > 0, lengths, 1)


def taken_over(
    target: np.ndarray,
    sources: Sequence[np.ndarray],
    labels: Sequence[np.ndarray],
    radii: Sequence[int | None],
    k: int,
    temperature: float,
) -> np.ndarray:
    """(K, h, w) labels of a frame, of normalised features (C, h, w) and labels (K, h, w).

    `radii`: of each source; None is everywhere.
    """
    _, h, w = target.shape
    found = np.zeros((len(labels[0]), h, w))
    rows, columns = np.mgrid[:h, :w]
    for y in range(h):
        for x in range(w):
            away = np.maximum(abs(rows - y), abs(columns - x))
            cosines, near = [], []
            for source, label, radius in zip(sources, labels, radii, strict=True):
                there = away <= (np.inf if radius is None else radius)
                cosines.append(target[:, y, x] @ source[:, there])
                near.append(label[:, there])
            similar = np.concatenate(cosines)
            best = np.argsort(-similar, kind="stable")[:k]
            weights = np.exp(similar[best] / temperature)
            found[:, y, x] = np.concatenate(near, 1)[:, best] @ weights / weights.sum()
    return found


def propagated(
    frames: Sequence[np.ndarray],
    labels: np.ndarray,
    *,
    last: int,
    first: bool,
    radius: int | None,
    k: int,
    temperature: float,
    free_first: bool = False,
) -> list[np.ndarray]:
    """(K, h, w) float64 soft labels of every frame of (C, h, w) features."""
    features, soft = [normalised(maps) for maps in frames], [labels.astype(np.float64)]
    for place in range(1, len(frames)):
        used = list(range(max(0, place - last), place))
        if first:
            used = [0, *(one for one in range(max(1, place - last), place))]
        radii = [None if free_first and one == 0 else radius for one in used]
        soft.append(taken_over(features[place], [features[one] for one in used],
                               [soft[one] for one in used], radii, k, temperature))  # fmt: skip
    return soft


def bilinear(values: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """(h, w) → (H, W), pixel centres at whole numbers, clamped: the same half-pixel rule."""
    lines = []
    for side, cells in zip(size, values.shape, strict=True):
        at = np.clip((np.arange(side) + 0.5) * cells / side - 0.5, 0, cells - 1)
        lines.append(np.stack([np.maximum(1 - abs(at - cell), 0) for cell in range(cells)], 1))
    return lines[0] @ values @ lines[1].T


def hard(soft: np.ndarray, numbers: Sequence[int], size: tuple[int, int]) -> tuple[np.ndarray, ...]:
    """(H, W) numbers, and by how much the best leads."""
    whole = np.stack([bilinear(one, size) for one in soft])
    for one in whole:
        if one.max() > one.min():
            one -= one.min()
            one /= one.max()
    order = np.sort(whole, 0)
    return np.array(numbers)[whole.argmax(0)], order[-1] - order[-2]
