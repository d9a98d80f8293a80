"""What a fitted head says of test pictures, counted."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import numpy as np

from benchmarks.tasks.dense.file import DenseBenchmark
from benchmarks.tasks.dense.systems import Given
from probes.metrics import BoundaryF, Confusion, DepthErrors, RiskCoverage

ERRORS = ("abs rel", "RMSE", "log10", "SILog", "delta 1", "delta 2", "delta 3")
"""Of depth, the one that tables lead with first."""


def depth_counter(benchmark: DenseBenchmark) -> DepthErrors:
    """By the benchmark's cap, crop and alignment."""
    return DepthErrors(cap=benchmark.cap or None, min_depth=benchmark.min_depth,
                       crop=benchmark.crop or None, align=benchmark.align or None)  # fmt: skip


def counted(
    benchmark: DenseBenchmark, given: Given, found: Iterable[np.ndarray], rows: np.ndarray,
    shown: np.ndarray, boundary: bool,
) -> dict[str, Any]:  # fmt: skip
    """Count what was found of test pictures.

    Args:
        found: (H, W) of each of `rows`.
        shown: places in `rows` of which the predictions are returned too.
        boundary: whether contours are compared.

    Returns:
        `values`, (P, 4, K) or (P, M) as lists; `boundary`, F of contours, or None; `shown`.
    """
    kept: list[np.ndarray] = []
    wanted = set(shown.tolist())
    if given.kind == "depth":
        errors = depth_counter(benchmark)
        for place, (row, one) in enumerate(zip(rows, found, strict=True)):
            errors.update(one, given.truths[int(row)])
            kept += [np.asarray(one, np.float32)] if place in wanted else []
        values = np.stack([errors.by_picture(name) for name in ERRORS], 1)
        return {"values": values.tolist(), "boundary": None, "shown": kept}
    classes = len(given.classes)
    confusion = Confusion(classes, given.ignore)
    edges = BoundaryF(classes, given.ignore) if boundary else None
    for place, (row, one) in enumerate(zip(rows, found, strict=True)):
        truth = given.truths[int(row)]
        confusion.update(one, truth)
        if edges is not None:
            edges.update(one, truth)
        kept += [np.asarray(one, np.int32)] if place in wanted else []
    return {"values": confusion.counts.tolist(), "shown": kept,
            "boundary": None if edges is None else edges.compute()}  # fmt: skip


def uncertainty_of(
    given: Given, head: Any, single: Any, rows: np.ndarray, shown: np.ndarray
) -> tuple[dict[str, Any], list[np.ndarray]]:
    """What a head's uncertainty tells of its errors, and its maps of pictures that are shown.

    Three orders of the same pixels, with the same errors: by the head's own uncertainty, by
    1 − the largest share of one member trained alone, and at random.

    Args:
        single: one member, fitted; None where the head has none.
        shown: places in `rows` of the maps.
    """
    classes, maps, wanted = len(given.classes), [], set(shown.tolist())
    confusion, own = Confusion(classes, given.ignore), RiskCoverage()
    other = None if single is None else RiskCoverage()
    cells, names = given.cells[rows], [given.groups[int(row)] for row in rows]
    several = len(set(names)) > 1  # pictures are drawn anew where all are of one group
    theirs = iter(()) if single is None else iter(single.predict_proba(cells))
    said = zip(rows, names, head.predict_uncertain(cells), strict=True)
    for place, (row, name, (found, unsure)) in enumerate(said):
        truth, group = given.truths[int(row)], name if several else None
        known, wrong = truth != given.ignore, found != truth
        quality = confusion.update(found, truth, group)
        own.update(unsure, wrong, known=known, group=group, quality=quality)
        if other is not None:
            other.update(1 - next(theirs).max(0), wrong, known=known, group=group)
        maps += [np.asarray(unsure, np.float32)] if place in wanted else []
    told = {name: own.compute()[name] for name in ("aurc", "random", "oracle", "gain")}
    if len(own.groups.names) > 1:
        told |= {"gain_ends": _ends(own.interval("gain")), "ranks": _ends(own.ranks())}
        if other is not None:
            told["against_single"] = _ends(own.interval("aurc", other=other))
    if other is not None:
        told["single"] = other.compute()["aurc"]
    return told, maps


def _ends(one: Any) -> dict[str, float]:
    return {"value": float(one.value), "low": float(one.low), "high": float(one.high)}
