"""(h) A whole surface of linear probes at once, against scikit-learn cell by cell."""

from __future__ import annotations

import os
import time
import warnings
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
from sklearn.exceptions import ConvergenceWarning
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from threadpoolctl import threadpool_limits

import diffeat
from benchmarks.searching import PENALTIES
from benchmarks.speed.common import rounded
from benchmarks.speed.settings import Settings
from diffeat.errors import SourceError
from diffeat.store import FeatureStore
from probes import ManyLogistic

MODEL = "unet-cifar10"
TIMESTEPS, BLOCKS = (5, 20, 60, 100, 200, 300), ("mid", "up.**")
TRAINING, VALIDATION = 10_000, 2_500
TARGETS = {"ratio": 10.0, "points": 0.5}
ITERATIONS = 1000  # of scikit-learn, so that few fits are cut short

Cells = dict[tuple[str, float], tuple[np.ndarray, np.ndarray]]
"""(block, t) → (N, D) training and (M, D) validation features, float32."""


def measure(settings: Settings) -> dict[str, Any]:
    """Fit the surface of 6 t × 12 blocks both ways, with one C and with a path of five.

    Both get the same float32 arrays in memory; scikit-learn gets one thread or all, whichever
    is faster for it. On the path each cell's C is chosen on validation; scikit-learn fits every
    C from zero, ours goes on from the stronger penalty and stops where validation falls by a
    standard error. The accuracies are on validation, at the C chosen there. Both end a fit at a
    gradient of 1e-4, their default.
    """
    held = settings.by_length(VALIDATION, 50)
    with ExitStack() as stack:
        path = settings.features
        if path is None:
            folder = stack.enter_context(TemporaryDirectory())
            try:
                path = _extracted(settings, held, Path(folder) / "features.h5")
            except SourceError as error:
                return {"left_out": f"no CIFAR-10 here ({error})"}
        store = stack.enter_context(FeatureStore(path))
        order = np.random.default_rng(settings.seed).permutation(len(store))
        test, train = np.split(order[: held + settings.by_length(TRAINING, 100)], [held])
        cells = {
            (block, t): tuple(store[block, t][:][rows].astype(np.float32) for rows in (train, test))
            for block in store.blocks
            for t in store.timesteps
        }
        labels = store.labels[train], store.labels[test]
        model, spec = store.model["name"], store.spec.to_dict()
    return {
        "model": model,
        "spec": spec,
        "cells": len(cells),
        "widths": sorted({X.shape[1] for X, _ in cells.values()}),
        "training": len(train),
        "validation": len(test),
        "targets": TARGETS,
        "runs": [race(cells, labels, penalties) for penalties in ((1.0,), PENALTIES)],
    }


def _extracted(settings: Settings, held: int, path: Path) -> Path:
    """The surface's features, pooled to vectors."""
    source = diffeat.open_source(settings.by_length("cifar10", "digits"))
    source = source.limit(held + settings.by_length(TRAINING, 100), settings.seed)
    backbone = diffeat.load(settings.model or MODEL, settings.device)
    steps = settings.by_length(TIMESTEPS, TIMESTEPS[:2])
    spec = diffeat.ExtractSpec(steps, BLOCKS, pool="1x1", seed=settings.seed)
    diffeat.extract_to_file(backbone, source, spec, path)
    return path


def race(
    cells: Cells, labels: tuple[np.ndarray, np.ndarray], penalties: Sequence[float]
) -> dict[str, Any]:
    """Seconds and accuracies of both sides, and their differences cell by cell."""
    began = time.perf_counter()
    ours = _ours(cells, labels, penalties)
    seconds = time.perf_counter() - began
    threads = _fewest_seconds(next(iter(cells.values())), labels)
    began = time.perf_counter()
    with threadpool_limits(threads):
        theirs = {key: _theirs(*cell, labels, penalties) for key, cell in cells.items()}
    seconds_theirs = time.perf_counter() - began
    apart = [100 * (ours[key] - theirs[key]) for key in cells]
    return {
        "penalties": list(penalties),
        "seconds": rounded([seconds])[0],
        "sklearn_seconds": rounded([seconds_theirs])[0],
        "sklearn_threads": threads or os.cpu_count(),
        "ratio": round(seconds_theirs / seconds, 3),
        "accuracy": float(np.mean(list(ours.values()))),
        "sklearn_accuracy": float(np.mean(list(theirs.values()))),
        "points_apart": {"mean": float(np.mean(apart)), "largest": float(np.max(np.abs(apart)))},
    }


def _fewest_seconds(cell: tuple[np.ndarray, np.ndarray], labels) -> int | None:
    """1, or None for all: the number of threads with which scikit-learn fits a cell faster.

    Its small products lose more than they win by being cut up, on some machines.
    """
    taken = {}
    for threads in (1, None):
        with threadpool_limits(threads):
            began = time.perf_counter()
            _theirs(*cell, labels, (1.0,))
            taken[threads] = time.perf_counter() - began
    return min(taken, key=taken.get)


def _ours(cells: Cells, labels, penalties: Sequence[float]) -> dict:
    """Validation accuracies of all cells, those of equal D at once."""
    found = {}
    for width in {X.shape[1] for X, _ in cells.values()}:
        keys = [key for key, (X, _) in cells.items() if X.shape[1] == width]
        train, held = zip(*(cells[key] for key in keys), strict=True)
        probe = ManyLogistic(penalties).fit(train, labels[0], held, labels[1])
        found |= dict(zip(keys, probe.validation_.tolist(), strict=True))
    return found


def _theirs(X: np.ndarray, held: np.ndarray, labels, penalties: Sequence[float]) -> float:
    """Validation accuracy of one cell."""
    scores = []
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        for C in penalties:
            probe = make_pipeline(
                StandardScaler(), LogisticRegression(C=C, max_iter=ITERATIONS)
            ).fit(X, labels[0])
            scores.append(probe.score(held, labels[1]))
    return max(scores)
