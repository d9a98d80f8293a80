"""Rows without a model: each gives what it found of pairs, counted as the models' is."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from benchmarks.features import Pictures
from benchmarks.searching import same_place
from benchmarks.tasks.matching.sets import opened
from benchmarks.tasks.rows import mean_places, patch_cells, sizes_of
from diffeat.errors import SpecError
from diffeat.targets.pairs import PairTargets, Truth
from probes.matching import NearestMatcher
from probes.metrics.pck import PCK
from probes.pairs import Pairs


def patch_row(targets: PairTargets, pictures: Pictures, side: int, **counted: Any) -> PCK:
    """Raw pixels, by patches of inputs of side × side, through the models' read-out."""
    source = next(one for one in pictures.sources if one.name == targets.name)
    cells = patch_cells(source, (side, side))
    first, second = targets.rows(source.ids)
    truths = [targets.truth(pair) for pair in range(len(targets))]
    pairs = Pairs(first, second, [truth.source_points for truth in truths])
    found = NearestMatcher().match_pairs(cells, pairs)
    return _counted(targets, (one.points for one in found), cells.sizes[second], **counted)


def same_place_row(targets: PairTargets, **counted: Any) -> PCK:
    """Every point where it lies in the source, squashed to the target's size."""
    sizes = _sizes(targets)
    both = zip(targets.source, targets.target, strict=True)
    found = (same_place(targets.truth(pair).source_points, sizes[a], sizes[b])
             for pair, (a, b) in enumerate(both))  # fmt: skip
    return _counted(targets, found, [sizes[name] for name in targets.target], **counted)


def mean_place_row(name: str, reported: Sequence[PairTargets], **counted: Any) -> dict[str, PCK]:
    """Every point at the mean place of its name among other pairs: the floor of what is trained.

    Args:
        name: of the pairs with the mean places.
        reported: pairs that are counted; those with names that have no mean place are left out.
    """
    others = opened(name)
    places = mean_places(others, _sizes(others))
    found = {}
    for targets in reported:
        if targets.name == name:  # its own mean
            continue
        size_of = _sizes(targets)
        sizes = [size_of[picture] for picture in targets.target]
        points = (_at(places, targets.categories[pair], targets.truth(pair), size)
                  for pair, size in enumerate(sizes))  # fmt: skip
        found[targets.name] = _counted(targets, points, sizes, **counted)
    return found


def _at(places: dict[Any, np.ndarray], category: str, truth: Truth, size: np.ndarray) -> np.ndarray:
    """(n, 2) mean places in pixels of a picture of a size."""
    keys = [(category, name) for name in truth.names]
    if lacking := [key for key in keys if key not in places]:
        raise SpecError(f"key point {lacking[0][1]!r} of {lacking[0][0]!r} has no mean place; "
                        "expected pairs with the same points")  # fmt: skip
    return np.array([places[key] for key in keys]).reshape(-1, 2) * size[::-1] - 0.5


def _sizes(targets: PairTargets) -> dict[str, np.ndarray]:
    source = targets.pictures()
    return dict(zip(source.ids, sizes_of(source), strict=True))


def _counted(
    targets: PairTargets, found: Any, sizes: Sequence[np.ndarray], *, alphas: Any, conventions: Any
) -> PCK:
    size_of = dict(zip(targets.target, sizes, strict=True))
    return count_points(PCK(alphas, conventions), targets, found, size_of)


def count_points(pck: PCK, targets: PairTargets, found: Any, sizes: Mapping[str, Any]) -> PCK:
    """Count what was found of all pairs.

    Args:
        found: (n, 2) x, y of each pair, in order.
        sizes: picture id → H, W in pixels.
    """
    for pair, points in enumerate(found):
        truth = targets.truth(pair)
        pck.update(
            points, truth.target_points, size=tuple(sizes[targets.target[pair]]),
            box=truth.target_box, picture=targets.target[pair],
            category=targets.categories[pair], groups=targets.groups[pair],
        )  # fmt: skip
    return pck
