"""Heads of a recipe: trained on training features, chosen on validation, tested once."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, replace
from functools import partial
from typing import Any

import numpy as np

import probes
from benchmarks.adapted import ADAPTED, adapted, adapted_options, train_adapted
from benchmarks.bench import Bench, Kind, Trained, only
from benchmarks.features import averaged
from benchmarks.machine import peak_memory_mb, reset_peak_memory
from benchmarks.recipes import System
from diffeat.errors import SpecError
from diffeat.hashing import fingerprint
from diffeat.search import TEST, TRAIN, VALIDATION, Classification, greedy_sets
from diffeat.search.tasks import CellKey, bytes_fingerprint
from probes.network import NetworkProbe
from probes.training import mirror

PARTS = {"training": TRAIN, "validation": VALIDATION, "test": TEST}
AUGMENTS = {"mirror": mirror}
NEEDED = frozenset(("seed", "validation", "test", "seconds", "peak_memory_mb"))


def run_systems(bench: Bench, tell: Callable[[str], None]) -> list[dict]:
    """Train the systems of a recipe; what is finished is read from the journal.

    Every head is fitted on the training part alone, and what it chooses (C, epoch, set) is
    chosen on validation; nothing is refitted, so that all heads have seen the same pictures.

    Returns:
        A dict per system: its fields, the cells, `runs` (one per seed), and the means
        `validation` and `test`.
    """
    found = []
    for system in bench.recipe.systems:
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
    task = bench.task if system.head == "greedy" else bench.stored  # averaged, or as stored
    made_of = (task.identity, task.labels_fingerprint, bench.recipe.penalties)
    if system.head in ADAPTED:
        made_of += (bench.recipe.model, sorted(adapted_options(bench.recipe).items()))
    parts = bytes_fingerprint(np.asarray(bench.task.part, np.int64))
    arguments = _keyed_arguments(system)
    return fingerprint("system", *made_of, parts, system.head, arguments, cells, seed)


def _keyed_arguments(system: System) -> dict[str, Any]:
    """Arguments as a key has them: `qkv_bias` is told where it is false.

    Attention had that bias before there was an argument for it, so that a key without it, as
    those of older journals are, means a head with it.
    """
    values = dict(system.arguments)
    if system.head in ADAPTED:
        if table := values.get("attention"):
            values["attention"] = _without_true({"qkv_bias": False, **table}, "qkv_bias")
    elif system.head not in ("linear", "greedy"):
        head = _estimator(system.head)(**_arguments(values))
        if hasattr(head, "qkv_bias"):
            values = _without_true({**values, "qkv_bias": head.qkv_bias}, "qkv_bias")
    return values


def _without_true(values: dict[str, Any], name: str) -> dict[str, Any]:
    return {key: value for key, value in values.items() if key != name or value is not True}


def _timed(bench: Bench, system: System, cells: Sequence[CellKey], seed: int) -> Trained:
    reset_peak_memory()
    began = time.monotonic()
    kind = _kind(system)
    try:
        run = kind(bench, cells, dict(system.arguments), seed)
    except (ValueError, TypeError) as error:  # of a head: say which
        raise SpecError(f"system {system.name!r}: {error}") from error
    seconds = round(time.monotonic() - began, 2)
    return {**run, "seconds": seconds, "peak_memory_mb": peak_memory_mb()}


def check_system(system: System) -> None:
    """SpecError, before anything is computed, for a head or arguments that cannot be meant."""
    if system.head == "linear":
        wrong = set(system.arguments) - {"pool"}
    elif system.head == "greedy":
        wrong = set(system.arguments) ^ {"most"}
    else:
        try:
            _estimator(system.head)(**_arguments(system.arguments))
        except (ValueError, TypeError) as error:
            raise SpecError(f"system {system.name!r}: {error}") from error
        return
    if wrong:
        expected = "pool or nothing" if system.head == "linear" else "most"
        raise SpecError(
            f"system {system.name!r}: arguments {', '.join(system.arguments) or 'none'} of a "
            f"{system.head} probe; expected {expected}"
        )


def _estimator(head: str) -> Callable[..., Any]:
    """What makes the estimator; a function of the recipe's arguments."""
    if head in ADAPTED:
        return partial(adapted, head, None, "mid", 0)
    heads = [name for name in probes.__all__ if name.endswith("Probe")]
    if head in heads:
        return getattr(probes, head)
    if head in probes.PRESETS:
        return partial(probes.preset, head)
    known = ["linear", "greedy", *ADAPTED, *heads, *probes.PRESETS]
    raise ValueError(f"head {head!r} is unknown; expected one of {', '.join(known)}")


