"""(k) Labels carried to a frame: the dense affinity as published, ours, and memory of a clip."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch.nn import functional as F

from benchmarks.speed.common import in_process, in_turn, ratios, rounded
from benchmarks.speed.propagation_child import clip, objects
from benchmarks.speed.settings import Settings
from probes import Maps
from probes.propagation import LabelPropagator
from probes.propagation.context import Context, Frames

TARGETS = {"ratio": 3, "apart": 1e-3, "peak_mb": 1024, "growth": 1.05}


def measure(settings: Settings) -> dict[str, Any]:
    """Both sides in turn, with few frames in the context, since the dense one takes gigabytes;
    memory of clips, each in a process of its own."""
    order = {"threads": torch.get_num_threads(), "seed": settings.seed}
    shape = settings.by_length([640, 60, 107], [8, 9, 13])
    return {
        "targets": TARGETS,
        "against": _against(shape, settings),
        "whole": in_process("propagation_child", {
            **order, "shape": shape, "frames": settings.by_length(31, 4)}, "propagation"),
        "growth": _growth(order, settings),
    }  # fmt: skip


def dense(
    target: torch.Tensor, sources: torch.Tensor, labels: torch.Tensor, near: torch.Tensor,
    options: LabelPropagator,
) -> torch.Tensor:  # fmt: skip
    """The affinity of a frame with all sites of its context at once, DIFT's way.

    Args:
        target: (h·w, C), of length 1.
        sources: (F, C, h·w), of length 1.
        labels: (K, F·h·w) of the context.
        near: (F, h·w, h·w) 1 within the radius, else 0.
        options: temperature and top_k.

    Returns:
        (K, h·w) labels of the frame.

    Source: Tang et al. 2023, their DAVIS evaluation.
    """
    affinity = torch.bmm(target.expand(len(sources), -1, -1), sources)
    affinity = affinity.div_(options.temperature).exp_().mul_(near)
    affinity = affinity.transpose(2, 1).reshape(-1, len(target))  # (F·h·w, h·w)
    least = affinity.topk(options.top_k, dim=0).values.amin(0)
    affinity[affinity < least] = 0
    affinity /= affinity.sum(0, keepdim=True)
    return labels @ affinity


def within(grid: tuple[int, int], radius: int, count: int) -> torch.Tensor:
    """(F, h·w, h·w) float32: which sites are near which."""
    rows, columns = (torch.from_numpy(one.ravel()) for one in np.mgrid[: grid[0], : grid[1]])
    away = [(one[:, None] - one).abs() <= radius for one in (rows, columns)]
    return (away[0] & away[1]).float().repeat(count, 1, 1)


def _against(shape: list[int], settings: Settings) -> dict[str, Any]:
    """One frame after a context, both ways: seconds, and how far the labels are apart."""
    count, repeats = settings.by_length((4, 3), (3, 2))
    options = settings.by_length(LabelPropagator(), LabelPropagator(radius=2, top_k=4))
    _, h, w = shape
    frames = [torch.from_numpy(one) for one in clip(count + 1, shape, settings.seed)]
    soft = objects((h, w))
    maps = [Maps({"map": one}, (8 * h, 8 * w), (8 * h, 8 * w)) for one in frames]
    carried = [one["labels"] for one in options.propagate_maps(maps, soft)]
    flat = [F.normalize(one.double().flatten(1), dim=0).float() for one in frames]
    sources, near = torch.stack(flat[:-1]), within((h, w), options.radius, count)
    known = torch.cat([one.flatten(1) for one in carried[:-1]], dim=1)
    found: dict[str, torch.Tensor] = {}

    def theirs() -> None:
        found["dense"] = dense(flat[-1].T, sources, known, near, options)

    reader, context = Frames(None, None, "auto"), Context(options.last, options.first)
    for one, labels in zip(maps[:-1], carried, strict=False):
        context.add(reader.read(one), labels.flatten(1).T.contiguous())

    def ours() -> None:
        found["ours"] = options.taken_over(reader.read(maps[-1]), context).T

    seconds = in_turn((theirs, ours), repeats, torch.device("cpu"))
    same = found["dense"].argmax(0) == found["ours"].argmax(0)
    return {
        "shape": shape,
        "context": count,
        "sites": h * w,
        "same_label": int(same.sum()),
        "apart": float((found["dense"] - found["ours"]).abs().max()),
        "dense_seconds": rounded(seconds[0]),
        "seconds": rounded(seconds[1]),
        "ratio": ratios(*seconds),
    }


def _growth(order: dict[str, Any], settings: Settings) -> dict[str, Any]:
    """Peak memory by the length of a clip."""
    shape, counts = settings.by_length(([64, 30, 54], (40, 160)), ([8, 6, 8], (30, 40)))
    runs = [in_process("propagation_child", {**order, "shape": shape, "frames": count},
                       "propagation") for count in counts]  # fmt: skip
    return {"runs": runs, "memory_ratio": round(runs[-1]["peak_mb"] / runs[0]["peak_mb"], 4)}
