"""The heads that a benchmark may name, in one table: how each is made, given cells, and trained."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from types import MappingProxyType
from typing import Any

import numpy as np

import probes
from benchmarks.features import averaged
from benchmarks.searching import TEST, TRAIN, VALIDATION, CellKey, greedy
from benchmarks.tasks.classification.adapted import adapted, frozen, train_adapted
from benchmarks.tasks.classification.bench import Bench, Trained, only
from benchmarks.tasks.classification.file import System
from diffeat.adapt import DifFeed, FineTuning
from diffeat.errors import SpecError
from diffeat.progress import counted
from probes.aggregate import HyperfeatureMixer, MixerProbe
from probes.training import mirror

PARTS = {"training": TRAIN, "validation": VALIDATION, "test": TEST}
AUGMENTS = {"mirror": mirror}
Arguments = dict[str, Any]
Inputs = tuple[Any, np.ndarray, dict[str, Any]]
"""(X, labels, further arguments of fit and score)."""


@dataclass(frozen=True)
class Head:
    """One kind of head.

    Attributes:
        train: (bench, cells, arguments, seed) → what came out.
        check: ValueError or TypeError for arguments that it does not take.
        keyed: arguments → those that name its finished work.
        sees: the features that it is given: "stored", "averaged" as the surface has them, or
            "pictures" where it is trained through the backbone.
    """

    train: Callable[[Bench, Sequence[CellKey], Arguments, int], Trained]
    check: Callable[[Arguments], Any]
    keyed: Callable[[Arguments], Arguments] = dict
    sees: str = "stored"


def head_of(system: System) -> Head:
    """The head of a system; SpecError where there is none of that name."""
    if system.head not in HEADS:
        raise SpecError(
            f"system {system.name!r}: head {system.head!r} is unknown; expected one of "
            f"{', '.join(HEADS)}"
        )
    return HEADS[system.head]


def check_system(system: System) -> None:
    """SpecError, before anything is computed, for a head or arguments that cannot be meant."""
    try:
        head_of(system).check(dict(system.arguments))
    except (ValueError, TypeError) as error:
        if isinstance(error, SpecError):
            raise
        raise SpecError(f"system {system.name!r}: {error}") from error


# --- the linear probe of all tables, on a cell and on sets of cells ----------------------------


def linear(bench: Bench, cells: Sequence[CellKey], arguments: Arguments, seed: int) -> Trained:
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


def greedy_set(bench: Bench, cells: Sequence[CellKey], arguments: Arguments, seed: int) -> Trained:
    """Linear probe of a set of cells that grows by the one that helps most."""
    task, score = bench.task, bench.score
    best = greedy(task, cells, score, bench.journal, **arguments).best
    X, Xt = (
        np.concatenate([task.matrix(cell, task.part == part) for cell in best.cells], axis=1)
        for part in (TRAIN, TEST)
    )
    labels = bench.labels(TRAIN), bench.labels(TEST)
    return {
        "validation": best.validation,
        "test": score.test(X, labels[0], Xt, labels[1], best.setting),
        "setting": best.setting,
        "set": best.cells,
        "parameters": (X.shape[1] + 1) * task.classes,
    }


def _only_arguments(head: str, allowed: set[str], needed: set[str], arguments: Arguments) -> None:
    if set(arguments) - allowed or needed - set(arguments):
        expected = ", ".join(sorted(needed)) or f"{', '.join(sorted(allowed))} or nothing"
        raise ValueError(
            f"arguments {', '.join(arguments) or 'none'} of a {head} probe; expected {expected}"
        )


# --- estimators of `probes` --------------------------------------------------------------------


def vectors(bench: Bench, cells: Sequence[CellKey], part: int) -> Inputs:
    """(n, D) float32 of one cell, maps flattened."""
    maps = bench.maps(only(cells), part)
    return maps.reshape(len(maps), -1).astype(np.float32), bench.labels(part), {}


def maps(bench: Bench, cells: Sequence[CellKey], part: int) -> Inputs:
    """(n, C, h, w) of one cell."""
    return bench.maps(only(cells), part), bench.labels(part), {}


def many_cells(bench: Bench, cells: Sequence[CellKey], part: int) -> Inputs:
    """Cell → (n, C, h, w)."""
    return {cell: bench.maps(cell, part) for cell in cells}, bench.labels(part), {}


def noise_levels(bench: Bench, cells: Sequence[CellKey], part: int) -> Inputs:
    """(T·n, C, h, w), the cells one after the other, each row with its t."""
    y = bench.labels(part)
    X = np.concatenate([bench.maps(cell, part) for cell in cells])
    t = np.repeat([float(t) for _, t in cells], len(y))
    return X, np.tile(y, len(cells)), {"t": t}


def train_vectors(
    make: Callable[..., Any], bench: Bench, cells: Sequence[CellKey], arguments: Arguments,
    seed: int,
) -> Trained:  # fmt: skip
    """A head of vectors, fitted on training alone."""
    head = _made(make, arguments, bench.device, seed)
    X, y, _ = vectors(bench, cells, TRAIN)
    head.fit(X, y)
    return {
        name: head.score(*vectors(bench, cells, part)[:2])
        for name, part in PARTS.items()
        if part != TRAIN
    }


def train_network(
    make: Callable[..., Any], give: Callable[..., Inputs], bench: Bench, cells: Sequence[CellKey],
    arguments: Arguments, seed: int,
) -> Trained:  # fmt: skip
    """A head that is a network: trained epoch by epoch, the best one chosen on validation."""
    head = _made(make, arguments, bench.device, seed)
    X, y, options = give(bench, cells, TRAIN)
    held, held_labels, held_options = give(bench, cells, VALIDATION)
    options = {**options, **{f"{name}_validation": one for name, one in held_options.items()}}
    head.fit(X, y, held, held_labels, **options)
    rows, labels, more = give(bench, cells, TEST)
    run = {
        "validation": head.score(held, held_labels, **held_options),
        "test": head.score(rows, labels, **more),
    }
    if "t" in more:
        run["test_by_t"] = {
            str(t): head.score(rows[more["t"] == t], labels[more["t"] == t], t=t)
            for t in np.unique(more["t"]).tolist()
        }
    run["parameters"] = sum(weight.numel() for weight in head.module_.parameters())
    return {**run, "best_epoch": head.best_epoch_, "history": head.history_}


def train_mixer(
    make: Callable[..., Any], bench: Bench, cells: Sequence[CellKey], arguments: Arguments,
    seed: int,
) -> Trained:  # fmt: skip
    """A mixer of maps, trained for the classes; the best epoch is chosen on validation."""
    mixer = _made(make, arguments, bench.device, seed)
    X, y, _ = many_cells(bench, cells, TRAIN)
    held, test = (many_cells(bench, cells, part)[:2] for part in (VALIDATION, TEST))
    mixer.fit(X, y, objective="classification", validation=held)
    weights = [[*cell, float(weight)] for cell, weight in mixer.weights_.items()]
    return {
        "validation": mixer.score(*held), "test": mixer.score(*test), "weights": weights,
        "parameters": sum(weight.numel() for weight in mixer.module_.parameters()),
        "best_epoch": mixer.best_epoch_, "history": mixer.history_,
    }  # fmt: skip


def _made(make: Callable[..., Any], arguments: Arguments, device: str, seed: int) -> Any:
    head = make(**_estimator_arguments(arguments))
    if "random_state" in head.get_params():
        head.set_params(random_state=seed)
    if "progress" in head.get_params():
        head.set_params(progress=counted)
    return head.set_params(device=device)


def _estimator_arguments(values: Arguments) -> Arguments:
    """Arguments of an estimator; an augmentation is told by its name."""
    name = values.get("augment")
    if name is None:
        return dict(values)
    if name not in AUGMENTS:
        raise ValueError(f"augment {name!r}; expected {', '.join(AUGMENTS)}, or none")
    return {**values, "augment": AUGMENTS[name]}


# --- what names finished work ------------------------------------------------------------------


def _keyed_estimator(make: Callable[..., Any], values: Arguments) -> Arguments:
    """`qkv_bias` is told where it is false.

    Attention had that bias before there was an argument for it, so that a key without it, as
    those of older journals are, means a head with it.
    """
    head = make(**_estimator_arguments(values))
    if not hasattr(head, "qkv_bias"):
        return dict(values)
    return _without_true({**values, "qkv_bias": head.qkv_bias}, "qkv_bias")


def _keyed_adapted(values: Arguments) -> Arguments:
    """The same of the table `attention`."""
    if not values.get("attention"):
        return dict(values)
    table = _without_true({"qkv_bias": False, **values["attention"]}, "qkv_bias")
    return {**values, "attention": table}


def _without_true(values: Arguments, name: str) -> Arguments:
    return {key: value for key, value in values.items() if key != name or value is not True}


# --- the table ---------------------------------------------------------------------------------


def _estimator(make: Callable[..., Any], give: Callable[..., Inputs]) -> Head:
    train = partial(train_vectors, make) if give is vectors else partial(train_network, make, give)
    return Head(
        train, lambda values: make(**_estimator_arguments(values)), partial(_keyed_estimator, make)
    )


def _on_pictures(make: Callable[..., Any]) -> Head:
    return Head(
        partial(train_adapted, make), lambda values: adapted(make, None, "mid", 0, **values),
        _keyed_adapted, "pictures",
    )  # fmt: skip


ESTIMATORS: Mapping[type, Callable[..., Inputs]] = MappingProxyType({
    probes.LinearProbe: vectors,
    probes.RidgeProbe: vectors,
    probes.KNNProbe: vectors,
    probes.MLPProbe: maps,
    probes.ConvProbe: maps,
    probes.AttentionProbe: maps,
    probes.BatchNormProbe: maps,
    probes.DifFormerProbe: many_cells,
    MixerProbe: many_cells,
    probes.NoiseConditionalProbe: noise_levels,
})  # fmt: skip
"""What each estimator is given."""

HEADS: Mapping[str, Head] = MappingProxyType({
    "linear": Head(linear, partial(_only_arguments, "linear", {"pool"}, set())),
    "greedy": Head(greedy_set, partial(_only_arguments, "greedy", {"most"}, {"most"}),
                   sees="averaged"),
    "Frozen": _on_pictures(frozen),
    "FineTuning": _on_pictures(FineTuning),
    "DifFeed": _on_pictures(DifFeed),
    "HyperfeatureMixer": Head(
        partial(train_mixer, HyperfeatureMixer),
        lambda values: HyperfeatureMixer(**_estimator_arguments(values)),
        partial(_keyed_estimator, HyperfeatureMixer),
    ),
    **{kind.__name__: _estimator(kind, give) for kind, give in ESTIMATORS.items()},
    **{name: _estimator(partial(probes.preset, name), ESTIMATORS[preset.head])
       for name, preset in probes.PRESETS.items()},
})  # fmt: skip
"""Name in a benchmark file → how it is trained: linear probes (C chosen on validation; sets of
cells), classifiers through the backbone, estimators and presets of `probes`."""