def _arguments(values: dict[str, Any]) -> dict[str, Any]:
    """Arguments of an estimator; an augmentation is told by its name."""
    name = values.get("augment")
    if name is None:
        return dict(values)
    if name not in AUGMENTS:
        raise ValueError(f"augment {name!r}; expected {', '.join(AUGMENTS)}, or none")
    return {**values, "augment": AUGMENTS[name]}


def _kind(system: System) -> Kind:
    if system.head in ("linear", "greedy"):
        return _linear if system.head == "linear" else _greedy
    if system.head in ADAPTED:
        return partial(train_adapted, system.head)
    return partial(_probe, _estimator(system.head))


def _linear(bench: Bench, cells: Sequence[CellKey], arguments: dict, seed: int) -> Trained:
    """Logistic regression on a cell, `pool` (a side) averaged before; no randomness in it."""
    cell = only(cells)
    parts = {part: bench.maps(cell, part).astype(np.float32) for part in PARTS.values()}
    if parts[TRAIN].ndim == 4:
        side = arguments.pop("pool", parts[TRAIN].shape[2])
        parts = {part: averaged(maps, side)[:] for part, maps in parts.items()}
    score = bench.score
    X, y = parts[TRAIN], bench.labels(TRAIN)
    [outcome] = score.fit(X[None], y, parts[VALIDATION][None], bench.labels(VALIDATION))
    test = score.test(X, y, parts[TEST], bench.labels(TEST), outcome.setting)
    return {
        "validation": outcome.validation,
        "test": test,
        "setting": outcome.setting,
        "parameters": (X.shape[1] + 1) * bench.task.classes,
    }


def _greedy(bench: Bench, cells: Sequence[CellKey], arguments: dict, seed: int) -> Trained:
    """Linear probe of a set of cells that grows by the one that helps most."""
    task, score = replace(bench.task, cells=tuple(cells)), bench.score
    sets = greedy_sets(Classification(task, score), bench.journal, test=False, **arguments)
    X, Xt = (
        np.concatenate([task.matrix(cell, task.part == part) for cell in sets.best.cells], axis=1)
        for part in (TRAIN, TEST)
    )
    labels = bench.labels(TRAIN), bench.labels(TEST)
    return {
        "validation": sets.best.validation,
        "test": score.test(X, labels[0], Xt, labels[1], sets.best.setting),
        "setting": sets.best.setting,
        "set": sets.best.cells,
        "parameters": (X.shape[1] + 1) * task.classes,
    }


def _probe(
    make: Callable[..., Any], bench: Bench, cells: Sequence[CellKey], arguments: dict, seed: int
) -> Trained:
    """An estimator of `probes`."""
    head = make(**_arguments(arguments))
    if "random_state" in head.get_params():
        head.set_params(random_state=seed)
    head.set_params(device=bench.device)
    given = {part: _inputs(head, bench, cells, part) for part in PARTS.values()}
    X, y, options = given[TRAIN]
    if isinstance(head, NetworkProbe):
        held, held_labels, held_options = given[VALIDATION]
        options = {**options, **{f"{k}_validation": v for k, v in held_options.items()}}
        head.fit(X, y, held, held_labels, **options)
    else:
        head.fit(X, y, **options)
    run = {
        name: head.score(rows, labels, **more)
        for name, part in PARTS.items()
        if part != TRAIN
        for rows, labels, more in [given[part]]
    }
    if isinstance(head, probes.NoiseConditionalProbe):
        rows, labels, more = given[TEST]
        run["test_by_t"] = {
            str(t): head.score(rows[more["t"] == t], labels[more["t"] == t], t=t)
            for t in np.unique(more["t"]).tolist()
        }
    if isinstance(head, NetworkProbe):
        run["parameters"] = sum(weight.numel() for weight in head.module_.parameters())
        run["best_epoch"], run["history"] = head.best_epoch_, head.history_
    return run


def _inputs(head: Any, bench: Bench, cells: Sequence[CellKey], part: int):
    """(X, labels, further arguments) of one part, as the head takes them."""
    y = bench.labels(part)
    if isinstance(head, probes.DifFormerProbe):
        return {cell: bench.maps(cell, part) for cell in cells}, y, {}
    if isinstance(head, probes.NoiseConditionalProbe):
        X = np.concatenate([bench.maps(cell, part) for cell in cells])
        t = np.repeat([float(t) for _, t in cells], len(y))
        return X, np.tile(y, len(cells)), {"t": t}
    maps = bench.maps(only(cells), part)
    if isinstance(head, NetworkProbe):
        return maps, y, {}
    return maps.reshape(len(maps), -1).astype(np.float32), y, {}  # heads of vectors
