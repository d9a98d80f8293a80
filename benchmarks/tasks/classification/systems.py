"""Systems of a benchmark: trained on training features, chosen on validation, tested once."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import asdict
from typing import Any

import numpy as np

from benchmarks.machine import peak_memory_mb, reset_peak_memory
from benchmarks.searching import CellKey, bytes_fingerprint
from benchmarks.tasks.classification.adapted import adapted_options
from benchmarks.tasks.classification.bench import Bench, Trained
from benchmarks.tasks.classification.file import System
from benchmarks.tasks.classification.heads import PARTS, head_of
from diffeat.errors import SpecError
from diffeat.hashing import fingerprint

NEEDED = frozenset(("seed", "validation", "test", "seconds", "peak_memory_mb"))


def run_systems(bench: Bench, tell: Callable[[str], None]) -> list[dict[str, Any]]:
    """Train the systems of a benchmark; what is finished is read from the journal.

    Every head is fitted on the training part alone, and what it chooses (C, epoch, set) is
    chosen on validation; nothing is refitted, so that all heads have seen the same pictures.

    Returns:
        A dict per system: its fields, the cells, `runs` (one per seed), and the means
        `validation` and `test`.
    """
    found = []
    for system in bench.benchmark.systems:
        cells = bench.cells_of(system)
        runs = []
        for seed in system.seeds:
            key = _key(bench, system, cells, seed)
            run = bench.journal.read(system.head, key, NEEDED.issubset)
            if run is None:
                tell(f"{system.name}, seed {seed}")
                run = {"seed": seed, **_timed(bench, system, cells, seed)}
                run = bench.journal.write(system.head, key, run)
            runs.append(run)
        means = {part: float(np.mean([run[part] for run in runs])) for part in PARTS if part in run}
        found.append({**asdict(system), "cells": cells, "runs": runs, **means})
    return found


def _key(bench: Bench, system: System, cells: Sequence[CellKey], seed: int) -> str:
    """Hash of all that a training depends on, but for the versions of packages."""
    head = head_of(system)
    task = bench.task if head.sees == "averaged" else bench.stored
    made_of = (task.identity, task.labels_fingerprint, bench.benchmark.penalties)
    if head.sees == "pictures":
        made_of += (bench.benchmark.model, sorted(adapted_options(bench.benchmark).items()))
    parts = bytes_fingerprint(np.asarray(bench.task.part, np.int64))
    arguments = head.keyed(dict(system.arguments))
    return fingerprint("system", *made_of, parts, system.head, arguments, cells, seed)


def _timed(bench: Bench, system: System, cells: Sequence[CellKey], seed: int) -> Trained:
    reset_peak_memory()
    began = time.monotonic()
    try:
        run = head_of(system).train(bench, cells, dict(system.arguments), seed)
    except (ValueError, TypeError) as error:  # of a head: say which
        raise SpecError(f"system {system.name!r}: {error}") from error
    seconds = round(time.monotonic() - began, 2)
    return {**run, "seconds": seconds, "peak_memory_mb": peak_memory_mb()}
